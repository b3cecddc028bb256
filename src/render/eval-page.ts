/** One page for one evaluation: what was done, tables, charts, and pictures in rows with what was said of them. */
import {dataUri, html, page, table, type Content, type Markup} from './html.js'

export type PageImage = {
  /** PNG or JPEG. */
  readonly bytes: Uint8Array
  readonly type?: 'image/png' | 'image/jpeg'
  readonly caption?: string
  /** Whether what was said of it is right; colours its caption. */
  readonly right?: boolean
}

export type EvalPage = {
  readonly title: string
  /** Sentences under the title. */
  readonly lead?: readonly string[]
  /** First row is the head; numbers stand to the right, and so do the columns that `right` marks. */
  readonly tables?: readonly {
    readonly title: string
    readonly note?: string
    readonly rows: readonly (readonly Content[])[]
    readonly right?: readonly boolean[]
  }[]
  readonly charts?: readonly Markup[]
  readonly pictures?: readonly {readonly title: string; readonly note?: string; readonly items: readonly PageImage[]}[]
  /** Further sections as they are. */
  readonly more?: Content
}

/** A share as a coloured cell of a matrix: darker for more. */
const shade = (share: number, own: boolean): string =>
  `background: color-mix(in srgb, var(${own ? '--c2' : '--c1'}) ${Math.round(70 * Math.min(1, share))}%, transparent)`

/** Confusion counts [K, K] as a table whose rows are the true classes; shares of a row give the colour. */
export function confusionTable(classes: readonly string[], counts: ArrayLike<number>): Markup {
  const K = classes.length
  const sum = (row: number): number => classes.reduce((all, _, k) => all + counts[row * K + k]!, 0)
  return html`<div class="wide">
    <table class="matrix">
      <thead>
        <tr>
          <th>true class</th>
          ${classes.map(name => html`<th class="turned"><span>${name}</span></th>`)}
        </tr>
      </thead>
      <tbody>
        ${classes.map(
          (name, row) =>
            html`<tr>
              <th>${name}</th>
              ${classes.map((_, k) => {
                const count = counts[row * K + k]!
                return html`<td class="number" style="${shade(count / Math.max(1, sum(row)), row === k)}">${count === 0 ? '' : count}</td>`
              })}
            </tr> `
        )}
      </tbody>
    </table>
  </div>`
}

const style = `
.shots { display: flex; flex-wrap: wrap; gap: 0.8rem; } .shots figure { max-width: 16rem; }
.matrix th.turned { vertical-align: bottom; padding: 0 0.15rem; } .matrix th.turned span { writing-mode: vertical-rl; transform: rotate(180deg); font-weight: 400; }
.matrix td { padding: 0.15rem 0.4rem; border: 1px solid var(--line); } .matrix tbody th { font-weight: 400; white-space: nowrap; }
`

/** The page as text. Everything lies in it; nothing is fetched. */
export const evalPage = ({title, lead = [], tables = [], charts = [], pictures = [], more}: EvalPage): string =>
  page({
    title,
    style,
    body: html`
      <h1>${title}</h1>
      ${lead.map(sentence => html`<p>${sentence}</p>`)}
      ${tables.map(
        ({title: name, note, rows, right}) =>
          html`<h2>${name}</h2>
            ${note && html`<p class="quiet">${note}</p>`}${table(rows, right)}`
      )}
      ${charts.length > 0 && html`<div class="grid">${charts}</div>`} ${more}
      ${pictures.map(
        ({title: name, note, items}) =>
          html`<h2>${name}</h2>
            ${note && html`<p class="quiet">${note}</p>`}
            <div class="shots">
              ${items.map(
                ({bytes, type = 'image/png', caption, right}) =>
                  html`<figure>
                    <img src="${dataUri(bytes, type)}" alt="${caption ?? ''}" />
                    ${caption && html`<figcaption class="${right === undefined ? '' : right ? 'good' : 'bad'}">${caption}</figcaption>`}
                  </figure>`
              )}
            </div>`
      )}
    `
  })
