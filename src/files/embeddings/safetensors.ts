/**
 * Embeddings as safetensors: `vectors` [N, D] in float32 and `rows`, bytes that are JSON Lines of id and fields, one
 * line a row. The metadata hold the record of how the vectors were made (under `dinov2`), the number of rows and
 * checksums.
 *
 * The header comes first and names both lengths, so its place is reserved (JSON may end in spaces) and it is written
 * again at the end; the lines wait in a file beside until all vectors are out. The memory needed is that of one
 * batch.
 */
import {existsSync} from 'node:fs'
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {crc32, crcText} from '../../system/crc32.js'
import {fileBytes, openPlain} from '../../system/plain-file.js'
import {ByteReader, crcOfFile, fileSink, readAt, writeAt} from './bytes.js'
import {withPath} from './spool.js'
import type {EmbeddingWriter, Format, OpenedRows, PartialFiles, Recovered, Target} from './format.js'
import {checkExtent, damaged, readHeader, setHeaderCheck, type Entry, type Header} from './safetensors-header.js'
import {dtype, numbersToFloat32, type Dtype} from './numbers.js'
import {metaFromJson, metaToJson, unknownProvenance, type EmbeddingMeta} from './provenance.js'
import {lineRows, ownLines, recoverLines, rowLine} from './row-lines.js'
import {floatBytes, rowsPerBatch, type EmbeddingBatch, type Fields} from './rows.js'
import {foreignPartial, refuseWithoutSide} from './unresumable.js'

// ---- writing ------------------------------------------------------------------------------------------------------

/** What the header says beside the record. */
type Counts = {readonly rows: number; readonly lineBytes: number; readonly vectorsCrc: number; readonly rowsCrc: number}

/** JSON of the header. */
function headerText(meta: EmbeddingMeta, {rows, lineBytes, vectorsCrc, rowsCrc}: Counts): string {
  const end = rows * meta.dim * 4
  const check = {rows: String(rows), vectors_crc32: crcText(vectorsCrc), rows_crc32: crcText(rowsCrc), header_crc32: '00000000'}
  return JSON.stringify({
    __metadata__: {format: 'pt', dinov2: metaToJson(meta), ...check},
    vectors: {dtype: 'F32', shape: [rows, meta.dim], data_offsets: [0, end]},
    rows: {dtype: 'U8', shape: [lineBytes], data_offsets: [end, end + lineBytes]}
  })
}

/** Where the data begin: room for the largest numbers, so that the header fits whatever comes. */
function dataAtOf(meta: EmbeddingMeta): number {
  const most = {rows: Number.MAX_SAFE_INTEGER, lineBytes: Number.MAX_SAFE_INTEGER, vectorsCrc: 0, rowsCrc: 0}
  return 8 + Math.ceil((Buffer.byteLength(headerText({...meta, dim: 1}, most)) + 48) / 64) * 64
}

/** The header in the room that is kept for it. */
function headerOf(meta: EmbeddingMeta, counts: Counts, dataAt: number): Buffer {
  const head = Buffer.alloc(dataAt, 0x20)
  head.writeBigUInt64LE(BigInt(dataAt - 8))
  head.write(headerText(meta, counts), 8)
  setHeaderCheck(head.subarray(8))
  return head
}

/** Writes vectors to the file and lines to a file beside it, which is moved behind the vectors at the end. */
async function safetensorsWriter(
  {file: handle, sides}: Target,
  meta: EmbeddingMeta,
  begun: Recovered | undefined
): Promise<EmbeddingWriter> {
  const [file, lines] = [handle!, sides[0]!]
  const dataAt = dataAtOf(meta)
  const rowsAt = dataAt + (begun?.rows ?? 0) * meta.dim * 4
  const numbers = fileSink(file, rowsAt)
  const side = fileSink(lines, begun?.sideEnds[0] ?? 0)
  let rows = begun?.rows ?? 0
  let vectorsCrc = begun ? await crcOfFile(file, dataAt, rowsAt) : 0
  let rowsCrc = begun ? await crcOfFile(lines, 0, side.offset) : 0
  const writeHeader = (lineBytes: number): Promise<void> => writeAt(file, headerOf(meta, {rows, lineBytes, vectorsCrc, rowsCrc}, dataAt), 0)
  if (!begun) await writeHeader(0)
  return {
    async write({ids, vectors, fields}) {
      const [bytes, text] = [floatBytes(vectors), Buffer.from(ids.map((id, i) => rowLine(id, fields[i]!)).join(''))]
      vectorsCrc = crc32(bytes, vectorsCrc)
      rowsCrc = crc32(text, rowsCrc)
      await numbers.write(bytes)
      await side.write(text)
      rows += ids.length
    },
    async finish() {
      const {offset: lineBytes} = side
      for (let at = 0; at < lineBytes; at += 1 << 20) await numbers.write(await readAt(lines, at, Math.min(1 << 20, lineBytes - at)))
      await writeHeader(lineBytes)
    }
  }
}

