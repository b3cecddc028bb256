/**
 * From images to class maps: what `heads/segment-inference.ts` does, with the features of a backbone, for images as
 * they are decoded.
 */
import {resizedSize} from '../../../data/image/dense-input.js'
import {resample, type Raster} from '../../../data/image/resample.js'
import {classMap, type FoldedHead, type Prediction, type SegmentProtocol} from '../../../heads/segment-inference.js'
import {normalizePixels} from '../../../tensor/ops/patches.js'
import {backboneMaps, type ComputingBackbone, type MapFeatures} from '../../embed/image-features.js'

/** What a segmentation head reads of a backbone: the patches of some blocks, the final norm applied. */
export const segmentMaps = (
  backbone: ComputingBackbone,
  layers: readonly number[],
  options: {readonly name: 'model' | 'untrained'; readonly device: string; readonly batch?: number}
): MapFeatures => backboneMaps(backbone, {layers, cls: false, norm: true}, options)

/** Looks at one image in all the ways of the protocol and gives the likeliest class of every pixel of it. */
export const predictClasses = (photo: Raster, features: MapFeatures, head: FoldedHead, protocol: SegmentProtocol): Promise<Prediction> => {
  const look = (short: number, flip: boolean) => {
    const {width, height} = resizedSize(photo, short)
    return normalizePixels(resample(photo, {width, height}, flip ? {flip} : {}), [1, height, width])
  }
  return classMap(photo, look, features, head, protocol)
}

/**
 * Lets signals and timers have their turn: work whose pictures and features are at hand never waits for anything, and
 * would otherwise not hear a Ctrl-C.
 */
export const yieldToEvents = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
