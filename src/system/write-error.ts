/** What the system says when an output cannot be written, as sentences that name it. */
import {dirname} from 'node:path'
import {UserError} from '../config/errors.js'
import {isNoRoom} from './no-room.js'

/** What the system says when an output cannot be begun, as a sentence. */
export function beginError(path: string, error: unknown): unknown {
  switch ((error as {code?: string}).code) {
    case 'ENOENT':
      return new UserError(`The folder of ${path} does not exist.`, {
        exit: 2,
        code: 'NO_FOLDER',
        hint: `mkdir -p ${dirname(path)}`,
        cause: error
      })
    case 'ENOTDIR':
      return new UserError(`${dirname(path)} is not a folder, so ${path} cannot be written.`, {exit: 2, code: 'NO_FOLDER', cause: error})
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new UserError(`${path} may not be written (${(error as {code: string}).code}).`, {
        code: 'WRITE',
        hint: 'Check the rights of its folder.',
        cause: error
      })
    default:
      return writeError(path, error)
  }
}

/**
 * A full disk, a name that is too long or a pipe in the place of a file, as a sentence about `path`, also where one
 * about a file inside it was made already; other errors pass unchanged.
 */
export function writeError(path: string, error: unknown): unknown {
  switch ((error as {code?: string}).code) {
    case 'DISK_FULL':
    case 'FILE_TOO_LARGE': {
      const {cause} = error as Error
      return isNoRoom(cause) ? writeError(path, cause) : error
    }
    case 'ENOSPC':
    case 'EDQUOT':
      return new UserError(`No room left on the disk for ${path}.`, {
        code: 'DISK_FULL',
        hint: 'Free some space or name another place.',
        cause: error
      })
    case 'EFBIG':
      return new UserError(`${path} would be larger than a file may be here.`, {
        code: 'FILE_TOO_LARGE',
        hint: 'The shell or the file system limits the size of files: see ulimit -f, or name another place.',
        cause: error
      })
    case 'ENAMETOOLONG':
      return new UserError(`${path} has too long a name.`, {
        exit: 2,
        code: 'NAME_TOO_LONG',
        hint: 'Most file systems take 255 bytes, and some 40 of them are needed for a mark while the file grows. Give a shorter name.',
        cause: error
      })
    case 'ESPIPE':
      return new UserError(`${path} is a pipe, and this format is not written from front to back.`, {
        code: 'WRITE',
        hint: 'Name a file.',
        cause: error
      })
    default:
      return error
  }
}
