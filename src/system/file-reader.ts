/**
 * A file opened once and read piece by piece at given positions: how checkpoints of several gigabytes are read without
 * being held.
 */
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../config/errors.js'
import {missingPathHint} from '../config/missing-path.js'
import {openPlain} from './plain-file.js'

export type FileReader = {
  readonly path: string
  /** Length in bytes when it was opened. */
  readonly size: number
  /** Exactly `length` bytes from `offset`, as a fresh array. Throws `UserError` when the file ends before that. */
  read(offset: number, length: number): Promise<Uint8Array>
  close(): Promise<void>
}

/** One read call of the system moves at most this much. */
const PIECE = 1 << 30

const LFS_HEAD = 'version https://git-lfs.github.com/spec/v1'

/** A repository that was cloned without Git LFS has a few lines of text in the place of each large file. */
async function refuseLfsPointer(handle: FileHandle, size: number, path: string): Promise<void> {
  if (size < LFS_HEAD.length || size > 1024) return
  const {buffer} = await handle.read(Buffer.alloc(size), 0, size, 0)
  const text = buffer.toString('latin1')
  if (!text.startsWith(LFS_HEAD)) return
  const bytes = /^size (\d{1,15})$/m.exec(text)?.[1]
  throw new UserError(`${path} is a Git LFS pointer, not the file itself${bytes === undefined ? '' : `, which has ${bytes} bytes`}.`, {
    code: 'LFS_POINTER',
    hint: 'Fetch the file in its repository: git lfs pull'
  })
}

/**
 * Throws `UserError` when the path does not exist (exit 3), is no plain file, is a Git LFS pointer, or may not be
 * read.
 */
export async function openReader(path: string): Promise<FileReader> {
  const handle: FileHandle = await openPlain(path).catch((error: unknown) => {
    if (error instanceof UserError) throw error
    const code = (error as {code?: string}).code
    if (code === 'ENOENT' || code === 'ENOTDIR')
      throw new UserError(`${path} does not exist.`, {exit: 3, code: 'NO_INPUT', hint: missingPathHint(path), cause: error})
    throw new UserError(`${path} could not be opened (${code}).`, {code: 'READ', cause: error})
  })
  const {size} = await handle.stat()
  await refuseLfsPointer(handle, size, path).catch(async (error: unknown) => {
    await handle.close()
    throw error
  })
  return {
    path,
    size,
    async read(offset, length) {
      const bytes = new Uint8Array(length)
      let at = 0
      while (at < length) {
        const {bytesRead} = await handle.read(bytes, at, Math.min(length - at, PIECE), offset + at)
        if (bytesRead === 0)
          throw new UserError(`${path} ends after ${offset + at} bytes, but ${offset + length} were expected; it is truncated.`, {
            code: 'TRUNCATED',
            hint: 'Fetch or save it again.'
          })
        at += bytesRead
      }
      return bytes
    },
    close: () => handle.close()
  }
}
