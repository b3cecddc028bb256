/**
 * Folders made with those above them.
 *
 * Node's own way (`recursive`) never ends, and no signal ends it, where a folder is there and yet nothing may be made
 * in it because the system says that it is missing, as in `/proc`.
 */
import {mkdirSync, statSync} from 'node:fs'
import {mkdir, stat} from 'node:fs/promises'
import {dirname} from 'node:path'

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT'

/**
 * Makes a folder and those above it that are missing. Returns the first that was made; undefined where all were there.
 * Throws what the system says.
 */
export async function makeFolders(path: string): Promise<string | undefined> {
  try {
    return await makeOne(path)
  } catch (error) {
    if (!isMissing(error) || dirname(path) === path) throw error
    const first = await makeFolders(dirname(path))
    const own = await makeOne(path)
    return first ?? own
  }
}

/** Makes one folder; another process may have done so in between. */
async function makeOne(path: string): Promise<string | undefined> {
  try {
    await mkdir(path)
    return path
  } catch (error) {
    const found = isMissing(error) ? undefined : await stat(path).catch(() => undefined)
    if (found?.isDirectory()) return undefined
    throw error
  }
}

/** The same at once, for what runs before anything else; folders that are made have this mode. */
export function makeFoldersSync(path: string, mode = 0o777): void {
  const makeOneSync = (): void => {
    try {
      mkdirSync(path, {mode})
    } catch (error) {
      const found = isMissing(error) ? undefined : statSync(path, {throwIfNoEntry: false})
      if (!found?.isDirectory()) throw error
    }
  }
  try {
    makeOneSync()
  } catch (error) {
    if (!isMissing(error) || dirname(path) === path) throw error
    makeFoldersSync(dirname(path), mode)
    makeOneSync()
  }
}
