/** Straight lines and dots on pictures, and colours by hue. */
import type {Raster} from '../data/image/resample.js'

type Color = readonly [red: number, green: number, blue: number]
type Point = readonly [x: number, y: number]

/** A bright colour; hue from 0 (red) over green and blue to 1 (red again). */
export function hueColor(hue: number): Color {
  const channel = (shift: number): number => {
    const at = (((hue + shift) % 1) + 1) % 1
    return Math.round(255 * Math.min(1, Math.max(0.12, Math.abs(6 * at - 3) - 1)))
  }
  return [channel(0), channel(2 / 3), channel(1 / 3)]
}

/** A filled circle; what lies outside of the picture is left out. */
export function drawDot({width, height, data}: Raster, [x, y]: Point, radius: number, color: Color): void {
  for (let row = Math.max(0, Math.floor(y - radius)); row <= Math.min(height - 1, y + radius); row++)
    for (let column = Math.max(0, Math.floor(x - radius)); column <= Math.min(width - 1, x + radius); column++)
      if ((column - x) ** 2 + (row - y) ** 2 <= radius ** 2) data.set(color, (row * width + column) * 3)
}

/** A line between two points, `thickness` pixels thick. */
export function drawLine(onto: Raster, from: Point, to: Point, thickness: number, color: Color): void {
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]]
  const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(dx), Math.abs(dy))))
  for (let i = 0; i <= steps; i++) drawDot(onto, [from[0] + (dx * i) / steps, from[1] + (dy * i) / steps], thickness / 2, color)
}
