/** What was kept, as files: links, copies, or tar shards by the rules of webdataset. */
import {copyFile, symlink, writeFile} from 'node:fs/promises'
import {dirname, extname, join, relative, resolve} from 'node:path'
import {RefusedImage, readBytes} from '../../data/image/decode.js'
import {sniff} from '../../data/image/sniff.js'
import {imagePath, PackedImages} from '../../data/sources/packed-images.js'
import {isPacked, labelOf} from '../../data/sources/image-ref.js'
import {atomicFolder} from '../../system/atomic.js'
import {writeShards} from '../../files/tar-shards.js'
import type {CurationOutcome} from './outcome.js'
import {makeFolders} from '../../system/make-folders.js'

export type MaterializeOptions = {
  readonly how: 'links' | 'copy' | 'tar'
  readonly folder: string
  /** Images of a shard. */
  readonly perShard: number
  readonly force: boolean
}

export type Materialized = {
  readonly how: 'links' | 'copy' | 'tar'
  readonly folder: string
  readonly files: number
  readonly missing: number
}

/** Names that are taken, in small letters, because some file systems do not tell case apart. */
type Taken = {readonly files: Set<string>; readonly folders: Set<string>}

/** The folders of a name, each renamed where a file has its name already. */
function freeFolders(parts: readonly string[], {files, folders}: Taken): string {
  let path = ''
  for (const part of parts) {
    let next = ''
    for (let n = 0; next === '' || files.has(next.toLowerCase()); n++) next = `${path}${part}${n === 0 ? '' : `-${n}`}`
    folders.add(next.toLowerCase())
    path = `${next}/`
  }
  return path
}

/** A name below the folder for an id: no way out of it, no name twice, none that is file and folder at once. */
function safeName(id: string, ending: string, taken: Taken): string {
  const parts = id
    .replaceAll('\\', '/')
    .replaceAll('\0', '')
    .split('/')
    .filter(part => part !== '' && part !== '.' && part !== '..')
    .map(part =>
      Buffer.byteLength(part) > 200
        ? Buffer.from(part)
            .subarray(-200)
            .toString('latin1')
            .replace(/[^\w.-]/g, '_')
        : part
    )
  const plain = parts.at(-1) ?? 'image'
  const own = extname(plain)
  const stem = freeFolders(parts.slice(0, -1), taken) + (own === '' ? plain : plain.slice(0, -own.length))
  for (let n = 0; ; n++) {
    const name = `${stem}${n === 0 ? '' : `-${n}`}${own === '' ? ending : own}`
    const key = name.toLowerCase()
    if (taken.files.has(key) || taken.folders.has(key)) continue
    taken.files.add(key)
    return name
  }
}

/** Writes the folder, whole or not at all. Images that cannot be opened are counted. */
export async function materialize(
  {pool, kept, stageFields}: CurationOutcome,
  {how, folder, perShard, force}: MaterializeOptions,
  signal: AbortSignal
): Promise<Materialized> {
  let [files, missing] = [0, 0]
  const packed = new PackedImages()
  if (!pool.images)
    await packed.find(
      Array.from(kept, row => pool.ref(row)).map(({id, path, fields}) => imagePath(id, {...fields, path})),
      undefined,
      signal
    )
  await atomicFolder(
    folder,
    async temporary => {
      const taken: Taken = {files: new Set(), folders: new Set()}
      if (how === 'tar') {
        const samples = async function* (): AsyncGenerator<{key: string; parts: Record<string, Uint8Array>}> {
          for (const [n, row] of kept.entries()) {
            signal.throwIfAborted()
            const ref = packed.place(pool.ref(row))
            try {
              const bytes = readBytes(ref)
              const found = sniff(bytes.subarray(0, 4096), ref.id)
              const ending = 'format' in found ? (found.format === 'jpeg' ? 'jpg' : found.format) : 'bin'
              files++
              yield {
                key: String(n).padStart(9, '0'),
                parts: {
                  [ending]: bytes,
                  json: Buffer.from(JSON.stringify({id: ref.id, ...ref.fields, label: labelOf(ref), ...stageFields(row)}))
                }
              }
            } catch (error) {
              if (!(error instanceof RefusedImage)) throw error
              missing++
            }
          }
        }
        await writeShards(temporary, samples(), perShard)
        return
      }
      for (const row of kept) {
        signal.throwIfAborted()
        const ref = packed.place(pool.ref(row))
        try {
          const bytes = isPacked(ref) ? readBytes(ref) : undefined
          const name = safeName(ref.id, bytes ? endingOf(bytes, ref.id) : '', taken)
          const to = join(temporary, name)
          await makeFolders(dirname(to))
          if (bytes) await writeFile(to, bytes)
          else if (how === 'copy') await copyFile(ref.path, to)
          else {
            // The folder is renamed when it is whole; links are made as they will lie then.
            const from = typeof ref.path === 'string' ? resolve(ref.path) : ref.path
            await symlink(typeof from === 'string' ? relative(dirname(join(resolve(folder), name)), from) : from, to)
          }
          files++
        } catch (error) {
          if (!(error instanceof RefusedImage) && (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
          missing++
        }
      }
    },
    {force}
  )
  return {how, folder, files, missing}
}

function endingOf(bytes: Uint8Array, id: string): string {
  const found = sniff(bytes.subarray(0, 4096), id)
  return 'format' in found ? `.${found.format === 'jpeg' ? 'jpg' : found.format}` : ''
}
