/** The tab in which an image is given to the model: its parts, what the model attends to, its neighbours. */
import {byId, make} from './dom.js'
import {acceptDrops, acceptPastes, loadImage, photograph, type Loaded} from './images.js'
import type {Model} from './model.js'
import {colourPicture, heatPicture, plainPicture, range} from './pictures.js'
import type {MapPoints} from './points.js'
import type {Analysis} from './protocol.js'
import type {SiteModel} from './site.js'
import {depthCanvas, regionsPicture} from './dense-figures.js'
import {exampleButtons, type Example} from './examples.js'
import {thumbButton} from './thumbs.js'

/** Neighbours of an image that are shown. */
const NEIGHBOURS = 12

/** The rows of the map whose vectors are most like one: numbers and cosines. */
function mostAlike(vector: Float32Array, rows: Int8Array, k: number): {row: number; cosine: number}[] {
  const D = vector.length
  const found: {row: number; cosine: number}[] = []
  const length = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0))
  for (let row = 0, at = 0; at < rows.length; row++, at += D) {
    let [product, square] = [0, 0]
    for (let d = 0; d < D; d++) {
      const value = rows[at + d]!
      product += value * vector[d]!
      square += value * value
    }
    const cosine = product / (length * Math.sqrt(square) || 1)
    if (found.length === k && cosine <= found[k - 1]!.cosine) continue
    const place = found.findIndex(other => cosine > other.cosine)
    found.splice(place < 0 ? found.length : place, 0, {row, cosine})
    if (found.length > k) found.pop()
  }
  return found
}

const figure = (title: string, text: string, content: Node, wide = false): HTMLElement =>
  make('figure', wide ? {class: 'wide'} : {}, make('figcaption', {}, make('b', {}, title), text), content)

/** Makes the tab work; `show` brings a row to the middle of the map. */
export function startTry(points: MapPoints, model: Model, examples: readonly Example[], show: (row: number) => void): void {
  const status = byId('try-status')
  let vectors: Promise<Int8Array> | undefined
  const loadVectors = (): Promise<Int8Array> =>
    (vectors ??= (async () => {
      const response = await fetch(points.data.vectors!.file)
      if (!response.ok) throw new Error(`${points.data.vectors!.file} could not be loaded (status ${response.status}).`)
      return new Int8Array(await response.arrayBuffer())
    })())
  let latest = 0
  const run = async (open: () => Promise<Loaded>): Promise<void> => {
    const own = ++latest
    const say = (text: string): void => {
      if (own === latest) status.textContent = text
    }
    try {
      say('Reading the image …')
      const loaded = await open()
      say(`Computing ${loaded.name} …`)
      const [analysis, rows] = await Promise.all([model.analyze(loaded.image), loadVectors()])
      if (own !== latest) return
      say(`${loaded.name}: computed here in ${analysis.seconds.toFixed(2)} s.`)
      byId('try-figures').replaceChildren(...figuresOf(loaded, analysis, {points, model: model.model, rows, show}))
    } catch (error) {
      say((error as Error).message)
    }
  }
  const take = (blob: Blob, name: string): void => void run(() => loadImage(blob, name))
  acceptDrops(byId('try-drop'), take)
  acceptPastes('try', take)
  byId<HTMLInputElement>('try-file').addEventListener('change', event => {
    const file = (event.target as HTMLInputElement).files?.[0]
    if (file) take(file, file.name)
  })
  byId('try-camera').addEventListener('click', () => void run(async () => loadImage(await photograph(byId('try-view')), 'the photograph')))
  byId('try-examples').replaceChildren(...exampleButtons(examples, example => void run(example.load)))
}

/** Classes with bars. */
const classList = (classes: NonNullable<Analysis['classes']>): HTMLElement =>
  make(
    'div',
    {id: 'try-classes'},
    ...classes.map(({name, probability}) =>
      make('div', {}, `${name} ${(100 * probability).toFixed(1)} %`, make('meter', {min: '0', max: '1', value: String(probability)}))
    )
  )

/** Depth and regions, where heads were given. */
function denseFigures(loaded: Loaded, {depth, regions}: Analysis, {regions: head}: SiteModel): HTMLElement[] {
  return [
    ...(depth
      ? [figure('How far it is', 'Depth by the head that was given: light is near, dark is far.', depthCanvas(loaded, depth))]
      : []),
    ...(regions && head
      ? [
          figure(
            'Which parts it has',
            'Each place by its likeliest class, from the head that was given.',
            regionsPicture(loaded, regions, head)
          )
        ]
      : [])
  ]
}

type Shown = {readonly points: MapPoints; readonly model: SiteModel; readonly rows: Int8Array; readonly show: (row: number) => void}

function figuresOf(loaded: Loaded, analysis: Analysis, {points, model, rows, show}: Shown): HTMLElement[] {
  const {picture} = loaded
  const {patches} = analysis
  const {columns, attention, heads, colours} = patches
  const N = patches.rows * columns
  const grid = {rows: patches.rows, columns}
  const mean = Float32Array.from({length: N}, (_, n) => {
    let sum = 0
    for (let h = 0; h < heads; h++) sum += attention[h * N + n]! / heads
    return sum
  })
  const each = Array.from({length: heads}, (_, h) => {
    const values = attention.subarray(h * N, (h + 1) * N)
    return make('figure', {}, make('figcaption', {}, `head ${h + 1}`), heatPicture(picture, {...grid, values, ...range(values)}))
  })
  const found = mostAlike(analysis.vector, rows, NEIGHBOURS)
  return [
    figure(
      'The image',
      `${patches.rows} × ${columns} squares (patches), each of which the model describes by numbers.`,
      plainPicture(picture)
    ),
    figure(
      'Parts',
      'Squares of one colour are alike to the model, whatever their colour in the image.',
      colourPicture(picture, patches.rows, columns, colours)
    ),
    figure(
      'What it looks at',
      'Red: squares that decide how the image as a whole is described.',
      heatPicture(picture, {...grid, values: mean, ...range(mean)})
    ),
    ...(analysis.classes
      ? [figure('What it is', 'By the classifier that was given, with its probabilities.', classList(analysis.classes))]
      : []),
    ...denseFigures(loaded, analysis, model),
    figure(
      'Nearest neighbours on the map',
      'The images most like this one. Press one to see it on the map.',
      make(
        'div',
        {class: 'thumbs', id: 'try-neighbours'},
        ...found.map(({row, cosine}) => thumbButton(points, row, `${(100 * cosine).toFixed(0)} %`, show))
      )
    ),
    figure(
      'What each head looks at',
      'The model looks in several ways at once; each way is called a head.',
      make('div', {class: 'heads'}, ...each),
      true
    )
  ]
}
