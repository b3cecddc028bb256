/**
 * Records of features and what follows from them: how vectors are brought to one length, from which similarity on two
 * images are copies, which measures a row carries.
 */
import {statSync} from 'node:fs'
import {perceptualDim, perceptualThreshold, type Measures} from '../../data/loader/measure-images.js'
import type {ImageRef} from '../../data/sources/source.js'
import {isPerceptual, PERCEPTUAL, type EmbeddingMeta, type Fields} from '../../files/embeddings/embeddings.js'
import {normalizeRows} from '../../search/exact.js'

/** The record of perceptual features. */
export const perceptualMeta = (toolVersion: string): EmbeddingMeta => ({
  fingerprint: PERCEPTUAL,
  architecture: 'no model: low frequencies of the grey picture',
  preprocessing: {grey: 32, frequencies: 16},
  pooling: null,
  layers: null,
  normalized: false,
  dim: perceptualDim,
  toolVersion
})

/**
 * Default threshold: the inner product from which on two images are taken for copies. It is measured for perceptual
 * features; for models it is a guess, which --calibrate improves on.
 */
export const defaultThreshold = (meta: EmbeddingMeta): number => (isPerceptual(meta) ? perceptualThreshold : 0.95)

/** Brings vectors to length 1, except perceptual features, whose lengths count. */
export const comparable = (vectors: Float32Array, meta: EmbeddingMeta): Float32Array =>
  isPerceptual(meta) ? vectors : normalizeRows(vectors, meta.dim)

const measureNames = [
  'width',
  'height',
  'contrast',
  'entropy',
  'sharpness',
  'noise',
  'brightness',
  'overexposed',
  'colorfulness',
  'hash'
] as const

/** Measures out of the fields of a row, where all are there. */
export function measuresOf(fields: Fields): Measures | undefined {
  for (const name of measureNames) if (typeof fields[name] !== (name === 'hash' ? 'string' : 'number')) return undefined
  return Object.fromEntries(measureNames.map(name => [name, fields[name]])) as unknown as Measures
}

/** Length of an image in bytes; -1 where its file is gone. */
export const byteLengthOf = ({path, range, copy}: ImageRef): number => {
  try {
    return range?.size ?? copy?.size ?? statSync(path).size
  } catch {
    return -1
  }
}
