/** The tab of the map: what is drawn, what is listed, and what is picked. */
import {css, categoryColour, pointColours, rampColour, type ColourBy} from './colours.js'
import {fileName, byId, make} from './dom.js'
import {drawScene, pointAt, pointsInside, type LassoLine} from './draw.js'
import {asLines, listing, listTitles, saveFile, type ListName} from './lists.js'
import {listen} from './pointer.js'
import {labelText, rowName, type MapPoints} from './points.js'
import {PictureFiles, thumbButton} from './thumbs.js'
import {wholeView, zoomed, type ViewSize, type View} from './view.js'

/** Pictures of a list that are shown; a file has them all. */
const MOST_LISTED = 300
/** Entries of the legend. */
const MOST_NAMED = 16

const percent = (share: number): string => `${(100 * share).toFixed(0)} %`

/** The map: what is drawn, listed and picked. */
export class MapTab {
  readonly #canvas = byId<HTMLCanvasElement>('points')
  readonly #context = this.#canvas.getContext('2d')!
  readonly #colour = byId<HTMLSelectElement>('colour')
  readonly #list = byId<HTMLSelectElement>('list')
  readonly #length = byId<HTMLInputElement>('list-length')
  readonly #lassoButton = byId<HTMLButtonElement>('lasso')
  readonly #sheets = new PictureFiles(() => this.redraw())
  /** Undefined: the whole map, whatever the size of the window. */
  #view: View | undefined
  #colours: Uint32Array = new Uint32Array(0)
  #picked: number | undefined
  #marked: Uint8Array | undefined
  #lasso: LassoLine | undefined
  #selection: readonly number[] = []
  #isPending = false
  /** Milliseconds that the last drawing took. */
  frameTime = 0

  constructor(readonly points: MapPoints) {
    fillChoices(points, this.#colour, this.#list)
    this.#length.value = String(Math.min(points.count, Math.max(12, Math.round(points.count / 50))))
    this.#length.max = String(points.count)
    this.#listen()
    this.#recolour()
    describe(points, undefined, row => this.show(row))
  }

  get #size(): ViewSize {
    const {clientWidth: width, clientHeight: height} = this.#canvas
    return {width, height, below: Math.min(height / 3, byId('legend').offsetHeight)}
  }

  get #seenView(): View {
    return this.#view ?? wholeView(this.#size)
  }

  /** Picks a row and brings it to the middle. */
  show(row: number): void {
    const {x, y} = this.points
    this.#setView({scale: Math.max(this.#seenView.scale, 3 * wholeView(this.#size).scale), x: x[row]!, y: y[row]!})
    this.#pick(row)
  }

  /** Draws anew at the next frame. */
  redraw(): void {
    if (this.#isPending) return
    this.#isPending = true
    requestAnimationFrame(() => {
      this.#isPending = false
      this.#draw()
    })
  }

  #draw(): void {
    const size = this.#size
    if (size.width === 0 || size.height === 0) return // another tab is open
    // Finer pixels than those of the page take four times as long, which many points do not leave.
    const ratio = this.points.count > 20_000 ? 1 : Math.min(2, devicePixelRatio)
    const [W, H] = [Math.round(size.width * ratio), Math.round(size.height * ratio)]
    if (this.#canvas.width !== W) this.#canvas.width = W
    if (this.#canvas.height !== H) this.#canvas.height = H
    const begun = performance.now()
    const scene = {
      points: this.points,
      colours: this.#colours,
      view: this.#seenView,
      marked: this.#marked,
      picked: this.#picked,
      lasso: this.#lasso
    }
    this.#canvas.dataset['seen'] = String(drawScene(this.#context, scene, size, ratio, this.#sheets))
    this.frameTime = performance.now() - begun
  }

  #setView(view: View | undefined): void {
    this.#view = view
    this.redraw()
  }

  #pick(row: number | undefined): void {
    this.#picked = row
    byId('picked').hidden = row === undefined && this.#list.value !== 'none'
    describe(this.points, row, other => this.show(other))
    this.redraw()
  }

  /** Shows the chosen list. */
  #relist(): void {
    const {points} = this
    const name = this.#list.value as ListName
    const chosen = listing(points, name, this.#selection, Number(this.#length.value) || 1)
    this.#marked = name === 'none' ? undefined : new Uint8Array(points.count)
    for (const row of chosen.rows) this.#marked![row] = 1
    byId('listing').hidden = name === 'none'
    byId('picked').hidden = name !== 'none' && this.#picked === undefined
    byId('list-length-label').hidden = name !== 'outliers'
    byId('list-text').textContent = chosen.text
    byId('save').hidden = chosen.rows.length === 0
    byId('save').onclick = () => saveFile(`${name}.jsonl`, asLines(points, chosen))
    const pictures: HTMLElement[] = chosen.rows
      .slice(0, MOST_LISTED)
      .map((row, at) => thumbButton(points, row, chosen.caption?.(at), other => this.show(other)))
    if (chosen.rows.length > MOST_LISTED)
      pictures.push(make('p', {class: 'status'}, `and ${chosen.rows.length - MOST_LISTED} more, all in the saved list`))
    byId('list-pictures').replaceChildren(...pictures)
    this.redraw()
  }

  #recolour(): void {
    const by = this.#colour.value as ColourBy
    this.#colours = pointColours(this.points, by)
    writeLegend(this.points, by)
    this.redraw()
  }

  #setLasso(isOn: boolean): void {
    this.#lassoButton.setAttribute('aria-pressed', String(isOn))
    this.#canvas.classList.toggle('lasso', isOn)
  }

  get #isLasso(): boolean {
    return this.#lassoButton.getAttribute('aria-pressed') === 'true'
  }

  /** Draws a lasso that grows; lists what a closed one holds. */
  #takeLasso(line: LassoLine, closed: boolean): void {
    this.#lasso = closed ? undefined : line
    if (!closed) return this.redraw()
    this.#selection = pointsInside({points: this.points, view: this.#seenView}, this.#size, line)
    this.#list.value = 'selection'
    this.#setLasso(false)
    this.#relist()
  }

  #listen(): void {
    listen(this.#canvas, {
      size: () => this.#size,
      view: () => this.#seenView,
      setView: view => this.#setView(view),
      isLasso: () => this.#isLasso,
      onPick: (x, y, reach) => this.#pick(pointAt({points: this.points, view: this.#seenView}, this.#size, x, y, reach)),
      onLasso: (line, closed) => this.#takeLasso(line, closed)
    })
    const zoomBy = (factor: number): void => {
      const size = this.#size
      this.#setView(zoomed(this.#seenView, size, factor, size.width / 2, size.height / 2))
    }
    this.#lassoButton.addEventListener('click', () => this.#setLasso(!this.#isLasso))
    byId('zoom-in').addEventListener('click', () => zoomBy(1.6))
    byId('zoom-out').addEventListener('click', () => zoomBy(1 / 1.6))
    byId('whole').addEventListener('click', () => this.#setView(undefined))
    this.#colour.addEventListener('change', () => this.#recolour())
    this.#list.addEventListener('change', () => {
      this.#pick(undefined) // what was picked would stand above the list
      this.#relist()
    })
    this.#length.addEventListener('change', () => this.#relist())
    new ResizeObserver(() => this.redraw()).observe(this.#canvas)
  }
}

