/** What a head of an exported graph is. */
import type {HeadTask} from '../../files/checkpoint/head-file.js'
import type {VitConfig} from '../../model/config.js'
import type {GraphBuilder} from './graph.js'
import type {VitGraph} from './vit-graph.js'

/** What a head reads and adds. */
export type ExportedHead = {
  readonly task: HeadTask
  /** The name of its output. */
  readonly output: string
  /** Lengths of its output after the batch. */
  readonly shape: readonly number[]
  /** Names of the classes, where it tells classes. */
  readonly classes?: readonly string[]
  /** Numbers it has. */
  readonly parameters: number
  /** What its answers are otherwise than those of `predict`, in sentences. */
  readonly notes: readonly string[]
  add(g: GraphBuilder, vit: VitGraph): void
}

export type HeadContext = {
  readonly config: VitConfig
  readonly fingerprint: string
  /** Side of the images in pixels. */
  readonly side: number
  /** The range of depth, where it is given. */
  readonly minDepth?: number
  readonly maxDepth?: number
}

/** The sentence on a head that was trained on images of another size, where it was. */
export const sizeNotes = (name: string, size: number | undefined, side: number): string[] =>
  size === undefined || size === side ? [] : [`${name} was trained on images of ${size} pixels, and is exported for ${side}.`]
