/** Trained heads as files of the site, one of a task, and what the page must know of them. */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {HeadTask} from '../../files/checkpoint/head-file.js'
import {writeSafetensors} from '../../files/checkpoint/safetensors.js'
import {float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import type {SiteClassifier, SiteDepth, SiteHeads, SiteRegions} from '../../page/site.js'
import type {Embedder} from '../embed/embedder.js'
import {openClassifier} from '../eval/classification/classifier-file.js'
import {readDepthHead} from '../eval/depth/head-file.js'
import {loadSegmentHead} from '../eval/segmentation/head.js'
import {headTask} from '../eval/shared/head-task.js'
import {siteFeatures} from './site-features.js'

export type HeadFileOptions = {
  /** The site's folder. */
  readonly folder: string
  readonly embedder: Embedder
  /** The model as the user named it. */
  readonly path: string
  /** The range of depth of a published head, where it is given. */
  readonly minDepth?: number
  readonly maxDepth?: number
}

/** Writes one linear layer, weight [K, D] and bias [K]. */
async function writeLayer(
  folder: string,
  name: string,
  weight: Float32Array,
  bias: Float32Array
): Promise<{weights: string; bytes: number}> {
  const weights = `${name}.safetensors`
  const K = bias.length
  await writeSafetensors(join(folder, weights), [
    {name: 'weight', dtype: 'F32', shape: [K, weight.length / K], read: () => float32Bytes(weight)},
    {name: 'bias', dtype: 'F32', shape: [K], read: () => float32Bytes(bias)}
  ])
  return {weights, bytes: (await stat(join(folder, weights))).size}
}

async function writeClassifier(name: string, {embedder, folder}: HeadFileOptions): Promise<SiteClassifier> {
  const {config, meta, transform: own} = embedder
  const {classifier, classes, features, transform = own} = await openClassifier(name, {config, fingerprint: meta.fingerprint ?? ''})
  const {kind, weight, bias} = classifier
  const read = siteFeatures({
    config,
    transform,
    meta: {...meta, pooling: features.pool, layers: features.layers, normalized: features.normalize}
  })
  return {...(await writeLayer(folder, 'classifier', weight, bias)), features: read, start: kind.start, classes}
}

async function writeDepth(name: string, {embedder, folder, minDepth: min, maxDepth: max}: HeadFileOptions): Promise<SiteDepth> {
  const {config, meta} = embedder
  const {dense, bins, range, size, tensors} = await readDepthHead(name, {backbone: {config, fingerprint: meta.fingerprint ?? ''}, min, max})
  if (!bins)
    throw new UserError(`${name} is a DPT head; the page of explore computes linear heads only.`, {
      exit: 2,
      code: 'UNSUPPORTED',
      hint: `DPT heads are 20 to 200 MB, too many to load in a page. See its depth with: dinov2 visualize depth IMAGES --model MODEL --head ${name} -o depth.html`
    })
  const [weight, bias] = ['weight', 'bias'].map(part => tensors.get(`conv_depth.${part}`)!.data) as [Float32Array, Float32Array]
  return {
    ...(await writeLayer(folder, 'depth', weight, bias)),
    dense,
    bins,
    range: {min: min ?? range.min, max: max ?? range.max},
    size: size ?? null
  }
}

async function writeRegions(name: string, {embedder, folder, path}: HeadFileOptions): Promise<SiteRegions> {
  const {config, meta} = embedder
  using head = await loadSegmentHead(name, {config, fingerprint: meta.fingerprint ?? ''}, path)
  const {folded, protocol, classes} = head
  const [weight, bias] = [await folded.weight.data<'float32'>(), await folded.bias.data<'float32'>()]
  const {names, palette} = classes
  return {
    ...(await writeLayer(folder, 'regions', weight.slice(), bias.slice())),
    protocol,
    classes: names.map((text, k) => ({name: text, colour: [palette[3 * k]!, palette[3 * k + 1]!, palette[3 * k + 2]!]}))
  }
}

/**
 * Writes heads and describes them. Throws a `UserError` (exit 2) for two heads of a task, for DPT heads, and for a
 * range of depth without a depth head; and what opening them throws.
 */
export async function writeHeads(names: readonly string[], options: HeadFileOptions): Promise<SiteHeads> {
  const byTask = new Map<HeadTask, string>()
  for (const name of names) {
    const task = await headTask(name)
    const other = byTask.get(task)
    if (other !== undefined)
      throw new UserError(`${other} and ${name} are both heads for ${task}.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'Give one head of a task, or write two sites.'
      })
    byTask.set(task, name)
  }
  if ((options.minDepth ?? options.maxDepth) !== undefined && !byTask.has('depth'))
    throw new UserError('A range of depth was given, but no depth head.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave --min-depth and --max-depth out, or name the head with --head.'
    })
  const write = async <T>(task: HeadTask, make: (name: string, options: HeadFileOptions) => Promise<T>): Promise<T | null> =>
    byTask.has(task) ? make(byTask.get(task)!, options) : null
  return {
    classifier: await write('classify', writeClassifier),
    depth: await write('depth', writeDepth),
    regions: await write('segment', writeRegions)
  }
}
