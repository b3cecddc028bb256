/**
 * Embeddings as a NumPy array [N, D] of little-endian float32, with a `.jsonl` of the same name beside it: one line a
 * row with id and fields, the first of which also carries the record of the making under `dinov2`.
 *
 * The array's header names N, which is known only at the end, so 128 bytes are reserved and written again; a pipe
 * cannot do that, so this format needs a file. Pairing by order is fragile, so the two lengths are compared on
 * reading. Format: NEP 1, version 1.0.
 */
import {open, type FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {ByteReader, fileBytes, fileSink, readAt, writeAt} from './bytes.js'
import {parseSidecarLine, sidecarLine} from './jsonl.js'
import {metaFromJson, metaToJson, rowsPerBatch, unknownProvenance, type EmbeddingBatch, type EmbeddingMeta, type Fields} from './rows.js'

const headerBytes = 128

/** The header of an array [rows, dim]. */
export function npyHeader(rows: number, dim: number): Buffer {
  const head = Buffer.alloc(headerBytes, 0x20)
  head.write('\x93NUMPY\x01\x00', 'latin1')
  head.writeUInt16LE(headerBytes - 10, 8)
  head.write(`{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${dim}), }`, 10, 'latin1')
  head[headerBytes - 1] = 10
  return head
}

/** The list that stands beside `path`. */
export const sidecarOf = (path: string): string => `${path.replace(/\.npy$/i, '')}.jsonl`

/** Float32 numbers as little-endian bytes; this machine's own order is little-endian wherever Node runs today. */
export const floatBytes = (numbers: Float32Array): Uint8Array => new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

/**
 * Writes the array to `array` and the list to `list`, behind `begun` rows and `listEnd` bytes of list that are there
 * already.
 */
export function npyWriter(
  array: FileHandle,
  list: FileHandle,
  meta: EmbeddingMeta,
  begun = 0,
  listEnd = 0
): {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>} {
  const numbers = fileSink(array, headerBytes + begun * meta.dim * 4)
  const lines = fileSink(list, listEnd)
  let rows = begun
  const head = async (): Promise<void> => writeAt(array, npyHeader(rows, meta.dim), 0)
  return {
    async write({ids, vectors, fields}) {
      if (rows === 0) await head()
      const record = rows === 0 ? metaToJson(meta) : undefined
      await numbers.write(floatBytes(vectors))
      await lines.write(ids.map((id, i) => sidecarLine(id, fields[i]!, i === 0 ? record : undefined)).join(''))
      rows += ids.length
    },
    finish: head
  }
}

type Dtype = readonly [bytes: number, read: (view: DataView, at: number) => number]

const dtypes: Readonly<Record<string, Dtype>> = {
  '<f4': [4, (view, at) => view.getFloat32(at, true)],
  '<f8': [8, (view, at) => view.getFloat64(at, true)],
  '<f2': [2, (view, at) => float16ToNumber(view.getUint16(at, true))]
}

/** IEEE 754 binary16 to a number. */
function float16ToNumber(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const size =
    exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -size : size
}

/** Bytes of one kind of number as float32. */
function toFloat32(bytes: Buffer, kind: Dtype): Float32Array {
  if (kind === dtypes['<f4']) return new Float32Array(Uint8Array.from(bytes).buffer)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Float32Array.from({length: bytes.length / kind[0]}, (_, i) => kind[1](view, i * kind[0]))
}

/**
 * Reads an array from its bytes, and ids and fields from the list beside it when `list` is given; else rows are named
 * by their number. `size` is the array's length in bytes where it is known. Throws `UserError` when the array is no
 * matrix of floats, or the two lengths differ.
 */
export async function readNpy(
  bytes: ByteReader,
  name: string,
  {list, size}: {list?: string | undefined; size?: number | undefined} = {}
): Promise<{meta: EmbeddingMeta; count: number; rows: AsyncGenerator<EmbeddingBatch>}> {
  const start = Buffer.from(await bytes.peek(12))
  const wide = start[6]! >= 2 // versions 2 and 3 have a longer length field
  const dataAt = (wide ? 12 : 10) + (wide ? start.readUInt32LE(8) : start.readUInt16LE(8))
  const head = Buffer.from(await bytes.peek(dataAt)).toString('latin1')
  const descr = /'descr':\s*'([^']+)'/.exec(head)?.[1] ?? 'unknown'
  const shape =
    /'shape':\s*\(([^)]*)\)/
      .exec(head)?.[1]
      ?.split(',')
      .flatMap(n => (n.trim() === '' ? [] : [Number(n)])) ?? []
  const kind = dtypes[descr]
  if (!kind || shape.length !== 2 || /'fortran_order':\s*True/.test(head)) {
    throw new UserError(
      `${name} holds an array of ${descr}, shape (${shape.join(', ')})${/True/.test(head) ? ', in Fortran order' : ''}; expected [rows, dim] of float32.`,
      {
        code: 'NO_VECTORS',
        hint: "In Python: np.save(path, np.ascontiguousarray(x, dtype='<f4'))."
      }
    )
  }
  const [count, dim] = shape as [number, number]
  const rowBytes = dim * kind[0]
  if (size !== undefined && size !== dataAt + count * rowBytes) {
    throw new UserError(`${name} should have ${dataAt + count * rowBytes} bytes for ${count} rows of ${dim}, but it has ${size}.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'It was cut off or overwritten; write it again.'
    })
  }
  const listed = list === undefined ? undefined : sidecarRows(new ByteReader(fileBytes(list)), list)
  const first = await listed?.next()
  const record = first?.done === false ? first.value.record : undefined
  const meta = record === undefined ? unknownProvenance(dim) : metaFromJson(record as object, list!)
  const unequal = (lines: string): UserError =>
    new UserError(`${name} has ${count} rows, but ${list} has ${lines}: they do not belong together.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Write both again.'
    })

  const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
    const chunks = bytes.chunks()
    let held: Buffer = Buffer.alloc(0)
    let skip = dataAt
    let at = 0
    let ahead = first
    try {
      while (at < count) {
        const n = Math.min(rowsPerBatch(dim), count - at)
        const parts = [held]
        let have = held.length
        while (have < skip + n * rowBytes) {
          const {value, done} = await chunks.next()
          if (done) throw new UserError(`${name} ends after ${at} of ${count} rows.`, {code: 'EMBEDDINGS_DAMAGED', hint: 'Write it again.'})
          parts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength))
          have += value.length
        }
        held = Buffer.concat(parts).subarray(skip)
        skip = 0
        const vectors = toFloat32(held.subarray(0, n * rowBytes), kind)
        held = held.subarray(n * rowBytes)
        const ids: string[] = []
        const fields: Fields[] = []
        for (let i = 0; i < n; i++) {
          if (!listed) {
            ids.push(String(at + i))
            fields.push({})
            continue
          }
          if (ahead!.done) throw unequal(`${at + i} lines`)
          ids.push(ahead!.value.id)
          fields.push(ahead!.value.fields)
          ahead = await listed.next()
        }
        at += n
        // The last batch is only given once the list has ended too, so that an ill-matched pair is not half used.
        if (at === count && listed && !ahead!.done) throw unequal('more lines')
        yield {ids, vectors, fields}
      }
      if (count === 0 && ahead && !ahead.done) throw unequal('lines')
    } finally {
      await chunks.return(undefined)
      await listed?.return(undefined)
    }
  }
  return {meta: {...meta, dim}, count, rows: rows()}
}

