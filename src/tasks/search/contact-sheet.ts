/** Contact sheets: queries and their nearest neighbours, as one page or one picture. */
import {counted} from '../../config/counted.js'
import {join} from 'node:path'
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {isObject, jsonObjectOr} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from '../../files/embeddings/bytes.js'
import {blankCanvas, centered, fitSide} from '../../render/canvas.js'
import {decodeRgb, RefusedImage, type Raster} from '../../data/image/decode.js'
import {encodeImage} from '../../data/image/encode.js'
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
  let [queries, pictures, missing, alike, labelled] = [0, 0, 0, 0, 0]
  const thumbnail = async (id: string, fields: Fields): Promise<Raster | undefined> => {
    const path = typeof fields['path'] === 'string' ? fields['path'] : id
    try {
      const picture = fitSide(await decodeRgb({id, path: root === undefined ? path : join(root, path), fields}), side)
      pictures++
      return picture
    } catch (error) {
      if (!(error instanceof RefusedImage)) throw error
      missing++
      return undefined
    }
  }
  const match = (answer: QueryAnswer, {fields}: SearchHit): boolean | undefined => {
    const [wanted, got] = [answer.fields['label'], fields['label']]
    if (wanted === undefined || got === undefined) return undefined
    labelled++
    if (wanted === got) alike++
    return wanted === got
  }

  const rows: Markup[] = []
  const blocks: SheetBlock[] = []
  for await (const answer of answers) {
    const asked = await thumbnail(answer.query, answer.fields)
    const shown: {found: SearchHit; picture: Raster | undefined; same: boolean | undefined}[] = []
    for (const found of answer.found) shown.push({found, picture: await thumbnail(found.id, found.fields), same: match(answer, found)})
    if (format === 'html') {
      const figure = async (picture: Raster | undefined, id: string, caption: Markup, style: string): Promise<Markup> => {
        const inside = picture
          ? html`<img
              src="${dataUri(await encodeImage(picture.data, {...picture, format: 'jpeg', quality: 88}), 'image/jpeg')}"
              alt="${id}"
            />`
          : html`<span class="quiet">not found</span>`
        return html`<figure class="${style}" title="${id}">
          <div class="place">${inside}</div>
          <figcaption>${caption}</figcaption>
        </figure> `
      }
      const cells = [await figure(asked, answer.query, html`<b>${baseName(answer.query)}</b>${labelOf(answer.fields)}`, 'query')]
      for (const {found, picture, same} of shown)
        cells.push(
          await figure(
            picture,
            found.id,
            html`${scoreText(found)} ${baseName(found.id)}${labelOf(found.fields)}`,
            same === undefined ? '' : same ? 'same' : 'other'
          )
        )
      rows.push(html`<div class="row">${cells}</div> `)
    } else {
      const place = (picture: Raster | undefined, same?: boolean): Raster => withFrame(picture ?? blankCanvas(side, side, 225), side, same)
      blocks.push({
        title: [baseName(answer.query), textOf(answer.fields['label'])].filter(part => part !== undefined).join(': '),
        rows: [
          [
            {picture: place(asked), caption: 'query'},
            ...shown.map(({found, picture, same}) => ({
              picture: place(picture, same),
              caption: [scoreText(found), textOf(found.fields['label']), baseName(found.id)].filter(Boolean).join(' ')
            }))
          ]
        ]
      })
    }
    queries++
    onQuery?.(queries)
  }
  const report: ContactSheetReport = {queries, pictures, missing, sameLabel: labelled > 0 ? alike / labelled : undefined}
  if (format === 'png') {
    const measure = report.sameLabel === undefined ? '' : ` Green frame: the label of the query (${(100 * report.sameLabel).toFixed(1)} %).`
    const sheet = drawSheet(blocks, {notes: [`${title}, by cosine similarity or distance.${measure}`]})
    return {content: await encodeImage(sheet.data, sheet), report}
  }
  const body = html`<h1>${title}</h1>
    <p>
      ${counted(queries, 'query', 'queries')}, each at the left of its row, with the nearest neighbours from left to
      right.${
        report.sameLabel !== undefined &&
        ` ${(100 * report.sameLabel).toFixed(1)} % of the neighbours have the label of their query (green frame).`
      }
    </p>
    ${rows}`
  const style = `.place { width: ${side}px; height: ${side}px; display: grid; place-items: center; background: var(--panel); }
.row { display: grid; grid-template-columns: repeat(auto-fill, ${side + 12}px); }
.row figure { padding: 4px; border: 2px solid transparent; border-radius: 6px; } .row figcaption { font-size: 0.72rem; }
.row .query { border-color: var(--line); } .row .same { border-color: var(--good); } .row .other { border-color: var(--bad); }`
  return {content: page({title, body, style}), report}
}

const baseName = (id: string): string => id.split('/').at(-1) ?? id
const labelOf = ({label}: Fields): Markup | undefined =>
  label === undefined || label === null ? undefined : html`<br /><span class="quiet">${String(label)}</span>`
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
