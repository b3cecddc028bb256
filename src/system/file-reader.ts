/**
 * A file opened once and read piece by piece at given positions: how checkpoints of several gigabytes are read without
 * being held.
 */
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../config/errors.js'
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

/** Throws `UserError` when the path does not exist (exit 3), is no plain file, or may not be read. */
export async function openReader(path: string): Promise<FileReader> {
  const handle: FileHandle = await openPlain(path).catch((error: unknown) => {
    if (error instanceof UserError) throw error
    const code = (error as {code?: string}).code
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new UserError(`${path} does not exist.`, {exit: 3, code: 'NO_INPUT', cause: error})
    throw new UserError(`${path} could not be opened (${code}).`, {code: 'READ', cause: error})
  })
  const {size} = await handle.stat()
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
