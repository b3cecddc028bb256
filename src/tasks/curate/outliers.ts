/**
 * Two stages that look at the nearest neighbours of each row: outliers, and labels that neighbours contradict. Every
 * row gets a score; rows are left out only where a limit is given.
 */
import {UserError} from '../../config/errors.js'
import {labelVotes, neighbourTable, outlierScores, type NeighbourTable} from '../../curate/neighbour-measures.js'
import {exactUpTo} from '../../curate/neighbours.js'
import {LABEL_HINT, folderOf, labelOf} from '../../data/sources/source.js'
import {arithmeticFor, plural, roundedScore, runInParts, vectorsOf, type Context, type Stage, type StageEvent} from './stage.js'

export type OutlierOptions = {
  /** Neighbours that are looked at. */
  readonly k: number
  /** Rows with a larger score are left out; undefined: none is. */
  readonly maxScore: number | undefined
  /** So many rows with the largest scores are left out: a count or a share in per cent; undefined: none is. */
  readonly leaveOut: {readonly kind: 'count' | 'percent'; readonly value: number} | undefined
}

async function* neighboursOf(context: Context, k: number): AsyncGenerator<StageEvent, NeighbourTable> {
  const {source} = vectorsOf(context)
  const arithmetic = await arithmeticFor(source.count * source.count * source.dim, context.maker)
  return yield* runInParts(
    neighbourTable(source, {k, method: source.count <= exactUpTo ? 'exact' : 'graph', arithmetic}),
    ({rows: done, of}) => ({kind: 'work', label: 'comparing', done, total: of}),
    context.signal
  )
}

/** Positions with scores, the largest first, then in the order of the rows. */
const ranked = (scores: readonly (number | undefined)[]): number[] =>
  [...scores.keys()].filter(i => scores[i] !== undefined).sort((a, b) => scores[b]! - scores[a]! || a - b)

/** 1 for rows that stay; rows that an earlier run kept always do. */
function keptRows(scores: readonly (number | undefined)[], {maxScore, leaveOut}: OutlierOptions, {pool, rows}: Context): Uint8Array {
  const kept = new Uint8Array(scores.length).fill(1)
  const open = ranked(scores).filter(i => pool.fixed?.[rows[i]!] !== 1)
  const most = leaveOut === undefined ? 0 : leaveOut.kind === 'count' ? leaveOut.value : Math.floor((scores.length * leaveOut.value) / 100)
  for (const [place, i] of open.entries()) if (place < most || (maxScore !== undefined && scores[i]! > maxScore)) kept[i] = 0
  return kept
}

/** Scores every row by its distance to its nearest neighbours. */
export async function* outlierStage(context: Context, options: OutlierOptions): Stage {
  const found = outlierScores(yield* neighboursOf(context, options.k))
  const scores = Array.from(context.rows, (_, i) => roundedScore(found[i] ?? 0)) // a single row has no neighbours
  const kept = keptRows(scores, options, context)
  const order = ranked(scores)
  const gone = order.filter(i => !kept[i])
  const at = (share: number): number => scores[order[Math.round(share * (order.length - 1))]!] ?? 0
  return {
    kept,
    fields: i => ({reason: kept[i] ? `score ${scores[i]}` : `outlier: score ${scores[i]}`, outlier_score: scores[i]!}),
    report: {neighbours: options.k, largest: at(0), median: at(0.5)},
    summary: [
      `scores up to ${at(0)}, half of them below ${at(0.5)}`,
      ...(gone.length > 0 ? [`${plural(gone.length, 'outlier')} left out`] : [])
    ],
    groups: [{title: 'farthest from their neighbours', members: order.slice(0, 24), size: order.length}]
  }
}

/**
 * Scores every label by how far the nearest neighbours contradict it. Throws `UserError` (exit 2) where no row has a
 * label, or all have the same.
 */
export async function* mislabelledStage(context: Context, options: OutlierOptions): Stage {
  const {pool, rows} = context
  const labels = Array.from(rows, row => {
    const ref = pool.ref(row)
    return labelOf(ref) ?? (pool.images ? undefined : folderOf(ref.id))
  })
  const known = new Set(labels.filter(label => label !== undefined))
  if (known.size < 2)
    throw new UserError(known.size === 0 ? 'No row has a label.' : `All rows have the label ${[...known][0]}.`, {
      exit: 2,
      code: 'NO_LABEL',
      hint: LABEL_HINT
    })
  const names = [...known].sort((a, b) => (a < b ? -1 : 1))
  const numbers = labels.map(label => (label === undefined ? -1 : names.indexOf(label)))
  const votes = labelVotes(yield* neighboursOf(context, options.k), numbers)
  const scores = votes.map(vote => vote && roundedScore(Math.max(0, 1 - vote.own)))
  const kept = keptRows(scores, options, context)
  const order = ranked(scores)
  const contradicted = order.filter(i => votes[i]!.label !== numbers[i])
  const gone = order.filter(i => !kept[i])
  return {
    kept,
    fields(i) {
      const vote = votes[i]
      if (!vote) return {reason: labels[i] === undefined ? 'without a label' : 'without neighbours'}
      const suggested = names[vote.label]!
      const why = suggested === labels[i] ? 'neighbours mostly agree' : `neighbours are ${suggested}`
      return {reason: kept[i] ? why : `label: ${why}`, label: labels[i]!, label_score: scores[i]!, suggested}
    },
    report: {neighbours: options.k, labels: known.size, contradicted: contradicted.length, unlabelled: rows.length - order.length},
    summary: [
      `${plural(contradicted.length, 'label')} of ${order.length.toLocaleString('en')} contradicted by most votes`,
      ...(gone.length > 0 ? [`${gone.length.toLocaleString('en')} left out`] : [])
    ],
    groups: [{title: 'labels that neighbours contradict', members: contradicted.slice(0, 24), size: contradicted.length}]
  }
}
