/**
 * Embedding files: one kind of rows, six formats, written and read as streams.
 *
 * | ending         | what it is                                                                    | on a pipe | can
 * be continued |
 * | -------------- | ----------------------------------------------------------------------------- | --------- |
 * ---------------- |
 * | `.arrow`       | Apache Arrow IPC stream (the default on stdout)                               | yes       | yes
 *  |
 * | `.parquet`     | Parquet, fixed-size list of float32                                           | yes       | no
 *  |
 * | `.npy`         | NumPy [N, D], with a `.jsonl` of ids and fields beside it                     | no        | yes
 *  |
 * | `.jsonl`       | one JSON object a row                                                         | yes       | yes
 *  |
 * | `.csv`         | one column a number                                                           | yes       | yes
 *  |
 * | `.safetensors` | tensors `vectors` and `rows`                                                  | no        | yes
 *  |
 *
 * Reading knows a format by its first bytes, from a file or from a pipe, and takes files of other programs too. An
 * output that can be continued grows as `OUT.partial`; when the run is interrupted, `resume` goes on behind the last
 * whole row.
 */
import {createWriteStream} from 'node:fs'
import {open, rename, rm, stat, truncate, type FileHandle} from 'node:fs/promises'
import {dirname, extname} from 'node:path'
import type {Writable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {openAtomic, refuseExisting} from '../../system/atomic.js'
import {ByteReader, fileBytes, fileSink, spool, streamSink, type Sink} from './bytes.js'
import type {Column} from './columns.js'
import {recoverLines} from './jsonl.js'
import {sidecarOf, npyDataAt, sidecarMeta, sidecarRows, completeRows} from './npy.js'
import {provenanceDifferences, describeProvenance, assertSameProvenance, type EmbeddingBatch, type EmbeddingMeta} from './rows.js'

export * from './rows.js'

export const formats = ['arrow', 'parquet', 'npy', 'jsonl', 'csv', 'safetensors'] as const
export type EmbeddingFormat = (typeof formats)[number]

const endings: Readonly<Record<string, EmbeddingFormat>> = {
  '.arrow': 'arrow',
  '.arrows': 'arrow',
  '.parquet': 'parquet',
  '.pq': 'parquet',
  '.npy': 'npy',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.csv': 'csv',
  '.safetensors': 'safetensors'
}
const needsFile: ReadonlySet<EmbeddingFormat> = new Set(['npy', 'safetensors'])

/**
 * The format of an output: what was asked for, else by the ending of the name, else (stdout, devices) Arrow. Throws
 * `UserError` for an unknown ending.
 */
export function formatOf(target: string, asked?: EmbeddingFormat): EmbeddingFormat {
  const format = asked ?? endings[extname(target).toLowerCase()]
  if (format) return format
  if (target === '-' || target.startsWith('/dev/')) return 'arrow'
  throw new UserError(`The ending of ${target} does not say in which format the vectors go.`, {
    exit: 2,
    code: 'UNKNOWN_FORMAT',
    hint: `End the name in ${formats.map(name => `.${name}`).join(', ')}, or give --format.`
  })
}

// ---- reading -------------------------------------------------------------------------------------------------------

/** An opened source of rows. Read `rows` to its end, or `close`. */
export type Embeddings = {
  readonly name: string
  readonly format: EmbeddingFormat
  readonly meta: EmbeddingMeta
  /** How many rows, where the format says so in advance. */
  readonly count?: number
  readonly rows: AsyncGenerator<EmbeddingBatch>
  close(): Promise<void>
}

/** The format that begins with these bytes. */
export function detectFormat(head: Uint8Array): EmbeddingFormat | 'arrow-file' | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength)
  if (bytes.length === 0) return undefined
  if (bytes.length >= 4 && bytes.readInt32LE(0) === -1) return 'arrow'
  if (bytes.subarray(0, 6).toString('latin1') === 'ARROW1') return 'arrow-file'
  if (bytes.subarray(0, 4).toString('latin1') === 'PAR1') return 'parquet'
  if (bytes.subarray(0, 6).toString('latin1') === '\x93NUMPY') return 'npy'
  if (bytes.length >= 9 && bytes[8] === 0x7b && bytes.readBigUInt64LE(0) < 100n << 20n) return 'safetensors'
  if (/^(\uFEFF)?\s*\{/.test(bytes.toString('utf8'))) return 'jsonl'
  if (/^(\uFEFF)?["\w][^\0]*[,\r\n]/.test(bytes.toString('utf8'))) return 'csv'
  return undefined
}

/**
 * Opens embeddings from a path or from a stream of bytes (`name` stands for it in sentences).
 *
 * Throws `UserError`: nothing there (exit 3), not embeddings, damaged.
 */
export async function openEmbeddings(
  source: string | AsyncIterable<Uint8Array>,
  name = typeof source === 'string' ? source : 'stdin'
): Promise<Embeddings> {
  const path = typeof source === 'string' ? source : undefined
  const found =
    path === undefined
      ? undefined
      : await stat(path).catch((error: NodeJS.ErrnoException) => {
          if (error.code !== 'ENOENT') throw error
          throw new UserError(`${name} does not exist.`, {
            exit: 3,
            code: 'NO_INPUT',
            hint: 'Check the name; - reads embeddings from stdin.'
          })
        })
  if (found?.isDirectory())
    throw new UserError(`${name} is a folder, but embeddings are a file.`, {
      exit: 2,
      code: 'NOT_EMBEDDINGS',
      hint: `Embed its images first: dinov2 embed ${name} --model M.`
    })
  const regular = found?.isFile() ? path : undefined
  const bytes = new ByteReader(typeof source === 'string' ? (fileBytes(source) as AsyncIterable<Uint8Array>) : source)
  const head = await bytes.peek(512)
  const format = detectFormat(head)
  if (format === undefined) {
    await bytes.close()
    if (head.length === 0)
      throw new UserError(`${name} is empty.`, {exit: 3, code: 'NO_INPUT', hint: 'Did the command that writes it fail?'})
    throw new UserError(`${name} is not a file of embeddings.`, {
      exit: 2,
      code: 'NOT_EMBEDDINGS',
      hint: `Expected ${formats.join(', ')}; images are embedded with dinov2 embed.`
    })
  }
  const plain = {name, format: format === 'arrow-file' ? 'arrow' : format} as const
  const close = (): Promise<void> => bytes.close()
  switch (format) {
    case 'arrow': {
      const {readArrow} = await import('./arrow.js')
      return {...plain, ...(await readArrow(bytes.chunks(), name)), close}
    }
    case 'jsonl': {
      const {readJsonl} = await import('./jsonl.js')
      return {...plain, ...(await readJsonl(bytes, name)), close}
    }
    case 'csv': {
      const {readCsv} = await import('./csv.js')
      const {meta, rows, close: end} = await readCsv(bytes, name)
      return {...plain, meta, rows, close: end}
    }
    case 'npy': {
      const {readNpy} = await import('./npy.js')
      const beside = regular === undefined ? undefined : sidecarOf(regular)
      const list = beside !== undefined && (await stat(beside).catch(() => undefined))?.isFile() ? beside : undefined
      return {...plain, ...(await readNpy(bytes, name, {list, size: regular === undefined ? undefined : found!.size})), close}
    }
    default: {
      // These are read from their end or at any place, so a pipe is laid down in a temporary file first.
      const laid = regular === undefined ? await spool(bytes.chunks()) : undefined
      if (!laid) await bytes.close()
      const release = async (): Promise<void> => laid?.remove()
      try {
        const opened = await openSeekable(format, laid?.path ?? regular!, name)
        return {...plain, ...opened, rows: withCleanup(opened.rows, release), close: release}
      } catch (error) {
        await release()
        throw error
      }
    }
  }
}

async function openSeekable(
  format: 'arrow-file' | 'parquet' | 'safetensors',
  path: string,
  name: string
): Promise<Pick<Embeddings, 'meta' | 'rows' | 'count'>> {
  if (format === 'parquet') return (await import('./parquet.js')).readParquet(path, name)
  if (format === 'safetensors') return (await import('./safetensors.js')).readSafetensors(path, name)
  return (await import('./arrow.js')).readArrow(path, name)
}

async function* withCleanup<T>(rows: AsyncGenerator<T>, release: () => Promise<void>): AsyncGenerator<T> {
  try {
    yield* rows
  } finally {
    await release()
  }
}

/**
 * Opens several sources as one: `-` is `stdin`. All must have been made in one way, or a `UserError` (exit 2) names
 * the two that differ. `ignoreLength`: normalised and plain vectors may stand together.
 */
export async function openAll(
  sources: readonly string[],
  {stdin, ignoreLength = false}: {readonly stdin?: AsyncIterable<Uint8Array>; readonly ignoreLength?: boolean} = {}
): Promise<Embeddings> {
  const [first, ...rest] = sources
  const start = (source: string): Promise<Embeddings> => (source === '-' && stdin ? openEmbeddings(stdin, 'stdin') : openEmbeddings(source))
  const opened = await start(first!)
  const all = async function* (): AsyncGenerator<EmbeddingBatch> {
    yield* opened.rows
    for (const source of rest) {
      const next = await start(source)
      try {
        assertSameProvenance(opened, next, {ignoreLength})
        yield* next.rows
      } finally {
        await next.close()
      }
    }
  }
  return rest.length === 0 ? opened : {name: opened.name, format: opened.format, meta: opened.meta, rows: all(), close: opened.close}
}

// ---- writing -------------------------------------------------------------------------------------------------------

type Writer = {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>}

/** An output of rows. Exactly one of `commit` and `keep` ends it. */
export type EmbeddingOutput = {
  readonly format: EmbeddingFormat
  /** Rows that an interrupted run had written already. */
  readonly resumed: number
  /** Their ids, in order. */
  resumedIds(): AsyncGenerator<string>
  write(batch: EmbeddingBatch): Promise<void>
  /** Writes the end and gives the file its name. */
  commit(): Promise<void>
  /** Ends without a result. What is written stays as `OUT.partial` for `resume`; true when there is such a file. */
  keep(): Promise<boolean>
}

export type OutputOptions = {
  readonly meta: EmbeddingMeta
  readonly format?: EmbeddingFormat
  /** Where `-` goes. */
  readonly stdout?: Writable
  /** Replace what exists. */
  readonly force?: boolean
  /** Go on behind the last whole row of `OUT.partial`. */
  readonly resume?: boolean
  /**
   * Rows computed at once: a continued file is cut to a multiple of it, so that the rest comes out as it would have
   * without the interruption.
   */
  readonly batch?: number
}

/** Under which name an output grows. */
export const partialOf = (target: string): string => `${target}.partial`

/** What stands where an output is to go. */
export type OutputState = {
  readonly format: EmbeddingFormat
  /** stdout, a device or a named pipe: written as it comes, never renamed. */
  readonly pipe: boolean
  /** An interrupted run left a partial file, and it is to be continued. */
  readonly continuing: boolean
  /** `resume` was asked for, and the output is there, whole: nothing is left to do. */
  readonly complete: boolean
}

/**
 * Looks at where an output is to go, before any work is done.
 *
 * Throws `UserError` (exit 2): the output or its partial file exists, or is a folder; the format is unknown, needs a
 * file, or cannot be continued.
 */
export async function inspectOutput(
  target: string,
  options: Pick<OutputOptions, 'format' | 'force' | 'resume'> = {}
): Promise<OutputState> {
  const {force = false, resume = false} = options
  const format = formatOf(target, options.format)
  const found = target === '-' ? undefined : await stat(target).catch(() => undefined)
  const pipe = target === '-' || (found !== undefined && !found.isFile() && !found.isDirectory())
  const name = target === '-' ? 'stdout' : target
  if (pipe && needsFile.has(format)) {
    throw new UserError(`A .${format} file names its number of rows at its beginning, so it cannot be written to ${name}.`, {
      exit: 2,
      code: 'NEEDS_FILE',
      hint: `Write a file (-o vectors.${format}), or choose --format arrow, jsonl, csv or parquet.`
    })
  }
  if (resume && (pipe || format === 'parquet')) {
    throw new UserError(
      pipe
        ? `What went to ${name} cannot be continued.`
        : 'A .parquet file keeps its table of contents at the end, so an interrupted one cannot be continued.',
      {exit: 2, code: 'CANNOT_RESUME', hint: pipe ? 'Name an output file with -o.' : 'Start anew with --force, or write .arrow, which can.'}
    )
  }
  if (found?.isDirectory())
    throw new UserError(`${target} is a folder, but this output is a file.`, {
      exit: 2,
      code: 'OUTPUT_IS_FOLDER',
      hint: 'Name a file in it.'
    })
  if (pipe) return {format, pipe, continuing: false, complete: false}
  const left = await stat(partialOf(target)).catch(() => undefined)
  if (left && !resume && !force) {
    throw new UserError(`${partialOf(target)} was left by an interrupted run.`, {
      exit: 2,
      code: 'PARTIAL_EXISTS',
      hint: 'Give --resume to go on with it, or --force to start anew.'
    })
  }
  if (resume && !left && found) return {format, pipe, continuing: false, complete: true}
  if (!(resume && left)) {
    await refuseExisting(target, {force})
    if (format === 'npy') await refuseExisting(sidecarOf(target), {force})
  }
  return {format, pipe, continuing: resume && left !== undefined, complete: false}
}

/**
 * Opens an output of rows: a file, a device, or stdout (`-`).
 *
 * Throws `UserError` (exit 2) as `inspectOutput`, and when a partial file was made in another way. A whole output is
 * not resumed but refused.
 */
export async function createEmbeddings(target: string, options: OutputOptions): Promise<EmbeddingOutput> {
  const {meta, stdout, force = false, batch = 1} = options
  const {format, pipe, continuing: continues, complete: whole} = await inspectOutput(target, options)
  if (whole) await refuseExisting(target)
  const toStdout = target === '-'
  if (pipe) {
    const stream = toStdout ? stdout! : createWriteStream(target)
    const writer = await streamWriter(format, streamSink(stream), meta)
    const end = async (): Promise<void> => {
      if (!toStdout) await new Promise<void>((done, fail) => stream.end((error?: Error | null) => (error ? fail(error) : done())))
    }
    return {
      format,
      resumed: 0,
      async *resumedIds() {},
      write: rows => writer.write(rows),
      async commit() {
        await writer.finish()
        await end()
      },
      async keep() {
        await end()
        return false
      }
    }
  }
  if (format === 'parquet') {
    const output = await openAtomic(target, {force})
    const writer = await streamWriter(format, fileSink(output.handle), meta)
    return {
      format,
      resumed: 0,
      async *resumedIds() {},
      write: rows => writer.write(rows),
      async commit() {
        await writer.finish()
        await output.commit()
      },
      async keep() {
        await output.abort()
        return false
      }
    }
  }
  return createResumable(target, format, meta, continues, batch)
}

async function streamWriter(format: EmbeddingFormat, sink: Sink, meta: EmbeddingMeta, begun?: readonly Column[]): Promise<Writer> {
  switch (format) {
    case 'parquet':
      return (await import('./parquet.js')).parquetWriter(sink, meta)
    case 'jsonl':
      return (await import('./jsonl.js')).jsonlWriter(sink, meta)
    case 'csv':
      return (await import('./csv.js')).csvWriter(sink, meta, begun)
    default:
      return (await import('./arrow.js')).arrowWriter(sink, meta, begun)
  }
}

/**
 * What an interrupted run left: whole rows, where they end, and (for the formats with a side list) where the list
 * ends.
 */
type Recovered = {
  readonly rows: number
  readonly end: number
  readonly listEnd: number
  readonly columns?: readonly Column[]
  readonly meta: EmbeddingMeta
}

/**
 * The file in which ids and fields wait beside the vectors, for the two formats that need one; and its name when all
 * is done.
 */
const sideOf = (target: string, format: EmbeddingFormat): {growing: string; final: string | undefined} | undefined =>
  format === 'npy'
    ? {growing: partialOf(sidecarOf(target)), final: sidecarOf(target)}
    : format === 'safetensors'
      ? {growing: partialOf(`${target}.rows`), final: undefined}
      : undefined

/** Finds what of a partial file is whole; undefined when nothing is. */
async function recover(target: string, format: EmbeddingFormat, meta: EmbeddingMeta, batch: number): Promise<Recovered | undefined> {
  const partial = partialOf(target)
  const side = sideOf(target, format)
  if (side) {
    const record = await sidecarMeta(side.growing).catch(() => undefined)
    if (!record) return undefined
    const dataAt = format === 'npy' ? npyDataAt : (await import('./safetensors.js')).safetensorsDataAt(meta)
    const lines = await recoverLines(side.growing, {multiple: batch})
    const whole = Math.min(lines.rows, Math.floor((await completeRows(partial, dataAt, meta.dim)) / batch) * batch)
    const {end: listEnd, rows} = whole === lines.rows ? lines : await recoverLines(side.growing, {multiple: batch, upTo: whole})
    return {rows, end: dataAt + rows * meta.dim * 4, listEnd, meta: record}
  }
  if (format === 'arrow') {
    const found = await (await import('./arrow.js')).recoverArrow(partial, partial)
    return found && {...found, listEnd: 0}
  }
  const found = await recoverLines(partial, {multiple: batch, header: format === 'csv' ? 1 : 0, quotes: format === 'csv'})
  if (found.rows === 0) return undefined
  await truncate(partial, found.end)
  if (format === 'jsonl') {
    const opened = await openEmbeddings(partial)
    await opened.close()
    return {...found, listEnd: 0, meta: opened.meta}
  }
  const {readCsv} = await import('./csv.js')
  const bytes = new ByteReader(fileBytes(partial) as AsyncIterable<Uint8Array>)
  const opened = await readCsv(bytes, partial)
  await opened.close()
  return {...found, listEnd: 0, columns: opened.columns, meta: opened.meta}
}

/** An output that grows as `OUT.partial`. */
async function createResumable(
  target: string,
  format: EmbeddingFormat,
  meta: EmbeddingMeta,
  resume: boolean,
  batch: number
): Promise<EmbeddingOutput> {
  const partial = partialOf(target)
  const side = sideOf(target, format)
  const begun = resume ? await recover(target, format, meta, batch) : undefined
  if (begun && provenanceDifferences(begun.meta, meta).length > 0) {
    throw new UserError(
      `${partial} cannot be continued: it is of ${describeProvenance(begun.meta)}; this run is of ${describeProvenance(meta)}.`,
      {
        exit: 2,
        code: 'MIXED_EMBEDDINGS',
        hint: 'Give the flags of the interrupted run, or --force to start anew.'
      }
    )
  }
  const mode = begun ? 'r+' : 'w+'
  const file = await openPartial(partial, mode, target)
  const list = side && (await openPartial(side.growing, mode, target))
  await file.truncate(begun?.end ?? 0)
  await list?.truncate(begun?.listEnd ?? 0)
  const rows = begun?.rows ?? 0
  const writer =
    format === 'npy'
      ? (await import('./npy.js')).npyWriter(file, list!, meta, rows, begun?.listEnd)
      : format === 'safetensors'
        ? (await import('./safetensors.js')).safetensorsWriter(file, list!, meta, rows, begun?.listEnd)
        : await streamWriter(format, fileSink(file, begun?.end ?? 0), meta, begun?.columns)
  let written = rows
  let over = false
  return {
    format,
    resumed: rows,
    async *resumedIds() {
      let left = rows
      if (left === 0) return
      for await (const id of side ? sideIds(side.growing) : rowIds(partial)) {
        yield id
        if (--left === 0) return
      }
    },
    async write(batch) {
      await writer.write(batch)
      written += batch.ids.length
    },
    async commit() {
      await writer.finish()
      over = true
      await file.sync()
      await file.close()
      if (list) {
        if (side!.final) await list.sync()
        await list.close()
        if (side!.final) await rename(side!.growing, side!.final)
        else await rm(side!.growing)
      }
      await rename(partial, target)
      await syncFolder(dirname(target))
    },
    async keep() {
      if (over) return false
      over = true
      await file.close()
      await list?.close()
      if (written > 0) return true
      await rm(partial, {force: true})
      if (side) await rm(side.growing, {force: true})
      return false
    }
  }
}

async function* sideIds(list: string): AsyncGenerator<string> {
  for await (const {id} of sidecarRows(new ByteReader(fileBytes(list) as AsyncIterable<Uint8Array>), list)) yield id
}

async function* rowIds(path: string): AsyncGenerator<string> {
  const {rows} = await openEmbeddings(path)
  for await (const {ids} of rows) yield* ids
}

async function openPartial(path: string, mode: string, target: string): Promise<FileHandle> {
  return open(path, mode).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      throw new UserError(`The folder ${dirname(target)} of the output ${target} does not exist.`, {
        exit: 2,
        code: 'NO_FOLDER',
        hint: `Make it first: mkdir -p ${dirname(target)}`
      })
    throw error
  })
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r').catch(() => undefined) // a folder may be writable without being readable
  await folder?.sync().catch(() => undefined) // not every file system can sync a folder
  await folder?.close()
}
