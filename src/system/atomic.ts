/**
 * Outputs that are whole or absent: every writer of the project goes through here.
 *
 * A file is written under a temporary name beside its target, synced to the disk and renamed, so that Make never sees
 * half a file and an interrupted command leaves the old one. A folder is built the same way and renamed as a whole.
 * What is left open when the process exits is removed; after a `kill -9` a hidden `.NAME.tmp-PID-N` may stay behind,
 * never a broken target. Devices and pipes (`/dev/null`, `/dev/fd/3`) are written directly.
 */
import {closeSync, existsSync, openSync, rmSync, statSync} from 'node:fs'
import {mkdir, open, readdir, realpath, rename, rm, stat, type FileHandle} from 'node:fs/promises'
import {basename, dirname, join, resolve} from 'node:path'
import {UserError} from '../config/errors.js'
import {openNamedPipe} from './named-pipe.js'
import {isTempFile, registerTempFile, releaseTempFile} from './temporary-files.js'
import {beginError, writeError} from './write-error.js'

export type AtomicOptions = {
  /** Replace an output that exists; without it an existing output is refused. */
  readonly force?: boolean
}

/** An output under construction; exactly one of `commit` and `abort` ends it, and a second call does nothing. */
export type AtomicOutput = {
  /** Open for reading and writing at any position; a full disk, met in writing, is an error that names the output. */
  readonly handle: FileHandle
  /** Where the bytes lie until `commit`. */
  readonly temporary: string
  /** Syncs, closes and gives the file its name. */
  commit(): Promise<void>
  /** Closes and removes the temporary file; the old output stays. */
  abort(): Promise<void>
}

let count = 0

/** The hidden name beside `path` under which it is built; no two writers share one. */
const temporaryName = (path: string): string => join(dirname(path), `.${basename(path)}.tmp-${process.pid}-${++count}`)

/** Devices and the descriptors of the shell are written directly, also where a descriptor is a plain file. */
/** Devices are written to directly, so nothing can be kept beside them. */
export const isDevice = (path: string): boolean => path.startsWith('/dev/')

/**
 * Refuses an output that exists unless `force`; devices and pipes always pass. Commands call it before long work
 * begins. Throws `UserError` (exit 2) naming --force.
 */
