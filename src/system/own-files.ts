/** Whether code in a cache is this user's own: native code is loaded only where nobody else could have written it. */
import {chmodSync, statSync} from 'node:fs'
import {UserError} from '../config/errors.js'

const OTHERS_MAY_WRITE = 0o022

/** What is wrong with the rights of a path; undefined where only this user, or the system's own, may write it. */
function foreignRight(path: string): string | undefined {
  const me = process.getuid?.()
  if (me === undefined) return undefined
  const {uid, mode} = statSync(path)
  if (uid !== me && uid !== 0) return `it belongs to another user (${uid})`
  return (mode & OTHERS_MAY_WRITE) === 0 ? undefined : `others may write it (mode ${(mode & 0o7777).toString(8)})`
}

/** Whether nobody else could have written these paths. */
export const isOwn = (paths: readonly string[]): boolean => paths.every(path => foreignRight(path) === undefined)

/** Refuses code that others could have written, by the rights of its file and folders. Throws `UserError` (exit 5). */
export function assertOwn(paths: readonly string[]): void {
  for (const path of paths) {
    const why = foreignRight(path)
    if (why === undefined) continue
    throw new UserError(`${path} holds native code that is not loaded: ${why}.`, {
      exit: 5,
      code: 'NOT_OWN',
      hint: `If nobody has changed it: chmod go-w ${path}. Else remove it; it is compiled anew.`
    })
  }
}

/** Takes the right to write away from others, where the paths are this user's. */
export function makeOwn(paths: readonly string[]): void {
  for (const path of paths) {
    const {uid, mode} = statSync(path)
    if (uid === process.getuid?.() && (mode & OTHERS_MAY_WRITE) !== 0) chmodSync(path, mode & 0o7777 & ~OTHERS_MAY_WRITE)
  }
}
