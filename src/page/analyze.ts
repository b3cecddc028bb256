/**
 * All that the page computes of one image, by the model code of the command line: its vector, its patches as colours,
 * what each head of attention looks at, and what the trained heads say.
 *
 * The model runs once for each size of the image that is asked for: as the vectors of the map want it (the classifier
 * mostly wants the same), as its parts are shown, and as heads for depth and regions see it.
 *
 * In shape comments: B = 1 image, H × W pixels, N patches, C width.
 */
import {fitGeometry, type Transform} from '../data/image/geometry.js'
import {resample} from '../data/image/resample.js'
import {patchesWithAttention} from '../model/attention-maps.js'
import {colourPatches} from '../model/foreground.js'
import {pooled} from '../model/pooled.js'
import {clsTokens, intermediateLayers, type Vit} from '../model/vit.js'
import {normalizeRows} from '../search/exact.js'
import {div, sub, tensor, tensor1d, tidy, type Tensor, type Tensor4D} from '../tensor/tf.js'
import {depthOf, regionsOf, type LoadedHeads} from './dense.js'
import type {Analysis, GivenImage, PatchView} from './protocol.js'
import type {SiteClassifier, SiteFeatures, SiteModel} from './site.js'
import type {Weight} from './weights.js'

/** A model that is loaded. */
export type LoadedModel = LoadedHeads & {
  readonly model: SiteModel
  readonly params: Vit
  /** Weights of the classifier by name. */
  readonly classifier?: ReadonlyMap<string, Weight>
}

/** An image resized and cut as `transform` says, its values normalized as the model wants them: [1, H, W, 3]. */
function prepared(image: GivenImage, transform: Transform, {mean, std}: SiteModel): Tensor4D {
  const {size, window} = fitGeometry(image.width, image.height, transform)
  const pixels = resample(image, size, {window})
  return tidy(() => {
    const values = tensor(Float32Array.from(pixels), [1, window.height, window.width, 3])
    return div(sub(values, tensor1d(mean.map(m => 255 * m))), tensor1d(std.map(s => 255 * s))) as Tensor4D
  })
}

/** Whether two sets of settings take the same pixels of an image. */
const seesSame = (a: SiteFeatures, b: SiteFeatures): boolean =>
  a.transform.resize === b.transform.resize && a.transform.crop === b.transform.crop && a.transform.patch === b.transform.patch

/** The outputs of several settings that take the same pixels, by one pass: a tensor [1, D] each, the caller's. */
function passOf(image: GivenImage, {model, params}: LoadedModel, wanted: readonly SiteFeatures[]): Tensor[] {
  const {config} = model
  return tidy(() => {
    const pixels = prepared(image, wanted[0]!.transform, model)
    const isLastCls = ({pool, blocks}: SiteFeatures): boolean => pool === 'cls' && blocks.join() === String(config.depth - 1)
    if (wanted.every(isLastCls)) {
      const cls = clsTokens(params, pixels, config)
      return wanted.map(() => cls.clone())
    }
    const blocks = [...new Set(wanted.flatMap(features => features.blocks))].sort((a, b) => a - b)
    const outputs = intermediateLayers(params, pixels, config, {n: blocks})
    return wanted.map(features =>
      pooled(
        outputs.filter((_, i) => features.blocks.includes(blocks[i]!)),
        features.pool
      )
    )
  })
}

/** The vectors of an image, [D] each, as `embed` makes them with these settings; as few passes as there are sizes. */
export async function siteVectors(image: GivenImage, loaded: LoadedModel, wanted: readonly SiteFeatures[]): Promise<Float32Array[]> {
  const found = new Map<SiteFeatures, Float32Array>()
  for (const first of wanted) {
    if (found.has(first)) continue
    const group = wanted.filter(other => seesSame(first, other))
    const outputs = passOf(image, loaded, group)
    for (const [i, output] of outputs.entries()) {
      const vector = (await output.data<'float32'>()).slice()
      output.dispose()
      found.set(group[i]!, group[i]!.normalize ? normalizeRows(vector, vector.length) : vector)
    }
  }
  return wanted.map(features => found.get(features)!)
}

/** Patches of the whole image: features, attention of the last block, and colours. */
export async function viewPatches(image: GivenImage, {model, params}: LoadedModel): Promise<PatchView> {
  const {config, viewSide} = model
  const {patch, width: C, heads} = config
  const images = prepared(image, {resize: viewSide, patch}, model)
  const [, H, W] = images.shape
  const [rows, columns] = [H / patch, W / patch]
  const {patches, attention} = patchesWithAttention(params, images, config) //                   [1, N, C], [1, heads, N]
  images.dispose()
  try {
    const features = (await patches.data<'float32'>()).slice()
    const attended = (await attention.data<'float32'>()).slice()
    const {colours} = colourPatches([{rows, columns, features}], C, {separate: false})
    return {rows, columns, features: normalizeRows(features, C), attention: attended, heads, colours: colours[0]!}
  } finally {
    patches.dispose()
    attention.dispose()
  }
}

/** Classes that are shown. */
const TOP = 5

/** The likeliest classes by the vector that a classifier reads. */
function classesOf(whole: Float32Array, {start, classes}: SiteClassifier, weights: ReadonlyMap<string, Weight>): Analysis['classes'] {
  const [weight, bias] = [weights.get('weight')!, weights.get('bias')!]
  const F = weight.shape[1]!
  const vector = whole.subarray(start, start + F)
  const logits = Float64Array.from(bias.data, (value, k) => {
    let sum = value
    for (let f = 0; f < F; f++) sum += weight.data[k * F + f]! * vector[f]!
    return sum
  })
  const most = Math.max(...logits)
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)
  return Array.from(logits.keys())
    .sort((a, b) => logits[b]! - logits[a]! || a - b)
    .slice(0, TOP)
    .map(k => ({name: classes[k]!, probability: Math.exp(logits[k]! - most) / total}))
}

/** Everything of one image. */
export async function analyze(image: GivenImage, loaded: LoadedModel): Promise<Analysis> {
  const begun = performance.now()
  const {model, classifier, depth, regions} = loaded
  const read = classifier && model.classifier ? model.classifier : undefined
  const [vector, classified] = await siteVectors(image, loaded, [model.features, ...(read ? [read.features] : [])])
  const patches = await viewPatches(image, loaded)
  return {
    vector: vector!,
    patches,
    classes: read && classesOf(classified!, read, classifier!),
    depth: depth && (await depthOf(image, loaded, depth)),
    regions: regions && (await regionsOf(image, loaded, regions)),
    seconds: (performance.now() - begun) / 1000
  }
}
