/**
 * Images that are no files of their own, members of tar shards and rows of Parquet files, so that small pictures can
 * be made of them after they were embedded.
 */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {ImageSpool} from '../../data/sources/image-spool.js'
import type {ImageRef} from '../../data/sources/image-ref.js'
import {isParquetName, isShardName} from '../../data/sources/container-names.js'
import {listImages} from '../../data/sources/source.js'

export class PackedImages {
  readonly #spool = new ImageSpool()
  readonly #refs = new Map<string, ImageRef>()

  /** Remembers where an image lies by its id; those that are files of their own are passed over. */
  keep(ref: ImageRef): void {
    if (ref.bytes || ref.range || ref.copy) this.#refs.set(ref.id, this.#spool.keep(ref))
  }

  /** Where an image lies; undefined for files, and for what was not kept. */
  get = (id: string): ImageRef | undefined => this.#refs.get(id)

  /**
   * Looks for images by the ids that members and rows have, `shard.tar/key` and `file.parquet/17`: `root` is the
   * folder that ids start from. What cannot be read is left out.
   */
  async find(ids: Iterable<string>, root: string | undefined, signal: AbortSignal): Promise<void> {
    const wanted = new Map<string, Set<string>>()
    for (const id of ids) {
      const container = containerOf(id)
      if (container === undefined) continue
      if (!wanted.has(container)) wanted.set(container, new Set())
      wanted.get(container)!.add(id)
    }
    for (const [container, members] of wanted) {
      const path = root === undefined ? container : join(root, container)
      if (!(await stat(path).catch(() => undefined))?.isFile()) continue
      try {
        for await (const ref of listImages([path])) {
          signal.throwIfAborted()
          const id = container + ref.id.slice(path.length)
          if (members.has(id)) this.keep({...ref, id})
        }
      } catch (error) {
        if (!(error instanceof UserError)) throw error
      }
    }
  }
}

/** The shard or Parquet file in front of an id. */
function containerOf(id: string): string | undefined {
  for (let at = id.indexOf('/', 1); at > 0; at = id.indexOf('/', at + 1)) {
    const name = id.slice(0, at)
    if (isShardName(name) || isParquetName(name)) return name
  }
  return undefined
}
