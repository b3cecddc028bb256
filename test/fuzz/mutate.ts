/** Changed copies of a file, drawn from a seed: what a full disk, a bad cable or an ill-meaning sender makes of it. */
import {rng} from '../../src/tensor/random.js'
import type {Mutator} from './structured.js'

/** Values that lengths and counts are most often broken by. */
const edges = [0, 1, 0x7f, 0x80, 0xff]
const words = ['-1', '0', '1e999', 'NaN', 'null', '[]', '{}', '"x"', '4294967296', '9007199254740993', 'true', '0.5', '"constructor"']

/** One changed copy of `bytes`, every other one by one of `structured`; the same for the same seed and number. */
export function mutant(bytes: Buffer, seed: number, n: number, structured: readonly Mutator[] = []): Buffer {
  const random = rng(seed, `mutant ${n}`)
  if (structured.length > 0 && n % 2 === 1) return structured[random.int(structured.length)]!(bytes, random)
  let out: Buffer = Buffer.from(bytes)
  for (let changes = 1 + random.int(3); changes > 0 && out.length > 0; changes--) {
    const at = random.int(out.length)
    const length = 1 + random.int(Math.min(64, out.length))
    switch (random.int(8)) {
      case 0: // a flipped bit
        out[at]! ^= 1 << random.int(8)
        break
      case 1: // another byte
        out[at] = edges[random.int(edges.length)]!
        break
      case 2: // a length that cannot be
        if (at + 4 <= out.length) out.writeInt32LE([-1, 0x7fffffff, -0x80000000, 1 << 27][random.int(4)]!, at)
        break
      case 3: // cut off
        out = out.subarray(0, at)
        break
      case 4: // a stretch is missing
        out = Buffer.concat([out.subarray(0, at), out.subarray(at + length)])
        break
      case 5: // a stretch stands twice
        out = Buffer.concat([out.subarray(0, at + length), out.subarray(at)])
        break
      case 6: // a stretch of zeros, as a hole in a file is
        out.fill(0, at, Math.min(out.length, at + length))
        break
      default: {
        // another word in the place of a number
        const digits = /\d+/.exec(out.toString('latin1', at, at + 200))
        if (!digits) break
        const from = at + digits.index
        out = Buffer.concat([out.subarray(0, from), Buffer.from(words[random.int(words.length)]!), out.subarray(from + digits[0].length)])
      }
    }
  }
  return out
}
