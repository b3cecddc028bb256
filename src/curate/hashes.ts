/**
 * 64-bit picture hashes compared: which differ in few bits (Hamming distance).
 *
 * Two hashes that differ in at most d bits agree in at least one of d + 1 stretches of their bits, so only hashes that
 * share a stretch are compared (Norouzi et al. 2012): for small d nearly all pairs are never looked at.
 */

/** Hashes as pairs of 32-bit words, [2N]. */
export type Hashes = Uint32Array

const bits = (x: number): number => {
  x -= (x >>> 1) & 0x55555555
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333)
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** In how many bits hashes i and j differ. */
export const hamming = (hashes: Hashes, i: number, j: number): number =>
  bits(hashes[2 * i]! ^ hashes[2 * j]!) + bits(hashes[2 * i + 1]! ^ hashes[2 * j + 1]!)

/**
 * All pairs i < j that differ in at most `most` bits (0 to 15), passed to `found`. Among equal hashes each is paired
 * with the first alone.
 */
export function hashPairs(hashes: Hashes, most: number, found: (i: number, j: number, distance: number) => void): void {
  const N = hashes.length / 2
  const first = new Map<string, number>()
  const different: number[] = []
  for (let i = 0; i < N; i++) {
    const key = `${hashes[2 * i]!},${hashes[2 * i + 1]!}`
    const before = first.get(key)
    if (before === undefined) {
      first.set(key, i)
      different.push(i)
    } else found(before, i, 0)
  }
  if (most === 0) return
  const stretches = most + 1
  const edge = (s: number): number => Math.round((64 * s) / stretches)
  for (let s = 0; s < stretches; s++) {
    const [low, high] = [edge(s), edge(s + 1)]
    const buckets = new Map<number, number[]>()
    for (const i of different) {
      const key = stretch(hashes, i, low, high)
      const bucket = buckets.get(key)
      if (!bucket) {
        buckets.set(key, [i])
        continue
      }
      for (const j of bucket) {
        const distance = hamming(hashes, j, i)
        // A pair that agrees in an earlier stretch was found there.
        if (distance <= most && !agreesBefore(hashes, j, i, s, edge)) found(j, i, distance)
      }
      bucket.push(i)
    }
  }
}

function agreesBefore(hashes: Hashes, i: number, j: number, s: number, edge: (s: number) => number): boolean {
  for (let t = 0; t < s; t++) if (stretch(hashes, i, edge(t), edge(t + 1)) === stretch(hashes, j, edge(t), edge(t + 1))) return true
  return false
}

/** Bits low … high - 1 of hash i, at most 32 of them, as a number. */
function stretch(hashes: Hashes, i: number, low: number, high: number): number {
  let value = 0
  for (let b = low; b < high; b++) value = value * 2 + ((hashes[2 * i + (b >> 5)]! >>> (b & 31)) & 1)
  return value
}
