/**
 * The endless shuffled stream of training: which image comes at which position, as a pure function of seed and
 * position.
 *
 * Pass after pass over the set, each in a new order. The position is the only state there is, so a resumed run goes on
 * where it stopped, to the image.
 */
import {rng} from '../../tensor/random.js'

export type Sampler = {
  /** Images in the set. */
  readonly size: number
  /** The image at a position of the stream: position p lies in pass floor(p / size). */
  at(position: number): number
}

/**
 * A sampler over `size` images.
 *
 * The order of a pass is an even shuffle named by (seed, pass), 4 bytes an image; the last two passes are kept, since
 * a batch may straddle them.
 */
export function shuffledSampler(size: number, seed: number): Sampler {
  if (!(Number.isInteger(size) && size > 0)) throw new RangeError(`Expected at least one image to draw from but received ${size}.`)
  const orders = new Map<number, Uint32Array>()
  const orderOf = (pass: number): Uint32Array => {
    const known = orders.get(pass)
    if (known) return known
    if (orders.size > 1) orders.delete(Math.min(...orders.keys()) < pass ? Math.min(...orders.keys()) : Math.max(...orders.keys()))
    const order = rng(seed, 'order', pass).permutation(size)
    orders.set(pass, order)
    return order
  }
  return {size, at: position => orderOf(Math.floor(position / size))[position % size]!}
}
