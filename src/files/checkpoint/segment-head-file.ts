/**
 * Segmentation heads on disk: our own (`head-file.ts`), and the published ones (`dinov2_vits14_ade20k_linear_head.pth`
 * and the like), which are checkpoints of mmsegmentation. Of those only `state_dict` is read, through the allow-list
 * of `pickle.ts`; whatever else lies in them stays unread.
 */
import {readFinite} from './tensor-entry.js'
import {UserError} from '../../config/errors.js'
import {findModelFile} from './fetch-missing.js'
import {openHead, type HeadTensors} from './head-file.js'
import {openPth} from './pth.js'
import type {TensorEntry} from './tensor-entry.js'

/** What must be known of a head to use it again. */
export type SegmentHeadSpec = {
  readonly kind: 'linear' | 'ms'
  /**
   * Blocks counted from 0; null (published heads, which do not say): as many last blocks as the width of the head
   * tells.
   */
  readonly layers: readonly number[] | null
  /** Short side of pictures, in pixels. */
  readonly size: number
  /** Side of the windows; null: whole pictures. */
  readonly crop: number | null
  readonly stride: number | null
  readonly scales: readonly number[]
  readonly flip: boolean
  /** Ids in masks, names and colours, in the order of the scores. */
  readonly classes: readonly {readonly id: number; readonly name: string; readonly colour: readonly [number, number, number]}[]
  /** Ids that do not count. */
  readonly ignored: readonly number[]
}

export type OpenedSegmentHead = {
  readonly path: string
  readonly spec: SegmentHeadSpec
  /** Fingerprint of the backbone; absent for published heads. */
  readonly backbone?: string
  readonly trainedOn: Readonly<Record<string, unknown>>
  /** By the names of `SegmentHead`. */
  readonly tensors: HeadTensors
}

const names = ['bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var', 'conv_seg.weight', 'conv_seg.bias'] as const

const wrong = (path: string, what: string, hint?: string): UserError =>
  new UserError(`${path} is no segmentation head: ${what}.`, {exit: 2, code: 'WRONG_HEAD', hint})

/**
 * Opens one of ours or, by its name or the ending `.pth`, a published one. Throws a `UserError` naming what is missing
 * or does not fit, and what `openHead` throws.
 */
export async function openSegmentHead(name: string, backbone?: string): Promise<OpenedSegmentHead> {
  const path = (await findModelFile(name, ['segmentation'])) ?? name
  if (/\.(pth|pt|bin|ckpt)$/i.test(path)) return openPublished(path)
  const {tensors, spec, trainedOn} = await openHead(path, {task: 'segment', backbone})
  const wanted = spec as SegmentHeadSpec
  check(path, new Map([...tensors].map(([name, {shape}]) => [name, shape])), '')
  const K = tensors.get('conv_seg.bias')!.data.length
  if (wanted.classes.length !== K) throw wrong(path, `it names ${wanted.classes.length} classes, but has scores for ${K}`)
  return {path, spec: wanted, backbone: trainedOn.fingerprint, trainedOn, tensors}
}

/** How the published heads were trained and are tested (docs/spec.md §5.5), by what their names say. */
async function openPublished(path: string): Promise<OpenedSegmentHead> {
  const file = await openPth(path, {tolerant: true})
  try {
    const state = file.roots.get('state_dict') ?? new Map<string, TensorEntry>()
    check(path, new Map([...state].map(([name, {shape}]) => [name, shape])), 'decode_head.')
    const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
    for (const name of names) {
      const entry = state.get(`decode_head.${name}`)!
      tensors.set(name, {shape: entry.shape.slice(0, 2), data: await readFinite(entry, name, path)})
    }
    const K = tensors.get('conv_seg.bias')!.data.length
    const name = path.split(/[\\/]/).at(-1)!
    // ADE20K's masks have 0 for pixels that do not count and classes from 1 on; VOC's have classes from 0 on and 255.
    const first = K === 150 ? 1 : 0
    const ms = /(^|_)ms_/.test(name)
    return {
      path,
      tensors,
      trainedOn: {published: name},
      spec: {
        kind: ms ? 'ms' : 'linear',
        layers: null,
        size: ms ? 640 : 512,
        crop: ms ? 640 : 512,
        stride: ms ? 320 : 341,
        scales: ms ? [1, 1.32, 1.73, 2.28, 3] : [1],
        flip: ms,
        classes: Array.from({length: K}, (_, i) => ({id: i + first, name: `class ${i + first}`, colour: vocColour(i + first)})),
        ignored: first === 1 ? [0] : [255]
      }
    }
  } finally {
    await file.close()
  }
}

/** The colour of an id in masks of Pascal VOC: its bits dealt out to the upper bits of red, green and blue. */
export function vocColour(id: number): [number, number, number] {
  const colour: [number, number, number] = [0, 0, 0]
  for (let bit = 7, rest = id; bit >= 0; bit--, rest >>= 3) for (let c = 0; c < 3; c++) colour[c]! |= ((rest >> c) & 1) << bit
  return colour
}

/** Throws where a tensor is missing or of another shape than the others say. */
function check(path: string, shapes: ReadonlyMap<string, readonly number[]>, prefix: string): void {
  const missing = names.filter(name => !shapes.has(prefix + name))
  if (missing.length > 0)
    throw wrong(
      path,
      `it lacks ${missing.map(name => prefix + name).join(', ')}`,
      shapes.has('decode_head.conv_depth.weight') ? 'It is a head for depth.' : undefined
    )
  const weight = shapes.get(`${prefix}conv_seg.weight`)!
  const [K, D, ...rest] = weight
  if (K === undefined || D === undefined || rest.some(length => length !== 1))
    throw wrong(path, `${prefix}conv_seg.weight is [${weight.join(', ')}], where [classes, channels, 1, 1] was expected`)
  for (const name of names) {
    const shape = shapes.get(prefix + name)!
    const expected = name === 'conv_seg.bias' ? K : D
    if (name !== 'conv_seg.weight' && (shape.length !== 1 || shape[0] !== expected))
      throw wrong(path, `${prefix}${name} is [${shape.join(', ')}], where [${expected}] was expected`)
  }
}
