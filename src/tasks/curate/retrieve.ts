/**
 * Growing seed sets: pool pictures that are like curated seeds, by nearest neighbours or by clusters, for each seed
 * set by itself (DINOv2 paper, appendix A.4).
 */
import {assign, kmeans} from '../../curate/kmeans.js'
import {retrieveFromClusters, retrieveNearest} from '../../curate/retrieval.js'
import {UserError} from '../../config/errors.js'
import {openOther} from './pool.js'
import {arithmeticFor, inPieces, plural, roundedScore, vectorsOf, type Context, type Stage} from './stage.js'

export type SeedSet = {readonly name: string; readonly method: 'auto' | 'sample' | 'cluster'; readonly inputs: readonly string[]}

export type RetrieveOptions = {
  readonly sets: readonly SeedSet[]
  readonly method: 'auto' | 'sample' | 'cluster'
  readonly perSeed: number
  /** Rows less like their seed than this are not taken. */
  readonly minSimilarity: number | undefined
  /** Clusters of the pool; undefined: about one for 100 rows. */
  readonly clusters: number | undefined
  /** A cluster counts when more seeds than this fall into it. */
  readonly moreThan: number
  readonly perCluster: number
  readonly cap: number | undefined
}

/**
 * Seed sets of more than this many images are grown by nearest neighbours, smaller ones by clusters: the paper's
 * million, brought to the size of pools on one machine.
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

/** Retrieves for each seed set; a row stays when any set brings it. Throws `UserError`: no seeds (exit 2 or 3). */
export async function* retrieveStage(context: Context, options: RetrieveOptions): Stage {
  const {pool, rows, maker, seed, signal} = context
  if (options.sets.length === 0)
    throw new UserError('No seeds were named to retrieve by.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --seeds NAME=IMAGES (or embeddings); repeatable.'
    })
  const {features, source} = vectorsOf(context)
  const N = rows.length
  type Found = {set: number; seed: number; similarity: number}
  const best: (Found | undefined)[] = Array.from({length: N})
  const also = new Map<number, string[]>()
  const says: string[] = []
  const reports: Record<string, unknown>[] = []
  const names: (readonly string[])[] = []
  let clusters: {centroids: Float32Array; assignments: Int32Array} | undefined
  for (const [s, set] of options.sets.entries()) {
    const seeds = yield* openOther(`the seeds ${set.name}`, set.inputs, features, maker, {...context, pool: pool.name})
    names.push(seeds.ids)
    const wanted = set.method === 'auto' ? options.method : set.method
    const method = wanted === 'auto' ? (seeds.ids.length > sampleFrom ? 'sample' : 'cluster') : wanted
    const arithmetic = await arithmeticFor(N * seeds.ids.length * source.dim, maker)
    let result: {seed: Int32Array; similarity: Float32Array}
    let more: Record<string, unknown> = {}
    if (method === 'sample') {
      yield {kind: 'work', label: `retrieving for ${set.name}`, done: 0, total: N}
      result = retrieveNearest(source, seeds.vectors, {
        perSeed: options.perSeed,
        arithmetic,
        floor: options.minSimilarity
      })
    } else {
      if (!clusters) {
        const k = Math.max(1, Math.min(N, options.clusters ?? Math.round(N / 100)))
        const made = yield* inPieces(
          kmeans(source, {k, seed, arithmetic: await arithmeticFor(20 * N * k * source.dim, maker)}),
          ({round, of}) => ({kind: 'work', label: `clustering the pool into ${k}`, done: round, total: of}),
          signal
        )
        clusters = {centroids: made.centroids, assignments: assign(source, made.centroids, await arithmeticFor(N * k * source.dim, maker))}
      }
      const found = retrieveFromClusters(source, seeds.vectors, {
        ...clusters,
        moreThan: options.moreThan,
        perCluster: options.perCluster,
        seed,
        arithmetic,
        cap: options.cap
      })
      if (options.minSimilarity !== undefined)
        for (let i = 0; i < N; i++) if (found.seed[i]! >= 0 && found.similarity[i]! < options.minSimilarity) found.seed[i] = -1
      result = found
      const hit = found.hits.filter(n => n > options.moreThan).length
      more = {clusters: found.hits.length, clustersHit: hit}
      if (hit === 0)
        says.push(`no cluster holds more than ${options.moreThan} seeds of ${set.name}; --more-than 0 or fewer --clusters find more`)
    }
    let brought = 0
    for (let i = 0; i < N; i++) {
      if (result.seed[i]! < 0) continue
      brought++
      also.set(i, [...(also.get(i) ?? []), set.name])
      if (!best[i] || result.similarity[i]! > best[i]!.similarity)
        best[i] = {set: s, seed: result.seed[i]!, similarity: result.similarity[i]!}
    }
    says.push(
      `${plural(brought, 'picture')} for ${plural(seeds.ids.length, 'seed')} of ${set.name} (${method === 'sample' ? 'nearest' : 'by clusters'})`
    )
    reports.push({set: set.name, seeds: seeds.ids.length, method, retrieved: brought, ...more})
  }
  const fixed = (i: number): boolean => pool.fixed?.[rows[i]!] === 1
  const kept = Uint8Array.from(rows, (_, i) => (best[i] || fixed(i) ? 1 : 0))
  return {
    kept,
    note(i) {
      const found = best[i]
      if (!found) return {reason: fixed(i) ? 'kept before' : 'not retrieved by any seed'}
      const sets = also.get(i)!
      return {
        reason: 'retrieved by a seed',
        seed: names[found.set]![found.seed]!,
        seed_set: options.sets[found.set]!.name,
        ...(sets.length > 1 ? {seed_sets: sets} : {}),
        similarity: roundedScore(found.similarity)
      }
    },
    report: {sets: reports},
    says,
    groups: options.sets.map(({name}, s) => {
      const members = [...rows.keys()].filter(i => best[i]?.set === s).sort((a, b) => best[b]!.similarity - best[a]!.similarity || a - b)
      return {title: `retrieved for ${name}, most alike first`, members: members.slice(0, 24), size: members.length}
    })
  }
}
