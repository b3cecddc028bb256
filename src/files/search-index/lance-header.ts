/** What a LanceDB table says of itself, and whether that can be. */
import {UserError} from '../../config/errors.js'
import {isCount, isObject, isShare, parseJsonObject, type JsonObject} from '../../system/json.js'
import {metaFromJson, type EmbeddingMeta} from '../embeddings/provenance.js'
import type {Fields} from '../embeddings/rows.js'

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
  /** The same in the rows; absent in tables of earlier versions. */
  readonly mark?: string
  readonly meta: EmbeddingMeta
  /**
   * The inverted lists: how many, pieces that a vector is quantized in, rows they were trained on, and how they are
   * searched.
   */
  readonly lists?: {readonly partitions: number; readonly pieces: number; readonly trained: number} & ListSearchParams
  /**
   * The share of the true k nearest that a search finds, measured on rows that were not yet in the lists; null where
   * there were too few.
   */
  readonly recall: {readonly k: number; readonly value: number; readonly queries: number} | null
}

/** What each part of a header must be. */
const parts: Readonly<Record<string, (value: unknown, header: JsonObject) => boolean>> = {
  table: isCount,
  kind: value => value === 'exact' || value === 'ivf-pq',
  metric: value => value === 'cosine' || value === 'ip' || value === 'l2',
  rows: isCount,
  dim: value => isCount(value) && value > 0,
  mark: value => value === undefined || typeof value === 'string',
  meta: (value, {dim}) => isObject(value) && value['dim'] === dim,
  lists: (value, {kind}) =>
    kind === 'exact'
      ? value === undefined
      : isObject(value) && ['partitions', 'pieces', 'trained', 'probes', 'refine'].every(key => isCount(value[key])),
  recall: value => value === null || (isObject(value) && isCount(value['k']) && isCount(value['queries']) && isShare(value['value']))
}

/** Reads the header of the index at `place`. Throws `UserError` where it is damaged or of another version. */
export function headerOf(text: string | undefined, place: string): LanceHeader & {readonly table: number} {
  try {
    const found = parseJsonObject(text ?? '')
    if (found['version'] !== 1)
      throw new UserError(`${place} is an index of version ${JSON.stringify(found['version'])}; this program reads version 1.`, {
        code: 'INDEX_VERSION',
        hint: 'Make it again with this program: dinov2 index EMBEDDINGS --backend lance -o PLACE --force.'
      })
    for (const [part, check] of Object.entries(parts))
      if (!check(found[part], found))
        throw new SyntaxError(`it says ${(JSON.stringify(found[part]) ?? 'nothing').slice(0, 60)} for ${part}`)
    const meta = metaFromJson(found['meta'] as object, place)
    return {...(found as unknown as LanceHeader & {readonly table: number}), meta}
  } catch (cause) {
    if (cause instanceof UserError) throw cause
    throw new UserError(`${place} is damaged: its header is not readable (${(cause as Error).message}).`, {
      code: 'INDEX_DAMAGED',
      hint: 'Make it again from the embeddings.',
      cause
    })
  }
}

/**
 * Holds a header against the rows that it speaks of. Throws `UserError` where they are those of another index, or
 * another number.
 */
export function assertOwnRows(
  place: string,
  {mark, rows}: LanceHeader,
  found: {readonly mark?: string | undefined; readonly rows: number}
): void {
  const damaged = (why: string): UserError =>
    new UserError(`${place} is damaged: ${why}.`, {
      code: 'INDEX_DAMAGED',
      hint: 'Put back what belongs to it, or make it again from the embeddings.'
    })
  if (mark !== found.mark) throw damaged('its rows (rows.lance) are those of another index than its header (about.lance) speaks of')
  if (rows !== found.rows) throw damaged(`its header counts ${rows} rows, and there are ${found.rows}`)
}

/** A row's fields as text. */
export const fieldsToText = (fields: Fields): string => JSON.stringify(fields)

/** A row's fields from their text. Throws `UserError` where the text is damaged. */
export function fieldsFromText(text: string): Fields {
  try {
    return parseJsonObject(text)
  } catch (cause) {
    throw new UserError(`The index is damaged: the fields of a row are not good JSON (${(cause as Error).message}).`, {
      code: 'INDEX_DAMAGED',
      hint: 'Build it again with dinov2 index build.',
      cause
    })
  }
}
