/** Pipes with a name (`mkfifo`) in the place of an output: opening one waits for its reader, and cannot be stopped. */
import {constants} from 'node:fs'
import {open, type FileHandle} from 'node:fs/promises'
import {setTimeout as pause} from 'node:timers/promises'
import {UserError} from '../config/errors.js'

/** How often a reader is looked for, a tenth of a second apart. */
const TRIES = 30

/**
 * Opens such a pipe for writing once it has a reader, and waits three seconds for one. Throws `UserError` where none
 * comes: what nobody reads is lost when the pipe is closed.
 */
export async function openNamedPipe(path: string): Promise<FileHandle> {
  for (let attempt = 0; ; attempt++) {
    const probe = await open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENXIO') throw error
      return undefined
    })
    if (probe) {
      try {
        return await open(path, 'w') // one that waits where the pipe is full
      } finally {
        await probe.close()
      }
    }
    if (attempt === TRIES)
      throw new UserError(`${path} is a pipe that nobody reads.`, {code: 'NO_READER', hint: 'Start its reader first, or name a file.'})
    await pause(100)
  }
}
