/**
 * Training of linear classifiers on features that are in memory: the published grid by gradient descent, or logistic
 * regression.
 *
 * In shape comments: n rows, D numbers a row, F of them that a classifier reads, K classes, L learning rates.
 */
import {shuffledSampler} from '../../../data/loader/sampler.js'
import {classifierOf, freeGrid, gridScores, gridStep, initGrid, type FeatureSlice} from '../../../heads/linear-grid.js'
import {classifierScores, defaultC, logistic} from '../../../heads/logistic.js'
import {predictedClasses} from '../../../metrics/accuracy.js'
import {rng} from '../../../tensor/random.js'
import {argMax, dispose, equal, reshape, sum, tensor1d, tensor2d, tidy, type Tensor2D} from '../../../tensor/tf.js'
import type {EvalEvent} from '../shared/evaluation.js'
import type {LabelledSet} from '../shared/labelled-features.js'
import {classNumbers} from './classes.js'
import type {Classifier} from './classifier-file.js'
import {DEFAULT_STEPS, DEFAULT_TRAIN_BATCH, type LinearEvalOptions} from './linear-options.js'

/** Accuracy of one classifier of the grid. `rate` is the learning rate, or C of logistic regression. */
export type GridScore = {readonly features: string; readonly rate: number; readonly top1: number}

/** The classifier that was chosen, and the accuracy of all that were tried. */
export type TrainedClassifier = {readonly classifier: Classifier; readonly grid: readonly GridScore[]}

/** What a candidate is trained and chosen on. */
export type TrainingData = {
  readonly features: string
  readonly train: LabelledSet
  readonly val: LabelledSet
  readonly slices: readonly FeatureSlice[]
  readonly classes: readonly string[]
}

/** Accuracy on a set of every classifier of a grid, [slices][L]. */
function gridAccuracy(grid: ReturnType<typeof initGrid>, {x, dim, labels}: LabelledSet, truth: Int32Array): number[][] {
  const n = labels.length
  const counts = grid.kinds.map(() => grid.rates.map(() => 0))
  const chunk = 2048
  for (let at = 0; at < n; at += chunk) {
    const rows = Math.min(chunk, n - at)
    const right = tidy(() => {
      const part = tensor2d(x.slice(at * dim, (at + rows) * dim), [rows, dim]) //                        [rows, D]
      const wanted = reshape(tensor1d(truth.slice(at, at + rows), 'int32'), [rows, 1]) //                [rows, 1]
      return gridScores(grid, part).map(scores => sum(equal(argMax(scores, 2), wanted), 0)) //           [L] each
    })
    for (const [k, own] of right.entries()) {
      const values = own.dataSync()
      for (let r = 0; r < values.length; r++) counts[k]![r]! += values[r]!
    }
    dispose(right)
  }
  return counts.map(row => row.map(count => count / n))
}

/** The best classifier of a grid on val; of equal ones the first. */
export function chooseFromGrid(grid: ReturnType<typeof initGrid>, val: LabelledSet, classes: readonly string[]): TrainedClassifier {
  const shares = gridAccuracy(grid, val, classNumbers(val.labels, classes))
  let [k, r] = [0, 0]
  for (const [i, row] of shares.entries()) for (const [j, share] of row.entries()) if (share > shares[k]![r]!) [k, r] = [i, j]
  const kind = grid.kinds[k]!
  return {
    classifier: {kind, ...classifierOf(grid, k, r), chosen: `${kind.name}, learning rate ${grid.rates[r]}`},
    grid: shares.flatMap((row, i) => row.map((top1, j) => ({features: grid.kinds[i]!.name, rate: grid.rates[j]!, top1})))
  }
}

