/** What a command would read, compute and write, for `--dry-run`. Nothing is computed and nothing is written. */
import {stat} from 'node:fs/promises'
import {counted} from '../config/counted.js'
import {UserError} from '../config/errors.js'
import {isParquetName} from '../data/sources/container-names.js'
import {holdsImages} from '../data/sources/parquet.js'
import {countImages} from '../data/sources/source.js'
import {openBackbone} from '../files/checkpoint/backbone.js'
import {findModelFile} from '../files/checkpoint/fetch-missing.js'
import {missingPathHint} from '../config/missing-path.js'
import {PlannedDownload, plannedSentence, type Download} from '../system/permitted-downloads.js'

export type PlanOptions = {
  /** The inputs by what they are for, e.g. `images`, `train`, `queries`; sets without inputs are left out. */
  readonly reads: Readonly<Record<string, readonly string[] | undefined>>
  readonly nul?: boolean
  /**
   * Inputs are images, without a backbone too, or vectors. Of a list (`.jsonl`, `.csv`), which may hold either, the
   * bytes are reported.
   */
  readonly imagesOrVectors?: boolean
  /** Backbones; without one, and without a head, inputs are files of vectors or others whose sizes are reported. */
  readonly models?: readonly (string | undefined)[]
  /** Further files that are read. */
  readonly files?: readonly (string | undefined)[]
  /** What is computed, as the object of a sentence: `a depth map of each image`. */
  readonly computes: string
  /** Files and folders that are written; `-` is stdout. */
  readonly writes: readonly (string | undefined)[]
}

export type WorkPlan = {
  readonly reads: readonly {readonly set: string; readonly images?: number; readonly bytes?: number}[]
  readonly models: readonly {readonly model: string; readonly parameters: number; readonly memory: number}[]
  readonly files: readonly {readonly file: string; readonly bytes: number}[]
  /** Models and heads that are not on this machine; their sizes are not known before. */
  readonly downloads: readonly Download[]
  readonly computes: string
  readonly writes: readonly string[]
}

const VECTORS = /\.(arrow|arrows|feather|npy|safetensors|index)$/i

const LIST = /\.(jsonl|ndjson|csv)$/i

/** Whether an input is a file of vectors, or an index. */
const isVectors = async (name: string): Promise<boolean> => VECTORS.test(name) || (isParquetName(name) && !(await holdsImages(name)))

/** Bytes of plain files together; throws `UserError` (exit 3) where one is not there. */
async function sizeOf(files: readonly string[]): Promise<number> {
  let bytes = 0
  for (const file of files) {
    const found = await stat(file).catch(() => undefined)
    if (!found)
      throw new UserError(`There is no file or folder ${file}.`, {
        exit: 3,
        code: 'NO_INPUT',
        hint: missingPathHint(file)
      })
    if (found.isFile()) bytes += found.size
  }
  return bytes
}

/** Bytes of a file that is read beside the model. Throws `PlannedDownload` for a released head that is not here. */
async function bytesOf(file: string): Promise<number> {
  return sizeOf([(await findModelFile(file, ['classifier', 'depth', 'segmentation'])) ?? file])
}

/** Parameters of a backbone, and the bytes of its weights in float32. Throws as `openBackbone`. */
async function weigh(model: string): Promise<WorkPlan['models'][number]> {
  const {checkpoint} = await openBackbone(model)
  try {
    let parameters = 0
    for (const {shape} of checkpoint.tensors.values()) parameters += shape.reduce((a, b) => a * b, 1)
    return {model, parameters, memory: 4 * parameters}
  } finally {
    await checkpoint.close()
  }
}

/**
 * Looks at inputs and models: counts images without decoding one, and reads the headers of models. Throws `UserError`
 * where an input or a model is not there or cannot be opened.
 */
export async function planWork({
  reads,
  nul,
  models: named = [],
  files = [],
  computes,
  writes,
  imagesOrVectors = false
}: PlanOptions): Promise<WorkPlan> {
  const models = named.filter(model => model !== undefined)
  const sets: WorkPlan['reads'][number][] = []
  for (const [set, inputs = []] of Object.entries(reads)) {
    if (inputs.length === 0) continue
    const kinds = await Promise.all(inputs.map(async name => (await isVectors(name)) || (imagesOrVectors && LIST.test(name))))
    const hasImages = (models.length > 0 || imagesOrVectors) && kinds.includes(false) && !(imagesOrVectors && inputs.includes('-'))
    if (hasImages) sets.push({set, images: await countImages(inputs, {nul})})
    else sets.push(inputs.includes('-') ? {set} : {set, bytes: await sizeOf(inputs)})
  }
  const weights: WorkPlan['models'][number][] = []
  const downloads: Download[] = []
  const unlessMissing = (error: unknown): void => {
    if (!(error instanceof PlannedDownload)) throw error
    downloads.push(error.download)
  }
  for (const model of models) await weigh(model).then(found => weights.push(found), unlessMissing)
  const others: WorkPlan['files'][number][] = []
  for (const file of files) if (file !== undefined) await bytesOf(file).then(bytes => others.push({file, bytes}), unlessMissing)
  return {reads: sets, models: weights, files: others, downloads, computes, writes: writes.filter(name => name !== undefined)}
}

const size = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e3).toFixed(1)} kB`

/** A plan in sentences: what would be read, computed and written. */
export function planLines({reads, models, files, downloads, computes, writes}: WorkPlan): string[] {
  const sets = reads.map(({set, images, bytes}) =>
    images !== undefined
      ? `${set === 'images' ? '' : `${set}: `}${counted(images, 'image')}`
      : `${set}${bytes === undefined ? ' from stdin' : ` of ${size(bytes)}`}`
  )
  const weights = models.map(
    ({model, parameters, memory}) => `${model} (${(parameters / 1e6).toFixed(1)} M parameters, ${size(memory)} of memory in fp32)`
  )
  const others = files.map(({file, bytes}) => `${file}${bytes > 0 ? ` (${size(bytes)})` : ''}`)
  const targets = writes.map(name => (name === '-' ? 'stdout' : name))
  return [
    ...downloads.map(plannedSentence),
    `would read ${[...sets, ...weights, ...others, ...downloads.map(({model}) => model)].join('; ')}`,
    `would compute ${computes}`,
    targets.length > 0 ? `would write ${targets.join(', ')}` : 'would write the report to stdout'
  ]
}