/** Ids and fields of a side list. */
export async function* sidecarRows(bytes: ByteReader, name: string): AsyncGenerator<{id: string; fields: Fields; record: unknown}> {
  let number = 0
  let ours = false
  for await (const line of bytes.lines()) {
    if (line.trim() === '') continue
    const row = parseSidecarLine(line, name, ++number, ours)
    if (row.record !== undefined) ours = true
    yield row
  }
}

/** How many rows of an interrupted array are whole, by its length. */
export async function completeRows(path: string, dataAt: number, dim: number): Promise<number> {
  const handle = await open(path)
  try {
    return Math.max(0, Math.floor(((await handle.stat()).size - dataAt) / (4 * dim)))
  } finally {
    await handle.close()
  }
}

/** Length of the header that this module writes. */
export const npyDataAt = headerBytes

/** The record in the first line of an interrupted list. */
export async function sidecarMeta(list: string): Promise<EmbeddingMeta | undefined> {
  const handle = await open(list)
  try {
    const line = (await readAt(handle, 0, 1 << 16)).toString('utf8').split('\n', 1)[0]!
    const record = line === '' ? undefined : parseSidecarLine(line, list, 1, false).record
    return record === undefined ? undefined : metaFromJson(record as object, list)
  } catch {
    return undefined
  } finally {
    await handle.close()
  }
}
