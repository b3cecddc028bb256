/**
 * What a segmentation evaluation reports: the types of its JSON, and scores with intervals and paired differences, made
 * of the pixel counts of single images.
 */
import type {Classes} from '../../../data/targets/class-map.js'
import type {Raster} from '../../../data/image/decode.js'
import {addCounts, miouEstimate, miouGain, scoresOf} from '../../../metrics/iou.js'
import {comparison, type Interval} from '../../../metrics/intervals.js'

export type SegBaseline = 'pixels' | 'untrained'
export type SegFeatures = 'model' | 'majority' | SegBaseline

export type ClassScore = {
  readonly name: string
  readonly id: number
  readonly iou: number | null
  readonly accuracy: number | null
  readonly pixels: number
}

/** One score: shares between 0 and 1. */
export type SegScore = {
  readonly features: SegFeatures
  readonly set: 'val' | 'test'
  readonly miou: number
  /** 95 %, by drawing images with replacement. */
  readonly interval: Interval
  readonly meanAccuracy: number
  readonly pixelAccuracy: number
  readonly classes: readonly ClassScore[]
}

/** How much better the model is than a baseline, on the same images. */
export type SegGain = {
  readonly over: Exclude<SegFeatures, 'model'>
  readonly set: 'val' | 'test'
  readonly miou: number
  readonly interval: Interval
  /** beats, is below, … */
  readonly verdict: string
}

export type SegReport = {
  readonly train: number
  readonly val: number
  readonly test: number
  readonly kind: 'linear' | 'ms'
  readonly protocol: Readonly<Record<string, unknown>>
  readonly classes: readonly {readonly id: number; readonly name: string}[]
  readonly classesFrom: string
  readonly scores: readonly SegScore[]
  readonly gains: readonly SegGain[]
  readonly seconds: {readonly train: number; readonly predict: number}
  readonly fingerprint: string
  readonly head?: string
  readonly notes: readonly string[]
}

/** One picture of the page: what was asked for and what came out. */
export type SegCase = {
  readonly id: string
  readonly kind: 'best' | 'typical' | 'worst'
  readonly miou: number
  readonly photo: Raster
  readonly truth: Uint16Array
  readonly labels: Uint16Array
}

export type SegResult = {readonly report: SegReport; readonly cases: readonly SegCase[]; readonly palette: Uint8Array}

/** The predictions of one set: of every image, three counts a class (`areasOf`). */
export type SegOutcome = {
  readonly features: SegFeatures
  readonly set: 'val' | 'test'
  readonly areas: readonly Float64Array[]
  readonly seconds: number
}

/** Scores with intervals, and the model beside every baseline, on the same draws of images. */
export function summarize(outcomes: readonly SegOutcome[], classes: Classes, seed: number): {scores: SegScore[]; gains: SegGain[]} {
  const K = classes.names.length
  const scores: SegScore[] = []
  const gains: SegGain[] = []
  for (const set of ['val', 'test'] as const) {
    const here = outcomes.filter(outcome => outcome.set === set)
    const model = here.find(({features}) => features === 'model')
    for (const {features, areas} of here) {
      const sum = new Float64Array(3 * K)
      for (const one of areas) addCounts(sum, one)
      const {miou, meanAccuracy, pixelAccuracy, iou, accuracy, pixels} = scoresOf(sum, K)
      scores.push({
        features,
        set,
        miou,
        interval: miouEstimate(areas, K, seed).interval,
        meanAccuracy,
        pixelAccuracy,
        classes: classes.names.map((name, k) => ({name, id: classes.ids[k]!, iou: iou[k]!, accuracy: accuracy[k]!, pixels: pixels[k]!}))
      })
      if (features === 'model' || !model) continue
      const gain = miouGain(model.areas, areas, K, seed)
      gains.push({over: features, set, miou: gain.mean, interval: gain.interval, verdict: comparison(gain)})
    }
  }
  return {scores, gains}
}
