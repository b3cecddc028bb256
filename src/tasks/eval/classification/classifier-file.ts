/**
 * Trained classifiers in files: those of `linear-eval --head-out`, and the published ones.
 *
 * `dinov2_<size>14_linear_head.pth` holds weight [K, F] and bias [K] and nothing that says which features they read;
 * that follows from F: the cls token of the last block and the mean patch token (2 C), or the cls tokens of the last
 * four and the mean (5 C). In shape comments: K classes, F features, C width of the backbone.
 */
import {readFinite} from '../../../files/checkpoint/tensor-entry.js'
import {counted} from '../../../config/counted.js'
import {UserError} from '../../../config/errors.js'
import type {Transform} from '../../../data/image/geometry.js'
import {openCheckpoint} from '../../../files/checkpoint/checkpoint.js'
import {findModelFile} from '../../../files/checkpoint/fetch-missing.js'
import {openHead} from '../../../files/checkpoint/head-file.js'
import {protocolSlices, type FeatureSlice} from '../../../heads/linear-grid.js'
import type {Backbone} from '../../embed/load-backbone.js'
import type {FeatureSettings} from '../../embed/embedder.js'

/**
 * What a head of ours says of itself. `transform` is absent where it was trained on embeddings that do not say how
 * images were made ready.
 */
export type ClassifierSpec = Pick<FeatureSettings, 'pool' | 'layers' | 'normalize'> & {
  readonly kind: 'linear'
  readonly transform?: Transform
  /** The stretch of the features that is read. */
  readonly start: number
  readonly length: number
  readonly classes: readonly string[]
}

export type Classifier = {
  readonly kind: FeatureSlice
  readonly weight: Float32Array /* [K, F] */
  readonly bias: Float32Array /* [K] */
  /** What it is, in words. */
  readonly chosen: string
}

/** A classifier and the features it reads. */
export type OpenedClassifier = {
  readonly classifier: Classifier
  readonly classes: readonly string[]
  readonly features: Pick<FeatureSettings, 'pool' | 'layers' | 'normalize'>
  /** How images were made ready for it, where the file says. */
  readonly transform?: Transform
}

const wrong = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'WRONG_HEAD', hint})

/**
 * Opens a classifier for a backbone. `classes` names the classes of a published one, in its order; without, they are
 * numbers.
 *
 * Throws a `UserError`: the file is missing, damaged, holds something else, is for another backbone, or has another
 * number of classes.
 */
export async function openClassifier(
  name: string,
  backbone: Pick<Backbone, 'config' | 'fingerprint'>,
  classes?: readonly string[]
): Promise<OpenedClassifier> {
  const path = (await findModelFile(name, ['classifier'])) ?? name
  if (/\.(pth|pt|bin)$/i.test(path)) return published(path, backbone, classes)
  const {tensors, spec} = await openHead(path, {task: 'classify', backbone: backbone.fingerprint})
  const {pool, layers, normalize, transform, start, length, classes: names} = spec as ClassifierSpec
  const [weight, bias] = [tensors.get('weight'), tensors.get('bias')]
  const K = names.length
  if (!weight || !bias || weight.shape.join() !== [K, length].join() || bias.shape.join() !== String(K))
    throw wrong(`${path} holds no linear classifier of ${names.length} classes on ${length} features.`, 'Train it again with --head-out.')
  const reads = start + length
  const {width, depth} = backbone.config
  const count = typeof layers === 'number' ? layers : layers.length
  const dim = pool === 'cls+mean' ? (count + 1) * width : count * width
  if (count > depth || (typeof layers !== 'number' && layers.some(block => block >= depth)) || reads > dim)
    throw wrong(
      `${path} reads ${reads} features of ${counted(count, 'block')}, but the backbone has ${depth} blocks and gives ${dim}.`,
      'Give the backbone that the head was trained with.'
    )
  if (classes && classes.length !== K) throw otherCount(path, K, classes.length)
  return {
    classifier: {kind: {name: `head ${name}`, start, length}, weight: weight.data, bias: bias.data, chosen: `head ${name}`},
    classes: classes ?? names,
    features: {pool, layers, normalize},
    ...(transform ? {transform} : {})
  }
}

const otherCount = (path: string, own: number, given: number): UserError =>
  new UserError(`${path} tells ${counted(own, 'class', 'classes')} apart, but ${counted(given, 'name was', 'names were')} given.`, {
    exit: 2,
    code: 'CLASSES',
    hint: 'One name a line, in the order of the head.'
  })

async function published(
  path: string,
  {config: {width: C, depth}}: Pick<Backbone, 'config'>,
  classes: readonly string[] | undefined
): Promise<OpenedClassifier> {
  const file = await openCheckpoint(path)
  try {
    const found = (ending: string): [string, {readonly shape: readonly number[]; readFloat32(): Promise<Float32Array>}] | undefined =>
      [...file.tensors, ...file.heads].find(([name]) => name === ending || name.endsWith(`.${ending}`))
    const [weight, bias] = [found('weight'), found('bias')]
    if (!weight || !bias || weight[1].shape.length !== 2)
      throw wrong(
        `${path} holds no linear classifier: expected weight [classes, features] and bias.`,
        `It holds ${[...file.tensors.keys(), ...file.heads.keys()].slice(0, 6).join(', ')}.`
      )
    const [K, F] = weight[1].shape as [number, number]
    const n = Math.min(4, depth)
    const kind = protocolSlices(n, C).find(({length}) => length === F)
    if (!kind)
      throw wrong(`${path} reads ${F} features, but the backbone is ${C} wide.`, 'Give the backbone that the head was published for.')
    if (classes && classes.length !== K) throw otherCount(path, K, classes.length)
    return {
      classifier: {
        kind,
        weight: await readFinite(weight[1], weight[0], path),
        bias: await readFinite(bias[1], bias[0], path),
        chosen: `${kind.name} of ${path}`
      },
      classes: classes ?? Array.from({length: K}, (_, k) => String(k)),
      features: {pool: 'cls+mean', layers: n, normalize: false}
    }
  } finally {
    await file.close()
  }
}
