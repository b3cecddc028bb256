/**
 * Judging features by what they find: every query asks for the other images of its group, among all images of the set
 * (docs/spec.md §5.6).
 *
 * The definitions are those of the script of INRIA Holidays (Jégou et al. 2008): images are ranked by cosine, the
 * query itself is taken out of its list, average precision is the area under the precision–recall curve by trapezoids,
 * and mAP the mean over queries; `step` takes the mean precision at the right answers instead. Intervals draw whole
 * groups, since the queries of one group ask for the same images. In shape comments: N images, D numbers a vector.
 */
import {UserError} from '../../../config/errors.js'
import type {RejectedImage} from '../../../data/loader/batches.js'
import type {SourceNote} from '../../../data/sources/source.js'
import {startEngine, type EngineRequest} from '../../../engine/start.js'
import type {Fields} from '../../../files/embeddings/embeddings.js'
import {bootstrap, comparison, type Interval} from '../../../metrics/intervals.js'
import {averagePrecision, hitAt, recallAt, type AveragePrecisionRule} from '../../../metrics/retrieval.js'
import {normalizeRows} from '../../../search/exact.js'
import {rankQueries, type RankQuery} from '../../../search/ranks.js'
import {rng} from '../../../tensor/random.js'
import {loadEmbedder, type FeatureSettings} from '../../embed/embedder.js'
import {engineMatmul} from '../shared/engine-matmul.js'
import {
  embeddingRows,
  gatherRows,
  modelRows,
  pixelRows,
  repeatableRefs,
  untrainedEmbedder,
  type Baseline,
  type LabelledSet,
  type RowOptions,
  type Rows
} from '../shared/labelled-features.js'

/** Which features a score is of; `chance` is a random order. */
export type RetrievalFeatures = 'model' | Baseline | 'chance'

/**
 * What makes the group of an image, of its base name: its first letters, or what a pattern finds (its first bracket,
 * else the whole of it).
 */
export type GroupRule = {readonly prefix: number} | {readonly pattern: RegExp}

export type RetrievalOptions = RowOptions & {
  /** Images (with `model` or a baseline), or files of embeddings. */
  readonly inputs: readonly string[]
  readonly model?: string
  readonly baselines?: readonly Baseline[]
  readonly features: FeatureSettings
  /** Absent: the `group` field, else the label (field or folder). */
  readonly groups?: GroupRule
  /** The first image of each group asks, or every one. */
  readonly query: 'first' | 'all'
  readonly k?: readonly number[]
  readonly precision?: AveragePrecisionRule
  readonly seed: number
  readonly engine: EngineRequest
  /**
   * Multiplications from which an engine's matrix product is worth starting; by default about a second of plain loops.
   */
  readonly engineWork?: number
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  /** Told how many rows there are so far. */
  readonly onRows?: (features: 'model' | Baseline, rows: number) => void
}

export type RetrievalScore = {
  readonly features: RetrievalFeatures
  readonly map: number
  readonly interval: Interval
  /** Mean share of a query's right answers among the first k, by k. */
  readonly recall: Readonly<Record<string, number>>
  /** Share of queries with a right answer among the first k, by k. */
  readonly hits: Readonly<Record<string, number>>
}

/** How much better the model is than a baseline, in mAP on the same queries; `word` is `beats`, `does not beat`, … */
export type RetrievalGain = {readonly over: Baseline | 'chance'; readonly map: number; readonly interval: Interval; readonly word: string}

/** What became of one query, for the first features of the report. */
export type QueryResult = {
  readonly query: string
  readonly path: string
  readonly group: string
  readonly averagePrecision: number
  /** 1-based ranks of the right answers. */
  readonly ranks: readonly number[]
  readonly found: readonly {readonly id: string; readonly path: string; readonly similarity: number; readonly right: boolean}[]
}

export type RetrievalReport = {
  readonly images: number
  readonly groups: number
  readonly queries: number
  readonly query: 'first' | 'all'
  readonly precision: AveragePrecisionRule
  readonly scores: readonly RetrievalScore[]
  readonly gains: readonly RetrievalGain[]
  readonly fingerprint?: string | null
  readonly notes: readonly string[]
}

const defaultRanks: readonly number[] = [1, 5, 10]
/** Found images that are told of each query. */
const told = 10

/**
 * Runs the evaluation: the report, and what became of each query.
 *
 * Throws `UserError`: no images or rows (exit 3), an image without a group, no group of two (exit 2), and what model
 * and engine throw.
 */
