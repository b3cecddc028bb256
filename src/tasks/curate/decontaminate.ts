/**
 * Benchmark pictures out: whatever hangs together with one of them by pairs above the threshold, through as many steps
 * as it takes (DINOv2 paper, appendix A.3).
 */
import {reached} from '../../curate/neighbours.js'
import {UserError} from '../../config/errors.js'
import {defaultThreshold} from './features.js'
import {openOther} from './pool.js'
import {arithmeticFor, plural, roundedScore, vectorsOf, type Context, type Stage} from './stage.js'

export type DecontaminateOptions = {
  /** Benchmark sets: images or embeddings. */
  readonly against: readonly string[]
  /** Undefined: three quarters of the one for near-duplicates, as 0.45 stands to 0.6 in the paper. */
  readonly threshold: number | undefined
}

/**
 * Drops what is near a benchmark; rows that an earlier run kept are judged too. Throws `UserError` (exit 2) where no
 * benchmark is named.
 */
export async function* decontaminateStage(context: Context, {against, threshold}: DecontaminateOptions): Stage {
  const {pool, rows, maker} = context
  if (against.length === 0)
    throw new UserError('No benchmark was named to keep out.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Give --against IMAGES (or embeddings); repeatable.'
    })
  const {features, source} = vectorsOf(context)
  const limit = threshold ?? stricter(defaultThreshold(features.meta))
  const other = yield* openOther('the benchmark', against, features, maker, {...context, pool: pool.name})
  const arithmetic = await arithmeticFor(rows.length * other.ids.length * source.dim, maker)
  yield {kind: 'work', label: 'comparing with the benchmark', done: 0, total: rows.length}
  const {step, from, similarity} = reached(source, other.vectors, {threshold: limit, arithmetic})
  const kept = Uint8Array.from(step, s => (s === 0 ? 1 : 0))
  const [direct, far] = [step.filter(s => s === 1).length, step.filter(s => s > 1).length]
  const name = (i: number): string => (step[i] === 1 ? other.ids[from[i]!]! : pool.ref(rows[from[i]!]!).id)
  return {
    kept,
    note: i =>
      step[i] === 0
        ? {reason: 'not near the benchmark'}
        : {
            reason: step[i] === 1 ? 'near a benchmark image' : 'near an image that is near the benchmark',
            twin: name(i),
            similarity: roundedScore(similarity[i]!),
            steps: step[i]!
          },
    report: {threshold: roundedScore(limit), benchmark: other.ids.length, direct, further: far},
    says: [
      `${plural(direct, 'picture')} near one of ${plural(other.ids.length, 'benchmark image')} above ${limit.toFixed(3)}${far > 0 ? `, and ${far} that hang together with them` : ''}`
    ],
    groups:
      direct === 0
        ? []
        : [{title: 'near the benchmark', members: [...rows.keys()].filter(i => step[i]! > 0).slice(0, 24), size: direct + far}]
  }
}

/** Where copies begin at `threshold`, what may be a copy begins a quarter lower: the paper's 0.6 and 0.45. */
const stricter = (threshold: number): number => 0.75 * threshold
