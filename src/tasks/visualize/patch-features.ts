/** Features of all patches of an image, as pictures of similarity and of matches compare them. */
import {normalizeRows} from '../../search/exact.js'
import type {Tensor4D} from '../../tensor/tf.js'
import {blocksOf, denseFeatures} from '../embed/dense-features.js'
import type {Backbone} from '../embed/load-backbone.js'

export type PatchFeatures = {
  readonly rows: number
  readonly columns: number
  /** Of length 1 each, [N, D]. */
  readonly features: Float32Array
}

/** For `runOnImages`: features of the last block, or of several joined, after the final norm; images [1, H, W, 3]. */
export const patchFeatures =
  (layers: number | readonly number[] = 1) =>
  (backbone: Backbone) => {
    const blocks = blocksOf(backbone.config, layers)
    return async (input: Tensor4D): Promise<PatchFeatures> => {
      const maps = denseFeatures(backbone, input, {layers: blocks, cls: false, norm: true})
      const [, rows, columns, D] = maps.shape
      const features = normalizeRows((await maps.data<'float32'>()).slice(), D)
      maps.dispose()
      return {rows, columns, features}
    }
  }
