/** Embeddings opened for reading: from a file or a pipe, of any format, one source or several as one. */
import {stat} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {assertPlain, fileBytes, isOpenPipe} from '../../system/plain-file.js'
import {missingPathHint} from '../../config/missing-path.js'
import {ByteReader, checkedUtf8, utf8Reader} from './bytes.js'
import {detectFormat, formatNames, type EmbeddingFormat} from './formats.js'
import {assertSameProvenance, isPerceptual, type EmbeddingMeta} from './provenance.js'
import {shardsInOrder, type Shard} from './shards.js'
import {notingZeros} from './file-notes.js'
import {assertFinite, type EmbeddingBatch} from './rows.js'

/** An opened source of rows. Read `rows` to its end, or `close`. */
export type Embeddings = {
  readonly name: string
  readonly format: EmbeddingFormat
  readonly meta: EmbeddingMeta
  /** How many rows, where the format says so in advance. */
  readonly count?: number
  readonly csvSafe?: boolean
  readonly rows: AsyncGenerator<EmbeddingBatch>
  close(): Promise<void>
}

/** What stands at a path. Throws `UserError` where there is nothing, a folder, or what may not be read. */
async function statSource(path: string): Promise<{readonly isFile: boolean; readonly size: number}> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR') throw error
    throw new UserError(`${path} does not exist.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: missingPathHint(path, {otherwise: 'Check the name; - reads embeddings from stdin.'})
    })
  })
  if (found.isDirectory())
    throw new UserError(`${path} is a folder, but embeddings are a file.`, {
      exit: 2,
      code: 'NOT_EMBEDDINGS',
      hint: `Embed its images first: dinov2 embed ${path} --model M.`
    })
  if (!isOpenPipe(path)) assertPlain(path, found)
  return {isFile: found.isFile(), size: found.size}
}

/** Rows whose numbers are all finite: the one place where every reader's rows pass. */
async function* finiteRows(rows: AsyncGenerator<EmbeddingBatch>, name: string): AsyncGenerator<EmbeddingBatch> {
  for await (const batch of rows) {
    assertFinite(batch, name)
    yield batch
  }
}

/**
 * Opens embeddings from a path or from a stream of bytes (`name` stands for it in sentences).
 *
 * Throws `UserError`: nothing there (exit 3), not embeddings, damaged; and from `rows` a vector with a number that
 * is not finite.
 */
export async function openEmbeddings(
  source: string | AsyncIterable<Uint8Array>,
  name = typeof source === 'string' ? source : 'stdin'
): Promise<Embeddings> {
  const found = typeof source === 'string' ? await statSource(source) : undefined
  const file = found?.isFile ? {path: source as string, size: found.size} : {}
  const raw = new ByteReader(typeof source === 'string' ? fileBytes(source) : source)
  try {
    const bytes = await utf8Reader(raw)
    const head = await bytes.peek(512)
    const format = detectFormat(head)
    if (format === undefined) throw notEmbeddings(name, head)
    const isText = format.name === 'csv' || format.name === 'jsonl'
    const read = isText ? checkedUtf8(bytes, name) : bytes
    const {rows, close: release, ...opened} = await format.open({name, bytes: read, ...(bytes === raw ? file : {})})
    const close = async (): Promise<void> => {
      await release?.()
      await raw.close()
    }
    const finite = finiteRows(rows, name)
    return {name, format: format.name, ...opened, rows: isPerceptual(opened.meta) ? finite : notingZeros(finite, name), close}
  } catch (error) {
    await raw.close()
    throw error
  }
}

/** An input without a byte in it. */
export const emptyInput = (name: string): UserError =>
  new UserError(`${name} is empty.`, {exit: 3, code: 'NO_INPUT', hint: 'Did the command that writes it fail?'})

/** Files of vectors that are not read, by their first bytes, and what to do. */
const OTHERS: Readonly<Record<string, string>> = {
  FEA1: 'It is Feather of version 1; pyarrow.feather.write_feather writes version 2, which is read.',
  'PK\u0003\u0004': 'It is a zip archive, as numpy.savez writes; numpy.save writes one array, which is read.',
  DINO: 'It is a search index: dinov2 search, explore and visualize neighbours take it; here the embeddings that it was made of are wanted.',
  '\u0089HDF': 'It is HDF5; write the vectors as .npy or .parquet.'
}

function notEmbeddings(name: string, head: Uint8Array): UserError {
  if (head.length === 0) return emptyInput(name)
  const other = OTHERS[Buffer.from(head).toString('latin1', 0, 4)]
  return new UserError(`${name} is not a file of embeddings.`, {
    exit: 2,
    code: 'NOT_EMBEDDINGS',
    hint: other ?? `Expected ${formatNames.join(', ')}; images are embedded with dinov2 embed.`
  })
}

/**
 * Opens several sources as one: `-` is `stdin`. All must have been made in one way, or a `UserError` (exit 2) names
 * the two that differ. `ignoreLength`: normalized and plain vectors may stand together. Shards of a list are read in
 * its order; one that is missing or there twice is refused by name.
 */
export async function openAll(
  sources: readonly string[],
  {stdin, ignoreLength = false}: {readonly stdin?: AsyncIterable<Uint8Array>; readonly ignoreLength?: boolean} = {}
): Promise<Embeddings> {
  const start = (source: string): Promise<Embeddings> => (source === '-' && stdin ? openEmbeddings(stdin, 'stdin') : openEmbeddings(source))
  let opened = await start(sources[0]!)
  const ordered = opened.meta.shard ? await readShards(opened, sources) : sources
  if (ordered[0] !== sources[0]) {
    await opened.close()
    opened = await start(ordered[0]!)
  }
  const rest = ordered.slice(1)
  const whole = opened
  const all = async function* (): AsyncGenerator<EmbeddingBatch> {
    yield* whole.rows
    for (const source of rest) {
      const next = await start(source)
      try {
        assertSameProvenance(whole, next, {ignoreLength})
        if (next.meta.shard && !whole.meta.shard) shardsInOrder([shardOf(whole), shardOf(next)])
        yield* next.rows
      } finally {
        await next.close()
      }
    }
  }
  const {name, format, meta, close} = opened
  const {shard: _, ...common} = meta // together the rows are the whole list
  return rest.length === 0 ? opened : {name, format, meta: common, rows: all(), close}
}

const shardOf = ({name, meta}: Embeddings): {readonly name: string; readonly shard?: Shard | undefined} => ({name, shard: meta.shard})

/** The sources in the order of their list, of which the first is open already; it is closed where this throws. */
async function readShards(opened: Embeddings, sources: readonly string[]): Promise<string[]> {
  try {
    const pipe = sources.find(source => source === '-' || isOpenPipe(source))
    if (pipe !== undefined)
      throw new UserError(`${pipe === '-' ? 'stdin' : pipe} is a pipe, but shards are read from files: their order stands in them.`, {
        exit: 2,
        code: 'SHARDS',
        hint: 'Give all shards by their names.'
      })
    const parts = [shardOf(opened)]
    for (const source of sources.slice(1)) {
      const next = await openEmbeddings(source)
      parts.push(shardOf(next))
      await next.close()
    }
    return shardsInOrder(parts).map(({name}) => name)
  } catch (error) {
    await opened.close()
    throw error
  }
}
