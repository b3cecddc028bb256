/**
 * Embeddings as a NumPy array [N, D] of little-endian float32, and two files beside it: `NAME.jsonl` with id and
 * fields of each row, and `NAME.meta.json` with the record of how the vectors were made, the number of rows and
 * checksums.
 *
 * The array's header names N, which is known only at the end, so 128 bytes are reserved and written again; a pipe
 * cannot do that, so this format needs a file. Pairing by order is fragile, so lengths and checksums are compared on
 * reading. The list may be edited as long as its ids stay as they are.
 */
import {stat, type FileHandle} from 'node:fs/promises'
import {existsSync} from 'node:fs'
import {UserError} from '../../config/errors.js'
import {crc32, crcText} from '../../system/crc32.js'
import {fileBytes, openPlain} from '../../system/plain-file.js'
import {ByteReader, crcOfFile, fileSink, readAt, writeAt} from './bytes.js'
import type {EmbeddingWriter, Format, OpenedRows, PartialFiles, Recovered, SideFile, Source, Target} from './format.js'
import {NPY_HEADER_BYTES, NPY_MAGIC, npyDataAt, npyHeader, parseNpyHeader, type NpyArray} from './npy-header.js'
import {numbersToFloat32} from './numbers.js'
import {metaFromJson, recordCheck, unknownProvenance, type EmbeddingMeta} from './provenance.js'
import {begunRecord, readRecord, writeRecord} from './record-beside.js'
import {lineRows, ownLines, recoverLines, rowLine, type LineRow} from './row-lines.js'
import {floatBytes, rowsPerBatch, type EmbeddingBatch, type Fields} from './rows.js'
import {refuseWithoutSide} from './unresumable.js'

const stem = (path: string): string => path.replace(/\.npy$/i, '')

/** The list of ids and fields that stands beside `path`. */
const sidecarOf = (path: string): string => `${stem(path)}.jsonl`

/** The record that stands beside `path`. */
const metaFileOf = (path: string): string => `${stem(path)}.meta.json`

// ---- writing ------------------------------------------------------------------------------------------------------

/** What is added to the checksum of the ids for each row. */
const idBytes = (id: string): Buffer => Buffer.from(`${JSON.stringify(id)}\n`)

async function npyWriter({file, sides}: Target, meta: EmbeddingMeta, begun: Recovered | undefined): Promise<EmbeddingWriter> {
  const [array, list, record] = [file!, sides[0]!, sides[1]!]
  const rowsAt = NPY_HEADER_BYTES + (begun?.rows ?? 0) * meta.dim * 4
  const numbers = fileSink(array, rowsAt)
  const lines = fileSink(list, begun?.sideEnds[0] ?? 0)
  let rows = begun?.rows ?? 0
  let vectorsCrc = rows === 0 ? 0 : await crcOfFile(array, NPY_HEADER_BYTES, rowsAt)
  let idsCrc = rows === 0 ? 0 : await idsCrcOf(list, begun!.sideEnds[0]!)
  if (rows === 0) await writeRecord(record, meta, {})
  return {
    async write({ids, vectors, fields}) {
      if (rows === 0) await writeAt(array, npyHeader(0, meta.dim), 0)
      const bytes = floatBytes(vectors)
      vectorsCrc = crc32(bytes, vectorsCrc)
      for (const id of ids) idsCrc = crc32(idBytes(id), idsCrc)
      await numbers.write(bytes)
      await lines.write(ids.map((id, i) => rowLine(id, fields[i]!)).join(''))
      rows += ids.length
    },
    async finish() {
      await writeAt(array, npyHeader(rows, meta.dim), 0)
      const sums = {vectors: crcText(vectorsCrc), ids: crcText(idsCrc), record: recordCheck(meta)}
      await writeRecord(record, meta, {rows, crc32: sums})
    }
  }
}

async function idsCrcOf(list: FileHandle, end: number): Promise<number> {
  let crc = 0
  const bytes = new ByteReader([await readAt(list, 0, end)])
  for await (const {id} of lineRows(bytes, 'the list', {ours: true})) crc = crc32(idBytes(id), crc)
  return crc
}

