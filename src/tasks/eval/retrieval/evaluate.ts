/**
 * Evaluation of features by retrieval: every query asks for the other images of its group, among all images of the set
 * (docs/spec.md §5.6).
 *
 * The definitions are those of the script of INRIA Holidays (Jégou et al. 2008): images are ranked by cosine, the
 * query itself is taken out of its list, average precision is the area under the precision–recall curve by trapezoids,
 * and mAP the mean over queries; `step` takes the mean precision at the right answers instead. Intervals draw whole
 * groups, since the queries of one group ask for the same images. In shape comments: N images, D numbers a vector.
 */
import {counted} from '../../../config/counted.js'
import {UserError} from '../../../config/errors.js'
import {startEngine} from '../../../engine/start.js'
import {averagePrecision, type AveragePrecisionRule} from '../../../metrics/retrieval.js'
import {normalizeRows, type InnerProductFn} from '../../../search/exact.js'
import {rankQueries, type RankQuery} from '../../../search/ranks.js'
import {rng} from '../../../tensor/random.js'
import type {Outcome} from '../shared/compare.js'
import {engineMatmul} from '../shared/engine-matmul.js'
import type {EvalEvent, EvalResult} from '../shared/evaluation.js'
import {gatherCandidates, type CandidateOptions} from '../shared/gather-candidates.js'
import type {LabelledSet, Rows} from '../shared/labelled-features.js'
import {groupOf, queriesOf, type GroupRule} from './groups.js'
import {retrievalPage} from './page.js'
import {queryItems, retrievalReport, retrievalSummary, type QueryResult, type RankedQuery, type RetrievalReport} from './report.js'

export type RetrievalOptions = Omit<CandidateOptions, 'baselines' | 'relabel'> & {
  /** Images (with `model` or a baseline), or files of embeddings. */
  readonly inputs: readonly string[]
  readonly baselines?: CandidateOptions['baselines']
  /** Absent: the `group` field, else the label (field or folder). */
  readonly groups?: GroupRule | undefined
  /** The first image of each group asks, or every one. */
  readonly query: 'first' | 'all'
  readonly k?: readonly number[] | undefined
  readonly precision?: AveragePrecisionRule
  /**
   * Multiplications from which an engine's matrix product is worth starting; by default about a second of plain loops.
   */
  readonly engineWork?: number
}

const defaultRanks: readonly number[] = [1, 5, 10]
/** Found images that are reported of each query. */
const REPORTED = 10

/** The result, with what became of each query of the first features. */
export type RetrievalResult = EvalResult<RetrievalReport> & {readonly queries: readonly QueryResult[]}

/**
 * Runs the evaluation; yields how far it is and returns the result.
 *
 * Throws `UserError`: no images or rows (exit 3), an image without a group, no group of two (exit 2), and what model
 * and engine throw.
 */
