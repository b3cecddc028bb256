/** The encoded bytes of an image, and the error that refuses one: a clause that says what is wrong. */
import {closeSync, constants, fstatSync, lstatSync, openSync, readSync, statSync} from 'node:fs'
import type {ImageRef} from '../sources/image-ref.js'

/** An input that is not used. Its message is one clause in plain words: `the file is empty`. */
export class RefusedImage extends Error {
  constructor(reason: string) {
    super(reason)
    this.name = 'RefusedImage'
  }
}

const MAX_BYTES = 1 << 30

const SYSTEM_ERRORS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  ELOOP: 'it is a link that leads round in a circle',
  EACCES: 'it may not be read (permission denied)',
  EPERM: 'it may not be read (not permitted)',
  ENAMETOOLONG: 'its name is longer than the file system allows',
  EMFILE: 'too many files are open',
  EIO: 'the disk reports an error'
}

/**
 * The encoded bytes of an image: those it brought along, their copy in a temporary file, a member's place in its
 * shard, or the whole file.
 *
 * Raises RefusedImage for what is no plain file (a pipe, a device, a folder), for what cannot be read, and for a
 * member of a shard that has become shorter than it was.
 */
export function readBytes({bytes, copy, path: own, range: place}: Pick<ImageRef, 'path' | 'bytes' | 'range' | 'copy'>): Uint8Array {
  if (bytes) return bytes
  const {path, range} = copy ? {path: copy.path, range: copy} : {path: own, range: place}
  const name = typeof path === 'string' ? path : Buffer.from(path)
  let file: number | undefined
  try {
    const kind = statSync(name) // before opening: opening a pipe would wait for a writer
    if (kind.isDirectory()) throw new RefusedImage('it is a folder, not a file')
    if (!kind.isFile()) throw new RefusedImage('it is a device or a pipe, not a file')
    file = openSync(name, constants.O_RDONLY | constants.O_NONBLOCK) // the name may have become a pipe since
    const found = fstatSync(file)
    if (!found.isFile()) throw new RefusedImage('it is a device or a pipe, not a file')
    const {offset, size} = range ?? {offset: 0, size: found.size}
    if (size > MAX_BYTES) throw new RefusedImage(`the file is ${size} bytes long; more than ${MAX_BYTES} is not read`)
    if (offset + size > found.size) throw new RefusedImage(`its bytes end at ${offset + size}, but the file has only ${found.size}`)
    const buffer = Buffer.allocUnsafe(size)
    let at = 0
    while (at < size) {
      const n = readSync(file, buffer, at, size - at, offset + at)
      if (n === 0) break
      at += n
    }
    return at < size ? buffer.subarray(0, at) : buffer
  } catch (error) {
    if (error instanceof RefusedImage) throw error
    const {code, message} = error as NodeJS.ErrnoException
    throw new RefusedImage(
      code === 'ENOENT' && isLink(name)
        ? 'it is a link to something that is not there'
        : (SYSTEM_ERRORS[code ?? ''] ?? `it cannot be read (${message})`)
    )
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

function isLink(name: string | Buffer): boolean {
  try {
    return lstatSync(name).isSymbolicLink()
  } catch {
    return false
  }
}
