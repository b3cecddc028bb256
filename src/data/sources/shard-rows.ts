/**
 * Lists that name members of tar shards (`{"path": "photos.tgz/cat/1"}`), as `curate` writes them of compressed shards
 * and of embeddings of shards.
 */
import {statSync} from 'node:fs'
import {readBytes} from '../image/read-bytes.js'
import {containerOf, isShardName, plainName} from './container-names.js'
import {showBytes, type ImageRef} from './image-ref.js'
import {ImageSpool} from './image-spool.js'
import {readShard} from './webdataset.js'

/** Shards that are kept at once: of compressed ones their images lie in a temporary file. */
const OPEN = 4

/** The members of one shard by key, read in one pass. */
class ShardMembers {
  readonly #members = new Map<string, ImageRef>()
  readonly #spool = new ImageSpool()
  #problem: string | undefined

  static async open(path: string): Promise<ShardMembers> {
    const shard = new ShardMembers()
    for await (const chunk of readShard(path, path, () => undefined))
      for (const ref of chunk)
        if (ref.id === path) shard.#problem = ref.problem
        else {
          const key = plainName(ref.id.slice(path.length + 1))
          if (!shard.#members.has(key)) shard.#members.set(key, shard.#spool.keep(ref))
        }
    return shard
  }

  /** The row with the bytes of the member that it names, or their place; with a problem where there is none. */
  resolve(row: ImageRef, name: string, container: string): ImageRef {
    const key = plainName(name.slice(container.length + 1))
    const member = this.#members.get(key)
    if (!member) {
      const problem = this.#problem ?? `there is no image of the key ${key} in ${container}`
      return {...row, problem}
    }
    if (member.problem !== undefined) return {...row, problem: member.problem}
    if (member.range) return {...row, path: member.path, range: member.range}
    return {...row, bytes: readBytes(member)}
  }

  close(): void {
    this.#spool.close()
  }
}

const isFile = (path: string): boolean => statSync(path, {throwIfNoEntry: false})?.isFile() === true

/** Gives the images of a list that are members of shards their bytes, or their place; all others pass as they are. */
export async function* withShardMembers(chunks: AsyncIterable<ImageRef[]>): AsyncGenerator<ImageRef[]> {
  const shards = new Map<string, ShardMembers>()
  const shardAt = async (path: string): Promise<ShardMembers> => {
    const shard = shards.get(path) ?? (await ShardMembers.open(path))
    shards.delete(path)
    shards.set(path, shard)
    if (shards.size > OPEN) {
      const [oldest, other] = shards.entries().next().value!
      shards.delete(oldest)
      other.close()
    }
    return shard
  }
  try {
    for await (const chunk of chunks) {
      const names = chunk.map(shardNamed)
      if (names.every(container => container === undefined)) {
        yield chunk
        continue
      }
      let ready: ImageRef[] = []
      for (const [i, ref] of chunk.entries()) {
        const container = names[i]
        ready.push(container === undefined ? ref : (await shardAt(container)).resolve(ref, showPath(ref), container))
        if (ready.length < AT_ONCE) continue
        yield ready
        ready = []
      }
      if (ready.length > 0) yield ready
    }
  } finally {
    for (const shard of shards.values()) shard.close()
  }
}

/** Images of a list whose bytes are held at once. */
const AT_ONCE = 32

const showPath = ({path}: ImageRef): string => (typeof path === 'string' ? path : showBytes(path))

/** The shard that a row of a list names a member of; undefined for all other rows. */
function shardNamed(ref: ImageRef): string | undefined {
  if (ref.bytes || ref.range || ref.row !== undefined || ref.problem !== undefined) return undefined
  const container = containerOf(showPath(ref))
  return container !== undefined && isShardName(container) && isFile(container) ? container : undefined
}
