/** Which part of the map is seen: a scale in pixels a unit, and the place at the middle. */

export type View = {readonly scale: number; readonly x: number; readonly y: number}

export type ViewSize = {
  readonly width: number
  readonly height: number
  /** Pixels at the lower edge that something else covers. */
  readonly below?: number
}

/** The whole map, with a rim, above what covers the lower edge. */
export function wholeView({width, height, below = 0}: ViewSize): View {
  const scale = 0.9 * Math.min(width, height - below)
  return {scale, x: 0.5, y: 0.5 + below / (2 * scale)}
}

/** Zooms by `factor`, the place below pixel (px, py) standing still. */
export function zoomed(view: View, {width, height}: ViewSize, factor: number, px: number, py: number): View {
  const least = 0.3 * Math.min(width, height)
  const scale = Math.max(least, Math.min(least * 20_000, view.scale * factor))
  const [dx, dy] = [px - width / 2, py - height / 2]
  return {scale, x: view.x + dx / view.scale - dx / scale, y: view.y + dy / view.scale - dy / scale}
}

export const moved = (view: View, dx: number, dy: number): View => ({...view, x: view.x - dx / view.scale, y: view.y - dy / view.scale})

/** Where a place stands on the screen. */
export const onScreen = (view: View, {width, height}: ViewSize, x: number, y: number): [number, number] => [
  (x - view.x) * view.scale + width / 2,
  (y - view.y) * view.scale + height / 2
]