async function recover({partial, sides}: PartialFiles, {batch}: {batch: number}): Promise<Recovered | undefined> {
  const handle = await openPlain(partial)
  try {
    const {header, dataAt} = await readHeader(handle, partial)
    const meta = metaFromJson(header.metadata['dinov2'] ?? '', partial)
    const {size} = await handle.stat()
    if (!existsSync(sides[0]!.partial)) return refuseWithoutSide(partial, sides[0]!.partial, Math.max(0, (size - dataAt) / (4 * meta.dim)))
    const lines = await recoverLines(sides[0]!.partial, {multiple: batch})
    const whole = Math.min(lines.rows, Math.floor(Math.max(0, (size - dataAt) / (4 * meta.dim)) / batch) * batch)
    const {end, rows} = whole === lines.rows ? lines : await recoverLines(sides[0]!.partial, {multiple: batch, upTo: whole})
    return {rows, end: dataAt + rows * meta.dim * 4, sideEnds: [end], meta}
  } catch (error) {
    if (!(error instanceof UserError) || error.code === 'CANNOT_RESUME') throw error
    if (await hasWholeHeader(handle)) throw foreignPartial(partial)
    return undefined // not even the header is whole
  } finally {
    await handle.close()
  }
}

/** Whether as many bytes follow as the beginning says of the header, and they are one. */
async function hasWholeHeader(handle: FileHandle): Promise<boolean> {
  const head = Buffer.alloc(9)
  const {bytesRead} = await handle.read(head, 0, 9, 0)
  return bytesRead === 9 && head[8] === 0x7b && head.readBigUInt64LE() + 8n <= BigInt((await handle.stat()).size)
}

// ---- reading ------------------------------------------------------------------------------------------------------

const dtypes: Readonly<Record<string, Dtype>> = {F16: dtype('f2'), BF16: dtype('bf2'), F32: dtype('f4'), F64: dtype('f8')}

/** What is read: the matrix, and the bytes of the lines where there are any. */
type Tensors = {
  readonly vectors: Entry
  readonly lines: Entry | undefined
  readonly dtype: Dtype
  readonly count: number
  readonly dim: number
}

function tensorsOf({tensors}: Header, name: string): Tensors {
  const floats = [...tensors].filter(([, {dtype: kind, shape}]) => Object.hasOwn(dtypes, kind) && shape.length === 2)
  const vectors = tensors.get('vectors') ?? (floats.length === 1 && tensors.size === 1 ? floats[0]![1] : undefined)
  const kind = vectors && Object.hasOwn(dtypes, vectors.dtype) ? dtypes[vectors.dtype] : undefined
  if (!vectors || !kind || vectors.shape.length !== 2) {
    const names = [...tensors].map(([key, {dtype: its, shape}]) => `${key} ${its} [${shape.join(', ')}]`)
    throw new UserError(
      `${name} has no tensor \`vectors\` [rows, dim] of F16, BF16, F32 or F64; it has ${names.slice(0, 6).join(', ') || 'nothing'}.`,
      {
        code: 'NO_VECTORS',
        hint: 'Is it a model? Then embed images with it: dinov2 embed IMAGES --model FILE.'
      }
    )
  }
  const [count, dim] = vectors.shape as [number, number]
  if (dim === 0) throw new UserError(`The vectors of ${name} have no numbers.`, {code: 'NO_VECTORS', hint: 'Did the embedding fail?'})
  const lines = tensors.get('rows')
  if (lines && (lines.dtype !== 'U8' || lines.shape.length !== 1))
    throw damaged(`The tensor rows of ${name} is ${lines.dtype} [${lines.shape.join(', ')}]; expected bytes of JSON Lines.`)
  return {vectors, lines, dtype: kind, count, dim}
}

/**
 * Reads the file at `path`. Throws `UserError` when it has no matrix `vectors`, is cut off, or does not match what
 * it says of itself.
 */