export async function refuseExisting(path: string, {force = false}: AtomicOptions = {}): Promise<void> {
  if (force || isDevice(path)) return
  const found = await stat(path).catch(() => undefined)
  if (found && (found.isFile() || found.isDirectory()))
    throw new UserError(`${path} exists already.`, {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Give another name, or --force to replace it.'})
}

/** Refuses an output whose folder does not exist. Throws `UserError` (exit 2) with the command that makes it. */
export function assertFolderOf(path: string): void {
  const folder = dirname(path)
  if (isDevice(path) || statSync(folder, {throwIfNoEntry: false})?.isDirectory()) return
  throw beginError(path, {code: existsSync(folder) ? 'ENOTDIR' : 'ENOENT'})
}

/** The file that a path means at last: a link is followed, so that the link stays and what it names is replaced. */
const target = async (path: string): Promise<string> => realpath(path).catch(() => resolve(path))

/**
 * Begins the output `path`.
 *
 * Throws `UserError`: the output exists and `force` is not given, is a folder, or its folder is missing (exit 2); the
 * folder is not writable (exit 1).
 */
export async function openAtomic(path: string, options: AtomicOptions = {}): Promise<AtomicOutput> {
  await refuseExisting(path, options)
  const final = await target(path)
  const found = await stat(final).catch(() => undefined)
  if (found?.isDirectory())
    throw new UserError(`${path} is a folder, but this output is a file.`, {exit: 2, code: 'OUTPUT_IS_FOLDER', hint: 'Name a file in it.'})
  if (isDevice(path)) return direct(path, path)
  if (found && !found.isFile()) return direct(path, final)
  const temporary = temporaryName(final)
  // Made at once and opened as it is: an opening on its way when the process ends would make the file again behind the
  // cleaning up.
  const handle = await (async () => {
    closeSync(openSync(temporary, 'wx'))
    registerTempFile(temporary)
    return open(temporary, 'r+')
  })().catch((error: unknown) => {
    if (releaseTempFile(temporary)) rmSync(temporary, {force: true})
    throw beginError(path, error)
  })
  nameFailures(handle, path)
  let open_ = true
  const close = async (): Promise<void> => {
    open_ = false
    await handle.close()
  }
  const abort = async (): Promise<void> => {
    if (open_) await close()
    await removeTemporary(temporary)
  }
  return {
    handle,
    temporary,
    abort,
    async commit() {
      if (!open_) return
      await finishOutput({path, final, abort}, async () => {
        await handle.sync()
        await close()
        await refuseExisting(path, options) // another process may have been quicker
        await rename(temporary, final)
        releaseTempFile(temporary)
      })
    }
  }
}

/** Makes what fails in writing to a file an error that names the output. */
function nameFailures(handle: FileHandle, path: string): void {
  const named =
    <A extends unknown[], R>(write: (...args: A) => Promise<R>): ((...args: A) => Promise<R>) =>
    async (...args) =>
      write.apply(handle, args).catch((error: unknown) => Promise.reject(writeError(path, error) as Error))
  const {write, appendFile, writeFile, truncate} = handle
  Object.assign(handle, {write: named(write), appendFile: named(appendFile), writeFile: named(writeFile), truncate: named(truncate)})
}

/** Removes a temporary file or folder, unless it has its final name already. */
async function removeTemporary(temporary: string): Promise<void> {
  if (!isTempFile(temporary)) return
  await rm(temporary, {recursive: true, force: true})
  releaseTempFile(temporary)
}

/** Runs `place`, which gives an output its final name, and syncs its folder; on failure the output is removed. */
async function finishOutput(
  {path, final, abort}: {readonly path: string; readonly final: string; readonly abort: () => Promise<void>},
  place: () => Promise<void>
): Promise<void> {
  try {
    await place()
  } catch (error) {
    await abort()
    throw writeError(path, error)
  }
  await syncFolder(dirname(final))
}

/** Opens a device or a pipe for writing. Throws `UserError` where a pipe with a name has no reader. */
export async function openDirect(path: string): Promise<FileHandle> {
  const isNamedPipe = !isDevice(path) && (await stat(path).catch(() => undefined))?.isFIFO() === true
  if (isNamedPipe) return openNamedPipe(path)
  return open(path, 'r+').catch(() => open(path, 'w'))
}

/** Devices and pipes cannot be renamed over: bytes go straight to them. */
async function direct(path: string, final: string): Promise<AtomicOutput> {
  const handle = await openDirect(final).catch((error: unknown) => Promise.reject(beginError(path, error) as Error))
  let ended = false
  const close = async (): Promise<void> => {
    if (ended) return
    ended = true
    await handle.close()
  }
  return {handle, temporary: final, commit: close, abort: close}
}

/**
 * Writes one file whole or not at all: `write` receives the temporary path and fills it.
 *
 * Throws what `write` throws, after removing the temporary file; else as `openAtomic`.
 */
export async function atomicFile(path: string, write: (temporary: string) => Promise<void>, options: AtomicOptions = {}): Promise<void> {
  await fill(path, await openAtomic(path, options), write)
}

/** A folder under construction; exactly one of `commit` and `abort` ends it, and a second call does nothing. */
export type AtomicFolder = {
  /** Where to write until `commit`. */
  readonly temporary: string
  /** Syncs every file in it and gives the folder its name; an existing one is set aside, replaced and then removed. */
  commit(): Promise<void>
  /** Removes the temporary folder; the old one stays. */
  abort(): Promise<void>
}

/** Begins the output folder `path`. Throws as `openAtomic`. */
export async function openAtomicFolder(path: string, options: AtomicOptions = {}): Promise<AtomicFolder> {
  await refuseExisting(path, options)
  const final = await target(path)
  const found = await stat(final).catch(() => undefined)
  if (found && !found.isDirectory())
    throw new UserError(`${path} is a file, but this output is a folder.`, {exit: 2, code: 'OUTPUT_IS_FILE', hint: 'Give another name.'})
  const temporary = temporaryName(final)
  await mkdir(temporary).catch((error: unknown) => {
    throw beginError(path, error)
  })
  registerTempFile(temporary)
  const abort = async (): Promise<void> => removeTemporary(temporary)
  return {
    temporary,
    abort,
    async commit() {
      if (!isTempFile(temporary)) return
      await finishOutput({path, final, abort}, async () => {
        await syncTree(temporary)
        await refuseExisting(path, options)
        if (found) {
          const aside = temporaryName(final) // never removed before the new folder is in place
          await rename(final, aside)
          await rename(temporary, final).catch(async (error: unknown) => {
            await rename(aside, final)
            throw error
          })
          releaseTempFile(temporary)
          await rm(aside, {recursive: true, force: true})
        } else {
          await rename(temporary, final)
          releaseTempFile(temporary)
        }
      })
    }
  }
}

/**
 * Builds one folder whole or not at all: `write` receives the temporary folder and fills it; every file in it is
 * synced before the folder gets its name.
 *
 * With `force` an existing folder is set aside, replaced and then removed. Throws as `openAtomic`, and what `write`
 * throws.
 */
export async function atomicFolder(path: string, write: (temporary: string) => Promise<void>, options: AtomicOptions = {}): Promise<void> {
  await fill(path, await openAtomicFolder(path, options), write)
}

/** Fills an output and commits it; where that fails it is removed. */
async function fill(path: string, output: AtomicFolder, write: (temporary: string) => Promise<void>): Promise<void> {
  try {
    await write(output.temporary)
  } catch (error) {
    await output.abort()
    throw writeError(path, error)
  }
  await output.commit()
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, {withFileTypes: true})) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) await syncTree(path)
    else if (entry.isFile()) {
      const handle = await open(path, 'r+')
      await handle.sync().finally(() => handle.close())
    }
  }
  await syncFolder(folder)
}

/** Brings the names in a folder to the disk, where that can be done. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r').catch(() => undefined) // a folder may be writable without being readable
  await folder?.sync().catch(() => undefined) // not every file system can sync a folder
  await folder?.close()
}
