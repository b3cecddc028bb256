/**
 * Removes images that are near a benchmark: all that pairs above the threshold connect with one of its images, over
 * any number of steps (DINOv2 paper, appendix A.3).
 */
import {reached} from '../../curate/neighbours.js'
import {UserError} from '../../config/errors.js'
import {defaultThreshold} from './feature-meta.js'
import {openOtherSet} from './other-set.js'
import {arithmeticFor, plural, roundedScore, vectorsOf, type Context, type Stage} from './stage.js'

export type DecontaminateOptions = {
  /** Benchmark sets: images or embeddings. */
  readonly against: readonly string[]
  /** Undefined: three quarters of that for near-duplicates, the ratio of 0.45 and 0.6 in the paper. */
  readonly threshold: number | undefined
}

/**
 * Removes what is near a benchmark, also where an earlier run kept it. Throws `UserError` (exit 2) where no
 * benchmark is named.
 */
export async function* decontaminateStage(context: Context, {against, threshold}: DecontaminateOptions): Stage {
  const {pool, rows, maker} = context
  if (against.length === 0)
    throw new UserError('No benchmark was named.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --against IMAGES (or embeddings); repeatable.'
    })
  const {features, source} = vectorsOf(context)
  const limit = threshold ?? stricter(defaultThreshold(features.meta))
  const other = yield* openOtherSet('the benchmark', against, features, maker, {...context, pool: pool.name})
  const arithmetic = await arithmeticFor(rows.length * other.ids.length * source.dim, maker)
  yield {kind: 'work', label: 'comparing with the benchmark', done: 0, total: rows.length}
  const {step, from, similarity} = reached(source, other.vectors, {threshold: limit, arithmetic})
  const kept = Uint8Array.from(step, s => (s === 0 ? 1 : 0))
  const [direct, far] = [step.filter(s => s === 1).length, step.filter(s => s > 1).length]
  const name = (i: number): string => (step[i] === 1 ? other.ids[from[i]!]! : pool.ref(rows[from[i]!]!).id)
  return {
    kept,
    fields: i =>
      step[i] === 0
        ? {reason: 'not near the benchmark'}
        : {
            reason: step[i] === 1 ? 'near a benchmark image' : 'near an image that is near the benchmark',
            similar_to: name(i),
            similarity: roundedScore(similarity[i]!),
            steps: step[i]!
          },
    report: {threshold: roundedScore(limit), benchmark: other.ids.length, direct, further: far},
    summary: [
      `${plural(direct, 'image')} near one of ${plural(other.ids.length, 'benchmark image')} above ${limit.toFixed(3)}${far > 0 ? `, and ${far} connected with them` : ''}`
    ],
    groups:
      direct === 0
        ? []
        : [{title: 'near the benchmark', members: [...rows.keys()].filter(i => step[i]! > 0).slice(0, 24), size: direct + far}]
  }
}

/** The threshold for benchmarks beside that for copies: a quarter lower, as 0.45 and 0.6 in the paper. */
const stricter = (threshold: number): number => 0.75 * threshold
