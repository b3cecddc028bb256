/** The model as files of the site, and what the page must know of it. */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {openBackbone, readBackbone} from '../../files/checkpoint/backbone.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import {createSafetensors} from '../../files/checkpoint/safetensors.js'
import {float16Bytes, float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import {checkPicture, type SiteModel} from '../../page/site.js'
import {writeHeads, type HeadFileOptions} from './head-files.js'
import {siteFeatures} from './site-features.js'

export type ModelFileOptions = HeadFileOptions & {
  readonly name: string
  /** Halves the size of the weights; without, they are as the file has them. */
  readonly half: boolean
  /** Trained heads, one of a task. */
  readonly heads: readonly string[]
}

const WEIGHTS = 'backbone.safetensors'

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

/**
 * Writes the model and describes it. Throws as `siteFeatures` and `writeHeads`, and what opening and writing throw.
 */
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
    ...(await writeHeads(options.heads, options))
  }
}
