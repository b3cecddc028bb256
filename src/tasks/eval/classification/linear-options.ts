/** What a linear evaluation is asked for. */
import type {RejectedImage} from '../../../data/sources/image-ref.js'
import type {SourceNote} from '../../../data/sources/source.js'
import type {EngineRequest} from '../../../engine/start.js'
import type {FeatureSettings} from '../../embed/embedder.js'
import type {RowOptions} from '../shared/labelled-features.js'

export type LinearBaseline = 'majority' | 'pixels' | 'histogram' | 'untrained'
export type Solver = 'sgd' | 'lbfgs'

export type LinearEvalOptions = RowOptions & {
  readonly train: readonly string[]
  readonly val: readonly string[]
  /** Further sets, scored with the classifier that val chose. */
  readonly tests?: readonly string[] | undefined
  /** Backbones; none where train and val are embeddings. */
  readonly models?: readonly string[] | undefined
  readonly baselines?: readonly LinearBaseline[]
  /** How images are resized and cropped; absent: as for the training of the head, else the default. */
  readonly transform?: FeatureSettings['transform'] | undefined
  /** Last blocks whose cls tokens are joined in the larger inputs. */
  readonly layers?: number
  readonly solver?: Solver
  /** Compute features once, without augmentation. */
  readonly cached?: boolean
  /** Steps of sgd, and rows a step. */
  readonly steps?: number | undefined
  readonly trainBatch?: number | undefined
  /** Train images of a class that are used, and how many draws of them are averaged. */
  readonly shots?: number | undefined
  readonly repeats?: number
  /** Scores with this classifier instead of training one. */
  readonly head?: string | undefined
  /** Names of the classes of a published head, in its order. */
  readonly classes?: readonly string[] | undefined
  readonly headOut?: string | undefined
  readonly force?: boolean
  readonly seed: number
  readonly engine: EngineRequest
  readonly onRejected?: (image: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
}

/** The published protocol with one device of the smallest batch. */
export const DEFAULT_STEPS = 12_500
export const DEFAULT_TRAIN_BATCH = 128
