/** Outputs that grow as `OUT.partial` and can be continued behind their last whole row. */
import {rename, rm, stat, writeFile, type FileHandle} from 'node:fs/promises'
import {dirname} from 'node:path'
import {UserError} from '../../config/errors.js'
import {assertFolderOf, syncFolder} from '../../system/atomic.js'
import {writeError} from '../../system/write-error.js'
import {lockOutput} from '../../system/lock.js'
import {fileBytes, openGrowing} from '../../system/plain-file.js'
import {ByteReader, fileSink} from './bytes.js'
import type {Format, Recovered, SideFile} from './format.js'
import {detectFormat, type EmbeddingFormat} from './formats.js'
import {describeProvenance, provenanceDifferences, type EmbeddingMeta} from './provenance.js'
import {rowsOf, type EmbeddingBatch, type NamedRow} from './rows.js'
import {foreignPartial} from './unresumable.js'

/** An output of rows. Exactly one of `commit` and `keep` ends it. */
export type EmbeddingOutput = {
  readonly format: EmbeddingFormat
  /** Rows that an interrupted run had written already. */
  readonly resumed: number
  /** Their ids and fields, in order. */
  resumedRows(): AsyncGenerator<NamedRow>
  write(batch: EmbeddingBatch): Promise<void>
  /** Writes the end and gives the file its name. */
  commit(): Promise<void>
  /**
   * Ends without a result. What is written stays as `OUT.partial` for `resume`; true when there is such a file.
   * `rejected`: the run came to its end and refused its inputs, so a run without `resume` may begin anew.
   */
  keep(options?: {readonly rejected?: boolean}): Promise<boolean>
}

/** Under which name an output grows. */
export const partialOf = (target: string): string => `${target}.partial`

/** Stands beside a partial file whose run was not interrupted, but refused too many of its inputs. */
const rejectedMarkOf = (target: string): string => `${partialOf(target)}.rejected`

/** Whether the partial file of `target` is of a run that refused too many of its inputs. */
export const isOfRejectedRun = async (target: string): Promise<boolean> =>
  stat(rejectedMarkOf(target)).then(
    found => found.isFile(),
    () => false
  )

/** Files that are shorter may be a beginning that was cut off; what is longer is in some format, or foreign. */
const TOLD_BY = 512

/**
 * Refuses what an interrupted run began in another format, and what no run began: all of it would be lost. A beginning
 * that a run that was killed has left, short or of zeros, is none of these.
 */
async function assertSameFormat(partial: string, format: Format): Promise<void> {
  const bytes = new ByteReader(fileBytes(partial))
  const head = await bytes.peek(TOLD_BY).finally(() => bytes.close())
  const found = detectFormat(head)
  if (!found && head.length >= TOLD_BY && head.some(byte => byte !== 0)) throw foreignPartial(partial)
  if (found && found.name !== format.name)
    throw new UserError(`${partial} was begun as ${found.name}, so it cannot be continued as ${format.name}.`, {
      exit: 2,
      code: 'CANNOT_RESUME',
      hint: `Go on with --format ${found.name}, or start anew with --force.`
    })
}

/** Finds what an interrupted run left. Throws `UserError` where it was made in another way. */
async function recovered(
  format: Format,
  partial: string,
  sides: readonly SideFile[],
  meta: EmbeddingMeta,
  batch: number
): Promise<Recovered | undefined> {
  await assertSameFormat(partial, format)
  const begun = await format.recover!({partial, sides}, {meta, batch})
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
  return begun
}

/**
 * Opens an output that grows as `OUT.partial`; with `resume` behind the rows that are there. One process at a time
 * does so. Throws `UserError` (exit 2) where another is at it.
 */
export async function createResumable(
  target: string,
  format: Format<EmbeddingFormat>,
  meta: EmbeddingMeta,
  resume: boolean,
  batch: number
): Promise<EmbeddingOutput> {
  assertFolderOf(target)
  const lock = await lockOutput(partialOf(target), target)
  try {
    const output = await growing(target, format, meta, resume, batch)
    const released =
      <T>(end: () => Promise<T>): (() => Promise<T>) =>
      async () =>
        end().finally(() => lock.release())
    return {...output, commit: released(output.commit), keep: options => output.keep(options).finally(() => lock.release())}
  } catch (error) {
    await lock.release()
    throw error
  }
}

