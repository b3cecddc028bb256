/**
 * One optimisation step of DINOv2 (docs/spec.md §2.2): teacher targets, student pass, losses, gradients, clipping,
 * AdamW, teacher average.
 *
 * No tape: forward and backward halves are called in order and each lets go of what it no longer needs. The state is
 * changed in place where the engine can; whoever calls `trainStep` gives the old state up. B images, C width, K
 * prototypes, n masked patches.
 */
import {adamw, clipGradients, ema} from '../../optim/adamw.js'
import type {ParamMap} from '../../optim/adamw.js'
import {paramGroup} from '../../optim/groups.js'
import type {Rng} from '../../tensor/random.js'
import {dispose} from '../../tensor/tf.js'
import {disposeTree, unflatten} from '../../tensor/tree.js'
import {freeParts, splitBatch} from './batch-parts.js'
import type {BatchPart, LazyBatch, StepBatch} from './batch-parts.js'
import {checkFinite} from './non-finite.js'
import {Sharding} from './sharding.js'
import type {Network, StepRates, StepSettings, TrainState} from './step-types.js'
import {gradientsOfParts} from './student-pass.js'
import type {StepReport} from './student-pass.js'
import {chunkWidths, computeTeacherTargets} from './teacher-targets.js'
import type {ChunkWidths, TeacherTargets} from './teacher-targets.js'

/**
 * Takes one step. Consumes `state` and returns the next one, with what was measured; the batch stays the caller's.
 * Throws `NotFiniteStep` where a loss or gradient is not finite, before anything of the state has changed; it is then
 * still the caller's. `random` draws the kept sequences of stochastic depth and may be left out where there is none.
 *
 * With `accumulate` above one the batch goes through the networks in parts, one after the other. Targets
 * (Sinkhorn–Knopp, centres) are those of the whole batch, and all losses but one are weighed as in the whole batch, so
 * that the gradient is the same. KoLeo looks for neighbours within a part, as the reference does within one GPU, and
 * stochastic depth draws what is kept in each part by itself.
 *
 * `guide` says the targets in the place of the state's own teacher, which is then nothing but the average of the
 * student.
 */
export function trainStep(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  settings: StepSettings,
  random?: Rng,
  guide?: (parts: readonly BatchPart[], widths: ChunkWidths) => TeacherTargets
): {state: TrainState; report: StepReport} {
  if (settings.sharding) return shardedStep(state, batch, rates, settings, random)
  const student = unflatten<Network>(state.student)
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(student, parts, settings.processes)
  const targets =
    guide?.(parts, widths) ?? computeTeacherTargets(unflatten<Network>(state.teacher), parts, rates, settings, state.centers, widths)
  const resting = state.step < (settings.headWarmup ?? 0)
  const wanted = resting ? {...settings, headsOnly: true} : settings
  const {grads, report} = gradientsOfParts(parts, targets, {student, settings: wanted, widths, random, onTargetsDone: targets.dispose})
  dispose(targets.entropy)
  freeParts(parts)
  if (guide) deleteMaskTokenGradient(grads)
  const {state: next, gradNorms} = applyGradients(state, grads, report.losses, rates, settings, targets.centers)
  return {state: next, report: {...report, gradNorms, masked: widths.rows?.patches ?? batch.indices.length}}
}

