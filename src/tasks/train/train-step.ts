/**
 * One optimization step of DINOv2 (docs/spec.md §2.2): teacher targets, student pass, losses, gradients, clipping,
 * AdamW, teacher average.
 *
 * No tape: forward and backward halves are called in order and each lets go of what it no longer needs. The state is
 * changed in place where the engine can; whoever calls `trainStep` gives the old state up. B images, C width, K
 * prototypes, n masked patches.
 */
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Rng} from '../../tensor/random.js'
import {dispose} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import {applyGradients, applyUnread} from './apply-gradients.js'
import {freeParts, splitBatch} from './batch-parts.js'
import type {BatchPart, LazyBatch, StepBatch} from './batch-parts.js'
import {unitOf} from './lent-heads.js'
import {Sharding, type NetworkAccess} from './sharding.js'
import type {Network, StepRates, StepSettings, TrainState} from './step-types.js'
import type {MeasuredStep, StepsAhead} from './steps-ahead.js'
import {gradientsOfParts} from './student-pass.js'
import type {PassReport, StepReport} from './student-pass.js'
import {chunkWidths, computeTeacherTargets, prototypesOf} from './teacher-targets.js'
import type {ChunkWidths, TeacherTargets} from './teacher-targets.js'

/** Targets in the place of those of the state's own teacher. */
export type Guide = (parts: readonly BatchPart[], widths: ChunkWidths) => TeacherTargets

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
  guide?: Guide
): {state: TrainState; report: StepReport} {
  const found = passOf(state, batch, rates, settings, random, guide)
  const {state: next, report, gradNorms} = applyGradients(state, found.grads, found.measured, rates, settings, found.centers)
  return {state: next, report: {...report, gradNorms, masked: found.masked}}
}

/**
 * `trainStep` whose numbers are read later, by `ahead.settle`. Where one of them is not finite, nothing of the state
 * changes from this step on, which is the device's work; the returned state counts the step all the same.
 */
export function launchStep(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  settings: StepSettings,
  random: Rng | undefined,
  ahead: Pick<StepsAhead<StepReport>, 'add'> & {readonly guide?: Guide}
): TrainState {
  const {grads, measured, centers, masked} = passOf(state, batch, rates, settings, random, ahead.guide)
  return applyUnread(state, grads, measured, rates, settings, {
    centers,
    add: ({values, report}) => ahead.add({values, report: numbers => ({...report(numbers), masked})})
  })
}

/** What the passes of a step give: gradients, what was measured, the next centres. */
type Pass = {grads: ParamMap; measured: MeasuredStep<PassReport>; centers: TrainState['centers']; masked: number}

/** The passes of a state, whole or spread over the processes. */
const passOf = (...[state, batch, rates, settings, random, guide]: Parameters<typeof pass>): Pass =>
  settings.sharding
    ? shardedPass(state, batch, rates, {...settings, sharding: settings.sharding}, random, guide)
    : pass(state, batch, rates, settings, random, guide)

/** Targets, and the student's pass. */
function pass(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  settings: StepSettings,
  random?: Rng,
  guide?: Guide
): Pass {
  const student = unflatten<Network>(state.student)
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(prototypesOf(student), parts, settings.processes)
  const targets =
    guide?.(parts, widths) ?? computeTeacherTargets(unflatten<Network>(state.teacher), parts, rates, settings, state.centers, widths)
  const resting = state.step < (settings.headWarmup ?? 0)
  const wanted = resting ? {...settings, headsOnly: true} : settings
  const {grads, measured} = gradientsOfParts(parts, targets, {student, settings: wanted, widths, random, onTargetsDone: targets.dispose})
  dispose(targets.entropy)
  freeParts(parts)
  if (guide) deleteMaskTokenGradient(grads)
  return {grads, measured, centers: targets.centers, masked: widths.rows?.patches ?? batch.indices.length}
}

/** `pass` of a state whose parameters are spread over the processes, each network gathered while it is used. */
function shardedPass(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  given: StepSettings & {readonly sharding: Sharding},
  random: Rng | undefined,
  guide: Guide | undefined
): Pass {
  const {sharding} = given
  const lent = lendStudent<Network>(state, sharding)
  const student = lent.network
  const teacher = guide ? undefined : sharding.lend<Network>(state.teacher)
  const settings = {
    ...given,
    access: {student: lent.access, teacher: teacher?.access},
    headsOnly: state.step < (given.headWarmup ?? 0)
  }
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(prototypesOf(student, lent.access), parts, settings.processes)
  const targets = guide?.(parts, widths) ?? computeTeacherTargets(teacher!.network, parts, rates, settings, state.centers, widths)
  const onTargetsDone = (): void => {
    targets.dispose()
    teacher?.dispose()
  }
  const {grads, measured} = gradientsOfParts(parts, targets, {student, settings, widths, random, onTargetsDone})
  dispose(targets.entropy)
  freeParts(parts)
  if (guide) deleteMaskTokenGradient(grads)
  const masked = widths.rows?.patches ?? batch.indices.length
  return {grads: lent.pieces(grads), measured, centers: targets.centers, masked}
}

/** The student of a spread state for one step; `pieces` gives its gradients as pieces, when those of blocks are in. */
export function lendStudent<N extends {backbone: Vit}>(
  state: TrainState,
  sharding: Sharding
): {readonly network: N; readonly access: NetworkAccess; readonly pieces: (outside: ParamMap) => ParamMap} {
  const found: ParamMap = new Map()
  const {network, access, dispose: letGo} = sharding.lend<N>(state.student, own => Sharding.addTo(found, own))
  return {
    network,
    access,
    pieces: outside => {
      letGo()
      for (const unit of new Set([...outside.keys()].map(unitOf)))
        Sharding.addTo(found, sharding.scatter(new Map([...outside].filter(([name]) => unitOf(name) === unit))))
      return found
    }
  }
}

/** Takes the gradient of the mask token out: where nothing is ever masked it has none, and is not to decay. */
export function deleteMaskTokenGradient(grads: ParamMap): void {
  const name = 'backbone.mask_token'
  const grad = grads.get(name)
  if (grad) dispose(grad)
  grads.delete(name)
}
