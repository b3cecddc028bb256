/** What `explore` writes for the page to read: the form of `data.js`, and of the model that lies beside it. */
import type {DepthBins} from '../heads/depth-head.js'
import type {SegmentProtocol} from '../heads/segment-inference.js'
import type {VitConfig} from '../model/config.js'
import type {DenseSettings} from '../model/dense-maps.js'

/** How an image becomes a vector: as `embed` made those of the map. */
export type SiteFeatures = {
  readonly pool: 'cls' | 'mean' | 'cls+mean'
  /** Blocks, counted from 0, whose outputs are joined. */
  readonly blocks: readonly number[]
  readonly normalize: boolean
  readonly transform: {readonly resize: number; readonly crop?: number; readonly patch?: number}
}

/** What `check` of a site says: the vector of a picture that the page can draw itself (`checkPicture`). */
export type SiteCheck = {readonly side: number; readonly vector: string /* base64 of float32 */}

/** A classifier: its weights [K, F] and bias [K] lie in a file; it reads a stretch of the vector of `features`. */
export type SiteClassifier = {
  readonly weights: string
  readonly bytes: number
  readonly features: SiteFeatures
  readonly start: number
  readonly classes: readonly string[]
}

/** A linear depth head: its weights [K, D] and bias [K] lie in a file. */
export type SiteDepth = {
  readonly weights: string
  readonly bytes: number
  readonly dense: DenseSettings
  readonly bins: DepthBins
  /** Metres beyond which nothing is predicted. */
  readonly range: {readonly min: number; readonly max: number}
  /** Short side of the images that it wants to see; null: as they are. */
  readonly size: number | null
}

/** A linear segmentation head: its weights [K, D] and bias [K], batch normalization folded in, lie in a file. */
export type SiteRegions = {
  readonly weights: string
  readonly bytes: number
  readonly protocol: SegmentProtocol
  readonly classes: readonly {readonly name: string; readonly colour: readonly [red: number, green: number, blue: number]}[]
}

/** Trained heads, where they were given. */
export type SiteHeads = {
  readonly classifier: SiteClassifier | null
  readonly depth: SiteDepth | null
  readonly regions: SiteRegions | null
}

export type SiteModel = SiteHeads & {
  readonly name: string
  readonly config: VitConfig
  /** Parameters of the backbone. */
  readonly parameters: number
  readonly weights: string
  readonly bytes: number
  readonly mean: readonly number[]
  readonly std: readonly number[]
  readonly features: SiteFeatures
  /** Short side of images whose patches are shown, in pixels. */
  readonly viewSide: number
  readonly check: SiteCheck
}

/**
 * The points of the map. Numbers of all rows lie side by side as base64 of little-endian arrays, so that a hundred
 * thousand of them load at once.
 */
export type SiteData = {
  readonly version: 1
  readonly title: string
  readonly count: number
  /** The rows as a list has them: id, path, and whatever fields rode along. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
  /** Places from 0 to 1, x and y by turns: float32 [N, 2]. */
  readonly places: string
  readonly labels: readonly string[]
  /** Of each row the number of its label, or −1: int32 [N]. */
  readonly label: string
  /** Of each row its cluster: int32 [N]. */
  readonly cluster: string
  readonly clusters: number
  /** Of each cluster the row nearest to its middle. */
  readonly representatives: readonly number[]
  /** How far each row lies from its neighbours: float32 [N]. */
  readonly outlier: string
  /** The nearest rows of each row, and their cosines: int32 and float32 [N, k]. */
  readonly near: {readonly k: number; readonly rows: string; readonly similarity: string}
  /** Rows that are all but copies of an earlier row: [row, the earlier one, cosine]. */
  readonly duplicates: readonly (readonly [row: number, other: number, similarity: number])[]
  readonly threshold: number
  /** Rows whose neighbours have another label: [row, number of that label, share of the neighbours' votes]. */
  readonly contradicted: readonly (readonly [row: number, label: number, share: number])[]
  /** Small pictures, `columns` × `columns` a file; null where no image could be opened. */
  readonly pictures: {
    readonly side: number
    readonly columns: number
    readonly files: readonly string[]
    readonly shown: string /* uint8 [N] */
  } | null
  /** Vectors of the rows for searching, int8 [N, D], of length 127 each; null without a model. */
  readonly vectors: {readonly file: string; readonly dim: number} | null
  readonly model: SiteModel | null
  /** Images to begin with, in pairs of neighbours. */
  readonly examples: readonly {readonly file: string; readonly name: string}[]
}

/**
 * The picture of `SiteCheck`: three patterns of colours, bytes [side, side, 3]. All is made of whole numbers, so that
 * every program draws the same.
 */
export function checkPicture(side: number): Uint8Array {
  const out = new Uint8Array(side * side * 3)
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const at = (y * side + x) * 3
      out[at] = Math.floor((x * 255) / side)
      out[at + 1] = (x * 7 + y * 13) % 256
      out[at + 2] = (x * y) % 251
    }
  return out
}
