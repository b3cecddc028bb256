/**
 * How the vectors of a file were made: the record that travels inside every file, so that two models, or one model
 * with two preprocessings, are never mixed in silence. It holds no time, no machine and no path: the same images and
 * settings give the same bytes.
 */
import {UserError} from '../../config/errors.js'
import {crc32, crcText} from '../../system/crc32.js'
import {isShard, type Shard} from './shards.js'
import {isCount, isObject, jsonObjectOr, parseOwnJson} from '../../system/json.js'

export type Pooling = 'cls' | 'mean' | 'cls+mean' | 'patch'

/** How the vectors were made. */
export type EmbeddingMeta = {
  /** Names the weights; null where a file of other origin does not say. */
  readonly fingerprint: string | null
  /** The shape of the model in words, e.g. `ViT 384 wide, 12 deep, patch 14`; for people only. */
  readonly architecture?: string
  /** How an image became pixels, e.g. `{resize: 256, crop: 224}`; null where a file of other origin does not say. */
  readonly preprocessing: Readonly<Record<string, unknown>> | null
  readonly pooling: Pooling | null
  /** The blocks whose outputs are joined: the last n, or a list of 0-based numbers. */
  readonly layers: number | readonly number[] | null
  /** Whether every vector has length 1. */
  readonly normalized: boolean
  /** Length D of a vector. */
  readonly dim: number
  /** For `patch`: a vector is [rows, columns, channels], row by row. */
  readonly shape?: {readonly rows: number; readonly columns: number; readonly channels: number}
  /** Number format of the arithmetic. */
  readonly precision?: string
  readonly toolVersion: string | null
  /** Which part of a list of images the file holds; absent where it holds all of it. */
  readonly shard?: Shard
}

/** Stands in place of a fingerprint of weights where vectors are low frequencies of the grey pictures. */
export const PERCEPTUAL = 'perceptual-dct-1'

/** Whether vectors were made without a model; one of zeros is then a flat picture. */
export const isPerceptual = ({fingerprint}: EmbeddingMeta): boolean => fingerprint === PERCEPTUAL

/** The record of a file that comes from elsewhere and says nothing of how it was made. */
export const unknownProvenance = (dim: number): EmbeddingMeta => ({
  fingerprint: null,
  preprocessing: null,
  pooling: null,
  layers: null,
  normalized: false,
  dim,
  toolVersion: null
})

/** Text of the record: keys in a fixed order, so that the same record is the same bytes. */
export function metaToJson(meta: EmbeddingMeta): string {
  const {fingerprint, architecture, preprocessing, pooling, layers, normalized, dim, shape, precision, toolVersion, shard} = meta
  return JSON.stringify({
    fingerprint,
    architecture,
    preprocessing: sortKeys(preprocessing),
    pooling,
    layers,
    normalized,
    dim,
    shape,
    precision,
    toolVersion,
    shard
  })
}

/** The record as it stands inside other records, its keys in the same order. */
export const plainMeta = (meta: EmbeddingMeta): object => parseOwnJson(metaToJson(meta)) as object

/** A checksum of the record. */
export const recordCheck = (meta: EmbeddingMeta): string => crcText(crc32(Buffer.from(metaToJson(meta))))