async function growing(
  target: string,
  format: Format<EmbeddingFormat>,
  meta: EmbeddingMeta,
  resume: boolean,
  batch: number
): Promise<EmbeddingOutput> {
  const partial = partialOf(target)
  const sides = format.sideFiles?.(target) ?? []
  const begun = resume ? await recovered(format, partial, sides, meta, batch) : undefined
  const [file, ...handles] = await openParts([partial, ...sides.map(side => side.partial)], target, begun)
  const close = async (): Promise<void> => {
    for (const handle of [file, ...handles]) await handle.close()
  }
  const rows = begun?.rows ?? 0
  const writer = await (async () => {
    await rm(rejectedMarkOf(target), {force: true})
    return format.write({sink: fileSink(file, begun?.end ?? 0), file, sides: handles}, meta, begun)
  })().catch((error: unknown) => close().then(() => Promise.reject(error as Error)))
  let written = rows
  let over = false
  return {
    format: format.name,
    resumed: rows,
    async *resumedRows() {
      let left = rows
      if (left === 0) return
      for await (const row of format.listedRows?.({partial, sides}) ?? rowsIn(format, partial)) {
        yield row
        if (--left === 0) return
      }
    },
    async write(some) {
      await writer.write(some).catch((error: unknown) => Promise.reject(writeError(partial, error)))
      written += some.ids.length
    },
    async commit() {
      await writer.finish().catch((error: unknown) => Promise.reject(writeError(partial, error)))
      over = true
      await file.sync()
      await file.close()
      for (const [i, {partial: growing, final, optional}] of sides.entries()) {
        const kept = final !== undefined && !(optional && (await handles[i]!.stat()).size === 0)
        if (kept) await handles[i]!.sync()
        await handles[i]!.close()
        await (kept ? rename(growing, final) : rm(growing))
        if (!kept && final !== undefined) await rm(final, {force: true}) // of a run before
      }
      await rename(partial, target)
      await syncFolder(dirname(target))
    },
    async keep({rejected = false} = {}) {
      if (over) return false
      over = true
      await close()
      if (written > 0) {
        if (rejected) {
          await rm(rejectedMarkOf(target), {force: true}) // never written through a link
          await writeFile(rejectedMarkOf(target), '', {flag: 'wx'})
        }
        return true
      }
      await rm(partial, {force: true})
      for (const side of sides) await rm(side.partial, {force: true})
      return false
    }
  }
}

async function* rowsIn(format: Format, path: string): AsyncGenerator<NamedRow> {
  const bytes = new ByteReader(fileBytes(path))
  const {rows, close} = await format.open({name: path, bytes, path})
  try {
    for await (const batch of rows) yield* rowsOf(batch)
  } finally {
    await close?.()
    await bytes.close()
  }
}

/** Opens the growing files at where what is whole of them ends; where one fails, all are closed again. */
async function openParts(
  [partial, ...sides]: readonly [string, ...string[]],
  target: string,
  begun: Recovered | undefined
): Promise<[FileHandle, ...FileHandle[]]> {
  const anew = begun === undefined
  const file = await openPartial(partial, anew, target)
  const handles: FileHandle[] = []
  try {
    for (const side of sides) handles.push(await openPartial(side, anew, target))
    await file.truncate(begun?.end ?? 0)
    for (const [i, handle] of handles.entries()) await handle.truncate(begun?.sideEnds[i] ?? 0)
    return [file, ...handles]
  } catch (error) {
    for (const handle of [file, ...handles]) await handle.close()
    throw error
  }
}

async function openPartial(path: string, anew: boolean, target: string): Promise<FileHandle> {
  return openGrowing(path, {anew}).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT')
      throw new UserError(`The folder ${dirname(target)} of the output ${target} does not exist.`, {
        exit: 2,
        code: 'NO_FOLDER',
        hint: `Make it first: mkdir -p ${dirname(target)}`
      })
    throw error
  })
}
