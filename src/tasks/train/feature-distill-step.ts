/**
 * One step of feature distillation, for teachers without heads: the student's cls and patch tokens, each through one
 * linear layer to the teacher's width, are drawn towards the teacher's tokens (`loss/feature.ts`); KoLeo spreads the
 * cls tokens as in pretraining. Both large crops, nothing masked, no stochastic depth, no small crops.
 *
 * No tape, as in `train-step.ts`. B images, b of them in a part, N patches, C width of the student, D of the teacher.
 */
import {featureLoss} from '../../loss/feature.js'
import {regularizers, withTotal} from '../../loss/terms.js'
import type {Losses} from '../../loss/terms.js'
import {l2Normalize} from '../../model/head.js'
import {backwardTrain, castParams, forwardTrain} from '../../model/vit.js'
import type {ImageView, Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {linearBackward, linearForward} from '../../tensor/ops/linear.js'
import type {Linear} from '../../tensor/ops/linear.js'
import {oneProcess, sumAllOverProcesses} from '../../tensor/ops/collectives.js'
import {constant} from '../../tensor/ops/constant.js'
import {cast, castLike} from '../../tensor/ops/precision.js'
import {addRows, takeRows} from '../../tensor/ops/rows.js'
import {add, concat, dispose, fill, slice, stack, sum, tidy, zeros} from '../../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {flatten, unflatten} from '../../tensor/tree.js'
import {freeParts, splitBatch, tokenRows} from './batch-parts.js'
import type {BatchPart, LazyBatch, StepBatch} from './batch-parts.js'
import {addGradients, inParameterOrder, meanCosine, measuredOverProcesses, regularize, regularizerLosses} from './gradient-sums.js'
import {withScaledLosses} from './loss-scale.js'
import type {StepRates, StepSettings, TrainState} from './step-types.js'
import {readMeasured} from './steps-ahead.js'
import type {MeasuredStep, StepsAhead} from './steps-ahead.js'
import type {StepReport} from './student-pass.js'
import {applyGradients, applyUnread} from './apply-gradients.js'
import {deleteMaskTokenGradient, lendStudent} from './train-step.js'
import type {FeatureTargets} from './teacher.js'

/** A student that learns features: its backbone, and a layer to the teacher's width for each kind of token. */
export type FeatureNetwork = {backbone: Vit; cls_projector: Linear; patch_projector: Linear}

export type FeatureDistillSettings = StepSettings & {
  /** Weight of the Huber term beside the cosine. */
  readonly huber: number
}

/** What a step measured; losses as they are optimized, `total` their sum. */
export type FeatureReport = Pick<StepReport, 'gradNorms' | 'clsCosine'> & {
  readonly losses: Losses<'cls_loss' | 'patch_loss'>
}

/** Gradients and losses of one part, added to what is there. */
type Sums = {
  grads: ParamMap
  losses: Tensor1D /* [2 + regularizers]: cls, patches, then those */
  cls: Tensor2D /* [1, C], sum of unit cls tokens of the first crops */
}

/**
 * Takes one step. Consumes `state` and returns the next one, with what was measured; the batch stays the caller's.
 * `teach` says the targets of the whole batch, which stay the teacher's; of the losses' weights, `dinoWeight` is that
 * of cls tokens and `ibotWeight` that of patches. Throws `NotFiniteStep` as `trainStep`.
 */
export function featureStep(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  settings: FeatureDistillSettings,
  teach: (parts: readonly BatchPart[]) => FeatureTargets
): {state: TrainState; report: FeatureReport} {
  const {grads, measured} = passOfState(state, batch, settings, teach)
  const {state: next, report, gradNorms} = applyGradients(state, grads, measured, rates, settings)
  return {state: next, report: {...report, gradNorms}}
}

/** `featureStep` whose numbers are read later; as `launchStep`. */
export function launchFeatureStep(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  rates: StepRates,
  settings: FeatureDistillSettings,
  ahead: Pick<StepsAhead<FeatureReport>, 'add'> & {readonly teach: (parts: readonly BatchPart[]) => FeatureTargets}
): TrainState {
  const {grads, measured} = passOfState(state, batch, settings, ahead.teach)
  return applyUnread(state, grads, measured, rates, settings, {centers: undefined, add: step => ahead.add(step)})
}

type Pass = {grads: ParamMap; measured: MeasuredStep<Omit<FeatureReport, 'gradNorms'>>}

/** The student's pass of a state, whole or spread over the processes. */
function passOfState(
  state: TrainState,
  batch: StepBatch | LazyBatch,
  settings: FeatureDistillSettings,
  teach: (parts: readonly BatchPart[]) => FeatureTargets
): Pass {
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const lent = settings.sharding && lendStudent<FeatureNetwork>(state, settings.sharding)
  const own = lent ? {...settings, access: {student: lent.access}} : settings
  const {grads, measured} = featurePass(lent?.network ?? unflatten<FeatureNetwork>(state.student), parts, teach(parts), own)
  freeParts(parts)
  deleteMaskTokenGradient(grads)
  return {grads: lent?.pieces(grads) ?? grads, measured}
}

/** Losses and the gradient of every parameter of a student, by path, for the given targets of a batch in parts. */
export function featureGradients(
  student: FeatureNetwork,
  parts: readonly BatchPart[],
  targets: FeatureTargets,
  settings: FeatureDistillSettings
): {grads: ParamMap; report: Omit<FeatureReport, 'gradNorms'>} {
  const {grads, measured} = featurePass(student, parts, targets, settings)
  return {grads, report: readMeasured(measured)}
}

/** `featureGradients` whose numbers nobody has waited for. */
function featurePass(student: FeatureNetwork, parts: readonly BatchPart[], targets: FeatureTargets, given: FeatureDistillSettings): Pass {
  const {lossScale = 1} = given
  const settings = {...given, ...withScaledLosses(given)}
  const {vit, precision, processes = oneProcess} = settings
  const copy = castParams(student.backbone, precision)
  settings.access?.student.heads() // two small layers, which are there from the first
  const layers = {cls: low(student.cls_projector, precision), patch: low(student.patch_projector, precision)}
  const sums: Sums = {grads: new Map(), losses: zeros([2 + regularizers.length]) as Tensor1D, cls: zeros([1, vit.width]) as Tensor2D}
  const B = parts.reduce((total, {b}) => total + b, 0) * processes.size
  let done = 0
  for (const part of parts) {
    addPart({params: copy.params, layers}, part, {B, done}, targets, settings, sums)
    done += part.b
  }
  dispose([...copy.owned, ...[layers.cls, layers.patch].flatMap(({weight, bias}) => [weight, bias])])
  const numbers = measuredOverProcesses([sums.losses], sums.cls, processes)
  dispose([sums.losses, sums.cls])
  const grads = inParameterOrder(student, sums.grads)
  if (!settings.access) sumAllOverProcesses([...grads.values()], processes)
  const report = (values: Float32Array): Omit<FeatureReport, 'gradNorms'> => {
    const losses = values.map(value => value / lossScale)
    return {
      losses: withTotal({cls_loss: losses[0]!, patch_loss: losses[1]!, ...regularizerLosses(losses, 2)}),
      clsCosine: meanCosine(values[2 + regularizers.length]!, B)
    }
  }
  return {grads, measured: {values: numbers, report}}
}

const low = ({weight, bias}: Linear, precision: StepSettings['precision']): Linear => ({
  weight: cast(weight, precision),
  bias: cast(bias, precision)
})

/**
 * One part of a batch of B images, `done` of which went before: forward, losses, backward; everything is added to
 * `sums`.
 */
function addPart(
  {params, layers}: {params: Vit; layers: {cls: Linear; patch: Linear}},
  part: BatchPart,
  {B, done}: {B: number; done: number},
  targets: FeatureTargets,
  settings: FeatureDistillSettings,
  sums: Sums
): void {
  const {vit, dinoWeight, ibotWeight, huber, memory = 'fast'} = settings
  const {b} = part
  const images = part.globals()
  const view: ImageView = {images}
  const options = Array.from({length: vit.depth}, () => ({heads: vit.heads}))
  const {y, trace} = forwardTrain(params, [view], vit, options, memory, settings.access?.student)
  const N = part.masks.shape[1]
  const {cls, patches} = tokenRows(
    view,
    vit,
    Int32Array.from({length: 2 * b * N}, (_, i) => i)
  )
  dispose(images)
  const T = y.shape
  const found = tidy(() => {
    const at = constant<Tensor1D>(Int32Array.from([...cls, ...patches]), [cls.length + patches.length])
    const through = (start: number, count: number, layer: Linear, own: Tensor2D, weight: number) => {
      const x = takeRows(y, slice(at, [start], [count]))
      const into = castLike(x, layer.weight)
      const p: Tensor2D = cast(linearForward(into, layer), 'fp32')
      const {losses, gradient} = featureLoss(p, own, fill([count], weight / (count * (B / b))) as Tensor1D, huber)
      const {x: dx, ...grads} = linearBackward(gradient, into, layer.weight)
      return {x, loss: sum<Scalar>(losses), dx: cast(dx, 'fp32'), grads}
    }
    const own = (rows: Tensor2D, each: number): Tensor2D => slice(rows, [2 * done * each, 0], [2 * b * each, -1])
    const ofCls = through(0, cls.length, layers.cls, own(targets.cls, 1), dinoWeight)
    const ofPatches = through(cls.length, patches.length, layers.patch, own(targets.patches, N), ibotWeight)
    const regularized = regularize(ofCls.x, b / B, settings)
    const dcls = regularized.gradient ? add<Tensor2D>(ofCls.dx, regularized.gradient) : ofCls.dx // [2b, C]
    return {
      dy: addRows(fill(T, 0) as Tensor2D, at, concat([dcls, ofPatches.dx])),
      losses: add<Tensor1D>(sums.losses, concat([stack([ofCls.loss, ofPatches.loss]) as Tensor1D, regularized.losses])),
      cls: add<Tensor2D>(sums.cls, sum<Tensor2D>(l2Normalize(slice(ofCls.x, [0, 0], [b, -1])), 0, true)),
      clsGrads: ofCls.grads,
      patchGrads: ofPatches.grads
    }
  })
  dispose([y, sums.losses, sums.cls])
  sums.losses = found.losses
  sums.cls = found.cls
  const backbone = backwardTrain(found.dy, params, trace, vit, settings.access?.student)
  dispose(found.dy)
  addGradients(sums.grads, flatten({backbone, cls_projector: found.clsGrads, patch_projector: found.patchGrads}))
}
