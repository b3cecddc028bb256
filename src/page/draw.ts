/**
 * The map as a picture: points as squares written straight into pixels, which stays quick at a hundred thousand of
 * them, and small pictures above, one a cell, where few enough are in sight.
 */
import {cssOf} from './colours.js'
import type {MapPoints} from './points.js'
import {picturePlace, type PictureFiles} from './thumbs.js'
import {onScreen, type ViewSize, type View} from './view.js'

/** MapPoints in sight up to which small pictures are drawn. */
const PICTURES_UP_TO = 3000
/** Pixels between small pictures. */
const GAP = 6

/** A line on the screen, point by point. */
export type LassoLine = readonly (readonly [x: number, y: number])[]

export type MapScene = {
  readonly points: MapPoints
  readonly colours: Uint32Array
  readonly view: View
  /** 1 for points that stand out; the others are faint. Undefined: all alike. */
  readonly marked?: Uint8Array
  readonly picked?: number
  readonly lasso?: LassoLine
}

/** Draws the scene; `ratio` is device pixels a pixel. Returns how many points are in sight. */
export function drawScene(context: CanvasRenderingContext2D, scene: MapScene, size: ViewSize, ratio: number, sheets: PictureFiles): number {
  const seen = drawPoints(context, scene, size, ratio)
  context.save()
  context.scale(ratio, ratio)
  if (seen.length <= PICTURES_UP_TO) drawPictures(context, scene, size, seen, sheets)
  if (scene.picked !== undefined) drawPicked(context, scene, size, scene.picked)
  if (scene.lasso && scene.lasso.length > 1) drawLasso(context, scene.lasso)
  context.restore()
  return seen.length
}

let buffer: ImageData | undefined

/** Every point as a square; → the points in sight. */
function drawPoints(
  context: CanvasRenderingContext2D,
  {points, colours, view, marked}: MapScene,
  {width, height}: ViewSize,
  ratio: number
): Int32Array {
  const [W, H] = [Math.round(width * ratio), Math.round(height * ratio)]
  if (buffer?.width !== W || buffer.height !== H) buffer = context.createImageData(W, H)
  const pixels = new Uint32Array(buffer.data.buffer)
  pixels.fill(0)
  const {x, y, count} = points
  const seen = new Int32Array(count)
  let found = 0
  const scale = view.scale * ratio
  const [left, top] = [W / 2 - view.x * scale, H / 2 - view.y * scale]
  const radius = Math.max(
    1,
    Math.round(ratio * Math.min(4, Math.max(1, (2.2 * view.scale) / Math.min(width, height) + 60 / Math.sqrt(count))))
  )
  // Faint points first, so that those that stand out lie above them.
  for (const pass of marked ? [0, 1] : [1])
    for (let i = 0; i < count; i++) {
      if (marked && marked[i] !== pass) continue
      const px = Math.round(x[i]! * scale + left)
      const py = Math.round(y[i]! * scale + top)
      if (px < -radius || py < -radius || px >= W + radius || py >= H + radius) continue
      seen[found++] = i
      const colour = pass === 1 ? colours[i]! : (colours[i]! & 0x00ffffff) | (48 << 24)
      const [x0, x1] = [Math.max(0, px - radius), Math.min(W, px + radius)]
      for (let row = Math.max(0, py - radius) * W, end = Math.min(H, py + radius) * W; row < end; row += W)
        for (let column = x0; column < x1; column++) pixels[row + column] = colour
    }
  context.putImageData(buffer, 0, 0)
  return seen.subarray(0, found)
}

