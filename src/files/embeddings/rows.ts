/**
 * What an embedding file holds, whatever its format: rows of id, vector and fields, and one record that says how all
 * of them were made.
 *
 * The record (`EmbeddingMeta`) travels inside every file, so that two models, or one model with two preprocessings,
 * are never mixed in silence. It holds no time, no machine and no path: the same images and settings give the same
 * bytes.
 */
import {UserError} from '../../config/errors.js'

/** What rides along with an image: label, group, depth file, and whatever else its list said. */
export type Fields = Readonly<Record<string, unknown>>

/** One image's vector. */
export type Row = {readonly id: string; readonly vector: Float32Array /* [D] */; readonly fields: Fields}

/** Rows as they are computed, written and read: n at a time, their vectors side by side. */
export type EmbeddingBatch = {
  readonly ids: readonly string[]
  /** [n, D], row after row. */
  readonly vectors: Float32Array
  readonly fields: readonly Fields[]
}

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
}

/** Takes a batch apart into rows; their vectors are views into the batch. */
export function* rowsOf({ids, vectors, fields}: EmbeddingBatch): Generator<Row> {
  const D = ids.length === 0 ? 0 : vectors.length / ids.length
  for (const [i, id] of ids.entries()) yield {id, vector: vectors.subarray(i * D, (i + 1) * D), fields: fields[i]!}
}

/** Puts rows together into one batch. All vectors have the same length. */
export function batchOf(rows: readonly Row[]): EmbeddingBatch {
  const D = rows[0]?.vector.length ?? 0
  const vectors = new Float32Array(rows.length * D) // [n, D]
  for (const [i, row] of rows.entries()) vectors.set(row.vector, i * D)
  return {ids: rows.map(row => row.id), vectors, fields: rows.map(row => row.fields)}
}

/**
 * How many rows the readers of row formats give at once: 256, fewer where rows are long (patch tokens), so that a
 * batch stays near 16 MB.
 */
export const rowsPerBatch = (dim: number): number => Math.max(1, Math.min(256, Math.floor((4 << 20) / Math.max(1, dim))))

/** The record of a file that comes from elsewhere and says nothing of its making. */
export const unknownProvenance = (dim: number): EmbeddingMeta => ({
  fingerprint: null,
  preprocessing: null,
  pooling: null,
  layers: null,
  normalized: false,
  dim,
  toolVersion: null
})

/** Text of the record: keys in a fixed order, so that the same making is the same bytes. */
export function metaToJson(meta: EmbeddingMeta): string {
  const {fingerprint, architecture, preprocessing, pooling, layers, normalized, dim, shape, precision, toolVersion} = meta
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
    toolVersion
  })
}

/** Reads the record again. Throws `UserError` naming `name` when it is not one. */
export function metaFromJson(json: string | object, name: string): EmbeddingMeta {
  let found: unknown = json
  try {
    if (typeof json === 'string') found = JSON.parse(json)
  } catch {
    found = undefined
  }
  if (typeof found !== 'object' || found === null || !Number.isInteger((found as EmbeddingMeta).dim))
    throw new UserError(`${name} carries a damaged record of how its vectors were made.`, {
      code: 'EMBEDDINGS_DAMAGED',
      hint: 'Embed the images again.'
    })
  return {...unknownProvenance(0), ...(found as EmbeddingMeta)}
}

const sortKeys = (value: unknown): unknown =>
  Array.isArray(value)
    ? value.map(sortKeys)
    : typeof value === 'object' && value !== null
      ? Object.fromEntries(
          Object.entries(value)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([key, child]) => [key, sortKeys(child)])
        )
      : value

/** One part of a making in words. */
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
      return meta.normalized ? 'normalised' : 'not normalised'
  }
}

/** Says how vectors were made, for a sentence: all of it, or only the parts named. */
export const describeProvenance = (meta: EmbeddingMeta, parts: readonly string[] = provenanceKeys): string =>
  provenanceKeys
    .filter(key => parts.includes(key))
    .map(key => describePart(meta, key))
    .join(', ')

/** What must agree before vectors may stand in one index, one table or one comparison. */
const provenanceKeys = ['fingerprint', 'preprocessing', 'pooling', 'layers', 'shape', 'dim', 'normalized'] as const

/** The parts in which two makings differ; empty when their vectors may be mixed. */
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
  normalized: 'normalised and plain vectors'
}

/**
 * Refuses to mix vectors that were made in two ways.
 *
 * `ignoreLength`: normalised and plain vectors may meet (where only directions count). Throws `UserError` (exit 2)
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
