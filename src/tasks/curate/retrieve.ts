/**
 * Retrieval: images of the pool that are similar to curated seeds, by nearest neighbours or by clusters, for each seed
 * set by itself (DINOv2 paper, appendix A.4).
 */
import {assign, kmeans} from '../../curate/kmeans.js'
import {retrieveFromClusters, retrieveNearest} from '../../curate/retrieval.js'
import {UserError} from '../../config/errors.js'
import type {Arithmetic} from '../../curate/matmul-backend.js'
import type {RowSource} from '../../curate/rows.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {openOtherSet, type OtherSet} from './other-set.js'
import {
  arithmeticFor,
  plural,
  roundedScore,
  runInParts,
  vectorsOf,
  type Context,
  type Stage,
  type StageEvent,
  type Verdict
} from './stage.js'

export type SeedSet = {readonly name: string; readonly method: 'auto' | 'sample' | 'cluster'; readonly inputs: readonly string[]}

export type RetrieveOptions = {
  readonly sets: readonly SeedSet[]
  readonly method: 'auto' | 'sample' | 'cluster'
  readonly perSeed: number
  /** Rows that are less similar to their seed are not taken. */
  readonly minSimilarity: number | undefined
  /** Clusters of the pool; undefined: about one for 100 rows. */
  readonly clusters: number | undefined
  /** A cluster counts when more seeds than this fall into it. */
  readonly moreThan: number
  readonly perCluster: number
  readonly cap: number | undefined
}

/**
 * Seed sets of more images than this retrieve by nearest neighbours, smaller ones by clusters. The paper's limit is a
 * million; this one suits the pools of one machine.
 */
const sampleFrom = 1000

/**
 * Reads `NAME=INPUT` or `NAME:METHOD=INPUT`; an input alone is a set of that name. Throws `UserError` (exit 2) for an
 * unknown method.
 */
