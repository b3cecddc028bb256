/**
 * Seeded draws: every random number of the project comes from a generator made here and passed as an argument.
 *
 * `rng(seed, ...keys)` gives an independent stream for each list of keys, such as `rng(seed, 'crops', position)`: what
 * is drawn for one item depends on nothing that was drawn before it, so a resumed run, or one with more workers, draws
 * the same numbers. The stream is xoshiro128** (Blackman and Vigna, "Scrambled linear pseudorandom number generators",
 * 2018) whose state is hashed from seed and keys. It is fast and statistically sound; it is not for secrets.
 */

/** What a stream may be named by: whole numbers of up to 53 bits, other finite numbers, or words. */
export type RandomKey = number | string

const scratch = new DataView(new ArrayBuffer(8))

/** Avalanche of 32 bits: every input bit flips each output bit about half the time. */
function mix(h: number): number {
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d)
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b)
  return h ^ (h >>> 16)
}

const rotl = (x: number, k: number): number => (x << k) | (x >>> (32 - k))

/** Folds one more 32-bit word into the four lanes of the state being made; the order of words matters. */
function absorb(state: Int32Array, word: number): void {
  for (let i = 0; i < 4; i++) state[i] = mix(rotl(state[i]!, 5) ^ Math.imul(word + i, 0x9e3779b1) ^ state[(i + 1) & 3]!)
}

/** A stream of draws. Each call moves it on; the same seed and keys always give the same stream. */
export class Rng {
  #a: number
  #b: number
  #c: number
  #d: number
  #spare: number | undefined

  constructor(seed: number, keys: readonly RandomKey[]) {
    const state = Int32Array.of(0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344) // digits of pi: any constants that are not all zero
    for (const key of [seed, ...keys]) {
      if (typeof key === 'number') {
        if (!Number.isFinite(key))
          throw new RangeError(`Expected a finite number or a word as a key of a random stream but received ${key}.`)
        scratch.setFloat64(0, key === 0 ? 0 : key) // -0 and 0 are one key
        absorb(state, scratch.getInt32(0))
        absorb(state, scratch.getInt32(4))
      } else {
        absorb(state, key.length)
        for (let i = 0; i < key.length; i++) absorb(state, key.charCodeAt(i) + 0x10000)
      }
    }
    for (let i = 0; i < 4; i++) absorb(state, i)
    this.#a = state[0]!
    this.#b = state[1]!
    this.#c = state[2]!
    this.#d = state[3]! | 1 // never all zero, where the generator would stand still
  }

  /** The next 32 bits, as a signed integer. */
  bits(): number {
    const b = this.#b
    const out = Math.imul(rotl(Math.imul(b, 5), 7), 9)
    const c = this.#c ^ this.#a
    const d = this.#d ^ b
    this.#b = b ^ c
    this.#a ^= d
    this.#c = c ^ (b << 9)
    this.#d = rotl(d, 11)
    return out
  }

  /** A number in [low, high), by default [0, 1), of 53 random bits. */
  uniform(low = 0, high = 1): number {
    const unit = ((this.bits() >>> 5) * 67108864 + (this.bits() >>> 6)) / 9007199254740992
    return low + (high - low) * unit
  }

  /** A whole number in [0, n), every one equally likely; n from 1 to 2^32. */
  int(n: number): number {
    if (!(n >= 1 && n <= 4294967296)) throw new RangeError(`Expected a count from 1 to 2^32 for a random whole number but received ${n}.`)
    const end = 4294967296 - (4294967296 % n) // above it, small numbers would come too often: draw again
    for (;;) {
      const draw = this.bits() >>> 0
      if (draw < end) return draw % n
    }
  }

  /** True with the given probability. */
  chance(probability: number): boolean {
    return this.uniform() < probability
  }

  /** A normal draw of the given mean and standard deviation (Box and Muller, in pairs). */
  normal(mean = 0, std = 1): number {
    if (this.#spare !== undefined) {
      const spare = this.#spare
      this.#spare = undefined
      return mean + std * spare
    }
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()))
    const angle = 2 * Math.PI * this.uniform()
    this.#spare = radius * Math.sin(angle)
    return mean + std * radius * Math.cos(angle)
  }

  /**
   * A normal draw, drawn again until it falls in [low, high]; limits are absolute, as in PyTorch's `trunc_normal_`.
   */
  truncatedNormal(mean = 0, std = 1, low = -2, high = 2): number {
    if (!(low < high)) throw new RangeError(`Expected low < high for a truncated normal but received ${low} and ${high}.`)
    for (;;) {
      const draw = this.normal(mean, std)
      if (draw >= low && draw <= high) return draw
    }
  }

  /** Shuffles in place, every order equally likely (Fisher and Yates), and returns its argument. */
  shuffle<T extends {length: number; [index: number]: unknown}>(items: T): T {
    for (let i = items.length - 1; i > 0; i--) {
      const j = this.int(i + 1)
      const kept = items[i]
      items[i] = items[j]
      items[j] = kept
    }
    return items
  }

  /** The numbers 0 … n - 1 in random order. */
  permutation(n: number): Uint32Array {
    const order = new Uint32Array(n)
    for (let i = 0; i < n; i++) order[i] = i
    return this.shuffle(order)
  }
}

/**
 * A generator for the stream named by seed and keys; `rng(7, 'masks', 12)` is always the same stream and unlike
 * `rng(7, 'masks', 13)`.
 */
export const rng = (seed: number, ...keys: readonly RandomKey[]): Rng => new Rng(seed, keys)
