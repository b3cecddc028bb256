/**
 * Images of a folder and all below it, in the order of the bytes of their paths (that of `find | LC_ALL=C sort`).
 *
 * Links to files are followed; a link that leads nowhere, or round in a circle, is yielded and refused when it is to
 * be decoded. Every folder is visited at most once, known by device and inode, so a link to a parent ends there.
 * Memory: one folder's names at a time.
 */
import {promises as fs, type BigIntStats, type Dirent} from 'node:fs'
import {problemRef, refOf, pathOfBytes, showBytes, type ImageRef, type SourceNote} from './image-ref.js'
import {skipReason} from './ignored-files.js'

type Entry = {readonly name: Buffer; readonly kind: 'file' | 'folder' | 'other'; readonly linked: boolean}

const SLASH = Buffer.from('/')
const CHUNK = 256

const stat = (path: Buffer): Promise<BigIntStats | undefined> =>
  fs.stat(path, {bigint: true}).then(
    found => found,
    () => undefined
  )

async function kindOf(entry: Dirent, path: Buffer): Promise<Entry['kind']> {
  if (entry.isFile()) return 'file'
  if (entry.isDirectory()) return 'folder'
  if (!entry.isSymbolicLink()) return 'other'
  const target = await stat(path)
  if (!target) return 'file' // dangling or circular: decoding says so
  return target.isFile() ? 'file' : target.isDirectory() ? 'folder' : 'other'
}

/**
 * Entries of one folder, folders compared as if their names ended in a slash, which makes the walk one long sorted
 * list.
 */
async function entriesOf(folder: Buffer): Promise<Entry[]> {
  const found = (await fs.readdir(folder, {withFileTypes: true, encoding: 'buffer' as BufferEncoding})) as unknown as (Dirent & {
    name: Buffer
  })[]
  const entries: {key: Buffer; entry: Entry}[] = []
  for (const dirent of found) {
    const kind = await kindOf(dirent, Buffer.concat([folder, SLASH, dirent.name]))
    entries.push({
      key: kind === 'folder' ? Buffer.concat([dirent.name, SLASH]) : dirent.name,
      entry: {name: dirent.name, kind, linked: dirent.isSymbolicLink()}
    })
  }
  return entries.sort((a, b) => Buffer.compare(a.key, b.key)).map(({entry}) => entry)
}

/**
 * Yields the images under `root` (as given: ids start with it), opened at `open` (the same, made absolute where need
 * be), some at a time.
 *
 * `folder` of each is the first folder under the root. A folder that may not be read is yielded as a problem, so that
 * it is counted.
 */
export async function* walkFolder(root: string, open: string, note: (note: SourceNote) => void): AsyncGenerator<ImageRef[]> {
  const visited = new Set<string>()
  let ready: ImageRef[] = []
  const strip = (path: string): Buffer => Buffer.from(path.length > 1 ? path.replace(/(?<!\/)\/+$/, '') || '/' : path)
  const join = (folder: Buffer, name: Buffer): Buffer => Buffer.concat(folder.at(-1) === 0x2f ? [folder, name] : [folder, SLASH, name])

  async function* visit(shown: Buffer, opened: Buffer, label: string | undefined): AsyncGenerator<ImageRef[]> {
    const self = await stat(opened)
    const mark = self && `${self.dev}:${self.ino}`
    if (mark !== undefined && visited.has(mark)) {
      note({kind: 'skipped', path: showBytes(shown), reason: 'a link to a folder that is visited already'})
      return
    }
    if (mark !== undefined) visited.add(mark)
    let entries: Entry[]
    try {
      entries = await entriesOf(opened)
    } catch (error) {
      ready.push(
        problemRef(
          showBytes(shown),
          pathOfBytes(opened),
          `the folder cannot be read (${(error as NodeJS.ErrnoException).code ?? String(error)})`
        )
      )
      return
    }
    for (const {name, kind} of entries) {
      const path = join(shown, name)
      const text = showBytes(name)
      if (kind === 'folder') {
        if (text.startsWith('.')) note({kind: 'skipped', path: showBytes(path), reason: 'a hidden folder'})
        else yield* visit(path, join(opened, name), label ?? text)
        continue
      }
      const reason = kind === 'other' ? 'neither a file nor a folder' : skipReason(text)
      if (reason !== undefined) note({kind: 'skipped', path: showBytes(path), reason})
      else ready.push(refOf(pathOfBytes(path), pathOfBytes(join(opened, name)), undefined, label))
      if (ready.length >= CHUNK) {
        yield ready
        ready = []
      }
    }
  }
  yield* visit(strip(root), strip(open), undefined)
  if (ready.length > 0) yield ready
}
