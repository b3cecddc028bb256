/** The tab in which two images stand side by side: a patch of one, and the patches like it in both. */
import {byId, make} from './dom.js'
import {exampleButtons, type Example} from './examples.js'
import {acceptDrops, loadImage, type Loaded} from './images.js'
import type {Model} from './model.js'
import {drawHeat, plainPicture} from './pictures.js'
import type {PatchView} from './protocol.js'
import {cosinesWith, mutualMatches} from './similarity.js'

type Slot = {loaded?: Loaded; patches?: PatchView; canvas?: HTMLCanvasElement; readonly place: HTMLElement}

/** Lines drawn at most. */
const MOST_LINES = 24

/** Two images side by side. */
export class MatchTab {
  readonly #slots: readonly [Slot, Slot] = [{place: byId('slot-0')}, {place: byId('slot-1')}]
  readonly #status = byId('match-status')
  readonly #mutual = byId<HTMLInputElement>('mutual')
  #asked: {slot: number; patch: number} | undefined
  #isOpen = false

  constructor(
    readonly model: Model,
    readonly examples: readonly Example[]
  ) {
    this.#mutual.addEventListener('change', () => {
      this.#asked = undefined
      this.#redraw()
    })
    new ResizeObserver(() => this.#drawLines()).observe(byId('match-stage'))
    for (const [i, slot] of this.#slots.entries()) this.#fill(slot, i)
  }

  /** Begins with two examples, the first time. */
  open(): void {
    if (this.#isOpen) return
    this.#isOpen = true
    const [first, second] = this.examples
    if (first && second) void this.#put(0, first.load).then(() => this.#put(1, second.load))
  }

  #drawLines(): void {
    drawLines(this.#slots, this.#mutual.checked && !this.#asked, this.model)
  }

  #redraw(): void {
    const asked = this.#asked
    const source = asked && this.#slots[asked.slot]?.patches
    const {width} = this.model.model.config
    const values = this.#slots.map(({patches}) =>
      source && patches ? cosinesWith(source.features, asked.patch, patches.features, width) : undefined
    )
    const low = Math.min(...values.flatMap(list => (list ? [list.reduce((a, b) => Math.min(a, b), 1)] : [])))
    for (const [i, slot] of this.#slots.entries()) {
      const list = values[i]
      if (asked && list) this.#drawAsked(slot, list, low, i === asked.slot ? asked.patch : undefined)
      else if (slot.loaded && slot.canvas) {
        const {canvas} = slot
        canvas.getContext('2d')!.drawImage(slot.loaded.picture, 0, 0, canvas.width, canvas.height)
      }
    }
    this.#drawLines()
  }

  /** Heat of one image, with a frame round the patch asked for, or round the one most like it. */
  #drawAsked({loaded, patches, canvas}: Slot, list: Float32Array, low: number, own: number | undefined): void {
    if (!loaded || !patches || !canvas) return
    const context = canvas.getContext('2d')!
    drawHeat(context, loaded.picture, {rows: patches.rows, columns: patches.columns, values: list, low, high: 1}, 0.6)
    const best = own ?? list.reduce((at, value, n) => (value > list[at]! ? n : at), 0)
    frame(context, patches, best)
    if (own === undefined)
      this.#status.textContent = `The framed squares are most alike: cosine ${list[best]!.toFixed(3)} (1 would be the same). Red squares are like the one you chose, blue ones are not.`
  }

  async #put(i: number, open: () => Promise<Loaded>): Promise<void> {
    const slot = this.#slots[i]!
    try {
      this.#status.textContent = 'Reading the image …'
      const loaded = await open()
      this.#status.textContent = `Computing ${loaded.name} …`
      const patches = await this.model.patches(loaded.image)
      Object.assign(slot, {loaded, patches})
      this.#asked = undefined
      this.#fill(slot, i)
      this.#status.textContent = this.#slots.every(({patches: ready}) => ready)
        ? 'Click on a part of either image to find it in the other. The lines join squares that choose each other.'
        : 'Now the other image.'
      this.#redraw()
    } catch (error) {
      this.#status.textContent = (error as Error).message
    }
  }

  /** The image of a slot, and the ways to give it another. */
  #fill(slot: Slot, i: number): void {
    const input = make('input', {type: 'file', accept: 'image/*'})
    input.addEventListener('change', () => {
      const file = input.files?.[0]
      if (file) void this.#put(i, () => loadImage(file, file.name))
    })
    const chooser = make(
      'div',
      {class: 'drop'},
      make('p', {}, make('label', {class: 'button'}, slot.loaded ? 'another image' : 'choose or drop an image', input)),
      make('div', {class: 'thumbs'}, ...exampleButtons(this.examples, example => void this.#put(i, example.load)))
    )
    acceptDrops(chooser, (blob, name) => void this.#put(i, () => loadImage(blob, name)))
    if (slot.loaded && slot.patches) {
      slot.canvas = plainPicture(slot.loaded.picture)
      const label = `${i === 0 ? 'Left' : 'Right'} image. Arrow keys move over its squares.`
      listenTo(slot.canvas, slot.patches, label, patch => {
        this.#asked = {slot: i, patch}
        this.#redraw()
      })
    }
    slot.place.replaceChildren(...(slot.canvas ? [slot.canvas] : []), chooser)
  }
}

/** A click or the arrow keys choose a patch. */
function listenTo(canvas: HTMLCanvasElement, {rows, columns}: PatchView, label: string, onPatch: (patch: number) => void): void {
  canvas.tabIndex = 0
  canvas.setAttribute('role', 'application')
  canvas.setAttribute('aria-label', label)
  let [row, column] = [Math.floor(rows / 2), Math.floor(columns / 2)]
  canvas.addEventListener('click', event => {
    const box = canvas.getBoundingClientRect()
    column = Math.max(0, Math.min(columns - 1, Math.floor(((event.clientX - box.left) / box.width) * columns)))
    row = Math.max(0, Math.min(rows - 1, Math.floor(((event.clientY - box.top) / box.height) * rows)))
    onPatch(row * columns + column)
  })
  canvas.addEventListener('keydown', event => {
    const steps: Readonly<Record<string, readonly [number, number]>> = {
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      Enter: [0, 0]
    }
    const step = steps[event.key]
    if (!step) return
    event.preventDefault()
    row = Math.max(0, Math.min(rows - 1, row + step[0]))
    column = Math.max(0, Math.min(columns - 1, column + step[1]))
    onPatch(row * columns + column)
  })
}

/** A frame round a patch. */
function frame(context: CanvasRenderingContext2D, {rows, columns}: PatchView, patch: number): void {
  const [w, h] = [context.canvas.width / columns, context.canvas.height / rows]
  const [x, y] = [(patch % columns) * w, Math.floor(patch / columns) * h]
  for (const [colour, width] of [
    ['#000', 6],
    ['#fff', 3]
  ] as const) {
    context.strokeStyle = colour
    context.lineWidth = width
    context.strokeRect(x, y, w, h)
  }
}

/** Lines between patches that are each other's nearest; none while a patch is asked for. */
function drawLines([left, right]: readonly [Slot, Slot], isShown: boolean, {model}: Model): void {
  const canvas = byId<HTMLCanvasElement>('lines')
  const stage = canvas.getBoundingClientRect()
  const ratio = Math.min(2, devicePixelRatio)
  canvas.width = Math.round(stage.width * ratio)
  canvas.height = Math.round(stage.height * ratio)
  canvas.dataset['lines'] = '0'
  if (!isShown || !left.patches || !right.patches || !left.canvas || !right.canvas) return
  const context = canvas.getContext('2d')!
  context.scale(ratio, ratio)
  const middle = ({canvas: shown, patches}: Slot, n: number): [number, number] => {
    const box = shown!.getBoundingClientRect()
    const {rows, columns} = patches!
    return [
      box.left - stage.left + (((n % columns) + 0.5) / columns) * box.width,
      box.top - stage.top + ((Math.floor(n / columns) + 0.5) / rows) * box.height
    ]
  }
  const pairs = mutualMatches(left.patches.features, right.patches.features, model.config.width).slice(0, MOST_LINES)
  canvas.dataset['lines'] = String(pairs.length)
  for (const [at, {a, b}] of pairs.entries()) {
    const [x0, y0] = middle(left, a)
    const [x1, y1] = middle(right, b)
    context.strokeStyle = `hsl(${(at * 137.5) % 360} 85% 55%)`
    context.lineWidth = 2
    context.beginPath()
    context.moveTo(x0, y0)
    context.lineTo(x1, y1)
    context.stroke()
    for (const [x, y] of [
      [x0, y0],
      [x1, y1]
    ] as const) {
      context.beginPath()
      context.arc(x, y, 4, 0, 7)
      context.stroke()
    }
  }
}