export function parseSeeds(texts: readonly string[]): SeedSet[] {
  const sets = new Map<string, {method: SeedSet['method']; inputs: string[]}>()
  for (const text of texts) {
    const found = /^([^=:/\\]+)(?::([^=/\\]*))?=(.+)$/s.exec(text)
    const [name, method, input] = found ? [found[1]!, found[2] ?? 'auto', found[3]!] : [text, 'auto', text]
    if (method !== 'auto' && method !== 'sample' && method !== 'cluster')
      throw new UserError(`--seeds ${text}: there is no method ${method}.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'Write NAME=INPUT, NAME:sample=INPUT or NAME:cluster=INPUT.'
      })
    const set = sets.get(name)
    if (set) {
      set.inputs.push(input)
      if (method !== 'auto') set.method = method
    } else sets.set(name, {method, inputs: [input]})
  }
  return [...sets].map(([name, set]) => ({name, ...set}))
}

/** What one seed set brings: of each row the seed that it was retrieved for (-1: none) and its similarity to it. */
type Retrieval = {
  readonly seed: Int32Array
  readonly similarity: Float32Array
  readonly report: object
  readonly summary: readonly string[]
}

/** Clusters of the pool, made once for all seed sets. */
type PoolClusters = {readonly centroids: Float32Array; readonly assignments: Int32Array}

async function* clusterPool(
  {rows, maker, seed, signal}: Context,
  source: RowSource,
  clusters: number | undefined
): AsyncGenerator<StageEvent, PoolClusters> {
  const N = rows.length
  const k = Math.max(1, Math.min(N, clusters ?? Math.round(N / 100)))
  const {centroids} = yield* runInParts(
    kmeans(source, {k, seed, arithmetic: await arithmeticFor(20 * N * k * source.dim, maker)}),
    ({round, of}) => ({kind: 'work', label: `clustering the pool into ${k}`, done: round, total: of}),
    signal
  )
  return {centroids, assignments: assign(source, centroids, await arithmeticFor(N * k * source.dim, maker))}
}

/** Retrieves rows by the clusters that seeds fall into. */
function retrieveByClusters(
  source: RowSource,
  {name, vectors}: OtherSet,
  clusters: PoolClusters,
  {
    moreThan,
    perCluster,
    cap,
    minSimilarity,
    seed: draw,
    arithmetic
  }: Omit<RetrieveOptions, 'clusters'> & {seed: number; arithmetic: Arithmetic}
): Retrieval {
  const {seed, similarity, hits} = retrieveFromClusters(source, vectors, {...clusters, moreThan, perCluster, seed: draw, arithmetic, cap})
  if (minSimilarity !== undefined) for (let i = 0; i < seed.length; i++) if (seed[i]! >= 0 && similarity[i]! < minSimilarity) seed[i] = -1
  const clustersHit = hits.filter(n => n > moreThan).length
  return {
    seed,
    similarity,
    report: {clusters: hits.length, clustersHit},
    summary: clustersHit > 0 ? [] : [`no cluster holds more than ${moreThan} seeds of ${name}; --more-than 0 or fewer --clusters find more`]
  }
}

/** Of each row the seed that it is most similar to, over all sets. */
class BestSeeds {
  readonly #best: ({readonly set: number; readonly seed: number; readonly similarity: number} | undefined)[]
  readonly #setsOf = new Map<number, string[]>()
  readonly #sets: OtherSet[] = []

  constructor(rows: number) {
    this.#best = Array.from({length: rows})
  }

  /** Adds what a set brings; returns the number of its rows. */
  add(set: OtherSet, {seed, similarity}: Retrieval): number {
    const s = this.#sets.push(set) - 1
    let retrieved = 0
    for (let i = 0; i < this.#best.length; i++) {
      if (seed[i]! < 0) continue
      retrieved++
      this.#setsOf.set(i, [...(this.#setsOf.get(i) ?? []), set.name])
      const best = this.#best[i]
      if (!best || similarity[i]! > best.similarity) this.#best[i] = {set: s, seed: seed[i]!, similarity: similarity[i]!}
    }
    return retrieved
  }

  has(i: number): boolean {
    return this.#best[i] !== undefined
  }

  fields(i: number): Fields {
    const {set, seed, similarity} = this.#best[i]!
    const sets = this.#setsOf.get(i)!
    return {
      reason: 'retrieved by a seed',
      seed: this.#sets[set]!.ids[seed]!,
      seed_set: this.#sets[set]!.name,
      ...(sets.length > 1 ? {seed_sets: sets} : {}),
      similarity: roundedScore(similarity)
    }
  }

  /** Rows of each set, most similar first, for the page. */
  groups(): NonNullable<Verdict['groups']> {
    const best = this.#best
    return this.#sets.map(({name}, s) => {
      const members = [...best.keys()].filter(i => best[i]?.set === s).sort((a, b) => best[b]!.similarity - best[a]!.similarity || a - b)
      return {title: `retrieved for ${name}, most alike first`, members: members.slice(0, 24), size: members.length}
    })
  }
}

/** Retrieves for each seed set; a row stays when any set brings it. Throws `UserError`: no seeds (exit 2 or 3). */
export async function* retrieveStage(context: Context, options: RetrieveOptions): Stage {
  const {pool, rows, maker, seed} = context
  if (options.sets.length === 0)
    throw new UserError('No seeds were named to retrieve by.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --seeds NAME=IMAGES (or embeddings); repeatable.'
    })
  const {features, source} = vectorsOf(context)
  const N = rows.length
  const best = new BestSeeds(N)
  const summary: string[] = []
  const reports: object[] = []
  let clusters: PoolClusters | undefined
  for (const {name, inputs, method: ownMethod} of options.sets) {
    const {ids, vectors} = yield* openOtherSet(`the seeds ${name}`, inputs, features, maker, {...context, pool: pool.name})
    const set = {name, ids, vectors}
    const requested = ownMethod === 'auto' ? options.method : ownMethod
    const method = requested === 'auto' ? (ids.length > sampleFrom ? 'sample' : 'cluster') : requested
    const arithmetic = await arithmeticFor(N * ids.length * source.dim, maker)
    let retrieval: Retrieval
    if (method === 'sample') {
      yield {kind: 'work', label: `retrieving for ${name}`, done: 0, total: N}
      const {perSeed, minSimilarity: floor} = options
      retrieval = {...retrieveNearest(source, vectors, {perSeed, arithmetic, floor}), report: {}, summary: []}
    } else {
      clusters ??= yield* clusterPool(context, source, options.clusters)
      retrieval = retrieveByClusters(source, set, clusters, {...options, seed, arithmetic})
    }
    const retrieved = best.add(set, retrieval)
    const how = method === 'sample' ? 'nearest' : 'by clusters'
    summary.push(...retrieval.summary, `${plural(retrieved, 'image')} for ${plural(ids.length, 'seed')} of ${name} (${how})`)
    reports.push({set: name, seeds: ids.length, method, retrieved, ...retrieval.report})
  }
  const isFixed = (i: number): boolean => pool.fixed?.[rows[i]!] === 1
  return {
    kept: Uint8Array.from(rows, (_, i) => (best.has(i) || isFixed(i) ? 1 : 0)),
    fields: i => (best.has(i) ? best.fields(i) : {reason: isFixed(i) ? 'kept before' : 'not retrieved by any seed'}),
    report: {sets: reports},
    summary,
    groups: best.groups()
  }
}
