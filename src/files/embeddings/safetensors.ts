/**
 * Embeddings as safetensors: `vectors` [N, D] in float32 and `rows`, bytes that are JSON Lines of id and fields, one
 * line a row. The record of the making stands in the metadata under `dinov2`.
 *
 * The header comes first and names both lengths, so its place is reserved (JSON may end in spaces) and it is written
 * again at the end; the lines wait in a file beside until all vectors are out. The memory needed is that of one batch.
 */
import {open, type FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {ByteReader, fileBytes, fileSink, readAt, writeAt} from './bytes.js'
import {sidecarLine} from './jsonl.js'
import {floatBytes, sidecarRows} from './npy.js'
import {metaFromJson, metaToJson, rowsPerBatch, unknownProvenance, type EmbeddingBatch, type EmbeddingMeta, type Fields} from './rows.js'

/** JSON of the header. */
function headerText(meta: EmbeddingMeta, rows: number, lineBytes: number): string {
  const end = rows * meta.dim * 4
  return JSON.stringify({
    __metadata__: {format: 'pt', dinov2: metaToJson(meta)},
    vectors: {dtype: 'F32', shape: [rows, meta.dim], data_offsets: [0, end]},
    rows: {dtype: 'U8', shape: [lineBytes], data_offsets: [end, end + lineBytes]}
  })
}

/** Where the data begin: room for the largest numbers, so that the header fits whatever comes. */
export const safetensorsDataAt = (meta: EmbeddingMeta): number =>
  8 + Math.ceil((Buffer.byteLength(headerText({...meta, dim: 1}, Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)) + 48) / 64) * 64

/** Writes vectors to `file` and lines to `lines` (a file beside), which is moved behind the vectors at the end. */
export function safetensorsWriter(
  file: FileHandle,
  lines: FileHandle,
  meta: EmbeddingMeta,
  begun = 0,
  linesEnd = 0
): {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>} {
  const dataAt = safetensorsDataAt(meta)
  const numbers = fileSink(file, dataAt + begun * meta.dim * 4)
  const side = fileSink(lines, linesEnd)
  let rows = begun
  return {
    async write({ids, vectors, fields}) {
      const record = rows === 0 ? metaToJson(meta) : undefined
      await numbers.write(floatBytes(vectors))
      await side.write(ids.map((id, i) => sidecarLine(id, fields[i]!, i === 0 ? record : undefined)).join(''))
      rows += ids.length
    },
    async finish() {
      const {offset: lineBytes} = side
      for (let at = 0; at < lineBytes; at += 1 << 20) await numbers.write(await readAt(lines, at, Math.min(1 << 20, lineBytes - at)))
      const head = Buffer.alloc(dataAt, 0x20)
      head.writeBigUInt64LE(BigInt(dataAt - 8))
      head.write(headerText(meta, rows, lineBytes), 8)
      await writeAt(file, head, 0)
    }
  }
}

type Entry = {readonly dtype: string; readonly shape: readonly number[]; readonly data_offsets: readonly [number, number]}

/** Reads the file at `path`. Throws `UserError` when it has no float32 matrix `vectors` or is cut off. */
export async function readSafetensors(
  path: string,
  name: string
): Promise<{meta: EmbeddingMeta; count: number; rows: AsyncGenerator<EmbeddingBatch>}> {
  const handle = await open(path)
  try {
    const {size} = await handle.stat()
    const length = Number((await readAt(handle, 0, 8)).readBigUInt64LE())
    const cut = new UserError(`${name} is cut off: its header promises more bytes than there are.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Write it again.'
    })
    if (8 + length > size) throw cut
    const header = JSON.parse((await readAt(handle, 8, length)).toString('utf8')) as {readonly __metadata__?: Record<string, string>}
    const {__metadata__: _, ...tensors} = header as Readonly<Record<string, Entry>>
    const {vectors, rows: lines} = tensors as Readonly<Record<string, Entry | undefined>>
    if (vectors?.dtype !== 'F32' || vectors.shape.length !== 2) {
      const names = Object.entries(tensors).map(([key, entry]) => `${key} ${entry.dtype} [${entry.shape.join(', ')}]`)
      throw new UserError(`${name} has no tensor \`vectors\` [rows, dim] of F32; it has ${names.slice(0, 6).join(', ') || 'nothing'}.`, {
        code: 'NO_VECTORS',
        hint: 'Is it a model? Then embed images with it: dinov2 embed IMAGES --model FILE.'
      })
    }
    if (Math.max(vectors.data_offsets[1], lines?.data_offsets[1] ?? 0) + 8 + length > size) throw cut
    const [count, dim] = vectors.shape as [number, number]
    const found = header.__metadata__?.['dinov2']
    const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
      const file = await open(path)
      const step = rowsPerBatch(dim)
      const listed =
        lines &&
        sidecarRows(
          new ByteReader(byteRange(path, 8 + length + lines.data_offsets[0], lines.data_offsets[1] - lines.data_offsets[0])),
          name
        )
      try {
        for (let at = 0; at < count; at += step) {
          const n = Math.min(step, count - at)
          const bytes = await readAt(file, 8 + length + vectors.data_offsets[0] + at * dim * 4, n * dim * 4)
          const ids: string[] = []
          const fields: Fields[] = []
          for (let i = 0; i < n; i++) {
            const row = await listed?.next()
            if (row?.done)
              throw new UserError(`${name} has ${count} vectors, but only ${at + i} ids.`, {
                code: 'EMBEDDINGS_DAMAGED',
                hint: 'Write it again.'
              })
            ids.push(row ? row.value.id : String(at + i))
            fields.push(row ? row.value.fields : {})
          }
          yield {ids, vectors: new Float32Array(Uint8Array.from(bytes).buffer), fields}
        }
      } finally {
        await listed?.return(undefined)
        await file.close()
      }
    }
    return {meta: found ? metaFromJson(found, name) : unknownProvenance(dim), count, rows: rows()}
  } catch (error) {
    throw error instanceof SyntaxError || error instanceof RangeError
      ? new UserError(`${name} has a damaged safetensors header.`, {code: 'EMBEDDINGS_DAMAGED', cause: error})
      : error
  } finally {
    await handle.close()
  }
}

/** A stretch of a file. */
async function* byteRange(path: string, start: number, length: number): AsyncGenerator<Uint8Array> {
  let left = length
  for await (const chunk of fileBytes(path, start) as AsyncIterable<Uint8Array>) {
    yield chunk.subarray(0, left)
    left -= chunk.length
    if (left <= 0) return
  }
}
