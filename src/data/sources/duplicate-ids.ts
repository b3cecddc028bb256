/**
 * Notices ids that come twice, in bounded memory: 53-bit hashes in an open table, up to a million ids; beyond that it
 * says nothing more.
 */

const MOST = 1_000_000

/** Two 32-bit hashes of a text, made in one pass; `high` and `low` of the key. */
function hash(text: string, out: Uint32Array): void {
  let a = 0x811c9dc5
  let b = 0x9747b28c
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i)
    a = Math.imul(a ^ c, 0x01000193)
    b = Math.imul(b ^ c, 0x5bd1e995)
    b ^= b >>> 15
  }
  a ^= a >>> 16
  out[0] = Math.imul(a, 0x7feb352d) | 1 // never 0, which marks an empty place
  out[1] = b
}

export class IdWatch {
  #table = new Uint32Array(2 * 4096) // pairs of hash words
  #count = 0
  readonly #reported = new Set<string>()
  readonly #key = new Uint32Array(2)

  /** True the second time an id is seen; each repeated id is reported once. */
  again(id: string): boolean {
    if (this.#count >= MOST) return false
    hash(id, this.#key)
    if (!this.#add(this.#table, this.#key[0]!, this.#key[1]!)) {
      if (this.#reported.has(id) || this.#reported.size >= 1000) return false
      this.#reported.add(id)
      return true
    }
    if (++this.#count * 4 > this.#table.length) this.#grow()
    return false
  }

  #add(table: Uint32Array, a: number, b: number): boolean {
    const mask = table.length / 2 - 1
    for (let slot = (a ^ (b >>> 7)) & mask; ; slot = (slot + 1) & mask) {
      if (table[2 * slot] === 0) {
        table[2 * slot] = a
        table[2 * slot + 1] = b
        return true
      }
      if (table[2 * slot] === a && table[2 * slot + 1] === b) return false
    }
  }

  #grow(): void {
    const old = this.#table
    const next = new Uint32Array(old.length * 2)
    for (let i = 0; i < old.length; i += 2) if (old[i] !== 0) this.#add(next, old[i]!, old[i + 1]!)
    this.#table = next
  }
}
