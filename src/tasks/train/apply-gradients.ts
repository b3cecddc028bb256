/**
 * The second half of a step: gradients clipped, the student moved by AdamW, its average behind it.
 *
 * Either the numbers of the step are read first, and a step that is not finite is refused; or they stay on the device,
 * which then leaves such a step out by itself (`steps-ahead.ts`).
 */
import {adamw, clipFactor, ema, gradientNorm, scaleAll, unlessSkipped} from '../../optim/adamw.js'
import type {AdamOptions, ParamMap} from '../../optim/adamw.js'
import {paramGroup} from '../../optim/groups.js'
import {add as plus, concat, dispose, div, maximum, mul, slice, sqrt, square, stack, tidy} from '../../tensor/tf.js'
import type {Scalar, Tensor1D} from '../../tensor/tf.js'
import {sumOverProcesses} from '../../tensor/ops/collectives.js'
import {disposeTree} from '../../tensor/tree.js'
import {checkFinite} from './non-finite.js'
import {readMeasured} from './steps-ahead.js'
import type {MeasuredStep} from './steps-ahead.js'
import type {StepRates, StepSettings, TrainState} from './step-types.js'

/** `backbone`, `dino_head`, …: what is clipped apart. */
const moduleOf = (path: string): string => path.slice(0, path.indexOf('.'))
const modulesOf = (named: ParamMap): string[] => [...new Set([...named.keys()].map(moduleOf))]
const gradientsOf = (grads: ParamMap, module: string): ParamMap => new Map([...grads].filter(([path]) => moduleOf(path) === module))

/**
 * What was measured, and behind it the gradient norm of each sub-module, in one vector; consumes `values`. Of
 * gradients that are spread over processes the norm is that of all pieces.
 */
function withNorms(values: Tensor1D, grads: ParamMap, modules: readonly string[], {sharding, processes}: StepSettings): Tensor1D {
  const all = tidy(() => {
    const own = stack(modules.map(name => gradientNorm(gradientsOf(grads, name).values()))) as Tensor1D // [modules]
    return concat([values, sharding && processes ? sqrt(sumOverProcesses<Tensor1D>(square(own), processes)) : own])
  })
  dispose(values)
  return all
}

/**
 * The second half of a step: gradients clipped, the student moved, its average behind it. Consumes the gradients and
 * what was measured, and the state where the step is taken. Throws `NotFiniteStep` where a loss or gradient is not
 * finite; the state is then as it was, and `centers`, which would be the next ones, are freed.
 */
export function applyGradients<Report extends {readonly losses: Readonly<Record<string, number>>}>(
  state: TrainState,
  grads: ParamMap,
  {values, report: reportOf}: MeasuredStep<Report>,
  rates: StepRates,
  settings: StepSettings,
  centers?: TrainState['centers']
): {state: TrainState; report: Report; gradNorms: Record<string, number>} {
  const {lossScale = 1, clipGrad} = settings
  const modules = modulesOf(state.student)
  const start = values.size
  const all = withNorms(values, grads, modules, settings)
  const numbers = readMeasured({values: all, report: read => read}) // the one time that a step waits
  const report = reportOf(numbers.subarray(0, start))
  const gradNorms = Object.fromEntries(modules.map((name, i) => [name, numbers[start + i]! / lossScale]))
  // A step that is not finite is not taken: the state stays as it was.
  const sick = checkFinite(report.losses, gradNorms, grads)
  if (sick) {
    dispose([...grads.values()])
    if (centers) disposeTree([centers.dino, centers.ibot])
    throw sick
  }
  // Clip each sub-module apart, then step.
  for (const [name, length] of Object.entries(gradNorms)) {
    const own = gradientsOf(grads, name)
    scaleAll(own, (clipGrad > 0 ? clipFactor(length, clipGrad) : 1) / lossScale)
    for (const [path, grad] of own) grads.set(path, grad)
  }
  return {state: moveState(state, grads, rates, settings, centers), report, gradNorms}
}

/** `applyGradients` by numbers that stay on the device; `add` takes them and answers whether the step is left out. */
export function applyUnread<Report>(
  state: TrainState,
  grads: ParamMap,
  {values, report}: MeasuredStep<Report>,
  rates: StepRates,
  settings: StepSettings,
  {
    centers,
    add
  }: {
    readonly centers: TrainState['centers']
    readonly add: (step: MeasuredStep<Report & {gradNorms: Record<string, number>}>) => Scalar
  }
): TrainState {
  const {lossScale = 1, clipGrad} = settings
  const modules = modulesOf(state.student)
  const start = values.size
  const numbers = withNorms(values, grads, modules, settings)
  const scales = tidy(() => {
    const most = lossScale * (clipGrad > 0 ? clipGrad : Infinity) // as large as the gradients themselves
    const clip = maximum<Tensor1D>(div(plus(slice(numbers, [start], [modules.length]), 1e-6 * lossScale), most), 1) // [modules]
    const all = lossScale === 1 ? clip : mul<Tensor1D>(clip, lossScale)
    return modules.map((_, i) => slice(all, [i], [1]))
  })
  const skip = add({
    values: numbers,
    report: read => ({
      ...report(read.subarray(0, start)),
      gradNorms: Object.fromEntries(modules.map((name, i) => [name, read[start + i]! / lossScale]))
    })
  })
  const next = moveState(state, grads, rates, settings, centers, {skip, scale: path => scales[modules.indexOf(moduleOf(path))]!})
  dispose(scales)
  return next
}

/** The student moved by its gradients, which are consumed, and its average behind it. */
function moveState(
  state: TrainState,
  grads: ParamMap,
  rates: StepRates,
  settings: StepSettings,
  centers: TrainState['centers'],
  guard?: AdamOptions['guard']
): TrainState {
  const {rules, headWarmup = 0} = settings
  const step = state.step + 1
  adamw(state.student, grads, state.moments, {
    betas: settings.betas,
    eps: settings.eps,
    step,
    guard,
    rates: name => {
      const group = paramGroup(name, rules)
      const backbone = name.startsWith('backbone.')
      const lr = group.last ? rates.lastLayerLr : backbone ? (rates.backboneLr ?? rates.lr) : rates.lr
      return {lr: lr * group.lr, wd: rates.wd * group.wd, ...(backbone ? {step: step - headWarmup} : {})}
    }
  })
  for (const grad of grads.values()) dispose(grad)
  updateTeacher(state, rates.momentum, state.step < headWarmup, guard?.skip)
  return {...state, step, ...(centers ? {centers: nextCenters(state.centers, centers, guard?.skip)} : {})}
}

/** The centres after a step; consumes both. */
function nextCenters(
  before: TrainState['centers'],
  after: NonNullable<TrainState['centers']>,
  skip: Scalar | undefined
): TrainState['centers'] {
  if (!before || !skip) {
    if (before) dispose([before.dino, before.ibot])
    return after
  }
  const next = tidy(() => ({
    dino: unlessSkipped(after.dino, before.dino, skip),
    ibot: unlessSkipped(after.ibot, before.ibot, skip)
  }))
  dispose([before.dino, before.ibot, after.dino, after.ibot])
  return next
}

/** The teacher's average; of a backbone that stands still nothing is averaged, for rounding would move it. */
function updateTeacher({teacher, student}: TrainState, momentum: number, resting: boolean, skip: Scalar | undefined): void {
  if (!resting) return ema(teacher, student, momentum, skip)
  const heads: ParamMap = new Map([...teacher].filter(([name]) => !name.startsWith('backbone.')))
  ema(heads, student, momentum, skip)
  for (const [name, leaf] of heads) teacher.set(name, leaf)
}