export async function retrievalEval(
  options: RetrievalOptions
): Promise<{readonly report: RetrievalReport; readonly queries: readonly QueryResult[]}> {
  const {model, baselines = [], inputs, seed} = options
  const sets: {features: 'model' | Baseline; set: LabelledSet}[] = []
  let fingerprint: string | null | undefined
  let started = false
  if (model === undefined && baselines.length === 0) {
    const {rows, meta, close} = await embeddingRows(inputs, options)
    fingerprint = meta.fingerprint
    try {
      sets.push({features: 'model', set: await gather('model', rows, options)})
    } finally {
      await close()
    }
  } else {
    if (model === undefined && baselines.includes('untrained'))
      throw new UserError('The untrained baseline has the architecture of a model, but no model was named.', {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model.'
      })
    const images = repeatableRefs(inputs, options, options.onSkipped)
    const onRejected = (first: boolean) => (bad: RejectedImage) => (first ? options.onRejected?.(bad) : undefined) // of bad images, once is enough
    if (model !== undefined) {
      const info = await startEngine(options.engine)
      started = true
      using embedder = await loadEmbedder(model, {...options.features, precision: info.precision, toolVersion: options.toolVersion})
      fingerprint = embedder.meta.fingerprint
      sets.push({features: 'model', set: await gather('model', modelRows(images(), embedder, options, info, onRejected(true)), options)})
      if (baselines.includes('untrained')) {
        using fresh = await untrainedEmbedder(embedder, options.features, options.toolVersion, seed)
        sets.push({
          features: 'untrained',
          set: await gather('untrained', modelRows(images(), fresh, options, info, onRejected(false)), options)
        })
      }
    }
    if (baselines.includes('pixels')) {
      const first = sets.length === 0
      const rows = pixelRows(images(), {...options, cropBorders: options.features.transform.cropBorders ?? false}, onRejected(first))
      sets.push({features: 'pixels', set: await gather('pixels', rows, options)})
    }
  }
  const asked = queriesOf(sets[0]!.set.labels, options.query)
  if (asked.length === 0)
    throw new UserError('No group has two images, so nothing can be asked for.', {
      exit: 2,
      code: 'NO_GROUPS',
      hint: 'A group is the group field of a list, the folder, or part of the name: --group-prefix 4, --group-regex "^([^_]+)_".'
    })
  const muchWork = sets.some(({set}) => asked.length * set.x.length > (options.engineWork ?? 1e9))
  if (muchWork && !started) await startEngine(options.engine)
  return score(sets, asked, options, fingerprint, muchWork ? engineMatmul : undefined)
}

/** All rows, with their groups for labels; vectors of length 1. */
async function gather(features: 'model' | Baseline, rows: Rows, {inputs, groups, signal, onRows}: RetrievalOptions): Promise<LabelledSet> {
  const grouped = async function* (): Rows {
    for await (const batch of rows)
      yield {...batch, labels: batch.ids.map((id, i) => groupOf(id, batch.fields[i] ?? {}, batch.labels[i], groups))}
  }
  const set = await gatherRows(grouped(), inputs, {signal, onRows: count => onRows?.(features, count)})
  normalizeRows(set.x, set.dim)
  return set
}

/** The group of an image. Throws a `UserError` (exit 2) where it has none. */
export function groupOf(id: string, {group}: Fields, label: string | undefined, rule: GroupRule | undefined): string {
  const base = id.split('/').at(-1)!
  const none = (hint: string): UserError => new UserError(`${id} belongs to no group.`, {exit: 2, code: 'NO_GROUP', hint})
  if (rule && 'prefix' in rule) return base.slice(0, rule.prefix)
  if (rule) {
    const found = rule.pattern.exec(base)
    if (!found) throw none(`The pattern ${rule.pattern.source} does not occur in ${base}.`)
    return found[1] ?? found[0]
  }
  const own = group === undefined || group === null || group === '' ? label : String(group)
  if (own === undefined)
    throw none(
      'A group is the group field of a list, the folder under the given root, or part of the name (--group-prefix, --group-regex).'
    )
  return own
}

/** Who asks for whom: the first row of each group of two or more, or all of its rows. */
export function queriesOf(labels: readonly string[], query: 'first' | 'all'): RankQuery[] {
  const members = new Map<string, number[]>()
  for (const [row, label] of labels.entries()) {
    const known = members.get(label)
    if (known) known.push(row)
    else members.set(label, [row])
  }
  const asked: RankQuery[] = []
  for (const [row, label] of labels.entries()) {
    const group = members.get(label)!
    if (group.length > 1 && (query === 'all' || group[0] === row)) asked.push({row, relevant: group.filter(other => other !== row)})
  }
  return asked
}

/** Of each query: its average precision and the ranks of its right answers. */
type Outcome = {readonly precision: Float64Array; readonly ranks: readonly (readonly number[])[]}

