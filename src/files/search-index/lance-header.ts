/** What a LanceDB table says of itself, and whether that can be. */
import {UserError} from '../../config/errors.js'
import {metaFromJson, type EmbeddingMeta} from '../embeddings/provenance.js'

/**
 * How a search looks: how many inverted lists are read, and how many candidates a wanted neighbour are measured again
 * with their whole vectors.
 */
export type ListSearchParams = {readonly probes: number; readonly refine: number}

/** What an index says of itself. */
export type LanceHeader = {
  readonly version: 1
  readonly kind: 'exact' | 'ivf-pq'
  readonly metric: 'cosine' | 'ip' | 'l2'
  readonly rows: number
  readonly dim: number
  readonly meta: EmbeddingMeta
  /**
   * The inverted lists: how many, pieces that a vector is quantised in, rows they were trained on, and how they are
   * searched.
   */
  readonly lists?: {readonly partitions: number; readonly pieces: number; readonly trained: number} & ListSearchParams
  /**
   * The share of the true k nearest that a search finds, measured on rows that were not yet in the lists; null where
   * there were too few.
   */
  readonly recall: {readonly k: number; readonly value: number; readonly queries: number} | null
}

/** Reads the header of the index at `place`. Throws `UserError` where it is damaged or of another version. */
export function headerOf(text: string | undefined, place: string): LanceHeader & {readonly table: number} {
  let found: LanceHeader & {readonly table: number}
  try {
    found = JSON.parse(text ?? '') as typeof found
    if (!Number.isInteger(found.table) || !Number.isInteger(found.dim)) throw new SyntaxError('it names no table')
  } catch (cause) {
    throw new UserError(`${place} is damaged: its header is not readable.`, {
      code: 'INDEX_DAMAGED',
      hint: 'Make it again from the embeddings.',
      cause
    })
  }
  if (found.version !== 1) {
    throw new UserError(`${place} is an index of version ${String(found.version)}; this program reads version 1.`, {
      code: 'INDEX_VERSION',
      hint: 'Make it again with this program: dinov2 index EMBEDDINGS --backend lance -o PLACE --force.'
    })
  }
  return {...found, meta: metaFromJson(found.meta, place)}
}
