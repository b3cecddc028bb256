/**
 * Shards of a list of images: several processes embed a part each, in the order of the list, and whoever reads the
 * parts together has the rows of one process. Each part records which it is, so that a missing one is noticed.
 */
import {UserError} from '../../config/errors.js'
import {isCount, isObject} from '../../system/json.js'

/** Which part of a list a file of embeddings is. */
export type Shard = {
  /** From 0. */
  readonly index: number
  /** How many parts there are; two or more. */
  readonly count: number
  /** Images of the whole list. */
  readonly images: number
  /** A checksum of the ids of the whole list. */
  readonly list: string
}

export const isShard = (value: unknown): boolean =>
  isObject(value) &&
  [value['index'], value['count'], value['images']].every(isCount) &&
  (value['index'] as number) < (value['count'] as number) &&
  typeof value['list'] === 'string'

export const shardName = ({index, count}: Pick<Shard, 'index' | 'count'>): string => `shard ${index}/${count}`

type Part = {readonly name: string; readonly shard?: Shard | undefined}

const wrongShards = (sentence: string, hint: string): UserError => new UserError(sentence, {exit: 2, code: 'SHARDS', hint})

/** Files in the order of their parts. Throws a `UserError` (exit 2) that names a missing, double or foreign part. */
export function shardsInOrder<T extends Part>(parts: readonly T[]): T[] {
  const {name: firstName, shard: first} = parts[0]!
  const found = new Map<number, T>()
  for (const part of parts) {
    const {name, shard} = part
    if (first === undefined && shard === undefined) continue
    if (first === undefined || shard === undefined)
      throw wrongShards(
        `${firstName} and ${name} cannot be read together: one is a shard of a list, the other is not.`,
        'Make an index of the shards first, then add the rest: dinov2 index --add.'
      )
    if (shard.count !== first.count || shard.images !== first.images || shard.list !== first.list)
      throw wrongShards(
        `${firstName} and ${name} are shards of two lists: ${shardName(first)} of ${first.images} images, and ${shardName(shard)} of ${shard.images} (checksums ${first.list} and ${shard.list}).`,
        'Embed all shards of one list with the same number of shards.'
      )
    const double = found.get(shard.index)
    if (double) throw wrongShards(`${double.name} and ${name} are both ${shardName(shard)}.`, 'Give each shard once.')
    found.set(shard.index, part)
  }
  const count = first!.count
  const missing = Array.from({length: count}, (_, i) => i).filter(i => !found.has(i))
  if (missing.length > 0)
    throw wrongShards(
      `${missing
        .slice(0, 8)
        .map(index => shardName({index, count}))
        .join(
          ', '
        )}${missing.length > 8 ? `, … (${missing.length} in all)` : ''} ${missing.length === 1 ? 'is' : 'are'} missing beside ${firstName}.`,
      `All ${count} are read together; one that was not finished is made by the command of the others, with --shard ${missing[0]}/${count}.`
    )
  return [...found].sort(([a], [b]) => a - b).map(([, part]) => part)
}
