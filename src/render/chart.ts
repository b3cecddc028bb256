/** Line charts as inline SVG: axes with round numbers, a legend, colours that follow the page's light or dark. */
import {html, type Markup} from './html.js'

export type Series = {
  readonly name: string
  readonly points: readonly (readonly [x: number, y: number])[]
  /** Number of its colour, the place among the series if absent. */
  readonly color?: number
  /** Number of its dashes; 0, a whole line, if absent. */
  readonly dash?: number
}

const DASHES = ['none', '6 3', '2 3', '8 3 2 3'] as const

export type ChartOptions = {
  readonly title: string
  readonly series: readonly Series[]
  /** What x counts, e.g. `step`. */
  readonly x?: string
  /** What the vertical axis shows, with its unit. */
  readonly y?: string
  /** The y axis begins at zero. */
  readonly fromZero?: boolean
  /** Points drawn per curve at most; more are averaged in even stretches of x. */
  readonly most?: number
}

/** Round numbers (1, 2 or 5 times a power of ten) that span low to high, about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const span = high - low
  if (!(span > 0)) return [low]
  const rough = span / count
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map(k => k * power).find(size => span / size <= count * 1.6)!
  const first = Math.ceil(low / step - 1e-9)
  const last = Math.floor(high / step + 1e-9)
  return Array.from({length: last - first + 1}, (_, i) => Number(((first + i) * step).toPrecision(12)))
}

/** A number as short as it can be read: 0.0014, 1.2e-5, 12,000. */
export function short(value: number): string {
  const size = Math.abs(value)
  if (size === 0) return '0'
  if (size < 1e-4 || size >= 1e7) return value.toExponential(2).replace(/(?<!0)\.?0+e/, 'e')
  return size >= 1000 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(4)))
}

/**
 * Averages points in even stretches of x, so that a long run draws as fast as a short one. Points that are not finite
 * are left out.
 */
export function thin(points: Series['points'], most: number): Series['points'] {
  const good = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y))
  if (good.length <= most) return good
  const [from, to] = [good[0]![0], good.at(-1)![0]]
  const sums = Array.from({length: most}, () => ({x: 0, y: 0, n: 0}))
  for (const [x, y] of good) {
    const stretch = sums[Math.min(most - 1, Math.max(0, Math.floor(((x - from) / (to - from || 1)) * most)))]!
    stretch.x += x
    stretch.y += y
    stretch.n++
  }
  return sums.filter(({n}) => n > 0).map(({x, y, n}) => [x / n, y / n] as const)
}

/** The chart with its title and legend; a sentence where there is nothing to draw. */
export function lineChart({title, series, x: unit = 'step', y: shown, fromZero = false, most = 400}: ChartOptions): Markup {
  const curves = series.map(({name, points, color, dash}, i) => ({
    name,
    points: thin(points, most),
    style: `stroke:var(--c${(color ?? i) % 8});stroke-dasharray:${DASHES[(dash ?? 0) % DASHES.length]!}`,
    fill: `var(--c${(color ?? i) % 8})`
  }))
  const all = curves.flatMap(({points}) => points)
  if (all.length === 0)
    return html`<figure>
      <h3>${title}</h3>
      <p class="quiet">Nothing was recorded.</p>
    </figure>`
  const [width, height, left, right, top, bottom] = [520, 240, 72, 26, 8, 34]
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity]
  for (const [x, y] of all) {
    x0 = Math.min(x0, x)
    x1 = Math.max(x1, x)
    y0 = Math.min(y0, y)
    y1 = Math.max(y1, y)
  }
  if (fromZero) y0 = Math.min(0, y0)
  const pad = y1 > y0 ? (y1 - y0) * 0.05 : Math.abs(y1) * 0.1 || 1
  if (!(fromZero && y0 === 0)) y0 -= pad
  y1 += pad
  if (x1 === x0) {
    x0 -= 1
    x1 += 1
  }
  const px = (x: number): string => (left + ((x - x0) / (x1 - x0)) * (width - left - right)).toFixed(1)
  const py = (y: number): string => (height - bottom - ((y - y0) / (y1 - y0)) * (height - top - bottom)).toFixed(1)
  const grid = ticks(y0, y1, 6).map(
    y =>
      html`<line class="axis" x1="${left}" x2="${width - right}" y1="${py(y)}" y2="${py(y)}" /><text
          x="${left - 6}"
          y="${py(y)}"
          dy="0.35em"
          text-anchor="end"
          >${short(y)}</text
        >`
  )
  const below = ticks(x0, x1, 6).map(x => html`<text x="${px(x)}" y="${height - bottom + 16}" text-anchor="middle">${short(x)}</text>`)
  const drawn = curves.map(({name, points, style, fill}) =>
    points.length === 1
      ? html`<circle cx="${px(points[0]![0])}" cy="${py(points[0]![1])}" r="3" style="fill:${fill}"><title>${name}</title></circle>`
      : html`<polyline class="curve" style="${style}" points="${points.map(([x, y]) => `${px(x)},${py(y)}`).join(' ')}"
          ><title>${name}</title></polyline
        >`
  )
  const last = curves.map(({name, points, style}) => {
    const end = points.at(-1)
    return html`<span
      ><svg class="key" viewBox="0 0 26 4" aria-hidden="true"><line x1="0" x2="26" y1="2" y2="2" style="${style};stroke-width:3" /></svg
      >${name}${end && ` ${short(end[1])}`}</span
    >`
  })
  return html`<figure>
    <h3>${title}</h3>
    <svg class="chart" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}${shown !== undefined && `: ${shown} by ${unit}`}">
      ${grid}${below}
      <text class="x" x="${(left + width - right) / 2}" y="${height - 4}" text-anchor="middle">${unit}</text>
      ${shown !== undefined && html`<text class="y" transform="translate(12 ${(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">${shown}</text>`}
      ${drawn}
    </svg>
    <div class="legend">${last}</div>
  </figure>`
}