/** Trains on features that were computed once: the grid in batches of shuffled rows, or logistic regression. */
export async function* trainOnRows(data: TrainingData, options: LinearEvalOptions): AsyncGenerator<EvalEvent, TrainedClassifier> {
  if (options.solver === 'lbfgs') return yield* regress(data, options)
  const {features, train, val, slices, classes} = data
  const {seed} = options
  const truth = classNumbers(train.labels, classes)
  const steps = options.steps ?? DEFAULT_STEPS
  const rows = Math.min(options.trainBatch ?? DEFAULT_TRAIN_BATCH, truth.length)
  const grid = initGrid(slices, classes.length, seed)
  const sampler = shuffledSampler(truth.length, seed)
  try {
    for (let step = 0; step < steps; step++) {
      options.signal?.throwIfAborted()
      const picked = Int32Array.from({length: rows}, (_, i) => sampler.at(step * rows + i))
      const batch = new Float32Array(rows * train.dim)
      for (const [i, row] of picked.entries()) batch.set(train.x.subarray(row * train.dim, (row + 1) * train.dim), i * train.dim)
      const x = tensor2d(batch, [rows, train.dim]) //                         [rows, D]
      const y = tensor1d(
        picked.map(row => truth[row]!),
        'int32'
      ) //                                                                    [rows]
      gridStep(grid, x, y, step, steps)
      dispose([x, y])
      if (step % 100 === 99 || step === steps - 1) {
        yield {kind: 'progress', stage: 'training', features, done: step + 1, total: steps}
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    return chooseFromGrid(grid, val, classes)
  } finally {
    freeGrid(grid)
  }
}

type Regression = {readonly x: Tensor2D /* [n, F] */; readonly y: Int32Array /* [n] */}

/** Rows of train as the problem of a regression. */
function regressionOf({train: {x, dim, labels}, slices, classes}: TrainingData, rows: Int32Array): Regression {
  const {start, length} = slices[0]!
  const truth = classNumbers(labels, classes)
  const own = new Float32Array(rows.length * length)
  for (const [i, row] of rows.entries()) own.set(x.subarray(row * dim + start, row * dim + start + length), i * length)
  return {x: tensor2d(own, [rows.length, length]), y: rows.map(row => truth[row]!)}
}

/** Logistic regression: C chosen on a tenth of the rows, then all of them (docs/spec.md §5.3). */
async function* regress(data: TrainingData, {seed, signal}: LinearEvalOptions): AsyncGenerator<EvalEvent, TrainedClassifier> {
  const {features, train, slices, classes} = data
  const n = train.labels.length
  const total = defaultC.length + 1
  const order = rng(seed, 'held out').permutation(n)
  const heldOut = Math.max(1, Math.round(n / 10))
  let grid: GridScore[] = []
  if (n - heldOut >= 2) {
    grid = scoreEachC(data, Int32Array.from(order.slice(heldOut)), Int32Array.from(order.slice(0, heldOut)), signal)
    yield {kind: 'progress', stage: 'training', features, done: total - 1, total}
  }
  const middle = defaultC[Math.floor(defaultC.length / 2)]!
  const chosen = grid.reduce<GridScore | undefined>((a, b) => (a && a.top1 >= b.top1 ? a : b), undefined)?.rate ?? middle
  const {x, y} = regressionOf(
    data,
    Int32Array.from({length: n}, (_, i) => i)
  )
  try {
    const {weight, bias} = logistic(x, y, classes.length, [chosen])[0]!
    yield {kind: 'progress', stage: 'training', features, done: total, total}
    return {classifier: {kind: slices[0]!, weight, bias, chosen: `logistic regression, C ${chosen.toPrecision(2)}`}, grid}
  } finally {
    dispose(x)
  }
}

/** Accuracy of every C on held-out rows. Each solution starts the next. */
function scoreEachC(data: TrainingData, fitted: Int32Array, held: Int32Array, signal: AbortSignal | undefined): GridScore[] {
  const K = data.classes.length
  const [fit, check] = [regressionOf(data, fitted), regressionOf(data, held)]
  try {
    const solutions = logistic(fit.x, fit.y, K, defaultC, {goOn: () => signal?.aborted !== true})
    signal?.throwIfAborted()
    return solutions.map((solution, i) => {
      const scores = classifierScores(check.x, solution) // [held, K]
      const predicted = predictedClasses(scores.dataSync(), held.length, K)
      scores.dispose()
      const top1 = predicted.filter((k, j) => k === check.y[j]).length / held.length
      return {features: 'cls', rate: defaultC[i]!, top1}
    })
  } finally {
    dispose([fit.x, check.x])
  }
}
