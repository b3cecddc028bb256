/** The pairs of image and map (a depth map or a mask) that the inputs of an evaluation name. */
import {pairs, type Pair, type PairOptions} from '../../../data/targets/pairs.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import {ImageSpool} from '../../../data/sources/image-spool.js'
import {listImages, noImages, type SourceNote} from '../../../data/sources/source.js'

export type PairInputs = PairOptions & {
  readonly inputs: readonly string[]
  /** All inputs of the command, for which the folder of maps is laid out. */
  readonly roots: readonly string[]
  readonly nul?: boolean
  readonly onRejected?: (image: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
}

/**
 * The pairs of a set; no file of them is opened. Images without a map are reported to `onRejected`. Throws a
 * `UserError` (exit 3) where the inputs hold no image at all.
 */
export async function gatherPairs({inputs, nul, onRejected, onSkipped, ...options}: PairInputs): Promise<Pair[]> {
  const found: Pair[] = []
  let rejected = 0
  const spool = new ImageSpool() // pairs are held, and read again for each pass
  const images = listImages(inputs, {nul, onSkipped})
  const reject = (image: RejectedImage): void => {
    rejected++
    onRejected?.(image)
  }
  for await (const pair of pairs(images, {...options, onRejected: reject})) found.push({...pair, image: spool.keep(pair.image)})
  if (found.length + rejected === 0) throw noImages(inputs)
  return found
}
