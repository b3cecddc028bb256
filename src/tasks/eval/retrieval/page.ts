/**
 * The page of a retrieval evaluation: scores, recall curves, and queries that went well, badly and as usual, with what
 * was found.
 */
import {lineChart} from '../../../render/chart.js'
import {evalPage} from '../../../render/eval-page.js'
import {dataUri, html, type Markup} from '../../../render/html.js'
import type {QueryResult, RetrievalReport} from './evaluate.js'
import {thumbnail, type ThumbnailOptions} from '../shared/thumbnails.js'

/** Queries of a kind on the page, and found images of each. */
const [shown, found] = [4, 6]

const percent = (share: number): string => (100 * share).toFixed(1)
const names: Readonly<Record<string, string>> = {model: 'model', pixels: 'raw pixels', untrained: 'untrained model', chance: 'random order'}

/** The queries of highest, middle and lowest average precision, best first in each; none comes twice. */
export function pickQueries(queries: readonly QueryResult[]): {best: QueryResult[]; typical: QueryResult[]; worst: QueryResult[]} {
  const order = [...queries].sort((a, b) => b.averagePrecision - a.averagePrecision)
  const best = order.slice(0, shown)
  const worst = order.slice(Math.max(best.length, order.length - shown))
  const middle = order.slice(best.length, order.length - worst.length)
  const from = Math.max(0, Math.floor((middle.length - shown) / 2))
  return {best, typical: middle.slice(from, from + shown), worst}
}

/** The page as text, and how many pictures could not be opened. */
export async function retrievalPage(
  {report, queries}: {readonly report: RetrievalReport; readonly queries: readonly QueryResult[]},
  options: ThumbnailOptions = {}
): Promise<{content: string; missing: number}> {
  const {scores, gains, images, groups, notes} = report
  const ks = Object.keys(scores[0]!.recall)
  let missing = 0
  const figure = async (path: string, id: string, caption: string, style: string): Promise<Markup> => {
    const picture = await thumbnail(path, options)
    if (!picture) missing++
    return html`<figure class="${style}" title="${id}">
      <div class="place">
        ${picture ? html`<img src="${dataUri(picture.bytes, picture.type)}" alt="${id}" />` : html`<span class="quiet">not found</span>`}
      </div>
      <figcaption>${caption}</figcaption>
    </figure> `
  }
  const base = (id: string): string => id.split('/').at(-1) ?? id
  const row = async (query: QueryResult): Promise<Markup> => {
    const cells = [await figure(query.path, query.query, `${base(query.query)} · AP ${percent(query.averagePrecision)}`, 'query')]
    for (const one of query.found.slice(0, found))
      cells.push(await figure(one.path, one.id, `${one.similarity.toFixed(3)} ${base(one.id)}`, one.right ? 'same' : 'other'))
    return html`<div class="row">${cells}</div> `
  }
  const sections: Markup[] = []
  for (const [title, some] of Object.entries(pickQueries(queries))) {
    if (some.length === 0) continue
    const rows: Markup[] = []
    for (const query of some) rows.push(await row(query))
    sections.push(
      html`<h2>${title[0]!.toUpperCase() + title.slice(1)} queries</h2>
        ${rows}`
    )
  }
  const curves = lineChart({
    title: 'Queries with a right answer among the first k (%)',
    x: 'k',
    fromZero: true,
    series: scores.map(({features, hits}) => ({
      name: names[features]!,
      points: ks.map(k => [Number(k), 100 * hits[k]!] as const)
    }))
  })
  const histogram = lineChart({
    title: 'Queries below an average precision (%)',
    x: 'average precision',
    fromZero: true,
    series: [
      {
        name: names[scores[0]!.features]!,
        points: Array.from({length: 21}, (_, i) => {
          const limit = i / 20
          return [limit, (100 * queries.filter(({averagePrecision: ap}) => ap <= limit).length) / Math.max(1, queries.length)] as const
        })
      }
    ]
  })
  const content = evalPage({
    title: 'Retrieval',
    lead: [
      `${report.queries} queries (${report.query === 'first' ? 'the first image of each group' : 'every image of a group of two or more'}) among ${images} images in ${groups} groups. Images are ranked by cosine, the query itself left out; average precision is taken by ${report.precision === 'trapezoid' ? 'trapezoids, as in the Holidays script' : 'steps, as in scikit-learn'}.`,
      ...gains.map(
        ({over, map, interval: [low, high], word}) =>
          `The model ${word} ${over === 'pixels' ? '' : over === 'chance' ? 'a ' : 'the '}${names[over]!}: ${signed(map)} points of mAP (95 % of draws between ${signed(low)} and ${signed(high)}).`
      ),
      ...notes
    ],
    tables: [
      {
        title: 'Scores',
        note: 'In per cent. recall@k is the mean share of right answers among the first k; hit@k the share of queries with at least one there. Intervals are of 95 %, by drawing groups with replacement.',
        rows: [
          ['features', 'mAP', '95 %', ...ks.map(k => `recall@${k}`), ...ks.map(k => `hit@${k}`)],
          ...scores.map(({features, map, interval: [low, high], recall, hits}) => [
            names[features]!,
            percent(map),
            `${percent(low)}–${percent(high)}`,
            ...ks.map(k => percent(recall[k]!)),
            ...ks.map(k => percent(hits[k]!))
          ])
        ]
      }
    ],
    charts: [curves, histogram],
    more: html`<style>
        .place {
          width: 8rem;
          height: 8rem;
          display: grid;
          place-items: center;
          background: var(--panel);
        }
        .row figure {
          width: 8.5rem;
          padding: 4px;
          border: 2px solid transparent;
          border-radius: 6px;
        }
        .row .query {
          border-right-color: var(--line);
          border-radius: 0;
        }
        .row .same {
          border-color: var(--good);
        }
        .row .other {
          border-color: var(--bad);
        }</style
      >${sections}`
  })
  return {content, missing}
}

const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
