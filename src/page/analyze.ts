/**
 * All that the page computes of one image, by the model code of the command line: its vector, its patches as colours,
 * what each head of attention looks at, and what the trained heads say.
 *
 * In shape comments: B = 1 image, H × W pixels, N patches, C width, S tokens.
 */
import {fitGeometry, type Transform} from '../data/image/geometry.js'
import {resample} from '../data/image/resample.js'
import {attentionMaps} from '../model/attention-maps.js'
import {colourPatches} from '../model/foreground.js'
import {imageVectors} from '../model/pooled.js'
import {forward, type Vit} from '../model/vit.js'
import {normalizeRows} from '../search/exact.js'
import {div, slice, sub, tensor, tensor1d, tidy, type Tensor4D} from '../tensor/tf.js'
import type {Analysis, GivenImage, PatchView} from './protocol.js'
import type {SiteFeatures, SiteModel} from './site.js'
import type {Weight} from './weights.js'

/** A model that is loaded. */
export type LoadedModel = {
  readonly model: SiteModel
  readonly params: Vit
  /** Weights of the classifier by name. */
  readonly classifier?: ReadonlyMap<string, Weight>
}

/** An image resized and cut as `transform` says, its values normalised as the model wants them: [1, H, W, 3]. */
function prepared(image: GivenImage, transform: Transform, {mean, std}: SiteModel): Tensor4D {
  const {size, window} = fitGeometry(image.width, image.height, transform)
  const pixels = resample(image, size, {window})
  return tidy(() => {
    const values = tensor(Float32Array.from(pixels), [1, window.height, window.width, 3])
    return div(sub(values, tensor1d(mean.map(m => 255 * m))), tensor1d(std.map(s => 255 * s))) as Tensor4D
  })
}

/** The vector of an image, [D], as `embed` makes it. */
export async function imageVector(image: GivenImage, {model, params}: LoadedModel, features: SiteFeatures): Promise<Float32Array> {
  const out = tidy(() => imageVectors(params, prepared(image, features.transform, model), model.config, features))
  try {
    const vector = (await out.data<'float32'>()).slice()
    return features.normalize ? normalizeRows(vector, vector.length) : vector
  } finally {
    out.dispose()
  }
}

/** Patches of the whole image: features, attention of the last block, and colours. */
async function viewPatches(image: GivenImage, {model, params}: LoadedModel): Promise<PatchView> {
  const {config, viewSide} = model
  const {patch, width: C, heads, registers, depth} = config
  const images = prepared(image, {resize: viewSide, patch}, model)
  const [, H, W] = images.shape
  const [rows, columns] = [H / patch, W / patch]
  const tokens = tidy(() => forward(params, images, config).patches) //                             [1, N, C]
  const attended = tidy(() => {
    const all = attentionMaps(params, images, config, depth - 1) //                               [1, heads, 1 + R, S]
    return slice(all, [0, 0, 0, 1 + registers], [1, heads, 1, rows * columns]) //                 [1, heads, 1, N]
  })
  images.dispose()
  try {
    const plain = (await tokens.data<'float32'>()).slice()
    const attention = (await attended.data<'float32'>()).slice()
    const {colours} = colourPatches([{rows, columns, features: plain}], C, {separate: false})
    return {rows, columns, features: normalizeRows(plain, C), attention, heads, colours: colours[0]!}
  } finally {
    tokens.dispose()
    attended.dispose()
  }
}

/** Classes that are shown. */
const TOP = 5

/** The likeliest classes of an image; undefined without a classifier. */
async function classesOf(image: GivenImage, loaded: LoadedModel): Promise<Analysis['classes']> {
  const {model, classifier} = loaded
  if (!model.classifier || !classifier) return undefined
  const {features, start, classes} = model.classifier
  const [weight, bias] = [classifier.get('weight')!, classifier.get('bias')!]
  const F = weight.shape[1]!
  const vector = (await imageVector(image, loaded, features)).subarray(start, start + F)
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
  const vector = await imageVector(image, loaded, loaded.model.features)
  const patches = await viewPatches(image, loaded)
  const classes = await classesOf(image, loaded)
  return {vector, patches, classes, seconds: (performance.now() - begun) / 1000}
}
