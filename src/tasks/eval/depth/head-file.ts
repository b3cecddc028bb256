/**
 * Files of depth heads: those that were trained here, and the published ones, linear or DPT.
 *
 * Published heads are mmcv checkpoints: only their `state_dict` is read, by the allow-list reader, whatever else they
 * hold. What they do not say is supplied: the blocks that they read (docs/spec.md §5.4), their features without the
 * final norm, and the range of depth, which is that of the data set in the file's name unless it is given. The hub's
 * linear constructor always takes 80 m, also for heads trained to 10 m; here NYU heads have 10 m.
 */
import {readFinite} from '../../../files/checkpoint/tensor-entry.js'
import {basename} from 'node:path'
import {UserError} from '../../../config/errors.js'
import {findModelFile} from '../../../files/checkpoint/fetch-missing.js'
import {openHead, type HeadTensors} from '../../../files/checkpoint/head-file.js'
import {openPth} from '../../../files/checkpoint/pth.js'
import type {TensorEntry} from '../../../files/checkpoint/tensor-entry.js'
import type {VitConfig} from '../../../model/config.js'
import type {DepthBins} from '../../../heads/depth-head.js'
import {dptShapes} from '../../../heads/dpt.js'
import type {Backbone} from '../../embed/load-backbone.js'
import type {DenseSettings} from '../../../model/dense-maps.js'
import type {DepthRange} from './dataset.js'

/** What a head file of ours says of itself. */
export type DepthHeadSpec = {
  readonly dense: DenseSettings
  readonly bins: DepthBins
  /** Short side of the images that it was trained on; absent: as they were. */
  readonly size?: number
}

export type DepthHeadOptions = {
  readonly backbone: Pick<Backbone, 'config' | 'fingerprint'>
  /** The range of depth, where it is given. */
  readonly min?: number
  readonly max?: number
}

/**
 * Blocks that the heads on four blocks read: those published for the depths published, evenly spaced ones otherwise,
 * the last one always among them.
 */
export function fourBlocks(depth: number): number[] {
  const published: Readonly<Record<number, number[]>> = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23], 40: [9, 19, 29, 39]}
  return published[depth] ?? [1, 2, 3, 4].map(i => Math.max(0, Math.round((i * depth) / 4) - 1))
}

/** A depth head as its file has it: names, shapes and numbers, and what it reads and says. */
export type DepthHeadFile = {
  readonly kind: 'linear' | 'dpt'
  readonly dense: DenseSettings
  readonly range: DepthRange
  /** Of linear heads. */
  readonly bins?: DepthBins
  /** Short side of the images that it wants to see, where it says. */
  readonly size?: number
  /** Without the prefix `decode_head.`; kernels of one pixel as matrices. */
  readonly tensors: HeadTensors
}

/**
 * Reads a head for a backbone.
 *
 * Throws a `UserError`: no such file (exit 3), a file that holds no depth head or one that does not fit the backbone
 * (all differences in one message), a range that is not known (exit 2).
 */
export async function readDepthHead(name: string, options: DepthHeadOptions): Promise<DepthHeadFile> {
  const path = await findHeadFile(name)
  if (/\.(pth|pt|bin|ckpt)$/i.test(path)) return readPublishedHead(path, options)
  const {tensors, spec} = await openHead(path, {task: 'depth', backbone: options.backbone.fingerprint})
  const {dense, bins, size} = spec as unknown as DepthHeadSpec
  const [weight, bias] = [tensors.get('conv_depth.weight'), tensors.get('conv_depth.bias')]
  if (!weight || !bias) throw new UserError(`${path} holds no linear depth head.`, {code: 'BAD_CHECKPOINT'})
  const {width, depth} = options.backbone.config
  const channels = dense.layers.length * width * (dense.cls ? 2 : 1)
  if (
    weight.shape.join() !== [bins.count, channels].join() ||
    bias.shape.join() !== String(bins.count) ||
    dense.layers.some(l => l >= depth)
  )
    throw new UserError(
      `${path} is damaged: it says ${bins.count} bins on blocks ${dense.layers.join(', ')} of ${depth}, ${channels} channels, but its weights are [${weight.shape.join(', ')}] and [${bias.shape.join(', ')}].`,
      {code: 'BAD_CHECKPOINT', hint: 'Train it again, or fetch it again.'}
    )
  return {kind: 'linear', dense, range: bins, bins, size, tensors}
}

