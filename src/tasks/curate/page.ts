/**
 * Curation as one page: the funnel, the summary of each stage, sizes of clusters before and after, and images of what
 * was kept and left out.
 */
import {fitSide} from '../../render/canvas.js'
import {decodeRgb, RefusedImage} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {imagePath, PackedImages} from '../../data/sources/packed-images.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {lineChart} from '../../render/chart.js'
import {dataUri, html, page, table, type Markup} from '../../render/html.js'
import type {FinishedStage, CurationOutcome} from './outcome.js'

const side = 96
/** Images shown of what a stage left out, and of what is kept in the end. */
const most = 24

const verbs: Readonly<Record<string, string>> = {
  filter: 'Filter',
  dedup: 'Near-duplicates',
  decontaminate: 'Benchmark images',
  outliers: 'Outliers',
  mislabelled: 'Labels that neighbours contradict',
  retrieve: 'Retrieval from seeds',
  cluster: 'Clusters',
  sample: 'Balanced sample'
}

/** `n` numbers spread evenly over 0 … total - 1. */
const spread = (total: number, n: number): number[] =>
  total <= n ? [...Array(total).keys()] : Array.from({length: n}, (_, i) => Math.floor((i * total) / n))

/** The page as HTML that holds its images. Images that cannot be opened leave an empty place. */
export async function curationPage(outcome: CurationOutcome, title: string): Promise<string> {
  const packed = new PackedImages()
  const small: SmallPicture = async ref => {
    try {
      const picture = fitSide(await decodeRgb(packed.place(ref)), side)
      return html`<img
        src="${dataUri(await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 82}), 'image/jpeg')}"
        alt="${ref.id}"
      />`
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      return html`<span class="quiet">cannot be opened</span>`
    }
  }
  if (!outcome.pool.images) {
    const paths: string[] = []
    const note: SmallPicture = ref => {
      paths.push(imagePath(ref.id, {...ref.fields, path: ref.path}))
      return Promise.resolve(html``)
    }
    await drawPage(outcome, title, note) // to learn which images are on it
    await packed.find(paths)
  }
  return drawPage(outcome, title, small)
}

/** The picture of an image, as it stands on the page. */
type SmallPicture = (ref: ImageRef) => Promise<Markup>

async function drawPage({pool, stages, kept, stageFields}: CurationOutcome, title: string, small: SmallPicture): Promise<string> {
  const figure = async (row: number, caption: string, isKept: boolean): Promise<Markup> => {
    const ref = pool.ref(row)
    return html`<figure title="${ref.id}" class="${isKept ? 'kept' : ''}">
      <div class="place">${await small(ref)}</div>
      <figcaption>${caption}</figcaption>
    </figure> `
  }
  const sheet: Sheet = async (rows, caption, isKept = () => false) => {
    const cells: Markup[] = []
    for (const row of rows) cells.push(await figure(row, caption(row), isKept(row)))
    return html`<div class="row">${cells}</div>`
  }

  const funnel: {name: string; rows: number}[] = [{name: 'rows of the input', rows: pool.inputs}]
  if (pool.refused.length > 0) funnel.push({name: 'readable, once each', rows: pool.count})
  for (const {stage, report} of stages) funnel.push({name: `after ${(verbs[stage] ?? stage).toLowerCase()}`, rows: report.after})
  const widest = Math.max(1, pool.inputs)
  const bars = funnel.map(
    ({name, rows}) =>
      html`<tr>
        <td>${name}</td>
        <td class="number">${rows.toLocaleString('en')}</td>
        <td class="bar"><i style="width:${((100 * rows) / widest).toFixed(2)}%"></i></td>
      </tr> `
  )
  const sections: Markup[] = []
  for (const done of stages) sections.push(await section(done, sheet, row => caption(stageFields(row), pool.ref(row).id)))
  const refused =
    pool.refused.length === 0
      ? undefined
      : html`<h2>Not read</h2>
          ${table([['image', 'why'], ...pool.refused.slice(0, 50).map(({ref, reason}) => [ref.id, reason])])}
          ${pool.refused.length > 50 && html`<p class="quiet">and ${pool.refused.length - 50} more</p>`}`
  const body = html`<h1>${title}</h1>
    <p>${kept.length.toLocaleString('en')} of ${pool.inputs.toLocaleString('en')} rows are kept.</p>
    <div class="wide">
      <table class="funnel">
        ${bars}
      </table>
    </div>
    ${sections}
    <h2>Kept</h2>
    <p class="quiet">${Math.min(most, kept.length)} of ${kept.length.toLocaleString('en')}, spread over the list.</p>
    ${await sheet(
      spread(kept.length, most).map(i => kept[i]!),
      row => short(pool.ref(row).id)
    )}
    ${refused}`
  const style = `.place { width: ${side}px; height: ${side}px; display: grid; place-items: center; background: var(--panel); }
.row { gap: 0.4rem; } .row figure { width: ${side}px; } .row figcaption { margin-top: 0.2rem; font-size: 0.68rem; line-height: 1.25; overflow-wrap: anywhere; }
.kept .place { outline: 3px solid var(--c0); outline-offset: -3px; } .kept figcaption { font-weight: 600; }
.funnel td { border: 0; padding: 0.15rem 0.9rem 0.15rem 0; vertical-align: middle; } .bar { width: 28rem; max-width: 50vw; } .bar i { display: block; height: 1.1rem; min-width: 2px; background: var(--c0); border-radius: 3px; }`
  return page({title, body, style})
}

