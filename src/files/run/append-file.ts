/**
 * Files that grow line by line while a run goes on: metrics and event files.
 *
 * Where the disk is full, what was to be added waits in memory and goes out with the next piece, to the place where it
 * belongs: a half-written line is written over, nothing is lost and nothing stands twice, as long as the process
 * lives.
 */
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {writeError} from '../../system/write-error.js'
import {openGrowing} from '../../system/plain-file.js'

export class AppendFile {
  #waiting: Uint8Array[] = []
  #failure: UserError | undefined

  private constructor(
    readonly path: string,
    readonly handle: FileHandle,
    private length: number
  ) {}

  /**
   * Opens a file to add to it behind its first `keep` bytes (by default all of it); what stands after them is cut off.
   * Throws `UserError` where that is not possible.
   */
  static async open(path: string, keep?: number): Promise<AppendFile> {
    try {
      const handle = await openGrowing(path, {anew: false}).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error
        return openGrowing(path, {anew: true})
      })
      const {size} = await handle.stat()
      const length = Math.min(size, keep ?? size)
      if (length < size) await handle.truncate(length)
      return new AppendFile(path, handle, length)
    } catch (error) {
      throw sentence(path, error)
    }
  }

  /** Why pieces are waiting, where some are. */
  get failure(): UserError | undefined {
    return this.#failure
  }

  /** Adds a piece, and what waited before it. Never throws: see `failure`. */
  async append(piece: string | Uint8Array): Promise<void> {
    this.#waiting.push(typeof piece === 'string' ? Buffer.from(piece) : piece)
    const all = this.#waiting.length === 1 ? this.#waiting[0]! : Buffer.concat(this.#waiting)
    try {
      for (let done = 0; done < all.byteLength;)
        done += (await this.handle.write(all, done, all.byteLength - done, this.length + done)).bytesWritten
      this.length += all.byteLength
      this.#waiting = []
      this.#failure = undefined
    } catch (error) {
      this.#waiting = [all]
      this.#failure = sentence(this.path, error)
    }
  }

  /** Brings what was written to the disk itself. */
  async sync(): Promise<void> {
    await this.handle.datasync().catch(() => undefined) // not every file system can
  }

  /** Tries once more to write what waits, and closes. Returns what is still wrong. */
  async close(): Promise<UserError | undefined> {
    if (this.#waiting.length > 0) await this.append(new Uint8Array())
    await this.handle.close().catch(() => undefined)
    return this.#failure
  }
}

function sentence(path: string, error: unknown): UserError {
  const said = writeError(path, error)
  if (said instanceof UserError) return said
  const code = (error as NodeJS.ErrnoException).code
  if (code === undefined) throw error
  return new UserError(`${path} cannot be written (${code}).`, {
    code: 'WRITE',
    hint: 'Check the disk and the rights of its folder.',
    cause: error
  })
}
