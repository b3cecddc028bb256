/**
 * A checksum of rows whatever the format: their number, and a CRC-32 each of ids with fields and of vectors, in
 * order.
 */
import {crc32, crcText} from '../../system/crc32.js'
import {floatBytes, type EmbeddingBatch, type Fields} from './rows.js'

/** Fields as text that does not depend on the order of their names. */
const canonical = (fields: Fields): string =>
  JSON.stringify(
    Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .sort(([a], [b]) => (a < b ? -1 : 1))
  )

export class ContentCheck {
  #rows = 0
  #names = 0
  #vectors = 0

  get rows(): number {
    return this.#rows
  }

  add({ids, vectors, fields}: EmbeddingBatch): void {
    this.#rows += ids.length
    // Two sums, because readers give rows in other batches than they were written in.
    this.#names = crc32(Buffer.from(ids.map((id, i) => `${JSON.stringify(id)} ${canonical(fields[i]!)}\n`).join('')), this.#names)
    this.#vectors = crc32(floatBytes(vectors), this.#vectors)
  }

  /** Number and checksums as a text whose length does not change. */
  toString(): string {
    return `rows=${String(this.#rows).padStart(16, '0')} names=${crcText(this.#names)} vectors=${crcText(this.#vectors)}`
  }
}

/** The checksum of one vector [D], as its decimals read back: negative zero is written as zero. */
export const vectorCheck = (vector: Float32Array): number => crc32(floatBytes(Float32Array.from(vector, x => x + 0)))

/** Number of rows, and the sum of the checksums of their vectors, whatever the order of rows. */
export class TableCheck {
  #sum = 0
  rows = 0

  add(vector: Float32Array): void {
    this.rows++
    this.#sum = (this.#sum + vectorCheck(vector)) >>> 0
  }

  toString(): string {
    return crcText(this.#sum)
  }
}
