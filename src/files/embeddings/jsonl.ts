/**
 * Embeddings as JSON Lines: `{"id", …fields, "vector": […]}`.
 *
 * A file has the record of how it was made beside it, so that data frames see ids, fields and vectors only. On a pipe
 * every row carries it under `dinov2`, with a checksum of its vector, so what `shuf`, `head`, `grep` and `cat` make of
 * rows still names their model, and mixing or a changed digit is noticed. Ids and fields may be edited. Numbers are
 * the shortest decimals that name the same float32.
 */
import {stat, truncate} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {crcText} from '../../system/crc32.js'
import {isObject} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from './bytes.js'
import type {EmbeddingWriter, Format, OpenedRows, Recovered, Target} from './format.js'
import {assertSameProvenance, metaFromJson, metaToJson, unknownProvenance, type EmbeddingMeta} from './provenance.js'
import {TableCheck, vectorCheck} from './content-check.js'
import {assertWholeTable, begunRecord, finishRecord, recordOfTable, recordSide, sumRows, writeRecord} from './record-beside.js'
import {fieldMembers, rowFields, idOf, parseObject, recoverLines} from './row-lines.js'
import {batchOf, rowsPerBatch, type EmbeddingBatch, type Row} from './rows.js'
import {refuseWithoutSide} from './unresumable.js'

/** The shortest decimal that reads back as the same float32; null stands for what is not finite. */
export function shortestDecimal(x: number): string {
  if (!Number.isFinite(x)) return 'null'
  for (let digits = 7; digits < 9; digits++) {
    const text = x.toPrecision(digits)
    if (Math.fround(Number(text)) === x) return String(Number(text))
  }
  return String(Number(x.toPrecision(9)))
}

/** Writes one line a row. */
function jsonlWriter({sink, sides: [side]}: Target, meta: EmbeddingMeta, begun?: Recovered): EmbeddingWriter {
  const record = metaToJson(meta).slice(0, -1)
  const check = begun?.check ?? new TableCheck()
  return {
    async write({ids, vectors, fields}) {
      const D = meta.dim
      if (side && check.rows === 0) await writeRecord(side, meta, {})
      let text = ''
      for (const [i, id] of ids.entries()) {
        const vector = vectors.subarray(i * D, (i + 1) * D)
        const numbers = Array.from(vector, shortestDecimal).join(',')
        const own = side ? '' : `"dinov2":${record},"crc32":"${crcText(vectorCheck(vector))}"},`
        check.add(vector)
        text += `{"id":${JSON.stringify(id)},${fieldMembers(fields[i]!)}${own}"vector":[${numbers}]}\n`
      }
      await sink.write(text)
    },
    async finish() {
      if (side) await finishRecord(side, meta, check, {})
    }
  }
}

/** What programs write for NaN and infinity where JSON has no number for them: null, or the word as a text. */
const isNotFinite = (value: unknown): boolean => value === null || (typeof value === 'string' && /^[-+]?(nan|inf|infinity)$/i.test(value))

/** A parsed line: its row, its record as text (empty without one), and whether it names its row itself. */
type Line = {readonly row: Row; readonly record: string; readonly named: boolean}

function parseRow(line: string, name: string, number: number, ours: boolean): Line {
  const row = parseObject(line, name, number)
  const {vector, dinov2} = row
  if (!Array.isArray(vector) || vector.length === 0 || !vector.every(x => typeof x === 'number')) {
    const at = Array.isArray(vector) ? vector.findIndex(isNotFinite) : -1
    if (at >= 0)
      throw new UserError(
        `The vector in line ${number} of ${name} holds a number that is not finite (${JSON.stringify((vector as unknown[])[at])} at place ${at}).`,
        {code: 'NOT_FINITE', hint: 'Leave the row out, or make it again: dinov2 embed --precision fp32.'}
      )
    throw new UserError(`Line ${number} of ${name} has no \`vector\` of numbers.`, {
      code: 'NO_VECTORS',
      hint: 'Expected {"id": "…", "vector": [0.1, …]}.'
    })
  }
  const numbers = Float32Array.from(vector as number[])
  const named = row['id'] !== undefined
  let record = ''
  if (dinov2 !== undefined) {
    const {crc32: check, ...rest} = isObject(dinov2) ? dinov2 : {}
    record = JSON.stringify(isObject(dinov2) ? rest : dinov2)
    if (check !== undefined && check !== crcText(vectorCheck(numbers)))
      throw new UserError(`The vector in line ${number} of ${name} does not match its checksum.`, {
        code: 'EMBEDDINGS_DAMAGED',
        hint: 'It was changed after it was written. Write it again, or remove "crc32" from its record where the change is meant.'
      })
  }
  return {
    row: {id: named ? idOf(row, name, number) : String(number - 1), vector: numbers, fields: rowFields(row, ours || dinov2 !== undefined)},
    record,
    named
  }
}

