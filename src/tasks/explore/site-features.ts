/** How the page makes vectors, from what the vectors of the map say of themselves. */
import {UserError} from '../../config/errors.js'
import type {SiteFeatures} from '../../page/site.js'
import type {Embedder} from '../embed/embedder.js'

/** The settings of the vectors, as the page applies them. Throws a `UserError` (exit 2) for those that it cannot. */
export function siteFeatures({meta, transform, config}: Pick<Embedder, 'meta' | 'transform' | 'config'>): SiteFeatures {
  const {pooling, layers, normalized} = meta
  if (pooling === 'patch' || pooling === null || layers === null)
    throw new UserError('The vectors of the map are those of every patch, which the page does not search.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Embed the images with --pool cls, mean or cls+mean.'
    })
  if (transform.cropBorders)
    throw new UserError('The vectors of the map are of images whose borders were cut off, which the page does not do.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Embed the images anew, with their borders left on.'
    })
  const blocks = typeof layers === 'number' ? Array.from({length: layers}, (_, i) => config.depth - layers + i) : layers
  const {resize, crop, patch} = transform
  return {pool: pooling, blocks, normalize: normalized, transform: {resize, crop, patch}}
}
