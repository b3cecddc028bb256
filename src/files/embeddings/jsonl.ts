/**
 * Embeddings as JSON Lines: `{"id", …fields, "dinov2": {…}, "vector": […]}`.
 *
 * Every row carries the record of its making, so `shuf`, `head`, `grep` and `cat` leave a file that still knows its
 * model, and mixing is noticed even within one file. Numbers are the shortest decimals that name the same float32. A
 * field with the name of one of our own keys travels in `extra`.
 */
import {createReadStream} from 'node:fs'
import {UserError} from '../../config/errors.js'
import type {ByteReader, Sink} from './bytes.js'
import {reservedNames} from './columns.js'
import {
  batchOf,
  metaFromJson,
  metaToJson,
  assertSameProvenance,
  rowsPerBatch,
  unknownProvenance,
  type EmbeddingBatch,
  type EmbeddingMeta,
  type Fields,
  type Row
} from './rows.js'

/** The shortest decimal that reads back as the same float32; null stands for what is not finite. */
export function shortestDecimal(x: number): string {
  if (!Number.isFinite(x)) return 'null'
  for (let digits = 7; digits < 9; digits++) {
    const text = x.toPrecision(digits)
    if (Math.fround(Number(text)) === x) return String(Number(text))
  }
  return String(Number(x.toPrecision(9)))
}

/** Fields as JSON members, each with its comma behind it. */
function fieldMembers(fields: Fields): string {
  let text = ''
  const extra: [string, unknown][] = []
  for (const [name, value] of Object.entries(fields)) {
    if (value === undefined) continue
    if (reservedNames.has(name)) extra.push([name, value])
    else text += `${JSON.stringify(name)}:${JSON.stringify(value)},`
  }
  return extra.length === 0 ? text : `${text}"extra":${JSON.stringify(Object.fromEntries(extra))},`
}

/** Takes the fields out of a parsed row again. */
export function fieldsOf(row: Readonly<Record<string, unknown>>): Fields {
  const ours = row['dinov2'] !== undefined
  const entries = Object.entries(row).filter(
    ([name]) => name !== 'id' && name !== 'vector' && name !== 'dinov2' && !(ours && name === 'extra')
  )
  if (ours && typeof row['extra'] === 'object' && row['extra'] !== null) entries.push(...Object.entries(row['extra']))
  return Object.fromEntries(entries)
}

/** Writes one line a row. */
export function jsonlWriter(sink: Sink, meta: EmbeddingMeta): {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>} {
  const record = metaToJson(meta)
  return {
    async write({ids, vectors, fields}) {
      const D = meta.dim
      let text = ''
      for (const [i, id] of ids.entries()) {
        const numbers = Array.from(vectors.subarray(i * D, (i + 1) * D), shortestDecimal)
        text += `{"id":${JSON.stringify(id)},${fieldMembers(fields[i]!)}"dinov2":${record},"vector":[${numbers.join(',')}]}\n`
      }
      await sink.write(text)
    },
    async finish() {}
  }
}

/** Reads rows; a first look takes the record from the first row. Throws `UserError` naming the line at fault. */
export async function readJsonl(bytes: ByteReader, name: string): Promise<{meta: EmbeddingMeta; rows: AsyncGenerator<EmbeddingBatch>}> {
  const lines = bytes.lines()
  let number = 0
  const next = async (): Promise<{row: Row; record: unknown} | undefined> => {
    for (;;) {
      const {value, done} = await lines.next()
      if (done) return undefined
      number++
      if (value.trim() !== '') return parseRow(value, name, number)
    }
  }
  const first = await next()
  const dim = first?.row.vector.length ?? 0
  const meta = first?.record === undefined ? unknownProvenance(dim) : metaFromJson(first.record as object, `Line ${number} of ${name}`)
  const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
    const known = new Set(first?.record === undefined ? [] : [JSON.stringify(first.record)])
    let held: Row[] = []
    try {
      for (let found = first; found; found = await next()) {
        if (found.row.vector.length !== dim)
          throw new UserError(`Line ${number} of ${name} has ${found.row.vector.length} numbers, but the lines before it have ${dim}.`, {
            code: 'NO_VECTORS'
          })
        const record = found.record === undefined ? '' : JSON.stringify(found.record)
        if (!known.has(record) && (record !== '' || meta.fingerprint !== null)) {
          const other = record === '' ? unknownProvenance(dim) : metaFromJson(record, `Line ${number} of ${name}`)
          assertSameProvenance({name: `the beginning of ${name}`, meta}, {name: `line ${number}`, meta: other})
          known.add(record)
        }
        held.push(found.row)
        if (held.length === rowsPerBatch(dim)) {
          yield batchOf(held)
          held = []
        }
      }
      if (held.length > 0) yield batchOf(held)
    } finally {
      await lines.return(undefined)
    }
  }
  return {meta, rows: rows()}
}

