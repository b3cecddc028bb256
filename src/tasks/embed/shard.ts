/** The part of a list of images that one of several processes embeds. */
import {UserError} from '../../config/errors.js'
import {listChunks, type ImageRef} from '../../data/sources/source.js'
import type {Shard} from '../../files/embeddings/shards.js'
import {crc32, crcText} from '../../system/crc32.js'

/** One part of `count`, counted from 0. */
export type ShardRequest = {readonly index: number; readonly count: number}

type Listed = {readonly inputs: readonly string[]; readonly nul?: boolean; readonly signal: AbortSignal}

const usage = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

/**
 * Lists all images and says which part this is; no image is opened. Throws a `UserError` (exit 2) for a list on stdin,
 * which can be read only once, and for more parts than images.
 */
export async function listShard({index, count}: ShardRequest, {inputs, nul, signal}: Listed): Promise<Shard> {
  if (inputs.includes('-'))
    throw usage(
      'A shard of a list on stdin cannot be told: the list is read once to count it.',
      'Write the list to a file that all processes read.'
    )
  let images = 0
  let list = 0
  for await (const chunk of listChunks(inputs, {nul})) {
    signal.throwIfAborted()
    images += chunk.length
    list = crc32(Buffer.from(chunk.map(({id}) => `${id}\0`).join('')), list)
  }
  if (images > 0 && images < count) throw usage(`${images} images cannot be cut into ${count} shards.`, `Take ${images} or fewer.`)
  return {index, count, images, list: crcText(list)}
}

/**
 * The places of a part in its list: from, and up to before. Parts begin where a batch does, so that one process and
 * several compute the same batches, unless there are fewer batches than parts.
 */
export function shardRange({index, count, images}: Shard | Omit<Shard, 'list'>, batch: number): readonly [from: number, to: number] {
  const unit = Math.ceil(images / batch) >= count ? batch : 1
  const units = Math.ceil(images / unit)
  const at = (part: number): number => Math.min(images, Math.floor((part * units) / count) * unit)
  return [at(index), at(index + 1)]
}

/** Those images that stand at places from `from` up to before `to`. */
export async function* withinRange(refs: AsyncIterable<ImageRef>, [from, to]: readonly [number, number]): AsyncGenerator<ImageRef> {
  let place = 0
  for await (const ref of refs) {
    if (place >= to) return
    if (place++ >= from) yield ref
  }
}
