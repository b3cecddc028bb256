/**
 * The rows on their way into a LanceDB table: what waits to be written, which ids are known, and what is kept back.
 */
import type {EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import type {LanceTable} from '../../files/search-index/lance-table.js'
import {IdSet} from '../../search/id-set.js'
import {rng} from '../../tensor/random.js'
import {duplicateIdError, maxHeldOut} from './index-options.js'

/** Numbers of vectors that wait to be written together: 64 MB. */
const floatsPerWrite = 16 << 20

export type HeldOutRow = {id: string; fields: string; vector: Float32Array}

/** The rows on their way into a table: what waits, what is known, and what is kept back. */
export class LanceRowWriter {
  read = 0
  replaced = 0
  /** A fair draw of the rows that came, at most `heldMost`; they are not in the table. */
  heldOut: HeldOutRow[] = []
  readonly knownIds = new IdSet()
  readonly #random
  pending = new Map<string, {fields: string; vector: Float32Array}>()
  possibleDuplicates: string[] = []
  drawCount = 0

  constructor(
    readonly table: LanceTable,
    readonly meta: EmbeddingMeta,
    readonly replace: boolean,
    seed: number
  ) {
    this.#random = rng(seed, 'held rows')
  }

  /** Learns the ids that the table has. */
  async loadKnownIds(): Promise<void> {
    for await (const ids of this.table.ids()) for (const id of ids) this.knownIds.add(id)
  }

  async add(ids: readonly string[], fields: readonly string[], vectors: Float32Array): Promise<void> {
    const D = this.meta.dim
    for (const [i, id] of ids.entries()) {
      this.read++
      if (this.pending.has(id)) {
        if (!this.replace) throw duplicateIdError(id)
        this.replaced++
        this.pending.delete(id) // the later row stands where it came
      } else if (this.knownIds.add(id)) this.possibleDuplicates.push(id)
      this.pending.set(id, {fields: fields[i]!, vector: vectors.slice(i * D, (i + 1) * D)})
    }
    if (this.pending.size * D >= floatsPerWrite) await this.write()
  }

  /** Writes what waits, but for rows that are drawn to be kept back. */
  async write(): Promise<void> {
    if (this.possibleDuplicates.length > 0) await this.resolveDuplicates()
    const out: HeldOutRow[] = []
    for (const [id, {fields, vector}] of this.pending) {
      const row = {id, fields, vector}
      const place = this.heldOut.length < maxHeldOut ? this.heldOut.length : this.#random.int(this.drawCount + 1)
      if (place < maxHeldOut) {
        if (place < this.heldOut.length) out.push(this.heldOut[place]!)
        this.heldOut[place] = row
      } else out.push(row)
      this.drawCount++
    }
    this.pending = new Map()
    await this.addToTable(out)
  }

  /** Rows that came before, of the same id as one that waits, make way for it. */
  async resolveDuplicates(): Promise<void> {
    const asked = new Set(this.possibleDuplicates)
    this.possibleDuplicates = []
    const doubles = await this.table.present([...asked])
    for (const {id} of this.heldOut) if (asked.has(id)) doubles.add(id)
    if (doubles.size === 0) return
    if (!this.replace) throw duplicateIdError(doubles.values().next().value!)
    this.replaced += doubles.size
    this.heldOut = this.heldOut.filter(({id}) => !doubles.has(id))
    await this.table.remove([...doubles])
  }

  /** Gives rows that were kept back to the table, until `left` are left. */
  async release(left: number): Promise<void> {
    await this.addToTable(this.heldOut.splice(left))
  }

  async addToTable(rows: readonly HeldOutRow[]): Promise<void> {
    const vectors = new Float32Array(rows.length * this.meta.dim)
    for (const [i, {vector}] of rows.entries()) vectors.set(vector, i * this.meta.dim)
    await this.table.add(
      rows.map(({id}) => id),
      rows.map(({fields}) => fields),
      vectors
    )
  }
}
