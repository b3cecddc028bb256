/**
 * The recorded backbones: weights from both kinds of file, features whole, masked and resized, intermediate layers,
 * and gradients of a scalar.
 */
import {openBackbone, readBackbone} from '../../files/checkpoint/backbone.js'
import type {VitConfig} from '../../model/config.js'
import {backwardTrain, castParams, forward, forwardTrain, intermediateLayers} from '../../model/vit.js'
import type {Features, Vit} from '../../model/vit.js'
import {add, concat, dispose, mul, reshape, slice, sum, tensor, tidy, transpose, zeros} from '../../tensor/tf.js'
import type {Tensor, Tensor2D, Tensor3D, Tensor4D} from '../../tensor/tf.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {disposeTree, unflatten, leaves} from '../../tensor/tree.js'
import {check, compareTensor, compareCosine, LIMITS, type Check} from './checks.js'
import {need, engineTensor, type Golden, type RecordedTensor, type RecordedVit} from './golden.js'

/** What shapes cannot tell of a recorded backbone; defaults are those of the reference's constructor. */
export const overridesOf = ({num_heads, interpolate_antialias, interpolate_offset}: RecordedVit): Partial<VitConfig> => ({
  heads: num_heads ?? 12,
  interpolateAntialias: interpolate_antialias ?? false,
  interpolateOffset: interpolate_offset ?? 0.1
})

/** Images as recorded [B, 3, H, W] → [B, H, W, 3]. */
export const images = (recorded: RecordedTensor): Tensor4D => tidy(() => transpose(engineTensor<Tensor4D>(recorded), [0, 2, 3, 1]))

/** Names of the reference's chunked blocks (`blocks.1.2.norm1`) as those of plain ones (`blocks.2.norm1`). */
const unchunked = (name: string): string => name.replace(/^blocks\.\d+\.(\d+)\./, 'blocks.$1.')

/** One recorded backbone on the running engine. */
export async function* verifyBackbone(golden: Golden, name: string, precision: Precision): AsyncGenerator<Check> {
  const exact = precision === 'fp32'
  const part = `vit ${name}${exact ? '' : ` ${precision}`}`
  const overrides = overridesOf(golden.index.vit[name]!)
  const {config, checkpoint} = await openBackbone(golden.path(`vit_${name}.safetensors`), {overrides})
  const named: [string, Tensor][] = []
  for await (const {name: key, shape, data} of readBackbone(config, checkpoint)) named.push([key, tensor(data, [...shape])])
  await checkpoint.close()
  const master = unflatten<Vit>(named)
  const low = exact ? undefined : castParams(master, precision)
  const params = low?.params ?? master
  const file = `vit_${name}_io`
  const io = await golden.tensors(file)
  const judge = (what: string, computed: Tensor, recorded: RecordedTensor): Promise<Check> =>
    exact ? compareTensor(part, what, computed, recorded, LIMITS.forward) : compareCosine(part, what, computed, recorded, LIMITS.cosine)
  const inputs = {x: images(need(io, 'x', file)), x2: images(need(io, 'x2', file)), masks: engineTensor<Tensor2D>(need(io, 'masks', file))}
  try {
    if (exact) yield* verifyPth(golden, name, part, overrides, named)
    for (const [pass, image, masks] of [
      ['full', inputs.x, undefined],
      ['masked', inputs.x, inputs.masks],
      ['resized', inputs.x2, undefined]
    ] as const) {
      const features = forward(params, image, config, masks ? {masks} : {})
      for (const [what, computed] of outputs(features, config))
        yield await judge(`${pass}.${what}`, computed, need(io, `${pass}.${what}`, file))
      dispose(features)
    }
    const last = intermediateLayers(params, inputs.x, config, {n: 2})
    for (const [i, {patches, cls}] of last.entries()) {
      yield await judge(`intermediate2.${i}.patch`, patches, need(io, `intermediate2.${i}.patch`, file))
      yield await judge(`intermediate2.${i}.cls`, cls, need(io, `intermediate2.${i}.cls`, file))
    }
    dispose(last)
    const chosen = intermediateLayers(params, inputs.x2, config, {n: [0, 2], norm: false})
    for (const [i, {patches}] of chosen.entries()) {
      const key = `intermediate_idx02_reshape_nonorm.${i}`
      const recorded = need(io, key, file)
      const [B, C, rows, columns] = recorded.shape as [number, number, number, number]
      const map = tidy(() => transpose(reshape(patches, [B, rows, columns, C]), [0, 3, 1, 2]))
      yield await judge(key, map, recorded)
      dispose(map)
    }
    dispose(chosen)
    yield* verifyGradients({part, io, file, exact}, params, config, inputs)
  } finally {
    dispose(inputs)
    if (low) dispose(low.owned)
    disposeTree(master)
  }
}

