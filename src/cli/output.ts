/**
 * The far end of a command: stdout, or a file that appears whole or not at all.
 *
 * A file is written under a temporary name beside the target, synced and renamed, so that Make never sees half of it
 * and an interrupted command leaves the old one. What is half written goes away with the process, however it ends
 * short of `kill -9`.
 */
import {randomBytes} from 'node:crypto'
import {closeSync, createWriteStream, existsSync, openSync} from 'node:fs'
import {mkdir, open, readdir, realpath, rename, stat, unlink} from 'node:fs/promises'
import {basename, dirname, join} from 'node:path'
import type {Writable} from 'node:stream'
import {finished} from 'node:stream/promises'
import {UserError} from '../config/errors.js'
import {forgetTemporary, rememberTemporary} from './shutdown.js'

/**
 * An output being written. Call `commit` when it is whole, `discard` when it will not be; both may be called more than
 * once.
 */
export type Output = {
  /** What the user named; `-` is stdout. */
  readonly target: string
  readonly toStdout: boolean
  /** Where to write meanwhile, for formats that seek; for stdout `/dev/stdout`. */
  readonly path: string
  /** The stream to write to; opened on first use. */
  readonly stream: Writable
  commit(): Promise<void>
  discard(): Promise<void>
}

/** Refuses an existing output unless it may be replaced. Throws a usage error (status 2, code `OUTPUT_EXISTS`). */
export function refuseExisting(target: string, force: boolean): void {
  if (force || target === '-' || !existsSync(target) || isDevice(target)) return
  throw new UserError(`${target} exists.`, {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Give --force to replace it, or name another output.'})
}

const isDevice = (target: string): boolean => target.startsWith('/dev/')

/**
 * Opens the output named by `-o`. Devices such as `/dev/null` and `/dev/fd/3` are written to directly.
 * Throws a `UserError` when the target exists and `force` is not set, or its folder is missing.
 */
export async function openOutput(target: string, {force = false}: {force?: boolean} = {}): Promise<Output> {
  if (target === '-') {
    return {target, toStdout: true, path: '/dev/stdout', stream: process.stdout, commit: async () => {}, discard: async () => {}}
  }
  refuseExisting(target, force)
  const final = await realpath(target).catch(() => target) // a link stays; what it names is replaced
  const folder = dirname(final)
  const known = await stat(folder).catch(() => undefined)
  if (!known?.isDirectory()) {
    throw new UserError(`The folder ${folder} of the output ${target} does not exist.`, {
      exit: 2,
      code: 'NO_FOLDER',
      hint: `Make it first: mkdir -p ${folder}`
    })
  }
  const direct = isDevice(target)
  const path = direct ? target : join(folder, `.${basename(final)}.${process.pid}-${randomBytes(4).toString('hex')}.tmp`)
  if (!direct) rememberTemporary(path)
  let stream: Writable | undefined
  let failure: unknown
  let over = false

  const close = async (): Promise<void> => {
    if (!stream) return
    if (failure) throw failure
    const ended = finished(stream)
    stream.end()
    await ended
  }
  return {
    target,
    toStdout: false,
    path,
    get stream(): Writable {
      if (stream) return stream
      const flags = direct ? 'w' : made(path)
      return (stream = createWriteStream(path, {flags, highWaterMark: 1 << 20}).on('error', error => (failure ??= error)))
    },
    async commit() {
      if (over) return
      await close()
      over = true
      if (direct) return
      if (!stream) made(path) // nothing was written: an empty file
      await sync(path)
      await rename(path, final)
      forgetTemporary(path)
      await sync(folder).catch(() => {}) // some file systems refuse to sync a folder; the rename itself is done
    },
    async discard() {
      if (over) return
      over = true
      stream?.destroy()
      if (direct) return
      await unlink(path).catch(() => {})
      forgetTemporary(path)
    }
  }
}

/**
 * Makes the file at once, so that an opening still on its way when the process is told to end cannot make it again
 * behind the cleaning up; → the mode to open it in. Where it cannot be made, the opening says why.
 */
function made(path: string): 'r+' | 'w' {
  try {
    closeSync(openSync(path, 'wx'))
    return 'r+'
  } catch {
    return 'w'
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}

/** Writes one small file whole or not at all. */
export async function writeWhole(target: string, content: string | Uint8Array, {force = false}: {force?: boolean} = {}): Promise<void> {
  const output = await openOutput(target, {force})
  try {
    output.stream.write(content)
    await output.commit()
  } finally {
    await output.discard()
  }
}

/** Makes the folder of a run. Refuses one that holds files unless it may be replaced or resumed. */
export async function openFolder(target: string, {force = false, resume = false}: {force?: boolean; resume?: boolean} = {}): Promise<void> {
  const held = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    if (error.code === 'ENOTDIR')
      throw new UserError(`${target} is a file, but a folder is wanted for the output.`, {exit: 2, code: 'NOT_A_FOLDER'})
    throw error
  })
  if (held.length > 0 && !force && !resume) {
    throw new UserError(`${target} exists and is not empty.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Give --resume to go on with it, --force to start anew in it, or name another folder.'
    })
  }
  await mkdir(target, {recursive: true})
}
