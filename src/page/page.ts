/** The page begins here: data.js has put the points into `exploreData`. */
import {counted} from '../config/counted.js'
import {byId} from './dom.js'
import {examplesOf} from './examples.js'
import {loadImage} from './images.js'
import {MapTab} from './map.js'
import {MatchTab} from './match.js'
import {pageModel} from './model.js'
import {unpack} from './points.js'
import type {Analysis} from './protocol.js'
import type {SiteData} from './site.js'
import {startTry} from './try.js'

const tabs = ['map', 'try', 'match'] as const
type Tab = (typeof tabs)[number]

/** Shows one tab; `onOpen` is called for it. */
function openTab(name: Tab, onOpen: (name: Tab) => void): void {
  for (const other of tabs) {
    const tab = byId(`tab-${other}`)
    tab.setAttribute('aria-selected', String(other === name))
    tab.tabIndex = other === name ? 0 : -1
    byId(other).hidden = other !== name
  }
  document.body.dataset['tab'] = name
  onOpen(name)
}

/** Clicks, arrow keys and the address choose a tab. */
function startTabs(onOpen: (name: Tab) => void): (name: Tab) => void {
  const open = (name: Tab): void => {
    history.replaceState(null, '', `#${name}`)
    openTab(name, onOpen)
  }
  for (const [i, name] of tabs.entries()) {
    const tab = byId(`tab-${name}`)
    tab.addEventListener('click', () => open(name))
    tab.addEventListener('keydown', event => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key]
      if (!step) return
      const next = tabs[(i + step + tabs.length) % tabs.length]!
      open(next)
      byId(`tab-${next}`).focus()
    })
  }
  openTab(tabs.find(name => location.hash === `#${name}`) ?? 'map', onOpen)
  return open
}

function start(data: SiteData): void {
  const points = unpack(data)
  document.title = data.title
  byId('title').textContent = data.title
  byId('lead').textContent =
    `${counted(points.count, 'image')}, laid out so that those that look alike${data.model ? ` to the model ${data.model.name}` : ''} lie close together.`
  const map = new MapTab(points)
  /** For tests, and for whoever opens the console. */
  const tools: {frameTime: () => number; analyze?: (blob: Blob) => Promise<Analysis>} = {frameTime: () => map.frameTime}
  Object.assign(globalThis, {explore: tools})
  if (!data.model) {
    for (const name of ['try', 'match'] as const) byId(`tab-${name}`).hidden = true
    openTab('map', () => map.redraw())
    return
  }
  const model = pageModel(data.model)
  model.onState = text => {
    byId('try-model').textContent = text
    byId('match-model').textContent = text
  }
  tools.analyze = async blob => model.analyze((await loadImage(blob, 'the image')).image)
  const examples = examplesOf(data.examples)
  const match = new MatchTab(model, examples)
  const open = startTabs(name => {
    if (name === 'map') map.redraw()
    else void model.start().catch((error: Error) => model.onState(error.message))
    if (name === 'match') match.open()
  })
  startTry(points, model, examples, row => {
    open('map')
    map.show(row)
  })
}

const {exploreData} = globalThis as {exploreData?: SiteData}
if (exploreData) start(exploreData)
else byId('lead').textContent = 'The points could not be loaded: data.js is missing beside this page.'
