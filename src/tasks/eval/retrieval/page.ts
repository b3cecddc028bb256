/**
 * The page of a retrieval evaluation: scores, recall curves, and queries that went well, badly and as usual, with what
 * was found.
 */
import {counted} from '../../../config/counted.js'
import {basename} from 'node:path'
import {lineChart} from '../../../render/chart.js'
import {evalPage} from '../../../render/eval-page.js'
import {dataUri, html, type Markup} from '../../../render/html.js'
import type {EvalPageText} from '../shared/evaluation.js'
import {pickExamples, type Examples} from '../shared/pick-examples.js'
import {candidateTitle, pageTables, percent} from '../shared/tables.js'
import {thumbnail, withPackedImages, type ThumbnailOptions} from '../shared/thumbnails.js'
import {retrievalSummary, type QueryResult, type RetrievalReport} from './report.js'

/** Queries of a kind on the page, and found images of each. */
const [SHOWN_QUERIES, SHOWN_IMAGES] = [4, 6]

/** The queries of highest, middle and lowest average precision; none comes twice. */
export const pickQueries = (queries: readonly QueryResult[]): Examples<QueryResult> =>
  pickExamples(queries, SHOWN_QUERIES, {score: ({averagePrecision}) => averagePrecision, name: ({query}) => query})

const style = html`<style>
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
  }
</style>`

/** The page, and how many images could not be opened. */
export async function retrievalPage(
  {report, queries}: {readonly report: RetrievalReport; readonly queries: readonly QueryResult[]},
  options: ThumbnailOptions = {}
): Promise<EvalPageText> {
  const {sections, missing} = await querySections(queries, options)
  const content = evalPage({
    title: 'Retrieval',
    lead: [
      `${counted(report.queries, 'query', 'queries')} (${report.query === 'first' ? 'the first image of each group' : 'every image of a group of two or more'}) among ${counted(report.images, 'image')} in ${counted(report.groups, 'group')}. Images are ranked by cosine, the query itself left out; average precision is taken by ${report.precision === 'trapezoid' ? 'trapezoids, as in the Holidays script' : 'steps, as in scikit-learn'}.`,
      ...report.notes
    ],
    tables: pageTables(retrievalSummary(report).tables),
    charts: [hitCurves(report), precisionCurve(report, queries)],
    more: html`${style}${sections}`
  })
  return {content, missing}
}

/** Rows of images: the query, then what was found. */
async function querySections(queries: readonly QueryResult[], options: ThumbnailOptions): Promise<{sections: Markup[]; missing: number}> {
  let missing = 0
  const {best, typical, worst} = pickQueries(queries)
  const shown = [...best, ...typical, ...worst]
  const paths = shown.flatMap(({path, found}) => [path, ...found.slice(0, SHOWN_IMAGES).map(one => one.path)])
  const found = await withPackedImages(paths, options)
  const figure = async (path: string, id: string, caption: string, kind: string): Promise<Markup> => {
    const picture = await thumbnail(path, found)
    if (!picture) missing++
    return html`<figure class="${kind}" title="${id}">
      <div class="place">
        ${picture ? html`<img src="${dataUri(picture.bytes, picture.type)}" alt="${id}" />` : html`<span class="quiet">not found</span>`}
      </div>
      <figcaption>${caption}</figcaption>
    </figure> `
  }
  const row = async ({path, query, averagePrecision, found}: QueryResult): Promise<Markup> => {
    const cells = [await figure(path, query, `${basename(query)} · AP ${percent(averagePrecision)}`, 'query')]
    for (const one of found.slice(0, SHOWN_IMAGES))
      cells.push(await figure(one.path, one.id, `${one.similarity.toFixed(3)} ${basename(one.id)}`, one.right ? 'same' : 'other'))
    return html`<div class="row">${cells}</div> `
  }
  const sections: Markup[] = []
  for (const [title, some] of [
    ['Best queries', best],
    ['Typical queries', typical],
    ['Worst queries', worst]
  ] as const) {
    if (some.length === 0) continue
    const rows: Markup[] = []
    for (const query of some) rows.push(await row(query))
    sections.push(
      html`<h2>${title}</h2>
        ${rows}`
    )
  }
  return {sections, missing}
}

const hitCurves = ({scores}: RetrievalReport): Markup =>
  lineChart({
    title: 'Queries with a right answer among the first k',
    y: 'queries (%)',
    x: 'k',
    fromZero: true,
    series: scores.map(({features, hits}) => ({
      name: candidateTitle(features),
      points: Object.entries(hits).map(([k, share]) => [Number(k), 100 * share] as const)
    }))
  })

const precisionCurve = ({scores}: RetrievalReport, queries: readonly QueryResult[]): Markup =>
  lineChart({
    title: 'Queries below an average precision',
    y: 'queries (%)',
    x: 'average precision',
    fromZero: true,
    series: [
      {
        name: candidateTitle(scores[0]!.features),
        points: Array.from({length: 21}, (_, i) => {
          const below = queries.filter(({averagePrecision}) => averagePrecision <= i / 20).length
          return [i / 20, (100 * below) / Math.max(1, queries.length)] as const
        })
      }
    ]
  })
