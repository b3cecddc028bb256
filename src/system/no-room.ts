/** Disks, quotas and limits that a file does not fit into. */
import {statfs} from 'node:fs/promises'
import {dirname} from 'node:path'
import {UserError} from '../config/errors.js'

/** Errors of the system that mean that a file cannot grow: a full disk, a quota, a limit on the size of files. */
export const isNoRoom = (error: unknown): boolean =>
  ['ENOSPC', 'EDQUOT', 'EFBIG'].includes((error as NodeJS.ErrnoException | undefined)?.code ?? '')

/** Refuses a file that needs more bytes than are free on its disk (`UserError`). */
export async function checkRoom(target: string, needed: number): Promise<void> {
  const disk = await statfs(dirname(target)).catch(() => undefined)
  const free = disk && disk.bavail * disk.bsize
  if (free !== undefined && free < needed)
    throw new UserError(`${target} needs ${needed} more bytes, but only ${free} are free on its disk.`, {
      code: 'DISK_FULL',
      hint: 'Free some space or choose another place.'
    })
}