/** Small pictures of points in sight, at most one a cell; those that stand out first. */
function drawPictures(
  context: CanvasRenderingContext2D,
  {points, colours, view, marked}: MapScene,
  size: ViewSize,
  seen: Int32Array,
  sheets: PictureFiles
): void {
  const side = Math.round(Math.max(28, Math.min(64, Math.sqrt((size.width * size.height) / Math.max(1, seen.length)) * 0.8)))
  const cell = (side + GAP) / view.scale
  const taken = new Set<string>()
  context.lineWidth = 3
  for (const pass of marked ? [1, 0] : [1])
    for (const i of seen) {
      if (!points.shown[i] || (marked && marked[i] !== pass)) continue
      const key = `${Math.floor(points.x[i]! / cell)},${Math.floor(points.y[i]! / cell)}`
      if (taken.has(key)) continue
      const place = picturePlace(points, i)
      const image = place && sheets.get(place.file)
      if (!image) continue
      taken.add(key)
      const [px, py] = onScreen(view, size, points.x[i]!, points.y[i]!)
      const [left, top] = [Math.round(px - side / 2), Math.round(py - side / 2)]
      context.globalAlpha = pass === 1 ? 1 : 0.25
      context.drawImage(image, place.x, place.y, place.side, place.side, left, top, side, side)
      context.strokeStyle = cssOf(colours[i]!)
      context.strokeRect(left + 1, top + 1, side - 2, side - 2)
    }
  context.globalAlpha = 1
}

/** Rings round the picked point and its neighbours, and lines to them. */
function drawPicked(context: CanvasRenderingContext2D, {points, view}: MapScene, size: ViewSize, picked: number): void {
  const {k} = points.data.near
  const [px, py] = onScreen(view, size, points.x[picked]!, points.y[picked]!)
  const ink = getComputedStyle(context.canvas).color
  context.strokeStyle = ink
  context.lineWidth = 1.5
  for (let n = picked * k; n < (picked + 1) * k; n++) {
    const [x, y] = onScreen(view, size, points.x[points.near[n]!]!, points.y[points.near[n]!]!)
    context.globalAlpha = 0.6
    context.beginPath()
    context.moveTo(px, py)
    context.lineTo(x, y)
    context.stroke()
    context.globalAlpha = 1
    context.beginPath()
    context.arc(x, y, 6, 0, 7)
    context.stroke()
  }
  context.lineWidth = 4
  context.beginPath()
  context.arc(px, py, 12, 0, 7)
  context.stroke()
}

function drawLasso(context: CanvasRenderingContext2D, lasso: LassoLine): void {
  context.strokeStyle = getComputedStyle(context.canvas).color
  context.setLineDash([6, 4])
  context.lineWidth = 2
  context.beginPath()
  for (const [x, y] of lasso) context.lineTo(x, y)
  context.closePath()
  context.stroke()
}

/** The point nearest to a pixel, within `reach` pixels; undefined where none is. */
export function pointAt(
  {points, view}: Pick<MapScene, 'points' | 'view'>,
  size: ViewSize,
  px: number,
  py: number,
  reach: number
): number | undefined {
  const [wx, wy] = [view.x + (px - size.width / 2) / view.scale, view.y + (py - size.height / 2) / view.scale]
  let best: number | undefined
  let least = (reach / view.scale) ** 2
  for (let i = 0; i < points.count; i++) {
    const square = (points.x[i]! - wx) ** 2 + (points.y[i]! - wy) ** 2
    if (square <= least) [best, least] = [i, square]
  }
  return best
}

/** The points inside a closed line on the screen (even-odd rule). */
export function pointsInside({points, view}: Pick<MapScene, 'points' | 'view'>, size: ViewSize, lasso: LassoLine): number[] {
  const found: number[] = []
  for (let i = 0; i < points.count; i++) {
    const [px, py] = onScreen(view, size, points.x[i]!, points.y[i]!)
    let isInside = false
    for (let a = 0, b = lasso.length - 1; a < lasso.length; b = a++) {
      const [ax, ay] = lasso[a]!
      const [bx, by] = lasso[b]!
      if (ay > py !== by > py && px < ((bx - ax) * (py - ay)) / (by - ay) + ax) isInside = !isInside
    }
    if (isInside) found.push(i)
  }
  return found
}
