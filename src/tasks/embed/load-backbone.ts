/**
 * A backbone ready to compute: opened from whatever holds it, checked, and put into the running engine one tensor at a
 * time.
 */
import {startEngine, type EngineInfo, type EngineRequest} from '../../engine/start.js'
import {assertModelThere} from '../../files/checkpoint/checkpoint.js'
import {fingerprintHash} from '../../files/checkpoint/fingerprint.js'
import {foldNormalization} from '../../files/checkpoint/fold-normalization.js'
import {openBackbone, readBackbone, type NamedTensor} from '../../files/checkpoint/backbone.js'
import {defaultPreprocessing, describePreprocessing, isImageNet, type Preprocessing} from '../../files/checkpoint/preprocessing.js'
import type {VitConfig} from '../../model/config.js'
import type {Block} from '../../model/block.js'
import {castBlock, castPatchEmbed} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, tensor} from '../../tensor/tf.js'
import type {Tensor} from '../../tensor/tf.js'
import {assertWeightsFit} from './pass-memory.js'
import {flatten, disposeTree, unflatten} from '../../tensor/tree.js'

export type Backbone = {
  readonly config: VitConfig
  /** Weights as the engine computes with them: linear layers in the precision asked for. */
  readonly params: Vit
  /** The precision of the linear layers, and of the residual stream in passes without training. */
  readonly precision: Precision
  /**
   * SHA-256 over all that makes the features (`fingerprintHash`): the same model in another file format has the same.
   */
  readonly fingerprint: string
  /** What the file says of itself. */
  readonly metadata: Readonly<Record<string, string>>
  /**
   * How its images are prepared. Mean and deviation are already in the weights: they take images normalized by
   * ImageNet's, unless `foldsNormalization` was false.
   */
  readonly preprocessing: Preprocessing
  [Symbol.dispose](): void
}

export type BackboneOptions = {
  readonly precision?: Precision
  /** Which of several models in one file, e.g. `student`. */
  readonly root?: string
  /** What the shapes cannot tell, e.g. heads of an unusual width. */
  readonly overrides?: Partial<VitConfig>
  /**
   * Keep the parameters as the file has them. Otherwise LayerScale is multiplied into the layers before it, which is
   * quicker.
   */
  readonly trainable?: boolean
  /** False: the caller normalizes images by the model's own mean and deviation. */
  readonly foldsNormalization?: boolean
  /** Receives what the log should say of mean and deviation that are not ImageNet's. */
  readonly note?: (sentence: string) => void
}

/**
 * Starts the engine for these models. One that is not there is said at once, since an engine takes seconds to load.
 * Throws as `assertModelThere` and `startEngine`.
 */
export async function startEngineFor(models: readonly (string | undefined)[], request: EngineRequest): Promise<EngineInfo> {
  for (const model of models) if (model !== undefined) await assertModelThere(model)
  return startEngine(request)
}

/**
 * Loads a backbone into the running engine. Throws what `openBackbone` throws: `UserError` for a missing, damaged or
 * unfitting file. No more than one block is held in two precisions at a time.
 */
export async function loadBackbone(
  path: string,
  {precision = 'fp32', root, overrides, trainable = false, foldsNormalization = true, note}: BackboneOptions = {}
): Promise<Backbone> {
  const {config, checkpoint} = await openBackbone(path, {root, overrides})
  const preprocessing = checkpoint.preprocessing ?? defaultPreprocessing
  const isOwn = !isImageNet(preprocessing)
  if (isOwn) note?.(describePreprocessing(preprocessing))
  const sizes = [...checkpoint.tensors.values()].map(({shape}) => shape.reduce((a, b) => a * b, 1))
  const hash = fingerprintHash(config, preprocessing)
  const hashed = async function* (): AsyncGenerator<NamedTensor> {
    for await (const entry of readBackbone(config, checkpoint)) {
      hash.add(entry)
      yield entry
    }
  }
  const ready = new Map<string, Tensor>()
  let masters: [string, Tensor][] = [] // of one block, or of what stands outside of blocks
  let at = ''
  /** Puts what has been read into its last form: no more than one block is held in two precisions. */
  const settle = (): void => {
    const prefix = /^blocks\.\d+$/.test(at) ? `${at}.` : ''
    const own = masters.map(([name, leaf]): [string, Tensor] => [name.slice(prefix.length), leaf])
    const made = prefix
      ? flatten(castBlock(unflatten<Block>(own), precision, !trainable).block)
      : at === 'patch_embed'
        ? flatten({patch_embed: castPatchEmbed(unflatten<Pick<Vit, 'patch_embed'>>(own).patch_embed, precision).patch_embed})
        : new Map(own)
    for (const [name, leaf] of made) ready.set(prefix + name, leaf)
    const kept = new Set(made.values())
    for (const [, leaf] of masters) if (!kept.has(leaf)) dispose(leaf)
    masters = []
  }
  try {
    assertWeightsFit(path, {parameters: sizes.reduce((a, b) => a + b, 0), largest: Math.max(...sizes)}, precision)
    const tensors = foldsNormalization ? foldNormalization(hashed(), preprocessing) : hashed()
    for await (const {name, shape, data} of tensors) {
      const place = /^(blocks\.\d+|patch_embed)\./.exec(name)?.[1] ?? ''
      if (place !== at) settle()
      at = place
      masters.push([name, tensor(data, shape as number[])])
    }
    settle()
  } catch (error) {
    dispose([...masters.map(([, leaf]) => leaf), ...ready.values()])
    throw error
  } finally {
    await checkpoint.close()
  }
  const params = unflatten<Vit>([...ready])
  return {
    config,
    params,
    precision,
    fingerprint: hash.digest(),
    metadata: checkpoint.metadata,
    preprocessing,
    [Symbol.dispose]: () => disposeTree(params)
  }
}