/** What can be chosen: only what these images have. */
function fillChoices({data}: MapPoints, colour: HTMLSelectElement, list: HTMLSelectElement): void {
  const ways: [ColourBy, string][] = [
    ...(data.labels.length > 0 ? ([['label', 'by label']] as [ColourBy, string][]) : []),
    ['cluster', 'by cluster'],
    ['outlier', 'how unlike others']
  ]
  colour.replaceChildren(...ways.map(([value, text]) => make('option', {value}, text)))
  const names: ListName[] = [
    'none',
    'outliers',
    'duplicates',
    ...(data.labels.length > 1 ? (['doubtful'] as const) : []),
    'representatives',
    'selection'
  ]
  list.replaceChildren(...names.map(value => make('option', {value}, listTitles[value])))
}

/** What the colours mean. */
function writeLegend({data}: MapPoints, by: ColourBy): void {
  const entry = (colour: string, text: string): HTMLElement => {
    const dot = make('i')
    dot.style.background = colour
    return make('span', {}, dot, text)
  }
  const entries =
    by === 'outlier'
      ? [entry(css(rampColour(0)), 'like many others'), entry(css(rampColour(0.5)), ''), entry(css(rampColour(1)), 'unlike all others')]
      : by === 'label'
        ? data.labels.slice(0, MOST_NAMED).map((name, i) => entry(css(categoryColour(i)), name))
        : []
  if (by === 'label' && data.labels.length > MOST_NAMED) entries.push(make('span', {}, `and ${data.labels.length - MOST_NAMED} more`))
  if (by === 'cluster') entries.push(make('span', {}, `${data.clusters} clusters that the images fall into, found without labels`))
  byId('legend').replaceChildren(...entries)
}

/** The picked image and its neighbours, or what can be done while none is picked. */
function describe(points: MapPoints, row: number | undefined, show: (row: number) => void): void {
  const place = byId('picked')
  if (row === undefined) {
    place.replaceChildren(
      make('h2', {}, 'Three things to do here'),
      make('p', {}, 'Click a point: its nearest neighbours appear.'),
      make('p', {}, 'Choose a list above: images unlike all others, near-duplicates, doubtful labels; save it for the command line.'),
      make('p', {}, 'Press Lasso and draw round a group to make a list of your own.')
    )
    return
  }
  const {data, cluster, outlier, near, nearness} = points
  const {k} = data.near
  const label = labelText(points, row)
  const facts: [string, string][] = [
    ['name', rowName(points, row)],
    ...(label === undefined ? [] : ([['label', label]] as [string, string][])),
    ['cluster', String(cluster[row]! + 1)],
    ['unlike others', outlier[row]!.toFixed(3)]
  ]
  place.replaceChildren(
    make('h2', {}, fileName(rowName(points, row))),
    thumbButton(points, row, '', show, true),
    make('dl', {}, ...facts.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])),
    make('h2', {}, 'Nearest neighbours'),
    make(
      'div',
      {class: 'thumbs'},
      ...Array.from({length: k}, (_, n) => thumbButton(points, near[row * k + n]!, percent(nearness[row * k + n]!), show))
    )
  )
}
