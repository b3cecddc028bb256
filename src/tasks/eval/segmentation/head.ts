/** A segmentation head and its backbone, brought together: from training to a file, and from a file to predictions. */
import {UserError} from '../../../config/errors.js'
import type {Classes} from '../../../data/targets/class-map.js'
import type {HeadTensors} from '../../../files/checkpoint/head-file.js'
import {openSegmentHead, type OpenedSegmentHead, type SegmentHeadSpec} from '../../../files/checkpoint/segment-head-file.js'
import {foldSegmentHead, type SegmentHead} from '../../../heads/segment-head.js'
import {tensor} from '../../../tensor/tf.js'
import {flatten, disposeTree, unflatten} from '../../../tensor/tree.js'
import type {Backbone} from '../../embed/load-backbone.js'
import type {FoldedHead, SegmentProtocol} from '../../../heads/segment-inference.js'

/** What a head's file says, made ready for a backbone. Dispose it to free the layer. */
export type LoadedSegmentHead = {
  readonly folded: FoldedHead
  readonly protocol: SegmentProtocol
  readonly classes: Classes
  readonly file: OpenedSegmentHead
  [Symbol.dispose](): void
}

/** The numbers of a head, for its file. */
export async function headTensors(head: SegmentHead): Promise<HeadTensors> {
  const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
  for (const [name, leaf] of flatten(head)) tensors.set(name, {shape: leaf.shape, data: (await leaf.data<'float32'>()).slice()})
  return tensors
}

/** A head from the numbers of its file. */
const headFromTensors = (tensors: HeadTensors): SegmentHead =>
  unflatten<SegmentHead>([...tensors].map(([name, {shape, data}]) => [name, tensor(data, [...shape])] as const))

/** The classes of a head, as masks know them. */
export function specClasses({classes, ignored}: SegmentHeadSpec): Classes {
  return {
    names: classes.map(({name}) => name),
    ids: classes.map(({id}) => id),
    ignored,
    palette: Uint8Array.from(classes.flatMap(({colour}) => [...colour]))
  }
}

/**
 * The blocks that a head reads, counted from 0. Throws a `UserError` (exit 2) where it is of a width that no number of
 * last blocks has.
 */
export function segmentLayers({path, spec, tensors}: OpenedSegmentHead, config: Backbone['config'], model: string): readonly number[] {
  const D = tensors.get('bn.weight')!.data.length
  const blocks = D / config.width
  if (
    !Number.isInteger(blocks) ||
    blocks > config.depth ||
    (spec.layers && (spec.layers.length !== blocks || spec.layers.some(l => l >= config.depth)))
  )
    throw new UserError(`The head ${path} reads ${D} channels, but ${model} has ${config.width} a block and ${config.depth} blocks.`, {
      exit: 2,
      code: 'WRONG_HEAD',
      hint: 'A head fits the architecture that it was trained on.'
    })
  return spec.layers ?? Array.from({length: blocks}, (_, i) => config.depth - blocks + i)
}

/**
 * Opens a head for a backbone. Throws a `UserError` (exit 2) where the head was trained on another backbone (both
 * fingerprints are named), or is of a width that no number of last blocks has.
 */
export async function loadSegmentHead(
  path: string,
  {config, fingerprint}: Pick<Backbone, 'config' | 'fingerprint'>,
  model: string
): Promise<LoadedSegmentHead> {
  const file = await openSegmentHead(path, fingerprint)
  const {spec, tensors} = file
  const layers = segmentLayers(file, config, model)
  const head = headFromTensors(tensors)
  const folded = foldSegmentHead(head)
  disposeTree(head)
  const {size, crop, stride, scales, flip} = spec
  return {
    file,
    folded,
    classes: specClasses(spec),
    protocol: {layers, size, scales, flip, ...(crop === null ? {} : {crop}), ...(stride === null ? {} : {stride})},
    [Symbol.dispose]: () => disposeTree({...folded})
  }
}