/** The two files beside an array. */
function sideFiles(target: string): SideFile[] {
  return [sidecarOf(target), metaFileOf(target)].map(final => ({final, partial: `${final}.partial`}))
}

async function recover(
  {partial, sides}: PartialFiles,
  {meta, batch}: {meta: EmbeddingMeta; batch: number}
): Promise<Recovered | undefined> {
  const [list, recordFile] = [sides[0]!.partial, sides[1]!.partial]
  const begun = await begunRecord(recordFile)
  const there = Math.max(0, ((await stat(partial)).size - NPY_HEADER_BYTES) / (4 * meta.dim))
  if (!begun) return refuseWithoutSide(partial, recordFile, there)
  if (!existsSync(list)) return refuseWithoutSide(partial, list, there)
  const lines = await recoverLines(list, {multiple: batch})
  const whole = Math.min(lines.rows, Math.floor(there / batch) * batch)
  const {end, rows} = whole === lines.rows ? lines : await recoverLines(list, {multiple: batch, upTo: whole})
  return {
    rows,
    end: NPY_HEADER_BYTES + rows * meta.dim * 4,
    sideEnds: [end, (await stat(recordFile)).size],
    meta: begun
  }
}

// ---- reading ------------------------------------------------------------------------------------------------------

const damaged = (message: string): UserError =>
  new UserError(message, {code: 'EMBEDDINGS_DAMAGED', hint: 'It was cut off, or changed by hand; write it again.'})

/** Ids and fields of an array's rows, in step with them; rows without a list are named by their number. */
class RowNames {
  #at = 0
  #crc = 0

  constructor(
    readonly file: string,
    readonly rows: AsyncGenerator<LineRow> | undefined,
    readonly list: string,
    readonly count: number,
    public ahead: IteratorResult<LineRow> | undefined
  ) {}

