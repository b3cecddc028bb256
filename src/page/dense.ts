/**
 * Depth and regions of an image by trained linear heads, by the code of `predict depth` and `predict segment`, within
 * what a browser can hold: results are maps of at most `LONGEST` pixels a side.
 *
 * In shape comments: Y × X result, h × w patches, D channels, K classes or bins.
 */
import {resizeForModel, resizedSize} from '../data/image/dense-input.js'
import {resample, type Size} from '../data/image/resample.js'
import {depthForward, upsampleDepth, type LinearDepthHead} from '../heads/depth-head.js'
import {classMap, type FoldedHead, type SegmentProtocol} from '../heads/segment-inference.js'
import {denseMaps, padToPatches, type DenseSettings} from '../model/dense-maps.js'
import type {Vit} from '../model/vit.js'
import {imageMean, imageStd, normalizePixels} from '../tensor/ops/patches.js'
import {add, mul, tensor1d, tidy, type Tensor4D} from '../tensor/tf.js'
import type {DepthFigure, GivenImage, RegionView} from './protocol.js'
import type {SiteModel} from './site.js'

export type LoadedHeads = {readonly depth?: LinearDepthHead; readonly regions?: FoldedHead}

type Backbone = {readonly model: SiteModel; readonly params: Vit}

/** Longer side of a result in pixels. */
const LONGEST = 512
/** Short side of an image that a depth head sees where it does not say which it wants. */
const SEEN = 518
/** Scores that a result holds at most. */
const MOST_SCORES = 2 ** 24
/** Scores that overlapping windows may hold; above, the image is looked at as a whole. */
const MOST_WINDOW_SCORES = 2 ** 25

/** The size of a result, no larger than the image. */
function resultSize({width, height}: Size, channels = 1): Size {
  const scale = Math.min(1, LONGEST / Math.max(width, height), Math.sqrt(MOST_SCORES / channels / (width * height)))
  return {width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale))}
}

/**
 * Maps of images normalized by ImageNet's mean and deviation, as heads take them: padded like that, then brought to
 * the normalization of a model that has its own.
 */
function mapsOf({model, params}: Backbone, images: Tensor4D, settings: DenseSettings): Tensor4D {
  const {config, mean, std} = model
  return tidy(() => {
    const padded = padToPatches(images, config.patch)
    const scale = std.map((s, c) => imageStd[c]! / s)
    const shift = mean.map((m, c) => (imageMean[c]! - m) / std[c]!)
    const isOwn = scale.some(s => s !== 1) || shift.some(s => s !== 0)
    const own = isOwn ? add<Tensor4D>(mul(padded, tensor1d(scale)), tensor1d(shift)) : padded
    return denseMaps(params, own, config, settings) //                                           [n, h, w, D]
  })
}

/** Depth in metres, as `predict depth` computes it. */
export async function depthOf(image: GivenImage, backbone: Backbone, head: LinearDepthHead): Promise<DepthFigure> {
  const {model} = backbone
  const {dense, bins, range, size} = model.depth!
  const {patch} = model.config
  const {width, height} = resultSize(image)
  const isLarge = size === null && Math.min(image.width, image.height) > SEEN
  const seen = resizeForModel(image, {patch, size: size ?? (isLarge ? SEEN : undefined)})
  const map = tidy(() => {
    const pixels = normalizePixels(seen.data, [1, seen.height, seen.width])
    const {depth} = depthForward(mapsOf(backbone, pixels, dense), head, bins) //   [1, 4h, 4w, 1]
    return upsampleDepth(depth, range, [height, width]) //                                        [1, Y, X, 1]
  })
  try {
    const metres = (await map.data<'float32'>()).slice()
    return {width, height, metres, notes: isLarge ? [`Seen at ${SEEN} pixels here; predict depth sees the image as large as it is.`] : []}
  } finally {
    map.dispose()
  }
}

/** How an image is looked at here, and what of the head's own way is left out, in sentences. */
function wayHere(image: GivenImage, own: SegmentProtocol, K: number): {protocol: SegmentProtocol; notes: string[]} {
  const {crop, stride, ...whole} = own
  const {width, height} = resizedSize(image, own.size)
  const isWide = crop !== undefined && Math.max(width, height) > crop && width * height * K > MOST_WINDOW_SCORES
  const isOnce = own.scales.length === 1 && !own.flip
  const once = {...(isWide ? whole : {...whole, crop, stride}), ...(isOnce ? {} : {scales: [1], flip: false})}
  const mirrored = own.flip ? ' and mirror images' : ''
  return {
    protocol: once,
    notes: [
      ...(isOnce ? [] : [`Looked at once here; predict segment averages ${own.scales.length} sizes${mirrored}.`]),
      ...(isWide ? ['Looked at as a whole here; predict segment looks through windows, one after the other.'] : [])
    ]
  }
}

/** The class of every pixel, as `predict segment` computes it. */
export async function regionsOf(image: GivenImage, backbone: Backbone, head: FoldedHead): Promise<RegionView> {
  const {protocol: own, classes} = backbone.model.regions!
  const size = resultSize(image, classes.length)
  const {protocol, notes} = wayHere(image, own, classes.length)
  const look = (short: number, flip: boolean): Tensor4D => {
    const {width, height} = resizedSize(image, short)
    return normalizePixels(resample(image, {width, height}, flip ? {flip} : {}), [1, height, width])
  }
  const features = {
    compute: (windows: Tensor4D) => mapsOf(backbone, windows, {layers: protocol.layers, cls: false, norm: true}), // [n, h, w, D]
    batch: () => 1
  }
  const {labels} = await classMap(size, look, features, head, protocol)
  return {...size, labels, notes}
}
