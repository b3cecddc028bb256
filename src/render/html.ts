/**
 * Pages that carry everything in themselves: no font, picture or script from elsewhere. They can be mailed, archived
 * and opened from a disk, in light and dark. A page has no script but one of ours where it was given one, and the
 * browser gets its hash, so that nothing else in the page can run.
 *
 * Text becomes markup only through `html`, which escapes whatever is put into it; so a file called `<img onerror=…>`
 * is a name and nothing else.
 */

import {createHash} from 'node:crypto'
import {colormapStops, type Colormap} from './colormap.js'

/** Markup that is safe to put into a page as it is. */
export class Markup {
  constructor(readonly text: string) {}
  toString(): string {
    return this.text
  }
}

/**
 * What a template takes: markup as it is, everything else escaped, lists one after the other, nothing for undefined
 * and false.
 */
export type Content = Markup | string | number | undefined | false | readonly Content[]

const ENTITIES: Readonly<Record<string, string>> = {'&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;'}

/**
 * Text for use between tags and in quoted attributes. Control characters, which no page may hold, become the
 * replacement mark.
 */
export const escape = (text: string): string =>
  // eslint-disable-next-line no-control-regex
  text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g, '\ufffd').replace(/[&<>"']/g, character => ENTITIES[character]!)

function render(content: Content): string {
  if (content === undefined || content === false) return ''
  if (content instanceof Markup) return content.text
  if (Array.isArray(content)) return (content as readonly Content[]).map(render).join('')
  return escape(String(content))
}

/** A template for markup: html`<p>${name}</p>` escapes the name. */
export const html = (parts: TemplateStringsArray, ...values: readonly Content[]): Markup =>
  new Markup(parts.reduce((sum, part, i) => sum + render(values[i - 1]) + part))

/** Bytes as an address that holds them, e.g. the source of a picture. */
export const dataUri = (bytes: Uint8Array, type: 'image/png' | 'image/jpeg'): string =>
  `data:${type};base64,${Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')}`

/** The base name of a file, with the whole path as its tooltip. */
export const baseName = (path: string): Markup => html`<span title="${path}">${path.split('/').at(-1) || path}</span>`

/** The bar of a colormap, with what stands at its ends. */
export const rampBar = (ramp: Colormap, low: string, high: string): Markup =>
  html`<span class="ramp"
    ><span>${low}</span
    ><i
      role="img"
      aria-label="Colours from ${low} to ${high}"
      style="background:linear-gradient(to right,${colormapStops(ramp)
        .map(color => `rgb(${color.join(',')})`)
        .join(',')})"
    ></i
    ><span>${high}</span></span
  >`

/** The longest word in letters that a cell of a table keeps whole; longer ones, such as paths, may break anywhere. */
const LONGEST_WORD = 24

const hasLongWord = (content: Content): boolean =>
  render(content)
    .replace(/<[^<>]*>/g, '')
    .split(/\s+/)
    .some(word => word.length > LONGEST_WORD)

/**
 * A table; the first row is its head. Cells that are numbers stand to the right, and so do all cells of the columns
 * that `right` marks. Words stay whole, and a table that is too wide scrolls by itself; only very long words break.
 */
export function table([head, ...rows]: readonly (readonly Content[])[], right: readonly boolean[] = []): Markup {
  const style = (content: Content, column: number): string =>
    typeof content === 'number' || right[column] ? 'number' : hasLongWord(content) ? 'long' : ''
  return html`<div class="wide">
    <table>
      <thead>
        <tr>
          ${(head ?? []).map((content, i) => html`<th class="${right[i] ? 'number' : ''}">${content}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows.map(
          row =>
            html`<tr>
              ${row.map((content, i) => html`<td class="${style(content, i)}">${content}</td>`)}
            </tr> `
        )}
      </tbody>
    </table>
  </div>`
}

const STYLE = `
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1c1e21; --quiet: #666b73; --line: #d9d9d4; --panel: #f3f3ef; --good: #1a7f37; --bad: #b42318;
  --c0: #1f6feb; --c1: #d9480f; --c2: #2b8a3e; --c3: #9c36b5; --c4: #b08800; --c5: #0b7285; --c6: #c2255c; --c7: #5c5f66; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e6e3; --quiet: #9aa0a8; --line: #363a41; --panel: #1f2228; --good: #56d364; --bad: #ff7b72;
  --c0: #6cb2ff; --c1: #ff9f5a; --c2: #69db7c; --c3: #da9bf0; --c4: #ffd43b; --c5: #4fd1e0; --c6: #ff8fb3; --c7: #b5b9c0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.2rem 4rem; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0.5rem 0 0.3rem; } h2 { font-size: 1.25rem; margin: 2.2rem 0 0.6rem; } h3 { font-size: 1rem; margin: 1.2rem 0 0.4rem; }
p, ul { max-width: 48rem; } h1, h2, h3, p, li { overflow-wrap: anywhere; } .quiet, figcaption { color: var(--quiet); } figcaption { font-size: 0.8rem; overflow-wrap: anywhere; }
code, pre { font: 0.85rem/1.45 ui-monospace, monospace; } pre { background: var(--panel); padding: 0.8rem 1rem; overflow: auto; border-radius: 6px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0.4rem 0; } th { text-align: left; font-weight: 600; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; } .number { text-align: right; } td.number { white-space: nowrap; } td.long { overflow-wrap: anywhere; min-width: 9rem; }
@media (max-width: 40rem) { body { padding: 1rem 0.7rem 3rem; } table { font-size: 0.72rem; } th, td { padding-right: 0.5rem; } }
ul.findings { list-style: none; padding: 0; } figure { margin: 0; } img { display: block; max-width: 100%; height: auto; } img.pixels { image-rendering: pixelated; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.row { display: flex; flex-wrap: wrap; gap: 0.6rem; align-items: flex-start; margin: 0 0 1.2rem; }
.good { color: var(--good); } .bad { color: var(--bad); } summary { cursor: pointer; color: var(--quiet); }
.ramp { display: inline-flex; gap: 0.4em; align-items: center; padding-right: 1.2em; max-width: 100%; white-space: nowrap; } .ramp i { height: 0.8em; width: 10em; min-width: 1.5em; flex-shrink: 1; border: 1px solid var(--line); }
svg text { fill: var(--quiet); font: 11px system-ui, sans-serif; } @media (max-width: 40rem) { svg.chart text { font-size: 14px; } } svg .axis { stroke: var(--line); } svg .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend { display: flex; flex-wrap: wrap; gap: 0.1rem 1rem; font-size: 0.8rem; color: var(--quiet); } .legend .key { display: inline-block; width: 1.7em; height: 0.3em; margin-right: 0.4em; vertical-align: middle; }
`

/** A whole page. `style` is added to the common style; `script`, where there is one, runs at the end. */
export function page({title, body, style = '', script}: {title: string; body: Content; style?: string; script?: string}): string {
  const runs = script === undefined ? '' : `; script-src 'sha256-${createHash('sha256').update(script).digest('base64')}'`
  return `${html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta
          http-equiv="Content-Security-Policy"
          content="default-src 'none'; img-src data:; style-src 'unsafe-inline'${new Markup(runs)}"
        />
        <title>${title}</title>
        <style>
          ${new Markup(STYLE + style)}
        </style>
      </head>
      <body>
        ${body}${script !== undefined && new Markup(`<script>${script}</script>`)}
      </body>
    </html>`}\n`
}