/** The outputs that the reference returns, by its names. */
function outputs({cls, patches, registers, prenorm}: Features, config: VitConfig): [string, Tensor][] {
  return [
    ['x_norm_clstoken', cls],
    ['x_norm_patchtokens', patches],
    ...(config.registers > 0 ? ([['x_norm_regtokens', registers]] as [string, Tensor][]) : []),
    ['x_prenorm', prenorm]
  ]
}

/** The pickled file must hold the very numbers of the safetensors file. */
async function* verifyPth(
  golden: Golden,
  name: string,
  part: string,
  overrides: Partial<VitConfig>,
  named: readonly [string, Tensor][]
): AsyncGenerator<Check> {
  const {config, checkpoint} = await openBackbone(golden.path(`vit_${name}.pth`), {overrides})
  try {
    const other = new Map<string, Float32Array>()
    for await (const {name: key, data} of readBackbone(config, checkpoint)) other.set(key, data)
    let differing = 0
    for (const [key, leaf] of named) {
      const [a, b] = [await leaf.data(), other.get(key)]
      if (!b || a.length !== b.length) differing += leaf.size
      else for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) differing++
    }
    yield check(part, 'weights: .pth as .safetensors', 'count', differing, 0)
  } finally {
    await checkpoint.close()
  }
}

type Inputs = {x: Tensor4D; masks: Tensor2D}

/** The recorded tensors of one model, the file they lie in, and whether they bind: a bf16 run is only reported. */
type Recording = {
  readonly part: string
  readonly io: ReadonlyMap<string, RecordedTensor>
  readonly file: string
  readonly exact: boolean
}

/** Σ cls·w_cls + Σ patches·w_patch on the masked images, and its gradient with respect to every parameter. */
async function* verifyGradients(
  {part, io, file, exact}: Recording,
  params: Vit,
  config: VitConfig,
  {x, masks}: Inputs
): AsyncGenerator<Check> {
  const {width: C, registers: R} = config
  const B = x.shape[0]
  const options = params.blocks.map(() => ({heads: config.heads}))
  const {scalar, grads} = tidy(() => {
    const wCls = engineTensor<Tensor2D>(need(io, 'grad.w_cls', file)) //                 [B, C]
    const wPatch = engineTensor<Tensor3D>(need(io, 'grad.w_patch', file)) //             [B, N, C]
    const {y, trace} = forwardTrain(params, [{images: x, masks}], config, options)
    const tokens = reshape(y, [B, -1, C]) as Tensor3D //                             [B, S, C]
    const cls = sum(mul(slice(tokens, [0, 0, 0], [B, 1, C]), reshape(wCls, [B, 1, C])))
    const patches = sum(mul(slice(tokens, [0, 1 + R, 0]), wPatch))
    const dy = concat([reshape(wCls, [B, 1, C]), zeros([B, R, C]), wPatch] as Tensor3D[], 1)
    return {scalar: add(cls, patches), grads: backwardTrain(reshape(dy, [-1, C]), params, trace, config)}
  })
  try {
    const recordedScalar = need(io, 'grad.scalar', file)
    // A sum of products may be small by cancellation, so it is judged against the size of what is summed.
    const size = Math.hypot(...sample(io, file))
    const error = Math.abs((await scalar.data())[0]! - recordedScalar.data[0]!) / size
    yield check(part, 'grad.scalar', 'max', error, exact ? LIMITS.forward : null)
    const named = new Map([...leaves(grads)])
    const recorded = new Map(
      [...io]
        .filter(([key]) => key.startsWith('grad.') && !GRADIENT_INPUTS.has(key))
        .map(([key, value]) => [unchunked(key.slice(5)), value])
    )
    for (const [key, value] of recorded) {
      const computed = named.get(key)
      if (!computed) yield check(part, `grad.${key}`, 'max', NaN, LIMITS.gradient)
      else if (exact) yield await compareTensor(part, `grad.${key}`, computed, value, LIMITS.gradient)
      else yield await compareCosine(part, `grad.${key}`, computed, value, null)
    }
    const unrecorded = [...named.keys()].filter(key => !recorded.has(key))
    yield check(part, 'parameters without a recorded gradient', 'count', unrecorded.length, 0)
  } finally {
    dispose(scalar)
    disposeTree(grads)
  }
}

const GRADIENT_INPUTS = new Set(['grad.w_cls', 'grad.w_patch', 'grad.scalar'])

/** The products whose sum is the recorded scalar, from the recorded features. */
function* sample(io: ReadonlyMap<string, RecordedTensor>, file: string): Generator<number> {
  for (const [feature, weight] of [
    ['masked.x_norm_clstoken', 'grad.w_cls'],
    ['masked.x_norm_patchtokens', 'grad.w_patch']
  ] as const) {
    const [a, b] = [need(io, feature, file).data, need(io, weight, file).data]
    for (let i = 0; i < a.length; i++) yield a[i]! * b[i]!
  }
}
