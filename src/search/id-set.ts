/**
 * A set of names in 16 bytes each or less than 32: their hashes of 64 bits, for telling early that a name has not come
 * before.
 *
 * Of two among n names the hashes meet with a chance of about n² / 2⁶⁵ (one in three million at ten million names), so
 * "perhaps" has to be looked up where it matters.
 */

/** Two mixes of 32 bits over the same characters (multiplication and rotation, different constants). */
function hashName(name: string): [number, number] {
  let [a, b] = [0x9e3779b9, 0x85ebca6b]
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i)
    a = Math.imul(a ^ unit, 0x01000193)
    a = (a << 13) | (a >>> 19)
    b = Math.imul(b + unit, 0xcc9e2d51)
    b ^= b >>> 15
  }
  return [finalMix(a ^ name.length), finalMix(b ^ Math.imul(name.length, 0x27d4eb2f))]
}

/** The last rounds of a mix, so that every bit in changes every bit out. */
function finalMix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}

export class IdSet {
  /** Pairs of hashes; 0, 0 is an empty place. */
  slots = new Uint32Array(2 << 10)
  #size = 0

  get size(): number {
    return this.#size
  }

  /** Adds a name; true when one of its hash was there already. */
  add(name: string): boolean {
    if (this.#size * 4 > (this.slots.length / 2) * 3) this.#grow()
    const [a, b] = hashName(name)
    return this.insert(a === 0 && b === 0 ? 1 : a, b)
  }

  insert(a: number, b: number): boolean {
    const places = this.slots
    const last = places.length / 2 - 1
    for (let at = a & last; ; at = (at + 1) & last) {
      const [x, y] = [places[2 * at]!, places[2 * at + 1]!]
      if (x === a && y === b) return true
      if (x !== 0 || y !== 0) continue
      places[2 * at] = a
      places[2 * at + 1] = b
      this.#size++
      return false
    }
  }

  #grow(): void {
    const old = this.slots
    this.slots = new Uint32Array(old.length * 2)
    this.#size = 0
    for (let i = 0; i < old.length; i += 2) if (old[i] !== 0 || old[i + 1] !== 0) this.insert(old[i]!, old[i + 1]!)
  }
}
