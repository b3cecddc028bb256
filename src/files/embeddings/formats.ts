/** The formats of embedding files. A new one is a file that exports a `Format`, and a line in this list. */
import {extname} from 'node:path'
import {UserError} from '../../config/errors.js'
import {arrow} from './arrow.js'
import {csv, safeCsv} from './csv.js'
import type {Format} from './format.js'
import {jsonl} from './jsonl.js'
import {npy} from './npy.js'
import {parquet} from './parquet.js'
import {safetensors} from './safetensors.js'

/** In the order in which a file's first bytes are compared: texts last, because many a beginning passes for one. */
const list = [arrow, parquet, npy, safetensors, jsonl, csv] as const

export type EmbeddingFormat = (typeof list)[number]['name']

export const embeddingFormats: readonly Format<EmbeddingFormat>[] = list

/** The names of the formats, as they stand in help and messages. */
export const formatNames: readonly EmbeddingFormat[] = ['arrow', 'parquet', 'npy', 'jsonl', 'csv', 'safetensors']

/** The format of this name. */
export const formatNamed = (name: EmbeddingFormat): Format<EmbeddingFormat> => embeddingFormats.find(format => format.name === name)!

/** The format that begins with these bytes. */
export function detectFormat(head: Uint8Array): Format<EmbeddingFormat> | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength)
  return bytes.length === 0 ? undefined : embeddingFormats.find(format => format.begins(bytes))
}

/**
 * The format of an output: what was asked for, else by the ending of the name, else (stdout, devices) Arrow. Throws
 * `UserError` for an unknown ending, and where `csvSafe` is asked of another format than CSV.
 */
export function formatOf(target: string, asked?: EmbeddingFormat, csvSafe = false): Format<EmbeddingFormat> {
  if (csvSafe) {
    const {name} = formatOf(target, asked)
    if (name === 'csv') return safeCsv
    throw new UserError(`--csv-safe is for CSV, but ${target === '-' ? 'stdout' : target} is written as ${name}.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave it away, or give --format csv.'
    })
  }
  const ending = extname(target).toLowerCase()
  const format = asked === undefined ? embeddingFormats.find(({endings}) => endings.includes(ending)) : formatNamed(asked)
  if (format) return format
  if (target === '-' || target.startsWith('/dev/')) return arrow
  throw new UserError(`The ending of ${target} does not say in which format the vectors go.`, {
    exit: 2,
    code: 'UNKNOWN_FORMAT',
    hint: `End the name in ${formatNames.map(name => `.${name}`).join(', ')}, or give --format.`
  })
}
