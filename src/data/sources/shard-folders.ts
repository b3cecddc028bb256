/**
 * Class folders inside an archive.
 *
 * An archive has no root that somebody named, and `tar -c photos` and `tar -C photos -c .` hold the same images under
 * different paths. So the folders that all images share are its root, as `photos` is where the folder is named; where
 * all images lie directly in that folder, it is their class, as in an archive of one class.
 */
import {showBytes} from './image-ref.js'

/** The folders of a path, as they lie: `a/../b/1.jpg` lies in `b`. */
const foldersOf = (name: Buffer): string[] =>
  name
    .toString('latin1') // bytes as they are
    .split('/')
    .slice(0, -1)
    .reduce<string[]>(
      (folders, part) => (part === '' || part === '.' ? folders : part === '..' ? folders.slice(0, -1) : [...folders, part]),
      []
    )

/**
 * A function from the path of an image in an archive to its first folder under the archive's root, which `root` is;
 * undefined for images that lie in the root itself. `names` are the paths of all its images.
 */
export function classFolders(names: Iterable<Buffer>): ((name: Buffer) => string | undefined) & {readonly root: string} {
  let shared: string[] | undefined
  let [shallowest, deepest] = [Infinity, 0]
  for (const name of names) {
    const folders = foldersOf(name)
    shared ??= folders
    shallowest = Math.min(shallowest, folders.length)
    deepest = Math.max(deepest, folders.length)
    const end = shared.findIndex((part, i) => part !== folders[i])
    if (end >= 0) shared = shared.slice(0, end)
  }
  const depth = shared?.length ?? 0
  const root = shallowest === depth && deepest === depth ? Math.max(0, depth - 1) : depth
  const shown = (part: string): string => showBytes(Buffer.from(part, 'latin1'))
  const folderIn = (name: Buffer): string | undefined => {
    const folder = foldersOf(name)[root]
    return folder === undefined ? undefined : shown(folder)
  }
  return Object.assign(folderIn, {root: (shared ?? []).slice(0, root).map(shown).join('/')})
}
