/**
 * The feature step of curation in parts. Each of several processes computes the features of a stretch of the pool and
 * keeps them in the folder of --cache; the run of all stages, with the same folder, then computes none.
 */
import {UserError} from '../../config/errors.js'
import {crc32, crcText} from '../../system/crc32.js'
import {shardRange, type ShardRequest} from '../embed/shard.js'
import {cacheFile} from './feature-cache.js'
import {FeatureMaker, type FeatureEvent, type FeatureKind, type FeatureMakerOptions} from './features.js'
import {openPool} from './open-pool.js'
import {neededFeatures, type PlannedStage} from './plan.js'
import type {Pool, PoolOptions} from './pool.js'

/** A pool, and how the features that its stages need are computed. */
export type FeatureStepOptions = {
  readonly pool: PoolOptions
  readonly features: FeatureMakerOptions
  readonly plan: readonly PlannedStage[]
  /** Called when all images have been looked at: it throws where too many are bad. */
  readonly checkRejected: () => Promise<void>
  readonly signal: AbortSignal
}

export type ShardOptions = FeatureStepOptions & {readonly shard: ShardRequest}

export type ShardReport = {
  readonly pool: number
  /** Images of this part, and those of them that could not be read. */
  readonly images: number
  readonly unreadable: number
  readonly files: readonly string[]
}

export type ShardEvent = (FeatureEvent & {readonly stage: 'read'}) | {readonly kind: 'opened'; readonly rows: number}

const usage = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

/**
 * Computes the features that the plan needs of one part of the pool. Throws what pool and model throw, and a
 * `UserError` (exit 2) where there is nothing to compute or there are more parts than images.
 */
export async function* curateShard(options: ShardOptions): AsyncGenerator<ShardEvent, ShardReport> {
  const {shard, features, signal} = options
  const maker = new FeatureMaker(features)
  let pool: Pool | undefined
  try {
    pool = await openPool(options.pool, maker)
    if (!pool.images) throw usage(`${pool.name} holds embeddings, whose features are computed.`, 'Give images, or leave --shard out.')
    const kinds = neededFeatures(options.plan, pool, features)
    if (kinds.length === 0) throw usage('The stages compare no features, so there is nothing to compute.', 'Leave --shard out.')
    if (pool.count < shard.count)
      throw usage(`${pool.count} images cannot be cut into ${shard.count} shards.`, `Take ${pool.count} or fewer.`)
    const [from, to] = shardRange({...shard, images: pool.count}, 1)
    yield {kind: 'opened', rows: to - from}
    const refused = new Set<string>()
    const files: string[] = []
    for (const kind of kinds) files.push(yield* describeShard(pool, kind, maker, options, refused))
    signal.throwIfAborted()
    await options.checkRejected()
    return {pool: pool.inputs, images: to - from, unreadable: refused.size, files}
  } finally {
    pool?.close()
    maker.close()
  }
}

/** Computes features of one kind; → their file. */
async function* describeShard(
  pool: Pool,
  kind: FeatureKind,
  maker: FeatureMaker,
  {shard: {index, count}, pool: {onRejected}, features: {cache}, signal}: ShardOptions,
  refused: Set<string>
): AsyncGenerator<ShardEvent, string> {
  const shard = {index, count, images: pool.count, list: listOf(pool)}
  const [from, to] = shardRange(shard, await maker.batch(kind))
  const places = Array.from({length: to - from}, (_, i) => from + i).filter(place => !refused.has(pool.ref(place).id))
  const images = {length: places.length, at: (row: number) => pool.ref(places[row]!)}
  const own = count > 1 ? shard : undefined
  const events = maker.describe(
    images,
    kind,
    bad => {
      refused.add(bad.id)
      onRejected?.(bad)
    },
    own
  )
  let next = await events.next()
  for (; !next.done; next = await events.next()) yield {...next.value, stage: 'read'}
  next.value.features.rows.close()
  signal.throwIfAborted()
  return cacheFile(cache!, await maker.meta(kind), own)
}

/** A checksum of the ids of a pool. */
function listOf(pool: Pool): string {
  let list = 0
  for (let row = 0; row < pool.count; row++) list = crc32(Buffer.from(`${pool.ref(row).id}\0`), list)
  return crcText(list)
}
