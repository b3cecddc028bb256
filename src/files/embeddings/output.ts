/** Where embeddings go: a file, a device or stdout, and what stands there already. */
import {createWriteStream} from 'node:fs'
import {stat} from 'node:fs/promises'
import type {Writable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {openAtomic, openDirect, refuseExisting} from '../../system/atomic.js'
import {fileSink, streamSink} from './bytes.js'
import type {Format} from './format.js'
import {formatOf, type EmbeddingFormat} from './formats.js'
import type {EmbeddingMeta} from './provenance.js'
import type {NamedRow} from './rows.js'
import {createResumable, isOfRejectedRun, partialOf, type EmbeddingOutput} from './resumable.js'

export type OutputOptions = {
  readonly meta: EmbeddingMeta
  readonly format?: EmbeddingFormat
  /** Where `-` goes. */
  readonly stdout?: Writable
  /** Replace what exists. */
  readonly force?: boolean
  /** For CSV: texts that a spreadsheet would run as formulas get a quote. */
  readonly csvSafe?: boolean
  /** Go on behind the last whole row of `OUT.partial`. */
  readonly resume?: boolean
  /**
   * Rows computed at once: a continued file is cut to a multiple of it, so that the rest comes out as it would have
   * without the interruption.
   */
  readonly batch?: number
}

/** What stands where an output is to go. */
export type OutputState = {
  readonly format: EmbeddingFormat
  /** stdout, a device or a named pipe: written as it comes, never renamed. */
  readonly pipe: boolean
  /** An interrupted run left a partial file, and it is to be continued. */
  readonly continuing: boolean
  /** `resume` was asked for, and the output is there, whole. */
  readonly complete: boolean
}

/** Refuses what the format cannot do: go to a pipe, or be continued. */
function refuseImpossible({name: format, streams, recover}: Format, name: string, pipe: boolean, resume: boolean, complete: boolean): void {
  if (pipe && !streams)
    throw new UserError(`A .${format} file names its number of rows at its beginning, so it cannot be written to ${name}.`, {
      exit: 2,
      code: 'NEEDS_FILE',
      hint: `Write a file (-o vectors.${format}), or choose --format arrow, jsonl, csv or parquet.`
    })
  if (resume && pipe)
    throw new UserError(`What went to ${name} cannot be continued.`, {exit: 2, code: 'CANNOT_RESUME', hint: 'Name an output file with -o.'})
  if (resume && !recover && !complete)
    throw new UserError(`A .${format} file keeps its table of contents at the end, so an interrupted one cannot be continued.`, {
      exit: 2,
      code: 'CANNOT_RESUME',
      hint: 'Start anew with --force, or write .arrow, which can.'
    })
}

/**
 * Looks at where an output is to go, before any work is done.
 *
 * Throws `UserError` (exit 2): the output or its partial file exists, or is a folder; the format is unknown, needs a
 * file, or cannot be continued.
 */
export async function inspectOutput(
  target: string,
  options: Pick<OutputOptions, 'format' | 'force' | 'resume' | 'csvSafe'> = {}
): Promise<OutputState> {
  const {force = false, resume = false} = options
  const format = formatOf(target, options.format, options.csvSafe)
  const found = target === '-' ? undefined : await stat(target).catch(() => undefined)
  const pipe = target === '-' || (found !== undefined && !found.isFile() && !found.isDirectory())
  const partial = pipe ? undefined : await stat(partialOf(target)).catch(() => undefined)
  const complete = resume && !partial && found?.isFile() === true
  refuseImpossible(format, target === '-' ? 'stdout' : target, pipe, resume, complete)
  if (found?.isDirectory())
    throw new UserError(`${target} is a folder, but this output is a file.`, {
      exit: 2,
      code: 'OUTPUT_IS_FOLDER',
      hint: 'Name a file in it.'
    })
  const state = {format: format.name, pipe, complete, continuing: resume && partial !== undefined}
  if (pipe || complete) return state
  if (partial && !resume && !force && !(await isOfRejectedRun(target))) {
    throw new UserError(`${partialOf(target)} was left by an interrupted run.`, {
      exit: 2,
      code: 'PARTIAL_EXISTS',
      hint: 'Give --resume to go on with it, or --force to start anew.'
    })
  }
  if (!state.continuing) {
    await refuseExisting(target, {force})
    for (const {final} of format.sideFiles?.(target) ?? []) if (final !== undefined) await refuseExisting(final, {force})
  }
  return state
}

const nothingResumed = {resumed: 0, async *resumedRows(): AsyncGenerator<NamedRow> {}}

/** An output that is written from front to back and never renamed. */
async function pipeOutput(target: string, format: Format<EmbeddingFormat>, {meta, stdout}: OutputOptions): Promise<EmbeddingOutput> {
  const toStdout = target === '-'
  const stream = toStdout ? stdout! : createWriteStream(target, {fd: await openDirect(target)})
  const writer = await format.write({sink: streamSink(stream), sides: []}, meta)
  const end = async (): Promise<void> => {
    if (!toStdout) await new Promise<void>((done, fail) => stream.end((error?: Error | null) => (error ? fail(error) : done())))
  }
  return {
    format: format.name,
    ...nothingResumed,
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

/** A file that appears whole or not at all, for formats that cannot be continued. */
async function atomicOutput(target: string, format: Format<EmbeddingFormat>, {meta, force}: OutputOptions): Promise<EmbeddingOutput> {
  const output = await openAtomic(target, {force})
  const writer = await format.write({sink: fileSink(output.handle), sides: []}, meta)
  return {
    format: format.name,
    ...nothingResumed,
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

/**
 * Opens an output of rows: a file, a device, or stdout (`-`).
 *
 * Throws `UserError` (exit 2) as `inspectOutput`, and when a partial file was made in another way. A whole output is
 * not resumed but refused; see `appendTo`.
 */
export async function createEmbeddings(target: string, options: OutputOptions): Promise<EmbeddingOutput> {
  const {pipe, continuing, complete, format: name} = await inspectOutput(target, options)
  if (complete) await refuseExisting(target)
  const format = formatOf(target, name, options.csvSafe)
  if (pipe) return pipeOutput(target, format, options)
  if (!format.recover) return atomicOutput(target, format, options)
  return createResumable(target, format, options.meta, continuing, options.batch ?? 1)
}

/**
 * Opens an output that replaces the whole one at `target` at its end: for writing its rows again, with more behind
 * them.
 */
export async function replaceEmbeddings(target: string, options: OutputOptions): Promise<EmbeddingOutput> {
  const format = formatOf(target, options.format, options.csvSafe)
  return format.recover
    ? createResumable(target, format, options.meta, false, options.batch ?? 1)
    : atomicOutput(target, format, {...options, force: true})
}
