/**
 * Clusters without labels, and samples drawn evenly from them: hierarchical k-means with resampling and balanced
 * sampling (Vo et al. 2024).
 */
import {balancedSample, evenness, type Selection} from '../../curate/balanced-sampling.js'
import {hierarchicalKMeans, membersOf, clusterPath, type Hierarchy} from '../../curate/hierarchical-kmeans.js'
import {distancesToCentroids} from '../../curate/kmeans.js'
import {UserError} from '../../config/errors.js'
import {isPerceptual} from '../../files/embeddings/embeddings.js'
import {
  arithmeticFor,
  runInParts,
  plural,
  roundedScore,
  vectorsOf,
  type Context,
  type Stage,
  type StageEvent,
  type Verdict
} from './stage.js'

export type ClusterOptions = {
  /**
   * Clusters of each level from the rows upwards; undefined: about one for 20 rows, then an eighth of it, and so on.
   */
  readonly levels: readonly number[] | undefined
  /**
   * Undefined: 3, and 0 for perceptual features: their rows lie so far from each other that the rows near a centroid
   * do not stand for its cluster.
   */
  readonly resample: number | undefined
  /** Rows taken from each cluster for resampling; undefined: half its mean size. */
  readonly nearest: readonly number[] | undefined
  readonly iterations: number | undefined
  readonly init: 'k-means++' | 'random'
  /** Rows of a mini-batch; undefined: all rows every round. */
  readonly miniBatch: number | undefined
}

export type SampleStageOptions = ClusterOptions & {
  readonly target: number
  readonly select: Selection
}

/** The field that holds a row's clusters from the top level down: `2/17/141`. */
const clusterField = 'cluster'

/** The default number of clusters of each level: about 20 rows a cluster; the last level has 24 clusters or fewer. */
export function defaultLevels(rows: number): number[] {
  const levels = [Math.max(1, Math.min(10_000, Math.round(rows / 20)))]
  while (levels.at(-1)! > 24) levels.push(Math.max(3, Math.round(levels.at(-1)! / 8)))
  return levels
}

/** The hierarchy that the rows carry as `cluster`; undefined where any of them does not, or paths differ in depth. */
export function carriedHierarchy({rows, fields}: Pick<Context, 'rows' | 'fields'>): Hierarchy | undefined {
  const paths: string[][] = []
  for (const row of rows) {
    const path = fields(row)[clusterField]
    if (typeof path !== 'string' && typeof path !== 'number') return undefined
    paths.push(String(path).split('/'))
    if (paths[0]!.length !== paths.at(-1)!.length) return undefined
  }
  if (paths.length === 0) return undefined
  const levels: {k: number; centroids: Float32Array; assignments: Int32Array; objective: number}[] = []
  let items = paths
  for (let depth = paths[0]!.length; depth > 0; depth--) {
    const keyOf = (path: readonly string[]): string => path.slice(0, depth).join('/')
    // In the order of their numbers, so that drawing from written paths is drawing from the clusters themselves.
    const different = [...new Map(items.map(path => [keyOf(path), path.slice(0, depth)])).values()].sort(
      (a, b) => Number(a[depth - 1]) - Number(b[depth - 1]) || (keyOf(a) < keyOf(b) ? -1 : 1)
    )
    const number = new Map(different.map((path, n) => [keyOf(path), n]))
    const assignments = Int32Array.from(items, path => number.get(keyOf(path))!)
    const next = different
    levels.push({k: number.size, centroids: new Float32Array(0), assignments, objective: NaN})
    items = next
  }
  return {rows: rows.length, levels}
}