const short = (id: string): string => id.split('/').at(-1) ?? id

/** What stands under an image: its name, and that of the image it is like; a kept image of a group says so. */
function caption(fields: Fields, id: string): string {
  const {similarity, similar_to: other, reason, stage} = fields
  const score = typeof similarity === 'number' ? similarity.toFixed(3) : ''
  if (typeof other === 'string') return `${short(id)}: ${score} like ${short(other)}`
  if (stage === undefined && typeof fields['duplicates'] === 'number') return `${short(id)}: kept`
  return [short(id), score, typeof reason === 'string' && reason !== 'clustered' ? reason : ''].filter(part => part !== '').join(' ')
}

type Sheet = (rows: readonly number[], caption: (row: number) => string, isKept?: (row: number) => boolean) => Promise<Markup>

async function section({stage, rows, verdict, report}: FinishedStage, sheet: Sheet, captions: (row: number) => string): Promise<Markup> {
  const out = [...rows.keys()].filter(i => !verdict.kept[i])
  const groups: Markup[] = []
  for (const {title, members, size} of verdict.groups ?? [])
    groups.push(
      html`<h3>${title} <span class="quiet">(${size.toLocaleString('en')})</span></h3>
        ${await sheet(
          members.map(i => rows[i]!),
          captions,
          row => stage === 'dedup' && members.some(i => rows[i] === row && verdict.kept[i])
        )}`
    )
  const sizes = report['sizes'] as {before: number[]; after: number[]} | undefined
  const chart =
    sizes && sizes.before.length > 1
      ? html`<div class="grid">
          ${lineChart({
            title: 'Images of each cluster, largest first',
            x: 'cluster',
            fromZero: true,
            series: [
              {name: 'before', points: sizes.before.map((n, i) => [i + 1, n] as const)},
              {name: 'after', points: sizes.after.map((n, i) => [i + 1, n] as const)}
            ]
          })}
        </div>`
      : undefined
  return html`<h2>${verbs[stage] ?? stage}</h2>
    <p>${report.before.toLocaleString('en')} in, ${report.after.toLocaleString('en')} left.</p>
    <ul>
      ${verdict.summary.map(text => html`<li>${text}</li>`)}
    </ul>
    ${chart} ${groups}
    ${
      out.length > 0 &&
      html`<details>
        <summary>${Math.min(most, out.length)} of ${out.length.toLocaleString('en')} left out, spread over the list</summary>
        ${await sheet(
          spread(out.length, most).map(j => rows[out[j]!]!),
          captions
        )}
      </details>`
    }`
}
