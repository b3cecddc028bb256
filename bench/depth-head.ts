/**
 * Our side of the depth task of bench/eval.ts: trains a depth head on features from files, as `depth-eval --cached`
 * does, and scores it; a line of JSON with the seconds and the error.
 *
 * usage: node dist/bench/depth-head.js FOLDER STEPS
 * FOLDER holds shape.json and the float32 files train-features, train-truth, val-features and val-truth.
 */
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {startEngine} from '../src/engine/start.js'
import {depthErrors, meanErrors} from '../src/metrics/depth.js'
import {upsampleDepth, type DepthBins} from '../src/heads/depth-head.js'
import {loadedLinearHead} from '../src/tasks/eval/depth/head.js'
import {cachedRecipe, ChannelMoments, countBins, trainDepthHead} from '../src/tasks/eval/depth/train.js'
import {tensor3d, tensor4d} from '../src/tensor/tf.js'

/** How the drawn maps are laid out: pictures of a set, patches, channels, pixels. */
export type DepthShape = {train: number; val: number; h: number; w: number; channels: number; height: number; width: number}

const [folder, steps] = process.argv.slice(2)
if (folder === undefined || !(Number(steps) > 0)) throw new Error('name a folder and a number of steps')
await startEngine({engine: 'auto', device: 'auto', precision: 'fp32', note: () => undefined})
const begun = performance.now()
const shape = JSON.parse(readFileSync(join(folder, 'shape.json'), 'utf8')) as DepthShape
const {h, w, channels: D, height: H, width: W} = shape
const read = (name: string): Float32Array => {
  const bytes = readFileSync(join(folder, name))
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
}
const bins: DepthBins = {min: 0.001, max: 10, count: 256, spacing: 'uniform'}
/** The places whose depth is known. */
const validOf = (truth: Float32Array): Uint32Array => Uint32Array.from(truth.keys()).filter(at => truth[at]! > 0)

const [features, truths] = [read('train-features'), read('train-truth')]
const mapOf = (i: number): Float32Array => features.subarray(i * h * w * D, (i + 1) * h * w * D)
const truthOf = (i: number): Float32Array => truths.subarray(i * H * W, (i + 1) * H * W)
const moments = new ChannelMoments(D)
const frequency = new Float64Array(bins.count)
for (let i = 0; i < shape.train; i++) {
  moments.add(mapOf(i))
  countBins(frequency, truthOf(i), validOf(truthOf(i)), bins)
}
const {head} = await trainDepthHead({
  width: D,
  bins,
  recipe: {...cachedRecipe, steps: Number(steps)},
  seed: 0,
  groups: [Array.from({length: shape.train}, (_, i) => i)],
  scale: moments.finish(),
  frequency,
  load: async images => {
    const [maps, truth] = [new Float32Array(images.length * h * w * D), new Float32Array(images.length * H * W)]
    images.forEach((image, b) => {
      maps.set(mapOf(image), b * h * w * D)
      truth.set(truthOf(image), b * H * W)
    })
    return {features: tensor4d(maps, [images.length, h, w, D]), truth: tensor3d(truth, [images.length, H, W])}
  }
})
using probe = loadedLinearHead(head, {dense: {layers: [], cls: false, norm: false}, bins})
const [valFeatures, valTruth] = [read('val-features'), read('val-truth')]
const errors = Array.from({length: shape.val}, (_, i) => {
  const maps = tensor4d(valFeatures.subarray(i * h * w * D, (i + 1) * h * w * D), [1, h, w, D])
  const told = upsampleDepth(probe.depth(maps), bins, [H, W]).dataSync()
  const truth = valTruth.subarray(i * H * W, (i + 1) * H * W)
  const valid = validOf(truth)
  return depthErrors(
    Float32Array.from(valid, at => told[at]!),
    Float32Array.from(valid, at => truth[at]!)
  )
})
console.log(JSON.stringify({seconds: (performance.now() - begun) / 1000, rmse: meanErrors(errors).rmse}))
