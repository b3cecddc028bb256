/** Depth and regions of an image as pictures, with what the colours mean. */
import {colorAt} from '../render/colormap.js'
import {categoryColour, css} from './colours.js'
import {make} from './dom.js'
import type {Loaded} from './images.js'
import {colourPicture, range} from './pictures.js'
import type {DepthFigure, RegionView} from './protocol.js'
import type {SiteRegions} from './site.js'

/** Classes that the legend names. */
const MOST_NAMED = 12

const metresText = (metres: number): string => `${metres.toFixed(metres < 10 ? 2 : 1)} m`

/** Shows below a picture what lies under the pointer, or what can be done. */
function withReading(
  canvas: HTMLCanvasElement,
  {width, height}: {width: number; height: number},
  text: (at: number) => string
): HTMLElement {
  const idle = 'Point at a place to read it off.'
  const reading = make('p', {class: 'status reading'}, idle)
  const read = (event: PointerEvent): void => {
    const box = canvas.getBoundingClientRect()
    const x = Math.floor(((event.clientX - box.left) / box.width) * width)
    const y = Math.floor(((event.clientY - box.top) / box.height) * height)
    if (x >= 0 && y >= 0 && x < width && y < height) reading.textContent = text(y * width + x)
  }
  canvas.addEventListener('pointermove', read)
  canvas.addEventListener('pointerdown', read)
  canvas.addEventListener('pointerleave', () => (reading.textContent = idle))
  return make('div', {}, canvas, reading)
}

/** Depth in colours from near (light) to far (dark), its scale, and the depth under the pointer. */
export function depthCanvas({picture}: Loaded, view: DepthFigure): HTMLElement {
  const {width, height, metres} = view
  const {low, high} = range(metres)
  const table = Array.from({length: 256}, (_, i) => colorAt('depth', i / 255))
  const colours = new Uint8Array(3 * metres.length)
  for (const [i, value] of metres.entries())
    colours.set(table[Math.round(255 * Math.max(0, Math.min(1, (value - low) / (high - low || 1))))]!, 3 * i)
  const canvas = colourPicture(picture, height, width, colours)
  const bar = make('i', {class: 'ramp'})
  bar.style.background = `linear-gradient(to right, ${Array.from({length: 9}, (_, i) => css(colorAt('depth', i / 8))).join()})`
  return make(
    'div',
    {id: 'try-depth'},
    withReading(canvas, view, at => `Here: ${metresText(metres[at]!)}.`),
    make('p', {class: 'scale'}, `near ${metresText(low)}`, bar, `far ${metresText(high)}`),
    ...view.notes.map(note => make('p', {class: 'status'}, note))
  )
}

/**
 * Regions in the colours of their classes over the image, the classes by their share, and the one under the pointer.
 */
export function regionsPicture({picture}: Loaded, view: RegionView, {classes}: SiteRegions): HTMLElement {
  const {width, height, labels} = view
  const isDistinct = new Set(classes.map(({colour}) => colour.join())).size === classes.length
  const colourOf = (k: number): readonly [number, number, number] => (isDistinct ? classes[k]!.colour : categoryColour(k))
  const counts = new Uint32Array(classes.length)
  const colours = new Uint8Array(3 * labels.length)
  for (const [i, label] of labels.entries()) {
    counts[label]!++
    colours.set(colourOf(label), 3 * i)
  }
  const present = Array.from(counts.keys())
    .filter(k => counts[k]! > 0)
    .sort((a, b) => counts[b]! - counts[a]!)
  const entries = present.slice(0, MOST_NAMED).map(k => {
    const dot = make('i')
    dot.style.background = css(colourOf(k))
    return make('span', {}, dot, `${classes[k]!.name} ${((100 * counts[k]!) / labels.length).toFixed(0)} %`)
  })
  if (present.length > MOST_NAMED) entries.push(make('span', {}, `and ${present.length - MOST_NAMED} more`))
  return make(
    'div',
    {id: 'try-regions'},
    withReading(colourPicture(picture, height, width, colours, 0.75), view, at => `Here: ${classes[labels[at]!]!.name}.`),
    make('p', {class: 'key'}, ...entries),
    ...view.notes.map(note => make('p', {class: 'status'}, note))
  )
}
