/**
 * Evaluation of features by their nearest neighbours (docs/spec.md §5.1): nothing is trained, so the score is the
 * features' own.
 *
 * Vectors are brought to length 1; neighbours are the rows of largest inner product; the vote is in `search/knn.ts`.
 * Without a val or test set every train image is classified by the others. Two baselines stand beside the model on the
 * same images: its pixels (32 × 32, normalized as for the network), and the same architecture with fresh weights,
 * which shows what the architecture alone contributes.
 */
import {counted} from '../../../config/counted.js'
import {startEngine} from '../../../engine/start.js'
import {normalizeRows} from '../../../search/exact.js'
import {defaultK} from '../../../search/knn.js'
import {engineMatmul} from '../shared/engine-matmul.js'
import type {EvalEvent, EvalResult} from '../shared/evaluation.js'
import {gatherCandidates, type CandidateOptions, type GatheredCandidate, type NamedInputs} from '../shared/gather-candidates.js'
import type {Baseline} from '../shared/labelled-features.js'
import {fewNote, sortedClasses} from './classes.js'
import {knnPage} from './knn-page.js'
import {knnItems, knnReport, type KnnReport, type VotedSet} from './knn-report.js'
import {knnSummary} from './knn-summary.js'
import {classifyByNeighbours, type VoteOptions} from './knn-vote.js'

/** `majority` predicts the most frequent class of train for every image. */
export type KnnBaseline = Baseline | 'majority'

export type KnnOptions = Omit<CandidateOptions, 'baselines'> &
  Omit<VoteOptions, 'innerProduct'> & {
    /** Images (with `model` or a baseline) or files of embeddings, with labels. */
    readonly train: readonly string[]
    /** The same, to be classified. */
    readonly val?: readonly string[] | undefined
    /** Further sets, each by itself. Without these and `val`, every train row is classified by the others. */
    readonly tests?: readonly string[] | undefined
    readonly baselines?: readonly KnnBaseline[]
    /** Train rows of a class that are used; `undefined` stands for all. */
    readonly perClass?: readonly (number | undefined)[] | undefined
    /**
     * Multiplications from which an engine's matrix product is worth starting; by default about a second of plain
     * loops.
     */
    readonly engineWork?: number
  }

/**
 * Runs the evaluation; yields how far it is and returns the result.
 *
 * Throws `UserError`: no images or rows (exit 3), one without a label (exit 2), sets of two origins (exit 2), and what
 * model and engine throw.
 */
export async function* knnEval(options: KnnOptions): AsyncGenerator<EvalEvent, EvalResult<KnnReport>> {
  const {train, val, tests = [], baselines = [], perClass = [undefined]} = options
  const queries: NamedInputs[] = [...(val ? [{name: 'val', inputs: val}] : []), ...tests.map(name => ({name, inputs: [name]}))]
  const leaveOneOut = queries.length === 0
  const {candidates, fingerprint, started} = yield* gatherCandidates([{name: 'train', inputs: train}, ...queries], {
    ...options,
    baselines: baselines.filter(name => name !== 'majority')
  })
  const names = leaveOneOut ? ['train'] : queries.map(({name}) => name)
  const first = candidates[0]!
  const sets = (leaveOneOut ? first.sets : first.sets.slice(1)).map((rows, i) => ({name: names[i]!, rows}))
  if (options.model !== undefined || baselines.some(name => name !== 'majority'))
    yield {kind: 'accepted', images: first.sets.reduce((sum, {ids}) => sum + ids.length, 0)}
  for (const candidate of candidates) for (const {x, dim} of candidate.sets) normalizeRows(x, dim)
  const innerProduct = candidates.some(one => multiplications(one) > (options.engineWork ?? 1e9)) ? engineMatmul : undefined
  if (innerProduct && !started) yield {kind: 'started', engine: await startEngine(options.engine)}
  const classes = sortedClasses(first.sets.flatMap(({labels}) => labels))
  const notes: string[] = []
  const voted: VotedSet[] = []
  for (const n of perClass)
    for (const {
      features,
      sets: [own, ...others]
    } of candidates)
      for (const [i, set] of names.entries()) {
        options.signal?.throwIfAborted()
        const asked = leaveOneOut ? undefined : others[i]
        const votes = classifyByNeighbours({train: own!, queries: asked}, classes, n, {...options, innerProduct})
        voted.push({features, set, perClass: n, rows: asked ?? own!, votes})
      }
  for (const n of perClass) {
    const few = n === undefined ? undefined : fewNote(first.sets[0]!.labels, n)
    if (few !== undefined) notes.push(few)
  }
  notes.push(...limitNotes(voted, options.k ?? defaultK))
  const facts = {train: first.sets[0]!, sets, classes, leaveOneOut, fingerprint, notes}
  const report = knnReport(voted, {
    ...facts,
    majority: baselines.includes('majority'),
    temperature: options.temperature,
    seed: options.seed
  })
  return {
    report,
    summary: knnSummary(report),
    items: () => knnItems(voted, sets, classes),
    page: pageOptions => knnPage(report, pageOptions)
  }
}

const multiplications = ({sets: [train, ...others]}: GatheredCandidate): number =>
  Math.max(...(others.length > 0 ? others : [train!]).map(({ids}) => train!.ids.length * ids.length * train!.dim))

/** Says where fewer neighbours vote than were asked for. */
function limitNotes(voted: readonly VotedSet[], wanted: readonly number[]): string[] {
  const notes = voted.flatMap(({perClass, votes}) => {
    const most = Math.max(...votes.map(({k}) => k))
    if (wanted.every(k => k <= most)) return []
    const limited = `k is limited to the ${counted(most, 'train image')} there ${most === 1 ? 'is' : 'are'}`
    return [perClass === undefined ? limited : `with ${perClass} of a class, ${limited}`]
  })
  return [...new Set(notes)]
}
