/** What all parts of one depth evaluation share: options, backbone, how pairs are read, bins and recipe. */
import {publishedAugmentation, type DepthAugmentation} from '../../../data/targets/depth-augment.js'
import type {SourceNote} from '../../../data/sources/source.js'
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import type {EngineInfo, EngineRequest} from '../../../engine/start.js'
import type {DepthBins} from '../../../heads/depth-head.js'
import type {DepthCrop} from '../../../metrics/depth.js'
import {blocksOf} from '../../embed/dense-features.js'
import type {DenseSettings} from '../../../model/dense-maps.js'
import type {Backbone} from '../../embed/load-backbone.js'
import type {DepthDataOptions} from './dataset.js'
import type {LoadedDepthHead} from './head.js'
import {fourBlocks} from './head-file.js'
import type {DepthBaseline} from './report.js'
import {cachedRecipe, publishedRecipe, type DepthRecipe} from './train.js'

export type DepthEvalOptions = {
  readonly train: readonly string[]
  readonly val: readonly string[]
  readonly tests: readonly string[]
  readonly outOfDomain: readonly string[]
  /** Folder of depth maps, for images that are not listed with theirs. */
  readonly depths?: string
  readonly model: string
  /** `lin1` or `lin4` to train one; else a file or a released head. */
  readonly head: string
  readonly headOut?: string
  readonly force?: boolean
  /** Blocks read by a head that is trained; by default those of its kind. */
  readonly layers?: number | readonly number[]
  /** Whether the final norm is applied to what a trained head reads; the published heads do without. */
  readonly norm: boolean
  readonly bins: Pick<DepthBins, 'count' | 'spacing'>
  readonly min?: number
  readonly max?: number
  readonly scale?: number
  readonly crop: DepthCrop
  /** How random views are cut out of images, where features are not cached. */
  readonly view: Pick<DepthAugmentation, 'box' | 'crop'>
  readonly size?: number
  /** Whether predictions are averaged with those of the mirrored image. */
  readonly flip: boolean
  /** Computes features once, of each training image and its mirror image, instead of anew for random views. */
  readonly cached: boolean
  /** Bytes of features kept in memory and on disk. */
  readonly cacheMemory: number
  readonly cacheDisk: number
  /** What differs from the published recipe, or with `cached` from that for few images. */
  readonly recipe: Partial<DepthRecipe>
  readonly baselines: readonly DepthBaseline[]
  readonly seed: number
  readonly nul?: boolean
  readonly engine: EngineRequest
  /** Images computed at once; by default what suits the model and the device. */
  readonly batch?: number
  readonly maxPixels?: number
  readonly toolVersion: string
  /** Whether images are predicted for a page. */
  readonly examples?: boolean
  readonly onRejected?: (image: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

export type DepthContext = {
  readonly options: DepthEvalOptions
  readonly backbone: Backbone
  readonly engine: EngineInfo
  readonly data: DepthDataOptions
  /** What a head reads of the backbone. */
  readonly dense: DenseSettings
  readonly bins: DepthBins
  readonly recipe: DepthRecipe
  readonly augmentation: DepthAugmentation
  /** Reports a rejected pair once, however often its set is read. */
  readonly onRejected: (image: RejectedImage) => void
}

/** Whether the head is trained here, not opened. */
export const isTrained = ({head}: Pick<DepthEvalOptions, 'head'>): boolean => head === 'lin1' || head === 'lin4'

/**
 * The settings in force for a backbone and, where one was opened, a head. Throws a `UserError` for blocks that the
 * model lacks.
 */
export function depthContext(
  options: DepthEvalOptions,
  backbone: Backbone,
  engine: EngineInfo,
  opened: LoadedDepthHead | undefined
): DepthContext {
  const {head, layers, norm, crop, scale, maxPixels} = options
  const range = {min: options.min ?? opened?.range.min ?? 0.001, max: options.max ?? opened?.range.max ?? 10}
  const size = options.size ?? opened?.size
  const ownLayers = (): number[] =>
    blocksOf(backbone.config, layers ?? (head === 'lin1' ? 1 : [...new Set(fourBlocks(backbone.config.depth))]))
  const reported = new Set<string>()
  return {
    options,
    backbone,
    engine,
    data: {patch: backbone.config.patch, range, crop, size, scale, maxPixels},
    dense: opened?.dense ?? {layers: ownLayers(), cls: true, norm},
    bins: {...options.bins, ...range},
    recipe: {...(options.cached ? cachedRecipe : publishedRecipe), ...options.recipe},
    augmentation: {...publishedAugmentation, ...options.view},
    onRejected: image => {
      const key = `${image.id}\0${image.path}`
      if (reported.has(key)) return
      reported.add(key)
      options.onRejected?.(image)
    }
  }
}