async function* build(context: Context, options: ClusterOptions): AsyncGenerator<StageEvent, Hierarchy> {
  const {rows, seed, signal, maker} = context
  const {features, source} = vectorsOf(context)
  const resample = options.resample ?? (isPerceptual(features.meta) ? 0 : 3)
  const wanted = options.levels ?? defaultLevels(rows.length)
  for (const [l, k] of wanted.entries())
    if (l > 0 && k >= wanted[l - 1]! && wanted[l - 1]! > 1)
      throw new UserError(`Level ${l + 1} is to have ${k} clusters, but the level below has ${wanted[l - 1]!}.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'Give --levels from many to few, e.g. --levels 1000,100,10.'
      })
  const iterations = options.iterations
  // A level of as many clusters as images is left out, so that one list of levels serves small pools too.
  const some = wanted.filter(k => k < rows.length)
  const levels = some.length > 0 ? some : [Math.min(wanted.at(-1)!, rows.length)]
  const arithmetic = await arithmeticFor((iterations ?? 20) * (1 + resample) * rows.length * levels[0]! * source.dim, maker)
  const nearest = options.nearest ?? levels.map((k, l) => Math.max(1, Math.round((l === 0 ? rows.length : levels[l - 1]!) / k / 2)))
  return yield* runInParts(
    hierarchicalKMeans(source, {
      levels,
      resample,
      nearest,
      seed,
      init: options.init,
      arithmetic,
      iterations,
      batch: options.miniBatch
    }),
    ({level, again, round, of}) => ({
      kind: 'work',
      label: `level ${level}${again > 0 ? `, resampled ${again}` : ''}`,
      done: round,
      total: of
    }),
    signal
  )
}

const leavesOf = ({levels}: Hierarchy): Int32Array => {
  const sizes = new Int32Array(levels[0]!.k)
  for (const c of levels[0]!.assignments) sizes[c]!++
  return sizes
}

/** The largest clusters of level 1, for the page. */
function shown(hierarchy: Hierarchy, kept: Uint8Array | undefined): NonNullable<Verdict['groups']> {
  const members = membersOf(hierarchy.levels[0]!.assignments, hierarchy.levels[0]!.k)
  return [...members.keys()]
    .sort((a, b) => members[b]!.length - members[a]!.length || a - b)
    .slice(0, 12)
    .map(c => ({
      title: `cluster ${clusterPath(hierarchy, members[c]![0]!).join('/')}${kept ? `: ${members[c]!.filter(i => kept[i]).length} of ${members[c]!.length} drawn` : ''}`,
      members: [...members[c]!].sort((a, b) => (kept ? kept[b]! - kept[a]! : 0) || a - b).slice(0, 12),
      size: members[c]!.length
    }))
}

const describeHierarchy = ({levels, rows}: Hierarchy): string =>
  `${plural(rows, 'image')} in ${levels.map(({k}) => k.toLocaleString('en')).join(', then ')} ${levels.at(-1)!.k === 1 ? 'cluster' : 'clusters'}`

/** Gives every row its path of clusters; none is left out. */
export async function* clusterStage(context: Context, options: ClusterOptions): Stage {
  const hierarchy = yield* build(context, options)
  const {source} = vectorsOf(context)
  const {centroids, assignments} = hierarchy.levels[0]!
  const distances = distancesToCentroids(source, {centroids, assignments})
  const sizes = leavesOf(hierarchy)
  return {
    kept: new Uint8Array(context.rows.length).fill(1),
    fields: i => ({
      reason: 'clustered',
      [clusterField]: clusterPath(hierarchy, i).join('/'),
      distance: roundedScore(Math.sqrt(distances[i]!))
    }),
    report: {
      levels: hierarchy.levels.map(({k, objective}) => ({clusters: k, objective: roundedScore(objective)})),
      largest: Math.max(0, ...sizes),
      evenness: roundedScore(evenness(sizes))
    },
    summary: [describeHierarchy(hierarchy)],
    groups: shown(hierarchy, undefined)
  }
}

/**
 * Draws evenly from clusters: those that the rows carry, else made here. Throws `UserError` (exit 2) for a draw by
 * distance without vectors.
 */
export async function* sampleStage(context: Context, options: SampleStageOptions): Stage {
  const {pool, rows, seed} = context
  const given = carriedHierarchy(context)
  const hierarchy = given ?? (yield* build(context, options))
  let distances: Float64Array | undefined
  if (options.select !== 'random') {
    if (given) {
      const known = Array.from(rows, row => context.fields(row)['distance'])
      if (!known.every(x => typeof x === 'number'))
        throw new UserError(`--select ${options.select} needs distances to the centroids, which the rows do not carry.`, {
          exit: 2,
          code: 'USAGE',
          hint: 'Give rows that dinov2 curate cluster wrote, or --select random.'
        })
      distances = Float64Array.from(known as number[])
    } else distances = distancesToCentroids(vectorsOf(context).source, hierarchy.levels[0]!)
  }
  const fixed = pool.fixed && Uint8Array.from(rows, row => pool.fixed![row]!)
  const chosen = balancedSample(hierarchy, {
    target: options.target,
    seed,
    select: options.select,
    distances,
    fixed
  })
  const kept = new Uint8Array(rows.length)
  for (const i of chosen) kept[i] = 1
  const before = leavesOf(hierarchy)
  const after = new Int32Array(before.length)
  for (const i of chosen) after[hierarchy.levels[0]!.assignments[i]!]!++
  const summary = [
    `${plural(chosen.length, 'image')} drawn evenly from ${describeHierarchy(hierarchy)}; evenness of clusters ${evenness(before).toFixed(3)} before, ${evenness(after).toFixed(3)} after`
  ]
  if (chosen.length < options.target) summary.push(`the pool holds only ${chosen.length}, fewer than the target of ${options.target}`)
  if (chosen.length > options.target) summary.push(`${chosen.length} were kept before and stay, more than the target of ${options.target}`)
  return {
    kept,
    fields: i => ({
      reason: kept[i] ? (fixed?.[i] ? 'kept before' : 'drawn from its cluster') : 'not drawn from its cluster',
      ...(given ? {} : {[clusterField]: clusterPath(hierarchy, i).join('/')})
    }),
    report: {
      target: options.target,
      levels: hierarchy.levels.map(({k}) => k),
      evenness: {before: roundedScore(evenness(before)), after: roundedScore(evenness(after))},
      sizes: {before: [...before].sort((a, b) => b - a).slice(0, 1000), after: [...after].sort((a, b) => b - a).slice(0, 1000)}
    },
    summary,
    groups: shown(hierarchy, kept)
  }
}
