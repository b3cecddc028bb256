/** The header of an index in one file: what it says, and whether that can be. */
import {UserError} from '../../config/errors.js'
import {crc32, crcText} from '../../system/crc32.js'
import {isCount, isObject, isShare, parseJson} from '../../system/json.js'
import {metaFromJson, plainMeta, type EmbeddingMeta} from '../embeddings/provenance.js'

export type IndexHeader = {
  readonly version: 1
  readonly kind: 'exact' | 'hnsw'
  readonly metric: 'cosine' | 'ip' | 'l2'
  /** Lines in the table of rows, removed ones too. */
  readonly rows: number
  /** Rows that can be found. */
  readonly live: number
  readonly dim: number
  /** How the vectors were made. */
  readonly meta: EmbeddingMeta
  /** How the graph was made, and how many candidates a search looks at. */
  readonly graph?: {readonly m: number; readonly efConstruction: number; readonly seed: number; readonly ef: number}
  /**
   * The share of the true k nearest that a search finds, measured on rows that were not yet in the index; null where
   * there were too few.
   */
  readonly recall: {readonly k: number; readonly value: number; readonly queries: number} | null
}

/** Lengths of what follows the header, and in indexes of this version CRC-32s of it. */
export type Sections = {
  readonly rows: number
  readonly body: number
  readonly checks?: {readonly rows: string; readonly body: string}
}

/** The header with its own checksum, which is taken with zeros in its place. */
const NO_CHECK = '"crc32":"00000000"'
const withCheck = (json: string, check: string): string => json.replace(/"crc32":"[^"]*"(?=\}\s*$)/, `"crc32":"${check}"`)

/** The header as bytes, padded so that `offset` bytes before it and it are a multiple of 64. */
export function headerBytes(header: IndexHeader, {rows, body, checks}: Required<Sections>, offset: number): Buffer {
  const meta = plainMeta(header.meta)
  const plain = JSON.stringify({...header, meta, sections: {rows, body}, checks, crc32: '00000000'})
  const padded = plain + ' '.repeat((64 - ((offset + Buffer.byteLength(plain)) % 64)) % 64)
  if (!padded.includes(NO_CHECK)) throw new Error('The header of an index has no place for its checksum.')
  return Buffer.from(withCheck(padded, crcText(crc32(Buffer.from(padded)))))
}

/** What each part of a header must be. */
const parts: Readonly<Record<string, (value: unknown, header: Readonly<Record<string, unknown>>) => boolean>> = {
  kind: value => value === 'exact' || value === 'hnsw',
  metric: value => value === 'cosine' || value === 'ip' || value === 'l2',
  rows: isCount,
  live: (value, {rows, kind}) => isCount(value) && (kind === 'exact' ? value === rows : value <= (rows as number)),
  dim: value => isCount(value) && value > 0,
  meta: (value, {dim}) => isObject(value) && value['dim'] === dim,
  graph: (value, {kind}) =>
    kind === 'exact'
      ? value === undefined
      : isObject(value) && ['m', 'efConstruction', 'seed', 'ef'].every(key => isCount(value[key])) && (value['ef'] as number) > 0,
  recall: value => value === null || (isObject(value) && isCount(value['k']) && isCount(value['queries']) && isShare(value['value'])),
  sections: (value, {kind, rows, dim}) =>
    isObject(value) &&
    isCount(value['rows']) &&
    isCount(value['body']) &&
    (kind !== 'exact' || value['body'] === (rows as number) * (dim as number) * 4),
  checks: (value, {crc32: own}) =>
    value === undefined ? own === undefined : isObject(value) && typeof value['rows'] === 'string' && typeof value['body'] === 'string'
}

/** Reads a header. Throws `RangeError` where it is damaged, and `UserError` where it is of another version. */
export function parseHeader(bytes: Buffer, path: string): {readonly header: IndexHeader; readonly sections: Sections} {
  const text = bytes.toString('utf8')
  const found = parseJson(text)
  if (!isObject(found)) throw new RangeError('its header is no object')
  if (found['version'] !== 1) {
    throw new UserError(`${path} is an index of version ${JSON.stringify(found['version'])}; this program reads version 1.`, {
      code: 'INDEX_VERSION',
      hint: 'Make it again with this program: dinov2 index EMBEDDINGS -o FILE --force.'
    })
  }
  const {sections, checks, crc32: own, ...header} = found
  if (checks !== undefined && own !== crcText(crc32(Buffer.from(withCheck(text, '00000000')))))
    throw new RangeError('its header does not match its checksum')
  for (const [part, check] of Object.entries(parts))
    if (!check(found[part], found))
      throw new RangeError(`its header says ${(JSON.stringify(found[part]) ?? 'nothing').slice(0, 60)} for ${part}, which cannot be`)
  const meta = metaFromJson(header['meta'] as object, path)
  return {header: {...header, meta} as unknown as IndexHeader, sections: {...(sections as Sections), checks: checks as Sections['checks']}}
}