  async take(n: number): Promise<{ids: string[]; fields: Fields[]}> {
    const ids: string[] = []
    const fields: Fields[] = []
    for (let i = 0; i < n; i++, this.#at++) {
      if (!this.rows) {
        ids.push(String(this.#at))
        fields.push({})
        continue
      }
      if (this.ahead!.done) throw this.#unequal(`${this.#at} lines`)
      const {id, fields: some} = (this.ahead as IteratorYieldResult<LineRow>).value
      this.#crc = crc32(idBytes(id), this.#crc)
      ids.push(id)
      fields.push(some)
      this.ahead = await this.rows.next()
    }
    return {ids, fields}
  }

  /** Refuses a list that goes on, or whose ids are not those that were written. */
  end(crc: string | undefined): void {
    if (this.rows && !this.ahead!.done) throw this.#unequal('more lines')
    if (this.rows && crc !== undefined && crc !== crcText(this.#crc))
      throw damaged(`The ids in ${this.list} are not those of the vectors in ${this.file}: their checksum differs.`)
  }

  #unequal(lines: string): UserError {
    return damaged(`${this.file} has ${this.count} rows, but ${this.list} has ${lines}: they do not belong together.`)
  }
}

/** Stretches of rows as float32, [n, D]; the bytes of the array are summed up in `sum`. */
async function* vectorBlocks(
  bytes: ByteReader,
  {count, dim, dtype, byColumns}: NpyArray,
  name: string,
  sum: {crc: number}
): AsyncGenerator<Float32Array> {
  const take = async (n: number, at: number): Promise<Float32Array> => {
    const found = await bytes.take(n * dim * dtype.bytes)
    if (found.length < n * dim * dtype.bytes) throw damaged(`${name} ends after ${at} of ${count} rows.`)
    sum.crc = crc32(found, sum.crc)
    return numbersToFloat32(found, dtype)
  }
  const step = rowsPerBatch(dim)
  // In Fortran order a row is only whole at the end, so the array is held.
  const all = byColumns ? await take(count, 0) : undefined
  for (let at = 0; at < count; at += step) {
    const n = Math.min(step, count - at)
    if (!all) {
      yield await take(n, at)
      continue
    }
    const rows = new Float32Array(n * dim)
    for (let i = 0; i < n; i++) for (let d = 0; d < dim; d++) rows[i * dim + d] = all[d * count + at + i]!
    yield rows
  }
}

/**
 * Reads an array, and ids and fields from the list beside it where there is one; else rows are named by their number.
 *
 * Throws `UserError` when the array is no matrix of floats, its length is not what its header says, or it does not
 * belong to what stands beside it.
 */
async function readNpy({bytes, name, path, size}: Source): Promise<OpenedRows> {
  const dataAt = npyDataAt(Buffer.from(await bytes.peek(12)), name)
  const array = parseNpyHeader(Buffer.from(await bytes.peek(dataAt)), name)
  const {count, dim, dtype} = array
  const wanted = dataAt + count * dim * dtype.bytes
  if (size !== undefined && size !== wanted)
    throw damaged(`${name} should have ${wanted} bytes for ${count} rows of ${dim}, but it has ${size}.`)
  const record = path === undefined ? undefined : await readRecord(metaFileOf(path), path)
  const list = path === undefined ? undefined : sidecarOf(path)
  const isList =
    list !== undefined &&
    (await stat(list).then(
      found => found.isFile(),
      () => false
    ))
  if (record && !isList) throw damaged(`${list!}, which names the rows of ${name}, is not there.`)
  const lines = isList ? lineRows(new ByteReader(fileBytes(list)), list, {ours: record !== undefined}) : undefined
  const first = await lines?.next()
  const inLine = first?.done === false ? first.value.record : undefined
  const meta = record?.meta ?? (inLine === undefined ? unknownProvenance(dim) : metaFromJson(inLine as object, list!))
  if (meta.dim !== dim) throw damaged(`${name} has ${dim} numbers a row, but its record says ${meta.dim}.`)
  if (record?.rows !== undefined && record.rows !== count)
    throw damaged(`${name} has ${count} rows, but ${metaFileOf(path!)} counts ${record.rows}.`)

  const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
    const names = new RowNames(name, lines, list ?? '', count, first)
    const sum = {crc: 0}
    const end = async (): Promise<void> => {
      names.end(record?.sum('ids'))
      const vectors = record?.sum('vectors')
      if (vectors !== undefined && vectors !== crcText(sum.crc)) throw damaged(`The vectors of ${name} do not match their checksum.`)
      if ((await bytes.take(1)).length > 0) throw damaged(`${name} goes on behind its ${count} rows.`)
    }
    try {
      await bytes.take(dataAt)
      let at = 0
      for await (const vectors of vectorBlocks(bytes, array, name, sum)) {
        const batch = {...(await names.take(vectors.length / dim)), vectors}
        at += batch.ids.length
        // The last batch is only given once all has been compared, so that an ill-matched pair is not half used.
        if (at === count) await end()
        yield batch
      }
      if (count === 0) await end()
    } finally {
      await bytes.close()
      await lines?.return(undefined)
    }
  }
  return {meta, count, rows: rows()}
}

/**
 * Where the numbers of a little-endian float32 array [N, D] lie in a file; undefined where it is another kind of
 * array.
 */
export async function npyMatrix(path: string): Promise<{readonly at: number; readonly count: number; readonly dim: number} | undefined> {
  const file = await openPlain(path)
  try {
    const start = await readAt(file, 0, 12)
    if (start.toString('latin1', 0, 6) !== NPY_MAGIC) return undefined
    const {dataAt, count, dim, dtype, byColumns} = parseNpyHeader(await readAt(file, 0, npyDataAt(start, path)), path)
    const {size} = await file.stat()
    if (size !== dataAt + count * dim * dtype.bytes)
      throw damaged(`${path} should have ${dataAt + count * dim * dtype.bytes} bytes for ${count} rows of ${dim}, but it has ${size}.`)
    return dtype.isFloat32 && !byColumns ? {at: dataAt, count, dim} : undefined
  } finally {
    await file.close()
  }
}

export const npy: Format<'npy'> = {
  name: 'npy',
  endings: ['.npy'],
  title: 'NumPy [N, D], with a .jsonl of ids and fields and a .meta.json beside it',
  streams: false,
  binary: true,
  begins: head => head.toString('latin1', 0, 6) === NPY_MAGIC,
  open: readNpy,
  write: npyWriter,
  sideFiles,
  recover,
  listedRows: ({sides}) => ownLines(sides[0]!.partial)
}