function score(
  sets: readonly {features: 'model' | Baseline; set: LabelledSet}[],
  asked: readonly RankQuery[],
  options: RetrievalOptions,
  fingerprint: string | null | undefined,
  products: typeof engineMatmul | undefined
): {report: RetrievalReport; queries: QueryResult[]} {
  const {k: ks = defaultRanks, precision: how = 'trapezoid', seed, query} = options
  const {ids, paths, labels} = sets[0]!.set
  const notes: string[] = []
  const groups = new Set(labels)
  const alone = groups.size - new Set(asked.map(({row}) => labels[row]!)).size
  if (alone > 0)
    notes.push(`${alone} of ${groups.size} groups ${alone === 1 ? 'has' : 'have'} one image, which asks for nothing and is never right`)
  const outcomes = new Map<RetrievalFeatures, Outcome>()
  const queries: QueryResult[] = []
  const outcomeOf = (ranks: (readonly number[])[]): Outcome => ({
    ranks,
    precision: Float64Array.from(ranks, (list, q) => averagePrecision(list, asked[q]!.relevant.length, how))
  })
  for (const {features, set} of sets) {
    if (set.ids.length !== ids.length || set.ids.some((id, i) => id !== ids[i])) {
      notes.push(`${features} saw other images than ${sets[0]!.features}, and is left out`)
      continue
    }
    const ranks: (readonly number[])[] = []
    let q = 0
    for (const {ranks: own, first} of rankQueries(set.x, set.dim, asked, {keep: features === sets[0]!.features ? told : 0, products})) {
      options.signal?.throwIfAborted()
      ranks.push(own)
      const {row, relevant: right} = asked[q++]!
      if (features === sets[0]!.features)
        queries.push({
          query: ids[row]!,
          path: paths[row]!,
          group: labels[row]!,
          averagePrecision: averagePrecision(own, right.length, how),
          ranks: own.map(rank => rank + 1),
          found: first.map(({row: other, similarity}) => ({
            id: ids[other]!,
            path: paths[other]!,
            similarity: Number(similarity.toFixed(6)),
            right: right.includes(other)
          }))
        })
    }
    outcomes.set(features, outcomeOf(ranks))
  }
  outcomes.set('chance', outcomeOf(asked.map(({relevant: right}, q) => randomRanks(right.length, ids.length - 1, rng(seed, 'chance', q)))))

  const numbers = new Map([...groups].map((group, i) => [group, i]))
  const groupNumbers = asked.map(({row}) => numbers.get(labels[row]!)!)
  const scores = [...outcomes].map(([features, {precision, ranks}]): RetrievalScore => {
    const {mean: map, interval} = estimateOverGroups(precision, groupNumbers, seed)
    const byK = (of: typeof recallAt): Record<string, number> =>
      Object.fromEntries(ks.map(k => [k, ranks.reduce((sum, list, q) => sum + of(list, asked[q]!.relevant.length, k), 0) / ranks.length]))
    return {features, map, interval, recall: byK(recallAt), hits: byK(hitAt)}
  })
  const own = outcomes.get('model')
  const gains = (['pixels', 'untrained', 'chance'] as const).flatMap((over): RetrievalGain[] => {
    const other = outcomes.get(over)
    if (!own || !other) return []
    const estimate = estimateOverGroups(
      own.precision.map((value, q) => value - other.precision[q]!),
      groupNumbers,
      seed
    )
    return [{over, map: estimate.mean, interval: estimate.interval, word: comparison(estimate)}]
  })
  const report: RetrievalReport = {
    images: ids.length,
    groups: groups.size,
    queries: asked.length,
    query,
    precision: how,
    scores,
    gains,
    ...(fingerprint === undefined ? {} : {fingerprint}),
    notes
  }
  return {report, queries}
}

/**
 * The mean over queries, and its interval over draws of whole groups. `groups[q]` is the group's number of query q.
 */
export function estimateOverGroups(values: ArrayLike<number>, groups: readonly number[], seed: number): {mean: number; interval: Interval} {
  const sums = new Map<number, {sum: number; count: number}>()
  for (const [q, group] of groups.entries()) {
    const known = sums.get(group) ?? {sum: 0, count: 0}
    sums.set(group, {sum: known.sum + values[q]!, count: known.count + 1})
  }
  const parts = [...sums.values()]
  return bootstrap(
    parts.length,
    drawn => {
      let [sum, count] = [0, 0]
      for (const part of drawn) {
        sum += parts[part]!.sum
        count += parts[part]!.count
      }
      return sum / count
    },
    seed
  )
}

/** Ranks of `count` right answers in a random order of `length` rows, ascending. */
function randomRanks(count: number, length: number, random: ReturnType<typeof rng>): number[] {
  const ranks = new Set<number>()
  while (ranks.size < count) ranks.add(random.int(length))
  return [...ranks].sort((a, b) => a - b)
}
