/** The library: images to vectors, and searching them, in a Node.js program. docs/library.md says what is stable. */

export type ModelOptions = {
  /** What computes; `auto` takes the fastest that is installed. One engine runs in a process. */
  readonly engine?: 'auto' | 'torch' | 'tensorflow' | 'wasm'
  /** `auto`, `cpu`, `cuda`, `cuda:N`. */
  readonly device?: string
  readonly precision?: 'auto' | 'fp32' | 'tf32' | 'bf16' | 'fp16'
  readonly threads?: number
  /** What is taken from the model: its class token (by default), the mean of its patches, or both. */
  readonly pool?: 'cls' | 'mean' | 'cls+mean'
  /** Whether vectors are brought to length 1. */
  readonly normalize?: boolean
  /** Side in pixels of the square that the model sees; by default that of the model. */
  readonly size?: number
  /** Receives what the program would log. */
  readonly onNote?: (sentence: string) => void
}

/** An image that was found, and its vector. */
export type EmbeddedImage = {
  readonly id: string
  readonly vector: Float32Array
  /** What rode along: `label`, `path`, columns of a list. */
  readonly fields: Readonly<Record<string, unknown>>
}

/** An image that could not be used, and why. */
export type RefusedInput = {readonly id: string; readonly path: string; readonly reason: string}

export type EmbedImagesOptions = {
  /** Images computed at once. */
  readonly batch?: number
  /** Threads that decode. */
  readonly workers?: number
  readonly onRefused?: (image: RefusedInput) => void
  readonly signal?: AbortSignal
}

/** A model ready to compute. */
export type ImageModel = {
  /** Numbers of a vector. */
  readonly dim: number
  /** SHA-256 over the weights: the same in every file format. */
  readonly fingerprint: string
  /** Frees the weights. */
  close(): void
}

/** An image in memory. */
export type ImageBytes = {readonly id: string; readonly bytes: Uint8Array}

/** One neighbour of a query, the nearest first. */
export type Neighbour = {
  readonly id: string
  readonly rank: number
  /** Cosine or inner product; absent where the index measures distances. */
  readonly similarity?: number
  readonly distance?: number
  readonly fields: Readonly<Record<string, unknown>>
}

export type VectorIndex = {
  readonly dim: number
  readonly metric: string
  /** The k nearest rows of each query. */
  search(queries: readonly {readonly id: string; readonly vector: Float32Array}[], k?: number): Promise<Neighbour[][]>
}

/**
 * Opens a model by whatever `--model` takes: a run, a file, a folder, `starter`, the name of a released model, an id
 * of the Hugging Face hub.
 */
export function openModel(name: string, options?: ModelOptions): Promise<ImageModel>

/**
 * Embeds images in their order: folders, files, lists, tar shards and Parquet files by name, or images in memory.
 * Those that cannot be used go to `onRefused`.
 */
export function embedImages(
  images: string | readonly string[] | readonly ImageBytes[] | AsyncIterable<ImageBytes>,
  model: ImageModel,
  options?: EmbedImagesOptions
): AsyncGenerator<EmbeddedImage>

/** Opens an index that `dinov2 index` wrote. */
export function openIndex(path: string): Promise<VectorIndex>

/** The k nearest rows of an index for each embedded query. */
export function searchIndex(
  index: VectorIndex,
  queries: readonly {readonly id: string; readonly vector: Float32Array}[],
  k?: number
): Promise<Neighbour[][]>

/** An error that the caller can mend: a sentence, a stable code, the exit status of the command line, and a hint. */
export class UserError extends Error {
  readonly code: string
  readonly exit: number
  readonly hint: string | undefined
  constructor(message: string, options?: {readonly exit?: number; readonly code?: string; readonly hint?: string; readonly cause?: unknown})
}
