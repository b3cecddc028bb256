/** What an embedding file holds, whatever its format: rows of id, vector and fields. */
import {UserError} from '../../config/errors.js'

/** What rides along with an image: label, group, depth file, and whatever else its list said. */
export type Fields = Readonly<Record<string, unknown>>

/** One image's vector. */
export type Row = {readonly id: string; readonly vector: Float32Array /* [D] */; readonly fields: Fields}

/** What a row says of its image, without the vector. */
export type NamedRow = Omit<Row, 'vector'>

/** Rows as they are computed, written and read: n at a time, their vectors side by side. */
export type EmbeddingBatch = {
  readonly ids: readonly string[]
  /** [n, D], row after row. */
  readonly vectors: Float32Array
  readonly fields: readonly Fields[]
}

/** Takes a batch apart into rows; their vectors are views into the batch. */
export function* rowsOf({ids, vectors, fields}: EmbeddingBatch): Generator<Row> {
  const D = ids.length === 0 ? 0 : vectors.length / ids.length
  for (const [i, id] of ids.entries()) yield {id, vector: vectors.subarray(i * D, (i + 1) * D), fields: fields[i]!}
}

/** Puts rows together into one batch. All vectors have the same length. */
export function batchOf(rows: readonly Row[]): EmbeddingBatch {
  const D = rows[0]?.vector.length ?? 0
  const vectors = new Float32Array(rows.length * D) // [n, D]
  for (const [i, row] of rows.entries()) vectors.set(row.vector, i * D)
  return {ids: rows.map(row => row.id), vectors, fields: rows.map(row => row.fields)}
}

/**
 * How many rows the readers of row formats give at once: 256, fewer where rows are long (patch tokens), so that a
 * batch stays near 16 MB.
 */
export const rowsPerBatch = (dim: number): number => Math.max(1, Math.min(256, Math.floor((4 << 20) / Math.max(1, dim))))

/** Float32 numbers as little-endian bytes; this machine's own order is little-endian wherever Node runs today. */
export const floatBytes = (numbers: Float32Array): Uint8Array => new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

/** Vectors of two lengths in one file. */
export const vectorLengthError = (name: string, row: number, has: number, expected: number): UserError =>
  new UserError(`Row ${row} of ${name} has ${has} numbers, but the rows before it have ${expected}.`, {
    code: 'NO_VECTORS',
    hint: 'All vectors of a file have one length.'
  })

/**
 * The rows again with the length of their vectors, which a plain list column only tells by its first row (`dim` 0).
 * Batches of another length are refused.
 */
export async function withVectorLength(
  rows: AsyncGenerator<EmbeddingBatch>,
  dim: number,
  name: string
): Promise<{dim: number; rows: AsyncGenerator<EmbeddingBatch>}> {
  const first = dim === 0 ? await rows.next() : undefined
  const found = first && !first.done ? first.value.vectors.length / first.value.ids.length : dim
  const all = async function* (): AsyncGenerator<EmbeddingBatch> {
    let at = 0
    try {
      for (let next = first ?? (await rows.next()); !next.done; next = await rows.next()) {
        const {ids, vectors} = next.value
        if (vectors.length !== ids.length * found) throw vectorLengthError(name, at, vectors.length / ids.length, found)
        yield next.value
        at += ids.length
      }
    } finally {
      await rows.return(undefined)
    }
  }
  return {dim: found, rows: all()}
}

/**
 * Refuses NaN and infinity: no neighbour, mean or classifier means anything with them. Throws `UserError` naming the
 * row.
 */
export function assertFinite({ids, vectors}: Pick<EmbeddingBatch, 'ids' | 'vectors'>, name: string): void {
  const at = vectors.findIndex(x => !Number.isFinite(x))
  if (at < 0) return
  const D = vectors.length / ids.length
  throw new UserError(
    `The vector of ${ids[Math.floor(at / D)]!} in ${name} holds a number that is not finite${Number.isNaN(vectors[at]) ? '' : ', or too large for float32'} (${String(vectors[at])} at place ${at % D}).`,
    {
      code: 'NOT_FINITE',
      hint: 'Leave the row out, or make it again: dinov2 embed --precision fp32.'
    }
  )
}

/** Rows as long as this are up to 2^127 apart, squared: the largest power of two that float32 holds. */
const MAX_SQUARE = 2 ** 125

/**
 * Refuses a vector so long that products and squared distances, which graphs and LanceDB take in float32, could become
 * infinite. `vectors` holds a row of `D` numbers for each id. Throws `UserError` naming the row.
 */
export function assertMeasurable({ids, vectors}: Pick<EmbeddingBatch, 'ids' | 'vectors'>, D: number): void {
  for (const [i, id] of ids.entries()) {
    let square = 0
    for (let d = i * D; d < (i + 1) * D; d++) square += vectors[d]! * vectors[d]!
    if (square > MAX_SQUARE) throw unmeasurableError(id)
  }
}

/** A row whose products or distances are infinite in float32. */
export const unmeasurableError = (id: string): UserError =>
  new UserError(`The vector of ${id} is too long: products or distances of it do not fit into numbers of 32 bits.`, {
    code: 'NOT_FINITE',
    hint: 'Scale all vectors down, or make another index: dinov2 index --metric cosine measures angles, and dinov2 index --kind exact computes in 64 bits.'
  })
