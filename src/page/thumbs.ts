/** Small pictures: as buttons in lists, and as images that the map draws. */
import {fileName, make} from './dom.js'
import {labelText, rowName, type MapPoints} from './points.js'

/** Files of pictures that are held decoded; more would fill the memory of a telephone. */
const MOST_SHEETS = 24

/** Where the picture of a row lies in its file. */
export function picturePlace({data}: MapPoints, row: number): {file: string; x: number; y: number; side: number} | undefined {
  const {pictures} = data
  if (!pictures) return undefined
  const each = pictures.columns ** 2
  const at = row % each
  return {
    file: pictures.files[Math.floor(row / each)]!,
    x: (at % pictures.columns) * pictures.side,
    y: Math.floor(at / pictures.columns) * pictures.side,
    side: pictures.side
  }
}

/** The files of pictures, loaded when they are first needed; `onLoad` is called for each that has come. */
export class PictureFiles {
  readonly #images = new Map<string, HTMLImageElement>()
  constructor(readonly onLoad: () => void) {}

  /** The image of a file; undefined until it has come. */
  get(file: string): HTMLImageElement | undefined {
    let image = this.#images.get(file)
    if (image) this.#images.delete(file)
    else {
      image = new Image()
      image.addEventListener('load', this.onLoad)
      image.src = file
      for (const [oldest] of this.#images) {
        if (this.#images.size < MOST_SHEETS) break
        this.#images.delete(oldest)
      }
    }
    this.#images.set(file, image) // the newest stands last
    return image.complete && image.naturalWidth > 0 ? image : undefined
  }
}

/** A button that shows a row and is pressed to pick it. */
export function thumbButton(
  points: MapPoints,
  row: number,
  caption: string | undefined,
  onPick: (row: number) => void,
  large = false
): HTMLButtonElement {
  const picture = make('span')
  const place = points.shown[row] ? picturePlace(points, row) : undefined
  const shown = large ? 128 : 64
  if (place) {
    const scale = shown / place.side
    const {pictures} = points.data
    picture.style.backgroundImage = `url(${place.file})`
    picture.style.backgroundPosition = `-${place.x * scale}px -${place.y * scale}px`
    picture.style.backgroundSize = `${pictures!.columns * shown}px auto`
  }
  const name = [rowName(points, row), labelText(points, row)].filter(Boolean).join(', ')
  const button = make(
    'button',
    {class: large ? 'thumb large' : 'thumb', title: name, 'aria-label': caption ? `${name}, ${caption}` : name},
    picture,
    make('b', {}, caption ?? fileName(rowName(points, row)))
  )
  button.addEventListener('click', () => onPick(row))
  return button
}
