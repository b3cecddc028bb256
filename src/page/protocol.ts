/** What the page asks of its worker, and what comes back. */
import type {SiteModel} from './site.js'

/** An image as bytes of red, green and blue, [height, width, 3]. */
export type GivenImage = {readonly width: number; readonly height: number; readonly data: Uint8Array}

export type BackendName = 'webgpu' | 'wasm'

export type Started = {
  readonly backend: BackendName
  readonly threads: number
  /** Seconds until the model was loaded and had computed once. */
  readonly seconds: number
  /** Cosine of the page's vector of the check picture with that of the command line. */
  readonly agreement: number
  /** Why a faster backend is not used, in a sentence. */
  readonly note?: string
}

export type PatchView = {
  readonly rows: number
  readonly columns: number
  /** Features of the patches, of length 1 each, [rows·columns, C]. */
  readonly features: Float32Array
  /** Attention of the cls token in the last block, head by head, [heads, rows·columns]. */
  readonly attention: Float32Array
  readonly heads: number
  /** Red, green and blue of each patch by principal components, [rows·columns, 3]. */
  readonly colours: Uint8Array
}

/** Depth of every pixel in metres, [height, width], row by row. */
export type DepthFigure = {
  readonly width: number
  readonly height: number
  readonly metres: Float32Array
  /** How it was computed otherwise than by `predict depth`, in sentences. */
  readonly notes: readonly string[]
}

/** The class of every pixel, [height, width], row by row. */
export type RegionView = {
  readonly width: number
  readonly height: number
  readonly labels: Uint16Array
  /** How it was computed otherwise than by `predict segment`, in sentences. */
  readonly notes: readonly string[]
}

export type Analysis = {
  /** As `embed` gives it. */
  readonly vector: Float32Array
  readonly patches: PatchView
  /** The likeliest classes, where a classifier was given. */
  readonly classes?: readonly {readonly name: string; readonly probability: number}[]
  /** Where a depth head was given. */
  readonly depth?: DepthFigure
  /** Where a segmentation head was given. */
  readonly regions?: RegionView
  readonly seconds: number
}

export type ComputeRequest =
  | {
      readonly id: number
      readonly kind: 'start'
      readonly base: string
      readonly model: SiteModel
      /** What the address of the page asks for. */
      readonly backend?: BackendName
      readonly threads?: number
    }
  | {readonly id: number; readonly kind: 'analyze' | 'patches'; readonly image: GivenImage}

export type ComputeReply = {readonly id: number} & (
  | {readonly kind: 'progress'; readonly loaded: number; readonly total: number}
  | {readonly kind: 'started' | 'restarted'; readonly started: Started}
  | {readonly kind: 'analysis'; readonly analysis: Analysis}
  | {readonly kind: 'patches'; readonly patches: PatchView}
  | {readonly kind: 'failed'; readonly message: string}
)
