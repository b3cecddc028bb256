/** The model as files of the site, and what the page must know of it. */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {openBackbone, readBackbone} from '../../files/checkpoint/backbone.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import {createSafetensors, writeSafetensors} from '../../files/checkpoint/safetensors.js'
import {float16Bytes, float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import {checkPicture, type SiteClassifier, type SiteFeatures, type SiteModel} from '../../page/site.js'
import type {Embedder} from '../embed/embedder.js'
import {openClassifier} from '../eval/classification/classifier-file.js'

export type ModelFileOptions = {
  readonly path: string
  readonly name: string
  /** The site's folder. */
  readonly folder: string
  readonly embedder: Embedder
  /** Halves the size of the weights; without, they are as the file has them. */
  readonly half: boolean
  /** A trained linear classifier. */
  readonly head?: string
}

const WEIGHTS = 'backbone.safetensors'
const CLASSIFIER = 'classifier.safetensors'

/** Patches along the short side of images whose patches are shown. */
const VIEW_PATCHES = 24

/** Whether every number is one of half precision. */
function fitsHalf(data: Float32Array): boolean {
  const halves = new Uint16Array(float16Bytes(data).buffer)
  const scratch = new DataView(new ArrayBuffer(4))
  for (let i = 0; i < data.length; i++) {
    const exponent = (halves[i]! >> 10) & 31
    const size = exponent === 0 ? (halves[i]! & 1023) * 2 ** -24 : (1 + (halves[i]! & 1023) / 1024) * 2 ** (exponent - 15)
    scratch.setFloat32(0, size)
    if (exponent === 31 || scratch.getFloat32(0) !== Math.abs(data[i]!)) return false
  }
  return true
}

/** Writes the weights, in half precision where that loses nothing or was asked for. */
async function writeWeights({
  path,
  folder,
  half
}: ModelFileOptions): Promise<{bytes: number; parameters: number; mean: readonly number[]; std: readonly number[]}> {
  const {config, checkpoint} = await openBackbone(path)
  try {
    let isHalf = true
    if (!half) for await (const {data} of readBackbone(config, checkpoint)) if (isHalf) isHalf = fitsHalf(data)
    const dtype = isHalf ? 'F16' : 'F32'
    const specs = [...expectedShapes(config)].map(([name, shape]) => ({name, dtype, shape}) as const)
    const file = join(folder, WEIGHTS)
    const writer = await createSafetensors(file, specs, {})
    let parameters = 0
    try {
      for await (const {name, data} of readBackbone(config, checkpoint)) {
        parameters += data.length
        await writer.write(name, isHalf ? float16Bytes(data) : float32Bytes(data))
      }
      await writer.commit()
    } catch (error) {
      await writer.abort()
      throw error
    }
    const {mean, std} = checkpoint.preprocessing ?? defaultPreprocessing
    return {bytes: (await stat(file)).size, parameters, mean, std}
  } finally {
    await checkpoint.close()
  }
}

/** The settings of the vectors, as the page applies them. Throws a `UserError` (exit 2) for those that it cannot. */
function siteFeatures({meta, transform, config}: Pick<Embedder, 'meta' | 'transform' | 'config'>): SiteFeatures {
  const {pooling, layers, normalized} = meta
  if (pooling === 'patch' || pooling === null || layers === null)
    throw new UserError('The vectors of the map are those of every patch, which the page does not search.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Embed the images with --pool cls, mean or cls+mean.'
    })
  if (transform.cropBorders)
    throw new UserError('The vectors of the map are of images whose borders were cut off, which the page does not do.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Embed the images anew, with their borders left on.'
    })
  const blocks = typeof layers === 'number' ? Array.from({length: layers}, (_, i) => config.depth - layers + i) : layers
  const {resize, crop, patch} = transform
  return {pool: pooling, blocks, normalize: normalized, transform: {resize, crop, patch}}
}

/** Writes a classifier. Throws as `openClassifier`. */
async function writeClassifier(path: string, {embedder, folder}: ModelFileOptions): Promise<SiteClassifier> {
  const {config, meta, transform: own} = embedder
  const {classifier, classes, features, transform = own} = await openClassifier(path, {config, fingerprint: meta.fingerprint ?? ''})
  const {kind, weight, bias} = classifier
  const file = join(folder, CLASSIFIER)
  await writeSafetensors(file, [
    {name: 'weight', dtype: 'F32', shape: [classes.length, kind.length], read: () => float32Bytes(weight)},
    {name: 'bias', dtype: 'F32', shape: [classes.length], read: () => float32Bytes(bias)}
  ])
  const read = siteFeatures({
    config,
    transform,
    meta: {...meta, pooling: features.pool, layers: features.layers, normalized: features.normalize}
  })
  return {weights: CLASSIFIER, bytes: (await stat(file)).size, features: read, start: kind.start, classes}
}

/** Writes the model and describes it. Throws as `siteFeatures`, and what opening and writing throw. */
export async function writeModel(options: ModelFileOptions): Promise<SiteModel> {
  const {embedder, name} = options
  const features = siteFeatures(embedder)
  const {config, transform} = embedder
  const {bytes, parameters, mean, std} = await writeWeights(options)
  const side = transform.crop ?? Math.max(1, Math.round(transform.resize / config.patch)) * config.patch
  const vector = await embedder.vectors({pixels: checkPicture(side), height: side, width: side}, 1)
  return {
    name,
    config,
    parameters,
    weights: WEIGHTS,
    bytes,
    mean,
    std,
    features,
    viewSide: Math.min(518, VIEW_PATCHES * config.patch),
    check: {side, vector: Buffer.from(float32Bytes(vector)).toString('base64')},
    classifier: options.head === undefined ? null : await writeClassifier(options.head, options)
  }
}
