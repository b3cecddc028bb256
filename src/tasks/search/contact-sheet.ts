/** Contact sheets: queries and their nearest neighbours, as one page or one picture. */
import {counted} from '../../config/counted.js'
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {isObject, jsonObjectOr, valueText} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from '../../files/embeddings/bytes.js'
import {blankCanvas, centered, fitSide} from '../../render/canvas.js'
import {decodeRgb, RefusedImage, type Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
import {imagePath, PackedImages} from '../../data/sources/packed-images.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {dataUri, html, page, type Markup} from '../../render/html.js'
import {drawSheet, type SheetBlock} from '../../render/sheet.js'
import type {QueryAnswer, SearchHit} from './search.js'

export {answerEmbeddings, answerImages} from './search.js'
export type {QueryAnswer} from './search.js'

const numberOr = (value: unknown): number | undefined => (typeof value === 'number' ? value : undefined)

/**
 * Reads what `dinov2 search` printed: one neighbour a line, those of a query one after the other. `skipSelf` leaves
 * out a row that is the query itself. Throws a `UserError` naming the line that is not so.
 */
export async function* answerRows(
  input: Readable | string,
  {k, limit, skipSelf = false}: {readonly k: number; readonly limit: number; readonly skipSelf?: boolean}
): AsyncGenerator<QueryAnswer> {
  const name = typeof input === 'string' ? input : 'stdin'
  const bytes = new ByteReader(typeof input === 'string' ? fileBytes(input) : input)
  let answer: {query: string; fields: Fields; found: SearchHit[]} | undefined
  let [number, done] = [0, 0]
  try {
    for await (const line of bytes.lines()) {
      number++
      if (line.trim() === '') continue
      const {query, id, rank, similarity, distance, fields, ...rest} = jsonObjectOr(line) ?? {}
      if (typeof query !== 'string' || typeof id !== 'string')
        throw new UserError(`Line ${number} of ${name} is not a row of dinov2 search: it lacks query and id.`, {
          exit: 2,
          code: 'NOT_ROWS',
          hint: 'Try: dinov2 search INDEX … | dinov2 visualize neighbours - -o page.html'
        })
      if (answer && answer.query !== query) {
        yield answer
        answer = undefined
        if (++done >= limit) return
      }
      answer ??= {query, fields: {}, found: []}
      if (answer.found.length < k && !(skipSelf && id === query))
        answer.found.push({
          query,
          id,
          rank: numberOr(rank) ?? answer.found.length + 1,
          similarity: numberOr(similarity),
          distance: numberOr(distance),
          fields: {...rest, ...(isObject(fields) ? fields : {})}
        })
    }
  } finally {
    if (typeof input === 'string') await bytes.close()
  }
  if (answer) yield answer
  else if (done === 0) throw new UserError(`${name} holds no rows.`, {exit: 3, code: 'NO_INPUT', hint: 'Did the search find anything?'})
}

export type ContactSheetOptions = {
  readonly format: 'png' | 'html'
  readonly title?: string
  /** Side of a small picture in pixels. */
  readonly side?: number
  /** Folder that relative names start from; the present one by default. */
  readonly root?: string
  readonly onQuery?: (done: number) => void
}

export type ContactSheetReport = {
  readonly queries: number
  readonly pictures: number
  /** Pictures that could not be opened; an empty place stands for each. */
  readonly missing: number
  /** Where queries and neighbours carry a label: the share of neighbours with the label of their query. */
  readonly sameLabel: number | undefined
}

/**
 * Draws answers as a contact sheet. A name is opened as it stands (relative to `root`), or where its `path` field
 * says; what cannot be opened leaves an empty place.
 *
 * Where rows carry a `label`, neighbours with the query's own are framed in green and others in red.
 */
export async function contactSheet(
  answers: AsyncIterable<QueryAnswer> | Iterable<QueryAnswer>,
  {format, title = 'Nearest neighbours', side = 128, root, onQuery}: ContactSheetOptions
): Promise<{content: Uint8Array | string; report: ContactSheetReport}> {
  const counts = {queries: 0, pictures: 0, missing: 0, labelled: 0, sameLabel: 0}
  const rows: Markup[] = []
  const blocks: SheetBlock[] = []
  let columns = 1
  const all: QueryAnswer[] = []
  for await (const answer of answers) all.push(answer)
  const packed = new PackedImages()
  await packed.find(
    all.flatMap(({query, fields, found}) => [imagePath(query, fields), ...found.map(hit => imagePath(hit.id, hit.fields))]),
    root
  )
  for (const answer of all) {
    const opened = await openAnswer(answer, {side, root, packed, counts})
    if (format === 'html') rows.push(await answerRow(opened))
    else blocks.push(answerBlock(opened, side))
    columns = Math.max(columns, 1 + opened.hits.length)
    counts.queries++
    onQuery?.(counts.queries)
  }
  const {queries, pictures, missing, labelled} = counts
  const report: ContactSheetReport = {queries, pictures, missing, sameLabel: labelled > 0 ? counts.sameLabel / labelled : undefined}
  return {content: format === 'png' ? await sheetPicture(blocks, title, report) : sheetPage(rows, title, {side, columns}, report), report}
}

type OpenedImage = {readonly id: string; readonly fields: Fields; readonly picture: Raster | undefined}

/** A neighbour with its image, and whether it has the label of its query; undefined where one of them has none. */
type OpenedHit = OpenedImage & {readonly hit: SearchHit; readonly same: boolean | undefined}

type OpenedAnswer = {readonly query: OpenedImage; readonly hits: readonly OpenedHit[]}

type SheetCounts = {pictures: number; missing: number; labelled: number; sameLabel: number}

/** Where pictures are looked for, how large they become, and what became of them. */
type SheetSource = {
  readonly side: number
  readonly root: string | undefined
  readonly packed: PackedImages
  readonly counts: SheetCounts
}

/** Opens the images of an answer, and counts them. */
async function openAnswer(answer: QueryAnswer, {side, root, packed, counts}: SheetSource): Promise<OpenedAnswer> {
  const open = async (id: string, fields: Fields): Promise<OpenedImage> => {
    try {
      const picture = fitSide(await decodeRgb(packed.at(imagePath(id, fields), root)), side)
      counts.pictures++
      return {id, fields, picture}
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      counts.missing++
      return {id, fields, picture: undefined}
    }
  }
  const query = await open(answer.query, answer.fields)
  const hits: OpenedHit[] = []
  for (const hit of answer.found) {
    const image = await open(hit.id, hit.fields)
    const [label, other] = [query.fields['label'], hit.fields['label']]
    const same = label === undefined || other === undefined ? undefined : label === other
    if (same !== undefined) counts.labelled++
    if (same) counts.sameLabel++
    hits.push({...image, hit, same})
  }
  return {query, hits}
}

/** An answer as a row of the page. */
async function answerRow({query, hits}: OpenedAnswer): Promise<Markup> {
  const cells = [await figure(query, html`<b>${baseName(query.id)}</b>${labelOf(query.fields)}`, 'query')]
  for (const {hit, same, ...image} of hits)
    cells.push(
      await figure(
        image,
        html`${scoreText(hit)} ${baseName(hit.id)}${labelOf(hit.fields)}`,
        same === undefined ? '' : same ? 'same' : 'other'
      )
    )
  return html`<div class="row">${cells}</div> `
}

async function figure({id, picture}: OpenedImage, caption: Markup, style: string): Promise<Markup> {
  const inside = picture
    ? html`<img src="${dataUri(await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 88}), 'image/jpeg')}" alt="${id}" />`
    : html`<span class="quiet">not found</span>`
  return html`<figure class="${style}" title="${id}">
    <div class="place">${inside}</div>
    <figcaption>${caption}</figcaption>
  </figure> `
}

/** An answer as a block of the picture. */
function answerBlock({query, hits}: OpenedAnswer, side: number): SheetBlock {
  const place = ({picture}: OpenedImage, same?: boolean): Raster => withFrame(picture ?? blankCanvas(side, side, 225), side, same)
  return {
    title: [baseName(query.id), textOf(query.fields['label'])].filter(part => part !== undefined).join(': '),
    rows: [
      [
        {picture: place(query), caption: 'query'},
        ...hits.map(opened => ({
          picture: place(opened, opened.same),
          caption: [scoreText(opened.hit), textOf(opened.fields['label']), baseName(opened.id)].filter(Boolean).join(' ')
        }))
      ]
    ]
  }
}

async function sheetPicture(blocks: readonly SheetBlock[], title: string, {sameLabel}: ContactSheetReport): Promise<Uint8Array> {
  const measure = sameLabel === undefined ? '' : ` Green frame: the label of the query (${(100 * sameLabel).toFixed(1)} %).`
  const sheet = drawSheet(blocks, {notes: [`${title}, by cosine similarity or distance.${measure}`]})
  return encodeImage(sheet.data, sheet)
}

/** The most columns that stand beside each other on a wide page without becoming too small to see. */
const MOST_COLUMNS = 12

function sheetPage(
  rows: readonly Markup[],
  title: string,
  {side, columns}: {readonly side: number; readonly columns: number},
  {queries, sameLabel}: ContactSheetReport
): string {
  const body = html`<h1>${title}</h1>
    <p>
      ${counted(queries, 'query', 'queries')}, each at the left of its row, with the nearest neighbours from left to
      right.${
        sameLabel !== undefined && ` ${(100 * sameLabel).toFixed(1)} % of the neighbours have the label of their query (green frame).`
      }
    </p>
    ${rows}`
  const cell = side + 12
  const wide =
    columns > MOST_COLUMNS ? '' : `@media (min-width: 60rem) { .row { grid-template-columns: repeat(${columns}, minmax(0, ${cell}px)); } }`
  const style = `.place { width: 100%; max-width: ${side}px; aspect-ratio: 1; display: grid; place-items: center; background: var(--panel); }
.row { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(6.5rem, ${cell}px), ${cell}px)); } ${wide}
@media (max-width: 40rem) { .row { grid-template-columns: repeat(auto-fill, minmax(min(6.5rem, ${cell}px), 1fr)); } }
.row figure { padding: 4px; border: 2px solid transparent; border-radius: 6px; } .row figcaption { font-size: 0.72rem; }
.row .query { border-color: var(--line); } .row .same { border-color: var(--good); } .row .other { border-color: var(--bad); }`
  return page({title, body, style})
}

const baseName = (id: string): string => id.split('/').at(-1) ?? id
const labelOf = ({label}: Fields): Markup | undefined =>
  label === undefined || label === null ? undefined : html`<br /><span class="quiet">${valueText(label)}</span>`
const textOf = (value: unknown): string | undefined => (typeof value === 'string' || typeof value === 'number' ? String(value) : undefined)
const scoreText = ({similarity, distance}: SearchHit): string =>
  similarity !== undefined ? similarity.toFixed(3) : distance !== undefined ? distance.toFixed(3) : ''

/**
 * A small picture in a square with a coloured rim: green for the same label, red for another, white where there are
 * none.
 */
function withFrame(picture: Raster, side: number, same: boolean | undefined): Raster {
  const square = centered(picture, side)
  if (same === undefined) return square
  const [colour, rim] = [same ? [46, 160, 67] : [207, 62, 52], Math.max(2, Math.round(side / 40))]
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) if (Math.min(x, y, side - 1 - x, side - 1 - y) < rim) square.data.set(colour, (y * side + x) * 3)
  return square
}