/** `trainStep` of a state whose parameters are spread over the processes, each network gathered while it is used. */
function shardedStep(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  given: StepSettings,
  random: Rng | undefined
): {state: TrainState; report: StepReport} {
  const sharding = given.sharding!
  const pieces: ParamMap = new Map()
  const student = sharding.lend(state.student, own => Sharding.addTo(pieces, own))
  const teacher = sharding.lend(state.teacher)
  const settings = {
    ...given,
    access: {student: student.access, teacher: teacher.access},
    headsOnly: state.step < (given.headWarmup ?? 0)
  }
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(student.network, parts, settings.processes)
  const targets = computeTeacherTargets(teacher.network, parts, rates, settings, state.centers, widths)
  const {grads, report} = gradientsOfParts(parts, targets, {
    student: student.network,
    settings,
    widths,
    random,
    onTargetsDone: () => {
      targets.dispose()
      teacher.dispose()
    }
  })
  dispose(targets.entropy)
  freeParts(parts)
  student.dispose()
  for (const unit of ['backbone', 'dino_head', 'ibot_head'])
    Sharding.addTo(pieces, sharding.scatter(new Map([...grads].filter(([name]) => name.startsWith(`${unit}.`)))))
  const {state: next, gradNorms} = applyGradients(state, pieces, report.losses, rates, settings, targets.centers)
  return {state: next, report: {...report, gradNorms, masked: widths.rows?.patches ?? batch.indices.length}}
}

/** Takes the gradient of the mask token out: where nothing is ever masked it has none, and is not to decay. */
export function deleteMaskTokenGradient(grads: ParamMap): void {
  const name = 'backbone.mask_token'
  const grad = grads.get(name)
  if (grad) dispose(grad)
  grads.delete(name)
}

/**
 * The second half of a step: gradients clipped, the student moved, its average behind it. Consumes the gradients, and
 * the state where the step is taken. Throws `NotFiniteStep` where a loss or gradient is not finite; the state is then
 * as it was, and `centers`, which would be the next ones, are freed.
 */
export function applyGradients(
  state: TrainState,
  grads: ParamMap,
  losses: Readonly<Record<string, number>>,
  rates: StepRates,
  settings: StepSettings,
  centers?: TrainState['centers']
): {state: TrainState; gradNorms: Record<string, number>} {
  const {rules, headWarmup = 0} = settings
  // Clip each sub-module apart, then step.
  const gradNorms: Record<string, number> = {}
  for (const name of new Set([...state.student.keys()].map(path => path.slice(0, path.indexOf('.'))))) {
    const own: ParamMap = new Map([...grads].filter(([path]) => path.startsWith(`${name}.`)))
    gradNorms[name] = clipGradients(
      own,
      settings.clipGrad > 0 ? settings.clipGrad : Infinity,
      norm => settings.sharding?.norm(norm) ?? norm
    )
    for (const [path, grad] of own) grads.set(path, grad)
  }
  // A step that is not finite is not taken: the state stays as it was.
  const sick = checkFinite(losses, gradNorms, grads)
  if (sick) {
    dispose([...grads.values()])
    if (centers) disposeTree([centers.dino, centers.ibot])
    throw sick
  }
  const step = state.step + 1
  adamw(state.student, grads, state.moments, {
    betas: settings.betas,
    eps: settings.eps,
    step,
    rates: name => {
      const group = paramGroup(name, rules)
      const backbone = name.startsWith('backbone.')
      const lr = group.last ? rates.lastLayerLr : backbone ? (rates.backboneLr ?? rates.lr) : rates.lr
      return {lr: lr * group.lr, wd: rates.wd * group.wd, ...(backbone ? {step: step - headWarmup} : {})}
    }
  })
  for (const grad of grads.values()) dispose(grad)
  updateTeacher(state, rates.momentum, state.step < headWarmup)
  if (state.centers && centers) disposeTree([state.centers.dino, state.centers.ibot])
  return {state: {...state, step, ...(centers ? {centers} : {})}, gradNorms}
}

/** The teacher's average; of a backbone that stands still nothing is averaged, for rounding would move it. */
function updateTeacher({teacher, student}: TrainState, momentum: number, resting: boolean): void {
  if (!resting) return ema(teacher, student, momentum)
  const heads: ParamMap = new Map([...teacher].filter(([name]) => !name.startsWith('backbone.')))
  ema(heads, student, momentum)
  for (const [name, leaf] of heads) teacher.set(name, leaf)
}
