/**
 * The temporary files and folders of this process: the one register of what must not outlive it.
 *
 * What is registered is removed when the process exits, however it ends short of `kill -9`.
 */
import {rmSync} from 'node:fs'

const registered = new Set<string>()
let installed = false

/** Registers a file or folder to be removed should the process end before `releaseTempFile`. */
export function registerTempFile(path: string): void {
  if (!installed) {
    installed = true
    process.on('exit', removeTempFiles)
  }
  registered.add(path)
}

/** Takes a path off the register, after a rename or a removal; false where it was not registered. */
export const releaseTempFile = (path: string): boolean => registered.delete(path)

/** Whether a path is registered. */
export const isTempFile = (path: string): boolean => registered.has(path)

function removeTempFiles(): void {
  for (const path of registered) {
    try {
      rmSync(path, {recursive: true, force: true})
    } catch {
      // Its folder is gone, or it may no longer be written; nothing more can be done while the process ends.
    }
  }
  registered.clear()
}
