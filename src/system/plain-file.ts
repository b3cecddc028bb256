/**
 * Files that are named by a user, or by another file, opened for reading.
 *
 * Only plain files are opened: opening a pipe waits for a writer, reading a device may never end, and neither can be
 * stopped while a thread hangs in it. What a path is gets looked at before it is opened, and again behind the opening.
 * A pipe that the shell has opened already (`<(command)`, `/dev/stdin`) may be read where a file is read from front to
 * back.
 */
import {closeSync, constants, createReadStream, fstatSync, openSync, statSync, type Stats} from 'node:fs'
import {lstat, open, stat, type FileHandle} from 'node:fs/promises'
import {Socket} from 'node:net'
import {join, relative, sep} from 'node:path'
import {UserError} from '../config/errors.js'

/** Settings, lists of names and records are shorter; what is longer is a file of another kind. */
const MAX_TEXT = 64 << 20

const READ = constants.O_RDONLY | constants.O_NONBLOCK

const kindOf = (found: Stats): string =>
  found.isDirectory() ? 'a folder' : found.isFIFO() ? 'a pipe' : found.isSocket() ? 'a socket' : 'a device'

/** Refuses what is no plain file. Throws `UserError` (exit 2, for a folder 3). */
export function assertPlain(path: string, found: Stats): void {
  if (found.isFile()) return
  throw new UserError(`${path} is ${kindOf(found)}, but a file was expected.`, {
    exit: found.isDirectory() ? 3 : 2,
    code: found.isDirectory() ? 'NO_INPUT' : 'NOT_A_FILE',
    hint: found.isFIFO() ? 'Write what comes through the pipe to a file first.' : undefined
  })
}

/** Opens a plain file. Throws `UserError` where it is none, and errors of the system as they are. */
export async function openPlain(path: string): Promise<FileHandle> {
  assertPlain(path, await stat(path))
  const handle = await open(path, READ)
  try {
    assertPlain(path, await handle.stat())
    return handle
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** As `openPlain`, at once. */
export function openPlainSync(path: string): number {
  assertPlain(path, statSync(path))
  const file = openSync(path, READ)
  try {
    assertPlain(path, fstatSync(file))
    return file
  } catch (error) {
    closeSync(file)
    throw error
  }
}

/** The descriptor of a pipe that was open when the program began, by its path. */
function openPipe(path: string): number | undefined {
  const number = path === '/dev/stdin' ? 0 : Number(/^\/(?:dev|proc\/self)\/fd\/(\d{1,6})$/.exec(path)?.[1] ?? NaN)
  if (Number.isNaN(number)) return undefined
  try {
    const found = fstatSync(number)
    return found.isFIFO() || found.isSocket() ? number : undefined
  } catch {
    return undefined
  }
}

/** Whether a path is a pipe that the shell has opened: `<(command)`, `/dev/stdin`. */
export const isOpenPipe = (path: string): boolean => openPipe(path) !== undefined

/** The bytes of a file from front to back, `start` bytes left out. Throws as `openPlain`. */
export async function* fileBytes(path: string, start = 0): AsyncGenerator<Uint8Array> {
  const pipe = openPipe(path)
  if (pipe !== undefined) yield* new Socket({fd: pipe, readable: true, writable: false}) as AsyncIterable<Uint8Array>
  else yield* createReadStream(path, {fd: openPlainSync(path), start, highWaterMark: 1 << 20}) as AsyncIterable<Uint8Array>
}

const tooLong = (path: string): UserError =>
  new UserError(`${path} is longer than ${MAX_TEXT} bytes, too long for what it is read as.`, {exit: 2, code: 'TOO_LONG'})

/** A whole text. Throws as `openPlain`, and `UserError` where it is too long for settings and lists of names. */
export async function readText(path: string): Promise<string> {
  const parts: Uint8Array[] = []
  let length = 0
  for await (const part of fileBytes(path)) {
    length += part.length
    if (length > MAX_TEXT) throw tooLong(path)
    parts.push(part)
  }
  return Buffer.concat(parts).toString('utf8')
}

/**
 * Opens a file that grows at its place, for reading and writing; `anew` begins it empty, otherwise it must be there.
 * A link in its place is not followed: somebody else may have put it there. Throws `UserError` where there is one.
 */
export async function openGrowing(path: string, {anew}: {readonly anew: boolean}): Promise<FileHandle> {
  const flags = constants.O_RDWR | (constants.O_NOFOLLOW ?? 0) | (anew ? constants.O_CREAT | constants.O_TRUNC : 0)
  const handle = await open(path, flags | constants.O_NONBLOCK).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code === 'ELOOP') throw linkError(path, error)
    if (error.code === 'EISDIR' || error.code === 'ENXIO') throw inTheWay(path, await stat(path), error)
    throw error
  })
  const found = await handle.stat()
  if (!found.isFIFO() && !found.isSocket()) return handle
  await handle.close()
  throw inTheWay(path, found)
}

/** What is said of a folder or a pipe where this tool writes a file of its own. */
const inTheWay = (path: string, found: Stats, cause?: unknown): UserError =>
  new UserError(`${path} is ${kindOf(found)}, but a file is written there.`, {
    exit: 2,
    code: 'NOT_A_FILE',
    hint: 'Remove it, or name another output.',
    cause
  })

/** What is said of a link where this tool writes a file of its own. */
const linkError = (path: string, cause?: unknown): UserError =>
  new UserError(`${path} is a link, and nothing is written through links.`, {
    exit: 2,
    code: 'IS_LINK',
    hint: 'Remove it, or put the file that it names in its place.',
    cause
  })

/**
 * Refuses a link in the place of `path`, or of a folder between `folder` and it: a folder made by others could lead
 * its files elsewhere. `folder` itself may be a link. Throws `UserError` (exit 2).
 */
export async function refuseLinksBelow(folder: string, path: string): Promise<void> {
  let at = folder
  for (const name of relative(folder, path).split(sep)) {
    at = join(at, name)
    if ((await lstat(at).catch(() => undefined))?.isSymbolicLink()) throw linkError(at)
  }
}