export async function* retrievalEval(options: RetrievalOptions): AsyncGenerator<EvalEvent, RetrievalResult> {
  const {inputs, groups, baselines = [], query, precision = 'trapezoid', seed, k = defaultRanks} = options
  const relabel = async function* (rows: Rows): Rows {
    for await (const batch of rows)
      yield {...batch, labels: batch.ids.map((id, i) => groupOf(id, batch.fields[i] ?? {}, batch.labels[i], groups))}
  }
  const {candidates, fingerprint, started} = yield* gatherCandidates([{name: 'all', inputs}], {...options, baselines, relabel})
  const first = candidates[0]!
  const {ids, labels} = first.sets[0]!
  if (options.model !== undefined || baselines.length > 0) yield {kind: 'accepted', images: ids.length}
  const asked = queriesOf(labels, query)
  if (asked.length === 0)
    throw new UserError('No group has two images, so nothing can be asked for.', {
      exit: 2,
      code: 'NO_GROUPS',
      hint: 'A group is the group field of a list, the folder, or part of the name: --group-prefix 4, --group-regex "^([^_]+)_".'
    })
  const innerProduct = candidates.some(({sets}) => asked.length * sets[0]!.x.length > (options.engineWork ?? 1e9))
    ? engineMatmul
    : undefined
  if (innerProduct && !started) yield {kind: 'started', engine: await startEngine(options.engine)}
  const notes: string[] = []
  const groupCount = new Set(labels).size
  const alone = groupCount - new Set(asked.map(({row}) => labels[row]!)).size
  if (alone > 0)
    notes.push(
      `${alone} of ${counted(groupCount, 'group')} ${alone === 1 ? 'has' : 'have'} one image, which asks for nothing and is never right`
    )
  const outcomes: Outcome<RankedQuery>[] = []
  const queries: QueryResult[] = []
  const numbers = new Map([...new Set(labels)].map((group, i) => [group, i]))
  const own = {set: 'all', ids: asked.map(({row}) => ids[row]!), groups: asked.map(({row}) => numbers.get(labels[row]!)!)}
  for (const {features, sets} of candidates) {
    const set = sets[0]!
    if (set.ids.length !== ids.length || set.ids.some((id, i) => id !== ids[i])) {
      notes.push(`${features} saw other images than ${first.features}, and is left out`)
      continue
    }
    const ranked = rankSet(set, asked, {precision, innerProduct, signal: options.signal, keep: features === first.features ? REPORTED : 0})
    outcomes.push({...own, features, items: ranked.items})
    if (features === first.features) queries.push(...ranked.results)
  }
  outcomes.push({...own, features: 'chance', items: asked.map((one, q) => randomQuery(one, ids.length - 1, {precision, seed, q}))})
  const report = retrievalReport(outcomes, {images: ids.length, groups: groupCount, query, precision, fingerprint, k, seed, notes})
  return {
    report,
    queries,
    summary: retrievalSummary(report),
    items: () => queryItems(queries, first.features),
    page: pageOptions => retrievalPage({report, queries}, pageOptions)
  }
}

type RankOptions = {
  readonly precision: AveragePrecisionRule
  readonly innerProduct: InnerProductFn | undefined
  readonly signal: AbortSignal | undefined
  /** Found images that are kept of each query. */
  readonly keep: number
}

/** Ranks the images of a set for every query; brings its vectors to length 1. */
function rankSet(
  {x, dim, ids, paths, labels}: LabelledSet,
  asked: readonly RankQuery[],
  {precision, innerProduct, signal, keep}: RankOptions
): {items: RankedQuery[]; results: QueryResult[]} {
  normalizeRows(x, dim)
  const items: RankedQuery[] = []
  const results: QueryResult[] = []
  for (const {ranks, first} of rankQueries(x, dim, asked, {keep, products: innerProduct})) {
    signal?.throwIfAborted()
    const {row, relevant} = asked[items.length]!
    const item = {averagePrecision: averagePrecision(ranks, relevant.length, precision), ranks, total: relevant.length}
    items.push(item)
    if (keep === 0) continue
    results.push({
      query: ids[row]!,
      path: paths[row]!,
      group: labels[row]!,
      averagePrecision: item.averagePrecision,
      ranks: ranks.map(rank => rank + 1),
      found: first.map(({row: other, similarity}) => ({
        id: ids[other]!,
        path: paths[other]!,
        similarity: Number(similarity.toFixed(6)),
        right: relevant.includes(other)
      }))
    })
  }
  return {items, results}
}

/** A query whose right answers stand at random among `length` images. */
function randomQuery(
  {relevant}: RankQuery,
  length: number,
  {precision, seed, q}: {readonly precision: AveragePrecisionRule; readonly seed: number; readonly q: number}
): RankedQuery {
  const random = rng(seed, 'chance', q)
  const places = new Set<number>()
  while (places.size < relevant.length) places.add(random.int(length))
  const ranks = [...places].sort((a, b) => a - b)
  return {averagePrecision: averagePrecision(ranks, relevant.length, precision), ranks, total: relevant.length}
}