/** Reads rows; a first look takes the record from the first row. Throws `UserError` naming the line at fault. */
async function readJsonl(bytes: ByteReader, name: string, path?: string): Promise<OpenedRows> {
  const beside = await recordOfTable(path)
  const lines = bytes.lines()
  let number = 0
  const next = async (): Promise<Line | undefined> => {
    for (;;) {
      const {value, done} = await lines.next()
      if (done) return undefined
      number++
      if (value.trim() !== '') return parseRow(value, name, number, beside !== undefined)
    }
  }
  const metaOf = ({record}: Line): EmbeddingMeta =>
    record === '' ? (beside?.meta ?? unknownProvenance(dim)) : metaFromJson(record, `Line ${number} of ${name}`)
  const first = await next()
  const dim = first?.row.vector.length ?? 0
  const meta = first ? metaOf(first) : unknownProvenance(0)
  if (meta.dim !== dim) throw lengthError(name, number, dim, meta.dim, 'its record says')
  const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
    const known = new Set(first ? [first.record] : [])
    const check = new TableCheck()
    // Rows that carry their own record belong to none beside them.
    const whole = beside && first?.record === '' ? beside : undefined
    let pending: Row[] = []
    try {
      for (let line = first; line; line = await next()) {
        if (line.row.vector.length !== dim) throw lengthError(name, number, line.row.vector.length, dim, 'the lines before it have')
        if (line.named !== first!.named) idOf({}, name, number)
        if (!known.has(line.record)) {
          assertSameProvenance({name: `the beginning of ${name}`, meta}, {name: `line ${number}`, meta: metaOf(line)})
          known.add(line.record)
        }
        check.add(line.row.vector)
        pending.push(line.row)
        if (pending.length === rowsPerBatch(dim)) {
          yield batchOf(pending)
          pending = []
        }
      }
      if (whole) assertWholeTable(name, path!, whole, check)
      if (pending.length > 0) yield batchOf(pending)
    } finally {
      await lines.return(undefined)
    }
  }
  return {meta, rows: rows(), close: async () => void (await lines.return(undefined))}
}

const lengthError = (name: string, line: number, has: number, expected: number, who: string): UserError =>
  new UserError(`Line ${line} of ${name} has ${has} numbers, but ${who} ${expected}.`, {
    code: 'NO_VECTORS',
    hint: 'All vectors of a file have one length.'
  })

export const jsonl: Format<'jsonl'> = {
  name: 'jsonl',
  endings: ['.jsonl', '.ndjson'],
  title: 'one JSON object a row',
  streams: true,
  binary: false,
  begins: head => /^(\uFEFF)?\s*\{/.test(head.toString('utf8')),
  open: ({bytes, name, path}) => readJsonl(bytes, name, path),
  write: async (target, meta, begun) => jsonlWriter(target, meta, begun),
  sideFiles: target => [recordSide(target)],
  async recover({partial, sides}, {batch}) {
    const meta = await begunRecord(sides[0]!.partial)
    if (!meta) return refuseWithoutSide(partial, sides[0]!.partial, (await recoverLines(partial)).rows)
    const found = await recoverLines(partial, {multiple: batch})
    if (found.rows === 0) return undefined
    await truncate(partial, found.end)
    const check = await sumRows(await readJsonl(new ByteReader(fileBytes(partial)), partial))
    return {...found, sideEnds: [(await stat(sides[0]!.partial)).size], meta, check}
  }
}