const optional =
  (check: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    value === undefined || value === null || check(value)
const isText = (value: unknown): boolean => typeof value === 'string'

/** What each part of a record may be. */
const checks: Readonly<Record<keyof EmbeddingMeta, (value: unknown) => boolean>> = {
  fingerprint: optional(isText),
  architecture: optional(isText),
  preprocessing: optional(isObject),
  pooling: optional(value => ['cls', 'mean', 'cls+mean', 'patch'].includes(value as string)),
  layers: optional(value => isCount(value) || (Array.isArray(value) && value.every(isCount))),
  normalized: value => value === undefined || typeof value === 'boolean',
  dim: value => isCount(value),
  shape: optional(value => isObject(value) && ['rows', 'columns', 'channels'].every(key => isCount(value[key]))),
  precision: optional(isText),
  toolVersion: optional(isText),
  shard: optional(isShard)
}

/** Reads the record again. Throws `UserError` naming `name` when it is not one. */
export function metaFromJson(json: string | object, name: string): EmbeddingMeta {
  const found: unknown = typeof json === 'string' ? jsonObjectOr(json) : json
  const wrong = isObject(found) ? Object.entries(checks).find(([key, check]) => !check(found[key]))?.[0] : 'form'
  if (wrong !== undefined)
    throw new UserError(`${name} carries a damaged record of how its vectors were made: its ${wrong} is not as it should be.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Embed the images again.'
    })
  return {...unknownProvenance(0), ...(found as EmbeddingMeta)}
}

/** Records lie no deeper than this; what does is refused rather than followed. */
const MAX_DEPTH = 32

/** The same value with the keys of its objects in order. */
const sortKeys = (value: unknown, depth = 0): unknown => {
  if (depth > MAX_DEPTH)
    throw new UserError('A record of how vectors were made lies too deep to be read.', {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Embed the images again.'
    })
  if (Array.isArray(value)) return value.map(child => sortKeys(child, depth + 1))
  if (!isObject(value)) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, child]) => [key, sortKeys(child, depth + 1)])
  )
}

/** What must agree before vectors may stand in one index, one table or one comparison. */
const provenanceKeys = ['fingerprint', 'preprocessing', 'pooling', 'layers', 'shape', 'dim', 'normalized'] as const

/** One part of a record in words. */
function describePart(meta: EmbeddingMeta, key: (typeof provenanceKeys)[number]): string {
  switch (key) {
    case 'fingerprint':
      return meta.fingerprint === null
        ? 'an unknown model'
        : `model ${meta.fingerprint.slice(0, 12)}${meta.architecture ? ` (${meta.architecture})` : ''}`
    case 'preprocessing': {
      const pixels = Object.entries((sortKeys(meta.preprocessing) as Record<string, unknown> | null) ?? {})
      return (
        pixels
          .map(([name, value]) => `${name} ${value === null ? 'none' : typeof value === 'object' ? JSON.stringify(value) : String(value)}`)
          .join(', ') || 'unknown preprocessing'
      )
    }
    case 'pooling':
      return `${meta.pooling ?? 'unknown'} pooling`
    case 'layers':
      return `layers ${meta.layers === null ? 'unknown' : String(meta.layers)}`
    case 'shape':
      return meta.shape ? `${meta.shape.rows} × ${meta.shape.columns} patches` : 'no patches'
    case 'dim':
      return `${meta.dim} numbers a row`
    case 'normalized':
      return meta.normalized ? 'normalized' : 'not normalized'
  }
}

/** Says how vectors were made, for a sentence: all of it, or only the parts named. */
export const describeProvenance = (meta: EmbeddingMeta, parts: readonly string[] = provenanceKeys): string =>
  provenanceKeys
    .filter(key => parts.includes(key))
    .map(key => describePart(meta, key))
    .join(', ')

/** The parts in which two records differ; empty when their vectors may be mixed. */
export const provenanceDifferences = (a: EmbeddingMeta, b: EmbeddingMeta, {ignoreLength = false} = {}): string[] =>
  provenanceKeys.filter(
    key => !(ignoreLength && key === 'normalized') && JSON.stringify(sortKeys(a[key] ?? null)) !== JSON.stringify(sortKeys(b[key] ?? null))
  )

const mismatchNames: Readonly<Record<string, string>> = {
  fingerprint: 'two models',
  preprocessing: 'two preprocessings',
  pooling: 'two poolings',
  layers: 'two choices of layers',
  shape: 'two patch grids',
  dim: 'two vector lengths',
  normalized: 'normalized and plain vectors'
}

/**
 * Refuses to mix vectors that were made in two ways.
 *
 * `ignoreLength`: normalized and plain vectors may meet (where only directions count). Throws `UserError` (exit 2)
 * naming both sides.
 */
export function assertSameProvenance(
  a: {readonly name: string; readonly meta: EmbeddingMeta},
  b: {readonly name: string; readonly meta: EmbeddingMeta},
  options: {readonly ignoreLength?: boolean} = {}
): void {
  const parts = provenanceDifferences(a.meta, b.meta, options)
  if (parts.length === 0) return
  throw new UserError(
    `Vectors of ${mismatchNames[parts[0]!]} cannot be mixed: ${a.name} is of ${describeProvenance(a.meta, parts)}; ${b.name} is of ${describeProvenance(b.meta, parts)}.`,
    {
      exit: 2,
      code: 'MIXED_EMBEDDINGS',
      hint: 'Embed both with the same model and the same flags.'
    }
  )
}
