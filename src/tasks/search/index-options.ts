/** What indexing is asked for and reports, whatever kind of index it makes, and what it refuses. */
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {readIds} from '../../files/search-index/id-list.js'
import type {IndexHeader} from '../../files/search-index/vector-index.js'
import type {EmbeddingMeta} from '../../files/embeddings/embeddings.js'
import type {Metric} from '../../search/exact.js'
import type {GraphShape} from '../../search/hnsw.js'

/**
 * From this many rows on `auto` builds a graph. Measured at 384 numbers a row on one core of a small machine: a query
 * against 20,000 rows takes 5 to 13 ms exactly and 0.3 ms in a graph, whose building takes 14 s; below, starting the
 * program costs more than any query.
 */
export const graphThreshold = 20_000
/** Neighbours asked for when recall is measured. */
export const recallK = 10
export const maxHeldOut = 200
/** Recall that the number of candidates is chosen for. */
export const targetRecall = 0.98

export type IndexOptions = {
  /** Embedding files; `-` is `stdin`. May be empty when rows are only removed. */
  readonly sources: readonly string[]
  readonly stdin?: Readable
  /** An existing index that is added to or taken from. */
  readonly base?: string
  /** Ids to take out: a list in a file, `-` for one on `stdin`, or the ids themselves. */
  readonly remove?: string | AsyncIterable<string>
  /** The list's entries end with NUL. */
  readonly nul?: boolean
  readonly kind?: 'auto' | 'exact' | 'hnsw'
  readonly metric?: Metric
  readonly graph?: Partial<GraphShape>
  /** Candidates a search looks at; chosen by measured recall where absent. */
  readonly ef?: number
  /** Where the index goes, if to a file: what is too large for memory is laid down beside it. */
  readonly target?: string
  /** A row whose id is there already takes the other's place. */
  readonly replace?: boolean
  readonly signal?: AbortSignal
}

export type IndexReport = {
  readonly kind: 'exact' | 'hnsw'
  readonly metric: Metric
  readonly rows: number
  readonly dim: number
  readonly added: number
  readonly replaced: number
  readonly removed: number
  readonly recall: IndexHeader['recall']
  readonly ef?: number
  readonly fingerprint: string | null
}

export type IndexEvent =
  | {readonly kind: 'read'; readonly rows: number}
  | {readonly kind: 'linked'; readonly rows: number; readonly of: number}
  /** Inverted lists are being trained on this many rows. */
  | {readonly kind: 'training'; readonly rows: number}
  /** The index is exact although `auto` would have built a graph. */
  | {readonly kind: 'no-graph'; readonly rows: number; readonly reason: string}

/** An index that is ready to be written. */
export type BuiltIndex = {
  readonly report: IndexReport
  /** Appends the whole file to `sink`. */
  write(sink: {write(bytes: Uint8Array | string): Promise<void>}): Promise<void>
}

/** What a report says beside kind and recall. */
export type IndexCounts = Omit<IndexReport, 'kind' | 'recall' | 'ef'>

export const duplicateIdError = (id: string): UserError =>
  new UserError(`The id ${id} comes twice.`, {
    exit: 2,
    code: 'DUPLICATE_ID',
    hint: 'Give --replace to keep the later row, or leave one of them out.'
  })

export const metricMismatchError = (name: string, has: Metric, wanted: Metric): UserError =>
  new UserError(`${name} measures by ${has}, not by ${wanted}.`, {
    exit: 2,
    code: 'METRIC',
    hint: 'The measure of an index is fixed when it is made.'
  })

/** Ids that were to be removed and are not there. */
export const unknownIdsError = (name: string, absent: readonly string[]): UserError =>
  new UserError(
    `${absent.length} of the ids to remove ${absent.length === 1 ? 'is' : 'are'} not in ${name}: ${absent.slice(0, 5).join(', ')}${absent.length > 5 ? ', …' : ''}.`,
    {
      exit: 2,
      code: 'UNKNOWN_ID',
      hint: 'Nothing was changed. Ids are written as search prints them.'
    }
  )

/** Nothing to index. */
export const noEmbeddingsError = (): UserError =>
  new UserError('No embeddings were named.', {exit: 3, code: 'NO_INPUT', hint: 'Name a file of embeddings, or - for stdin.'})

/** Vectors in an index of angles have length 1, however they came. */
export const indexMeta = (meta: EmbeddingMeta, metric: Metric): EmbeddingMeta => (metric === 'cosine' ? {...meta, normalized: true} : meta)

/** The ids to take out, from wherever they come. */
export const idsToRemove = ({remove, stdin, nul}: Pick<IndexOptions, 'remove' | 'stdin' | 'nul'>): AsyncIterable<string> | undefined =>
  typeof remove === 'string' ? readIds(remove === '-' ? stdin! : remove, {nul}) : remove
