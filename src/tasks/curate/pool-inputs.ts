/** The inputs of a pool: whether they are images or embeddings, which rows take part, and errors about them. */
import {stat} from 'node:fs/promises'
import {extname} from 'node:path'
import {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {ImageSpool} from '../../data/sources/image-spool.js'
import {isParquetName} from '../../data/sources/container-names.js'
import {holdsImages} from '../../data/sources/parquet.js'
import {listChunks, type ImageRef} from '../../data/sources/source.js'
import {ByteReader} from '../../files/embeddings/bytes.js'
import {detectFormat, emptyInput} from '../../files/embeddings/embeddings.js'
import {fileBytes} from '../../system/plain-file.js'
import type {PoolOptions} from './pool.js'

const embeddingEndings = new Set(['.arrow', '.arrows', '.npy', '.safetensors'])

/** Endings of lists of images and of embeddings alike: the first bytes decide. */
const textEndings = new Set(['.jsonl', '.ndjson', '.csv'])

/** First bytes that are looked at. */
const HEAD_BYTES = 1 << 16

/** Whether these first bytes are those of embeddings, of whatever format. */
function startsEmbeddings(head: Uint8Array): boolean {
  const format = detectFormat(head)
  if (format === undefined) return false
  const text = Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString('utf8')
  if (format.name === 'jsonl') return /"vector"\s*:\s*\[/.test(text) || text.includes('"dinov2"')
  if (format.name === 'csv') return /(^|,)"?v0"?(,|\r|\n)/.test(text)
  return true
}

/** Whether there is a file of this name without a byte in it. */
async function isEmptyFile(name: string): Promise<boolean> {
  const found = await stat(name).catch(() => undefined)
  return found?.isFile() === true && found.size === 0
}

async function isEmbeddingFile(name: string): Promise<boolean> {
  const ending = extname(name).toLowerCase()
  if (embeddingEndings.has(ending)) return true
  if (isParquetName(name)) return !(await holdsImages(name))
  if (!textEndings.has(ending) || !(await stat(name).catch(() => undefined))?.isFile()) return false
  const bytes = new ByteReader(fileBytes(name))
  try {
    return startsEmbeddings(await bytes.peek(HEAD_BYTES))
  } finally {
    await bytes.close()
  }
}

/** What inputs are; `stdin` is what is left to read of it, from its first byte. */
export type InspectedInputs = {readonly embeddings: boolean; readonly stdin: Readable}

/**
 * Finds out what the inputs are. Throws `UserError` where some are images and some embeddings (exit 2), and where all
 * are empty (exit 3), because then they are neither.
 */
export async function inspectInputs(inputs: readonly string[], stdin: Readable): Promise<InspectedInputs> {
  const inspected: {name: string; embeddings: boolean; empty: boolean}[] = []
  let unread = stdin
  for (const name of inputs)
    if (name === '-') {
      const bytes = new ByteReader(stdin)
      const head = await bytes.peek(HEAD_BYTES)
      inspected.push({name: 'stdin', embeddings: startsEmbeddings(head), empty: head.length === 0})
      unread = Readable.from(bytes.chunks())
    } else inspected.push({name, embeddings: await isEmbeddingFile(name), empty: await isEmptyFile(name)})
  if (inspected.length > 0 && inspected.every(({empty}) => empty)) throw emptyInput(inspected.map(({name}) => name).join(', '))
  const [first, other] = [inspected[0], inspected.find(({embeddings}) => embeddings !== inspected[0]?.embeddings)]
  if (first && other)
    throw new UserError(
      `${first.name} holds ${first.embeddings ? 'embeddings' : 'images'}, but ${other.name} ${other.embeddings ? 'embeddings' : 'images'}.`,
      {
        exit: 2,
        code: 'MIXED_INPUTS',
        hint: 'Give one or the other; features of images are kept from run to run by: dinov2 curate … --cache FOLDER'
      }
    )
  return {embeddings: first?.embeddings ?? false, stdin: unread}
}

/** Rows by id of the lists that `only` and `since` name. */
export type PoolLists = {
  readonly only: ReadonlyMap<string, ImageRef> | undefined
  readonly since: ReadonlyMap<string, ImageRef> | undefined
}

async function readList(path: string): Promise<Map<string, ImageRef>> {
  const rows = new Map<string, ImageRef>()
  const spool = new ImageSpool()
  for await (const chunk of listChunks([path])) for (const ref of chunk) if (!rows.has(ref.id)) rows.set(ref.id, spool.keep(ref))
  return rows
}

export const readPoolLists = async ({only, since}: Pick<PoolOptions, 'only' | 'since'>): Promise<PoolLists> => ({
  only: only === undefined ? undefined : await readList(only),
  since: since === undefined ? undefined : await readList(since)
})

/** A row without the bytes of its image, which the pool does not hold. */
export const withoutBytes = ({bytes: _, ...ref}: ImageRef): ImageRef => ref

/** Decides which rows of the input take part: each id once, and only those of the list `only` where there is one. */
export class RowGate {
  readonly #only: PoolLists['only']
  readonly #seen = new Set<string>()

  constructor(only: PoolLists['only']) {
    this.#only = only
  }

  admit(id: string): 'new' | 'repeated' | 'unlisted' {
    if (this.#only && !this.#only.has(id)) return 'unlisted'
    if (this.#seen.has(id)) return 'repeated'
    this.#seen.add(id)
    return 'new'
  }

  /** The fields of a row, with those of the list. */
  fields({id, fields}: Pick<ImageRef, 'id' | 'fields'>): ImageRef['fields'] {
    return this.#only ? {...fields, ...this.#only.get(id)!.fields} : fields
  }

  /** Ids of the list that were not in the input. */
  missing(): string[] {
    return this.#only ? [...this.#only.keys()].filter(id => !this.#seen.has(id)) : []
  }
}

/** The reason for which a row is refused whose id was there before. */
export const REPEATED_ID = 'its id was there before'

/** The list names none of the inputs. */
export const noneListed = (list: string, inputs: readonly string[]): UserError =>
  new UserError(`There is no image to work on: none of ${inputs.join(', ')} is in ${list}.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Ids of the list are written as the stage before printed them; did it keep none?'
  })

/** Throws `UserError` (exit 2) where ids of a list are not in the input. */
export function assertNoneMissing(list: string | undefined, missing: readonly string[], inputs: readonly string[]): void {
  if (list === undefined || missing.length === 0) return
  const some = `${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', …' : ''}`
  throw new UserError(
    `${missing.length} of the ids in ${list} ${missing.length === 1 ? 'is' : 'are'} not in ${inputs.join(', ')}: ${some}.`,
    {exit: 2, code: 'UNKNOWN_ID', hint: 'Ids must be those of the inputs; name all the files that hold them.'}
  )
}

/** Embeddings without a row. */
export const noRows = (inputs: readonly string[]): UserError =>
  new UserError(`There is no row in ${inputs.join(', ')}.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Did the command that writes it fail?'
  })
