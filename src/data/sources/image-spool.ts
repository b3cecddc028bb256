/**
 * Encoded images laid down in a temporary file, for sets that are held and read more than once: images that came out
 * of a compressed shard, a pipe or a Parquet file, where they cannot be read again by their place.
 */
import {closeSync, openSync, rmSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {isNoRoom} from '../../system/no-room.js'
import {registerTempFile} from '../../system/temporary-files.js'
import type {ImageRef} from './image-ref.js'

let count = 0

export class ImageSpool {
  #path: string | undefined
  #file = -1
  #size = 0

  /** The image without its bytes, which are kept in the file; as it is, where it brought none. */
  keep(ref: ImageRef): ImageRef {
    const {bytes, ...rest} = ref
    if (!bytes) return ref
    return ref.range || ref.copy ? rest : {...rest, copy: this.#write(bytes)}
  }

  /** Gives the room back; what was kept cannot be read any more. */
  close(): void {
    if (this.#path === undefined) return
    closeSync(this.#file)
    rmSync(this.#path, {force: true})
    this.#path = undefined
    this.#size = 0
  }

  #write(bytes: Uint8Array): NonNullable<ImageRef['copy']> {
    if (this.#path === undefined) {
      const path = join(tmpdir(), `dinov2-images-${process.pid}-${++count}`)
      this.#file = openSync(path, 'wx', 0o600)
      this.#path = path
      registerTempFile(path)
    }
    const offset = this.#size
    try {
      for (let at = 0; at < bytes.length;) at += writeSync(this.#file, bytes, at, bytes.length - at, offset + at)
    } catch (cause) {
      if (!isNoRoom(cause)) throw cause
      closeSync(this.#file)
      rmSync(this.#path, {force: true})
      throw new UserError(`There is no room in ${tmpdir()} to unpack the images.`, {
        exit: 1,
        code: 'DISK_FULL',
        hint: 'TMPDIR names another folder for temporary files; it must hold all encoded images.',
        cause
      })
    }
    this.#size += bytes.length
    return {path: this.#path, offset, size: bytes.length}
  }
}