/** The file that a name of `--head` means: itself, or a released head that was pulled. */
async function findHeadFile(name: string): Promise<string> {
  const path = await findModelFile(name, ['depth'])
  if (path === undefined)
    throw new UserError(`There is no head ${name}.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Give lin1 or lin4 to train one, a file, or the name of a released depth head (dinov2 models list).'
    })
  return path
}

/** The range of a published head: given, or that of the data set in its name. */
function publishedRange(path: string, {min, max}: DepthHeadOptions): DepthRange {
  const known = /kitti/i.test(basename(path)) ? 80 : /nyu/i.test(basename(path)) ? 10 : undefined
  const most = max ?? known
  if (most === undefined)
    throw new UserError(`${path} does not say up to which depth it was trained, and its name holds neither nyu nor kitti.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --max-depth: 10 for heads trained on NYU, 80 for KITTI.'
    })
  return {min: min ?? 0.001, max: most}
}

async function readPublishedHead(path: string, options: DepthHeadOptions): Promise<DepthHeadFile> {
  const range = publishedRange(path, options)
  const {config} = options.backbone
  const file = await openPth(path, {tolerant: true})
  try {
    const found = new Map<string, TensorEntry>()
    for (const [key, entry] of file.roots.get('state_dict') ?? [])
      if (key.startsWith('decode_head.')) found.set(key.slice('decode_head.'.length), entry)
    if (!found.has('conv_depth.weight') && !found.has('conv_depth.head.0.weight'))
      throw new UserError(`${path} holds no depth head: its state_dict has no decode_head.conv_depth.`, {
        code: 'BAD_CHECKPOINT',
        hint: 'Depth heads are those of dinov2 models list with nyu or kitti in their names.'
      })
    const {shapes, kind, layers} = found.has('conv_depth.weight') ? linearShapes(found, config, path) : dptLayout(found, config)
    assertShapesMatch(path, shapes, found, config)
    const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
    for (const name of shapes.keys()) {
      const entry = found.get(name)!
      const shape = kind === 'linear' ? entry.shape.slice(0, 2) : entry.shape
      tensors.set(name, {shape, data: await readFinite(entry, name, path)})
    }
    const dense: DenseSettings = {layers, cls: true, norm: false}
    if (kind === 'dpt') return {kind, dense, range, tensors}
    const count = tensors.get('conv_depth.bias')!.data.length
    return {kind, dense, range, bins: {...range, count, spacing: 'uniform'}, tensors}
  } finally {
    await file.close()
  }
}

type Layout = {readonly shapes: Map<string, readonly number[]>; readonly kind: 'linear' | 'dpt'; readonly layers: readonly number[]}

/** A linear head reads one block or four; its width says which. */
function linearShapes(found: ReadonlyMap<string, TensorEntry>, {width, depth}: VitConfig, path: string): Layout {
  const [K = 0, D = 0] = found.get('conv_depth.weight')!.shape
  const blocks = D / (2 * width)
  if (blocks !== 1 && blocks !== 4)
    throw new UserError(
      `The head ${path} reads ${D} channels, but the backbone gives ${2 * width} from one block and ${8 * width} from four.`,
      {
        code: 'UNFIT_HEAD',
        hint: `It belongs to a backbone ${[D / 2, D / 8].filter(Number.isInteger).join(' or ')} wide.`
      }
    )
  return {
    kind: 'linear',
    layers: blocks === 1 ? [depth - 1] : fourBlocks(depth),
    shapes: new Map([
      ['conv_depth.weight', [K, D, 1, 1]],
      ['conv_depth.bias', [K]]
    ])
  }
}

function dptLayout(found: ReadonlyMap<string, TensorEntry>, {width, depth}: VitConfig): Layout {
  const F = found.get('project.conv.bias')?.shape[0] ?? 256
  return {kind: 'dpt', layers: fourBlocks(depth), shapes: dptShapes(width, F)}
}

/** Refuses a head that does not fit, with all differences in one message. */
function assertShapesMatch(
  path: string,
  shapes: ReadonlyMap<string, readonly number[]>,
  found: ReadonlyMap<string, TensorEntry>,
  {width}: VitConfig
): void {
  const missing = [...shapes.keys()].filter(name => !found.has(name))
  const wrong = [...shapes].flatMap(([name, shape]) => {
    const has = found.get(name)?.shape
    return has && has.join() !== shape.join() ? [`${name} is [${has.join(', ')}] instead of [${shape.join(', ')}]`] : []
  })
  const unexpected = [...found.keys()].filter(name => !shapes.has(name))
  if (missing.length + wrong.length + unexpected.length === 0) return
  const some = (names: readonly string[]): string =>
    names.slice(0, 6).join(', ') + (names.length > 6 ? `, and ${names.length - 6} more` : '')
  const parts = [
    ...(missing.length ? [`missing: ${some(missing)}`] : []),
    ...(wrong.length ? [`wrong shape: ${some(wrong)}`] : []),
    ...(unexpected.length ? [`unexpected: ${some(unexpected)}`] : [])
  ]
  throw new UserError(`The head ${path} does not fit a backbone ${width} wide (${parts.join('; ')}).`, {code: 'UNFIT_HEAD'})
}