async function readSafetensors(path: string, name: string): Promise<OpenedRows> {
  const handle = await openPlain(path)
  try {
    const {header, dataAt, size} = await readHeader(handle, name)
    const tensors = tensorsOf(header, name)
    checkExtent(header, size - dataAt, name)
    const {metadata} = header
    const record = metadata['dinov2']
    const meta = record === undefined ? unknownProvenance(tensors.dim) : metaFromJson(record, name)
    if (meta.dim !== tensors.dim) throw damaged(`${name} has ${tensors.dim} numbers a row, but its record says ${meta.dim}.`)
    if (record !== undefined && !tensors.lines) throw damaged(`${name} has no ids: its tensor rows is not there.`)
    if (metadata['rows'] !== undefined && metadata['rows'] !== String(tensors.count))
      throw damaged(`${name} has ${tensors.count} rows, but counts ${metadata['rows']}.`)
    return {meta, count: tensors.count, rows: rowsFrom(path, name, dataAt, tensors, metadata)}
  } finally {
    await handle.close()
  }
}

async function* rowsFrom(
  path: string,
  name: string,
  dataAt: number,
  tensors: Tensors,
  metadata: Header['metadata']
): AsyncGenerator<EmbeddingBatch> {
  const {vectors, lines, dtype: kind, count, dim} = tensors
  const ours = metadata['dinov2'] !== undefined
  const handle = await openPlain(path)
  const sums = {vectors: 0, rows: 0}
  const names =
    lines && lineRows(new ByteReader(summed(byteRange(path, dataAt + lines.begin, lines.end - lines.begin), sums)), name, {ours})
  const step = rowsPerBatch(dim)
  const row = dim * kind.bytes
  try {
    if (count === 0) await endRows(names, sums, metadata, name)
    for (let at = 0; at < count; at += step) {
      const n = Math.min(step, count - at)
      const bytes = await readAt(handle, dataAt + vectors.begin + at * row, n * row)
      sums.vectors = crc32(bytes, sums.vectors)
      const ids: string[] = []
      const fields: Fields[] = []
      for (let i = 0; i < n; i++) {
        const line = await names?.next()
        if (line?.done) throw damaged(`${name} has ${count} vectors, but only ${at + i} ids.`)
        ids.push(line ? line.value.id : String(at + i))
        fields.push(line ? line.value.fields : {})
      }
      // The last batch is only given once all has been compared.
      if (at + n === count) await endRows(names, sums, metadata, name)
      yield {ids, vectors: numbersToFloat32(bytes, kind), fields}
    }
  } finally {
    await names?.return(undefined)
    await handle.close()
  }
}

/** Refuses lines that go on behind the vectors, and checksums that differ. */
async function endRows(
  names: AsyncGenerator<unknown> | undefined,
  sums: {readonly vectors: number; readonly rows: number},
  metadata: Header['metadata'],
  name: string
): Promise<void> {
  if (names && !(await names.next()).done) throw damaged(`${name} has more ids than vectors.`)
  for (const [what, key, sum] of [
    ['vectors', 'vectors_crc32', sums.vectors],
    ['ids and fields', 'rows_crc32', sums.rows]
  ] as const)
    if (metadata[key] !== undefined && metadata[key] !== crcText(sum)) throw damaged(`The ${what} of ${name} do not match their checksum.`)
}

async function* summed(chunks: AsyncIterable<Uint8Array>, sums: {rows: number}): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    sums.rows = crc32(chunk, sums.rows)
    yield chunk
  }
}

/** A stretch of a file. */
async function* byteRange(path: string, start: number, length: number): AsyncGenerator<Uint8Array> {
  let left = length
  if (left === 0) return
  for await (const chunk of fileBytes(path, start)) {
    yield chunk.subarray(0, left)
    left -= chunk.length
    if (left <= 0) return
  }
}

export const safetensors: Format<'safetensors'> = {
  name: 'safetensors',
  endings: ['.safetensors'],
  title: 'tensors `vectors` and `rows`',
  streams: false,
  binary: true,
  begins: head => head.length >= 9 && head[8] === 0x7b && head.readBigUInt64LE(0) < 100n << 20n,
  open: source => withPath(source, path => readSafetensors(path, source.name)),
  write: safetensorsWriter,
  sideFiles: target => [{partial: `${target}.rows.partial`}],
  recover,
  listedRows: ({sides}) => ownLines(sides[0]!.partial)
}
