/** Maps of patches drawn over images. */
import {rampColour} from './colours.js'

type Drawable = CanvasImageSource & {readonly width: number; readonly height: number}

/** Longer side of a drawn picture. */
const SIDE = 480

/** A canvas of the shape of an image, and its context. */
function canvasFor({width, height}: {readonly width: number; readonly height: number}): {
  canvas: HTMLCanvasElement
  context: CanvasRenderingContext2D
} {
  const canvas = document.createElement('canvas')
  const scale = SIDE / Math.max(width, height)
  canvas.width = Math.max(1, Math.round(width * scale))
  canvas.height = Math.max(1, Math.round(height * scale))
  return {canvas, context: canvas.getContext('2d')!}
}

/** Pixels as something to draw: [rows, columns] of red, green, blue and alpha. */
function grid(rows: number, columns: number, pixel: (at: number) => readonly [number, number, number, number]): OffscreenCanvas {
  const canvas = new OffscreenCanvas(columns, rows)
  const context = canvas.getContext('2d')!
  const image = context.createImageData(columns, rows)
  for (let i = 0; i < rows * columns; i++) image.data.set(pixel(i), 4 * i)
  context.putImageData(image, 0, 0)
  return canvas
}

/** Draws a grid over the whole canvas, as squares or blended. */
function spread(context: CanvasRenderingContext2D, over: OffscreenCanvas, smooth: boolean): void {
  context.imageSmoothingEnabled = smooth
  context.drawImage(over, 0, 0, context.canvas.width, context.canvas.height)
  context.imageSmoothingEnabled = true
}

export function plainPicture(picture: Drawable): HTMLCanvasElement {
  const {canvas, context} = canvasFor(picture)
  context.drawImage(picture, 0, 0, canvas.width, canvas.height)
  return canvas
}

/** Colours [rows·columns, 3] as squares, over the image where they do not hide it. */
export function colourPicture(picture: Drawable, rows: number, columns: number, colours: Uint8Array, opacity = 1): HTMLCanvasElement {
  const {canvas, context} = canvasFor(picture)
  context.drawImage(picture, 0, 0, canvas.width, canvas.height)
  context.globalAlpha = opacity
  spread(
    context,
    grid(rows, columns, i => [colours[3 * i]!, colours[3 * i + 1]!, colours[3 * i + 2]!, 255]),
    false
  )
  return canvas
}

export type Heat = {
  readonly rows: number
  readonly columns: number
  readonly values: Float32Array
  readonly low: number
  readonly high: number
}

/** Draws heat over an image: the more, the more of its colour. */
export function drawHeat(
  context: CanvasRenderingContext2D,
  picture: Drawable,
  {rows, columns, values, low, high}: Heat,
  opacity = 0.7
): void {
  const {width, height} = context.canvas
  context.clearRect(0, 0, width, height)
  context.drawImage(picture, 0, 0, width, height)
  context.globalAlpha = opacity
  const span = high - low || 1
  spread(
    context,
    grid(rows, columns, i => [...rampColour((values[i]! - low) / span), 255]),
    false
  )
  context.globalAlpha = 1
}

export function heatPicture(picture: Drawable, heat: Heat): HTMLCanvasElement {
  const {canvas, context} = canvasFor(picture)
  drawHeat(context, picture, heat)
  return canvas
}

/** The range of values, outliers at both ends left out. */
export function range(values: Float32Array): {low: number; high: number} {
  const sorted = Float32Array.from(values).sort()
  return {low: sorted[Math.floor(0.02 * (sorted.length - 1))]!, high: sorted[Math.ceil(0.98 * (sorted.length - 1))]!}
}
