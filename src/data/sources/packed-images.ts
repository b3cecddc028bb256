/**
 * Images that are no files of their own, members of tar shards and rows of Parquet files, by the names that rows give
 * them (`shard.tar/key`, `file.parquet/17`), so that small pictures can be made of them after they were embedded.
 */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {containerOf, isParquetName, plainName} from './container-names.js'
import {ImageSpool} from './image-spool.js'
import {isPacked, type ImageRef} from './image-ref.js'
import {listImages} from './source.js'

/**
 * The path of the image that a row is about: its `path`, else its id; of a row of a Parquet file, the file with the
 * row's number behind it.
 */
export function imagePath(id: string, {path, row}: Readonly<Record<string, unknown>> = {}): string {
  if (typeof path !== 'string') return id
  return typeof row === 'number' && isParquetName(path) ? `${path}/${row}` : path
}

export class PackedImages {
  readonly #spool = new ImageSpool()
  readonly #refs = new Map<string, ImageRef>()

  /** Remembers where an image lies by its id; those that are files of their own are passed over. */
  keep(ref: ImageRef): void {
    if (isPacked(ref)) this.#refs.set(plainName(ref.id), this.#spool.keep(ref))
  }

  /** Where an image lies; undefined for files, and for what was not kept. */
  get = (id: string): ImageRef | undefined => this.#refs.get(plainName(id))

  /**
   * Looks for images by the ids that members and rows have: `root` is the folder that ids start from. Each file is
   * read once; what cannot be read is left out.
   */
  async find(ids: Iterable<string>, root?: string, signal?: AbortSignal): Promise<void> {
    const wanted = new Map<string, Set<string>>()
    for (const id of ids) {
      const container = containerOf(id)
      if (container === undefined) continue
      if (!wanted.has(container)) wanted.set(container, new Set())
      wanted.get(container)!.add(plainName(id))
    }
    for (const [container, members] of wanted) {
      const path = root === undefined ? container : join(root, container)
      if (!(await stat(path).catch(() => undefined))?.isFile()) continue
      try {
        for await (const ref of listImages([path])) {
          signal?.throwIfAborted()
          const id = ref.row === undefined ? container + ref.id.slice(path.length) : `${container}/${ref.row}`
          if (members.delete(plainName(id))) this.keep({...ref, id})
          if (members.size === 0) break
        }
      } catch (error) {
        if (!(error instanceof UserError)) throw error
      }
    }
  }

  /** A row that names an image by its path alone, as rows of embeddings do, with the place where the image lies. */
  place = (ref: ImageRef): ImageRef => {
    const {id: _, fields: __, ...found} = this.get(imagePath(ref.id, {...ref.fields, path: ref.path})) ?? ref
    return {...ref, ...found}
  }

  /** What to decode for a picture of the image at a path, which starts from `root`. */
  at = (path: string, root?: string): ImageRef =>
    this.get(path) ?? {id: path, path: root === undefined ? path : join(root, path), fields: {}}
}