function parseRow(line: string, name: string, number: number): {row: Row; record: unknown} {
  let row: Record<string, unknown>
  try {
    row = JSON.parse(line) as Record<string, unknown>
  } catch (error) {
    throw new UserError(`Line ${number} of ${name} is not JSON: ${(error as Error).message}.`, {code: 'EMBEDDINGS_DAMAGED', cause: error})
  }
  const {vector, id} = row ?? {}
  if (!Array.isArray(vector) || !vector.every(x => typeof x === 'number'))
    throw new UserError(`Line ${number} of ${name} has no \`vector\` of numbers.`, {
      code: 'NO_VECTORS',
      hint: 'Expected {"id": "…", "vector": [0.1, …]}.'
    })
  return {
    row: {id: id === undefined ? String(number - 1) : String(id), vector: Float32Array.from(vector as number[]), fields: fieldsOf(row)},
    record: row['dinov2']
  }
}

/**
 * Where the last whole line of an interrupted file ends when only `multiple`s of rows count, and how many rows that
 * is. `upTo`: no more rows than these. `quotes`: a line end between double quotes belongs to a cell (CSV).
 */
export async function recoverLines(
  path: string,
  {multiple = 1, header = 0, quotes = false, upTo = Infinity} = {}
): Promise<{end: number; rows: number}> {
  let lines = 0
  let at = 0
  let inside = false
  let kept = {end: 0, rows: 0}
  for await (const chunk of createReadStream(path, {highWaterMark: 1 << 20}) as AsyncIterable<Buffer>) {
    for (let i = quotes ? 0 : chunk.indexOf(10); i >= 0 && i < chunk.length; i = quotes ? i + 1 : chunk.indexOf(10, i + 1)) {
      if (quotes && chunk[i] === 34) inside = !inside
      if (chunk[i] !== 10 || inside) continue
      const rows = ++lines - header
      if (rows >= 0 && rows % multiple === 0 && rows <= upTo) kept = {end: at + i + 1, rows}
    }
    at += chunk.length
  }
  return kept
}

/**
 * Ids and fields without their vectors, one line a row; the first row carries the record. Stands beside `.npy` and
 * inside `.safetensors`.
 */
export const sidecarLine = (id: string, fields: Fields, record: string | undefined): string => {
  const members = fieldMembers(fields) + (record === undefined ? '' : `"dinov2":${record},`)
  return `{"id":${JSON.stringify(id)}${members === '' ? '' : `,${members.slice(0, -1)}`}}\n`
}

/** Reads such a line. Throws `UserError` naming the line at fault. */
export function parseSidecarLine(line: string, name: string, number: number, ours: boolean): {id: string; fields: Fields; record: unknown} {
  try {
    const row = JSON.parse(line) as Record<string, unknown>
    return {id: String(row['id'] ?? number - 1), fields: fieldsOf(ours ? {dinov2: 0, ...row} : row), record: row['dinov2']}
  } catch (error) {
    throw new UserError(`Line ${number} of ${name} is not JSON: ${(error as Error).message}.`, {code: 'EMBEDDINGS_DAMAGED', cause: error})
  }
}
