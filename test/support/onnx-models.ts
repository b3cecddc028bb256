/** Backbones of every architecture with heads, exported to ONNX, and what this program computes of the same pixels. */
import {join} from 'node:path'
import {createSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {saveHead} from '../../src/files/checkpoint/head-file.js'
import {writePth} from '../../src/files/checkpoint/pth.js'
import type {SegmentHeadSpec} from '../../src/files/checkpoint/segment-head-file.js'
import {float32Bytes} from '../../src/files/checkpoint/tensor-entry.js'
import {classifierScores} from '../../src/heads/logistic.js'
import type {VitConfig} from '../../src/model/config.js'
import {forward, intermediateLayers} from '../../src/model/vit.js'
import {normalizeRows} from '../../src/search/exact.js'
import {imageMean, imageStd} from '../../src/tensor/ops/patches.js'
import {concat, reshape, slice, squeeze, tensor2d, tensor4d, tidy, transpose, type Tensor, type Tensor4D} from '../../src/tensor/tf.js'
import {rng} from '../../src/tensor/random.js'
import {denseFeatures} from '../../src/tasks/embed/dense-features.js'
import {loadBackbone, type Backbone} from '../../src/tasks/embed/load-backbone.js'
import {pooled} from '../../src/model/pooled.js'
import {openClassifier} from '../../src/tasks/eval/classification/classifier-file.js'
import {openDepthHead} from '../../src/tasks/eval/depth/head.js'
import {upsampleDepth} from '../../src/heads/depth-head.js'
import {slidingLogits} from '../../src/heads/segment-inference.js'
import {dptShapes} from '../../src/heads/dpt.js'
import {loadSegmentHead} from '../../src/tasks/eval/segmentation/head.js'
import {tiny} from './tiny-backbone.js'

/** One of each kind: every patch side, MLP and SwiGLU, registers, LayerScale or none, both ways of resampling. */
export const architectures: Readonly<Record<string, {readonly config: VitConfig; readonly side: number}>> = {
  plain: {config: {...tiny, width: 48, heads: 3}, side: 84},
  registers: {config: {...tiny, registers: 4, interpolateOffset: 0, interpolateAntialias: true}, side: 42},
  giant: {config: {...tiny, ffn: 'swiglu', hidden: 48, patch: 14, depth: 4}, side: 56},
  'registers and SwiGLU': {
    config: {...tiny, ffn: 'swiglu', hidden: 40, registers: 2, patch: 16, interpolateOffset: 0, interpolateAntialias: true},
    side: 80
  },
  'patch 8, no LayerScale': {config: {...tiny, patch: 8, layerScale: false, heads: 4, depth: 4}, side: 40}
}

const draw = (name: string, length: number, scale = 0.3): Float32Array => {
  const random = rng(3, name)
  return Float32Array.from({length}, () => scale * random.normal())
}

/** Heads of all three tasks for a backbone; `segment` is what the segmentation head says otherwise; → their files. */
export async function saveHeads(
  folder: string,
  {config: {width: C}, fingerprint}: Backbone,
  segment: Partial<SegmentHeadSpec> = {}
): Promise<string[]> {
  const trainedOn = {fingerprint}
  const save = async (
    task: 'classify' | 'depth' | 'segment',
    spec: object,
    shapes: Readonly<Record<string, readonly number[]>>
  ): Promise<string> => {
    const path = join(folder, `${task}.safetensors`)
    const tensors = new Map(
      Object.entries(shapes).map(([name, shape]) => {
        const data = draw(
          name,
          shape.reduce((a, b) => a * b, 1)
        )
        return [name, {shape, data: name === 'bn.running_var' ? data.map(value => 0.5 + value * value) : data}]
      })
    )
    await saveHead(path, {task, tensors, spec, trainedOn}, {force: true})
    return path
  }
  const classes = ['cat', 'dog', 'fox']
  return [
    await save(
      'classify',
      {kind: 'linear', pool: 'cls+mean', layers: 2, normalize: true, start: C, length: 2 * C, classes},
      {weight: [3, 2 * C], bias: [3]}
    ),
    await save(
      'depth',
      {dense: {layers: [0, 2], cls: true, norm: false}, bins: {min: 0.5, max: 8, count: 20, spacing: 'log'}},
      {'conv_depth.weight': [20, 4 * C], 'conv_depth.bias': [20]}
    ),
    await save(
      'segment',
      {
        kind: 'linear',
        layers: [1, 2],
        size: 56,
        crop: null,
        stride: null,
        scales: [1],
        flip: false,
        classes: classes.map((name, id) => ({id, name, colour: [id, id, id]})),
        ignored: [],
        ...segment
      },
      {
        'bn.weight': [2 * C],
        'bn.bias': [2 * C],
        'bn.running_mean': [2 * C],
        'bn.running_var': [2 * C],
        'conv_seg.weight': [3, 2 * C],
        'conv_seg.bias': [3]
      }
    )
  ]
}

/** A DPT head of random numbers as it is published, for a backbone of at least four blocks; → its file. */
export async function saveDpt(folder: string, {width}: VitConfig): Promise<string> {
  const path = join(folder, 'nyu_dpt_depth.pth')
  const tensors = [...dptShapes(width, 8)].map(([name, shape]) => ({
    name: `decode_head.${name}`,
    dtype: 'F32' as const,
    shape,
    // Scaled so that depth stays within the range, where clamping would hide differences.
    read: () => float32Bytes(draw(name, shape.reduce((a, b) => a * b, 1), shape.length > 1 ? shape.slice(1).reduce((a, b) => a * b, 1) ** -0.5 : 0.3)) // prettier-ignore
  }))
  await writePth(path, tensors, {root: 'state_dict', force: true})
  return path
}

/** Two images of noise between 0 and 1 as [2, side, side, 3]. */
export function noise(side: number): Float32Array {
  const random = rng(side, 'noise')
  return Float32Array.from({length: 2 * side * side * 3}, () => random.int(256) / 255)
}

const normalized = (pixels: Float32Array): Float32Array => pixels.map((value, i) => (value - imageMean[i % 3]!) / imageStd[i % 3]!)

/**
 * What this program computes on the running engine of two images of noise, written as tensors beside `pixel_values`
 * [2, 3, side, side]; `isNormalized` says whether those are normalized.
 */
export async function writeExpected(
  path: string,
  model: string,
  {side, heads = [], isNormalized = true}: {readonly side: number; readonly heads?: readonly string[]; readonly isNormalized?: boolean}
): Promise<void> {
  using backbone = await loadBackbone(model)
  const raw = noise(side)
  const outputs = new Map<string, Tensor>()
  const images = tensor4d(normalized(raw), [2, side, side, 3])
  const {cls, registers, patches} = forward(backbone.params, images, backbone.config)
  const all = tidy(() => {
    const rows = [reshape(cls, [2, 1, -1]), registers, patches]
    return rows[0]!.concat([registers, patches] as Tensor<never>[], 1)
  })
  outputs.set('last_hidden_state', all).set('pooler_output', cls).set('patch_tokens', patches)
  for (const head of heads) for (const [name, value] of await answers(head, backbone, images, side)) outputs.set(name, value)
  const shown = tensor4d(isNormalized ? normalized(raw) : raw, [2, side, side, 3])
  outputs.set('pixel_values', transpose(shown, [0, 3, 1, 2]))
  const specs = [...outputs].map(([name, {shape}]) => ({name, dtype: 'F32' as const, shape}))
  const writer = await createSafetensors(path, specs, {}, {force: true})
  for (const [name, leaf] of outputs) await writer.write(name, float32Bytes((await leaf.data<'float32'>()).slice()))
  await writer.commit()
  for (const leaf of [...outputs.values(), images, shown, registers]) leaf.dispose()
}

/** What the heads say, as the commands of prediction compute it. */
async function answers(head: string, backbone: Backbone, images: Tensor4D, side: number): Promise<[string, Tensor][]> {
  if (head.includes('classify')) {
    const {classifier, features} = await openClassifier(head, backbone)
    const vectors = tidy(() => pooled(intermediateLayers(backbone.params, images, backbone.config, {n: features.layers}), features.pool))
    const dim = vectors.shape[1]!
    const rows = normalizeRows((await vectors.data<'float32'>()).slice(), dim)
    vectors.dispose()
    const {start, length} = classifier.kind
    return [['logits', tidy(() => classifierScores(slice(tensor2d(rows, [2, dim]), [0, start], [2, length]), classifier))]]
  }
  if (head.includes('depth')) {
    using probe = await openDepthHead(head, {backbone})
    const depth = tidy(() => {
      const coarse = probe.depth(denseFeatures(backbone, images, probe.dense))
      return squeeze(upsampleDepth(coarse, probe.range, [side, side]), [3])
    })
    return [['predicted_depth', depth]]
  }
  using loaded = await loadSegmentHead(head, backbone, 'the model')
  const {layers} = loaded.protocol
  const features = {compute: (windows: Tensor4D) => denseFeatures(backbone, windows, {layers, cls: false, norm: true}), batch: () => 4}
  const scores = tidy(() => {
    const each = [0, 1].map(i => slidingLogits(slice(images, [i, 0, 0, 0], [1, -1, -1, -1]), features, loaded.folded, loaded.protocol))
    return transpose(concat(each, 0), [0, 3, 1, 2])
  })
  return [['segmentation_logits', scores]]
}
