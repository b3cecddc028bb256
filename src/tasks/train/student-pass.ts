/**
 * The student's pass: forward, losses and backward, one part of a batch after the other.
 *
 * No tape: forward and backward halves are called in order, and each lets go of what it no longer needs.
 * B images in a batch, b in a part, m local crops an image, n masked patches, R rows that a head sees, T tokens of all
 * crops, C width, K prototypes.
 */
import {prototypeLoss} from '../../loss/cross-entropy.js'
import type {Segment} from '../../loss/cross-entropy.js'
import {targetRows} from '../../loss/targets.js'
import type {Targets} from '../../loss/targets.js'
import {regularizers, withTotal} from '../../loss/terms.js'
import type {Losses} from '../../loss/terms.js'
import type {BlockOptions} from '../../model/block.js'
import {sampleDropPath} from '../../model/drop-path.js'
import {headBackward, headForward, l2Normalize, prototypesBackward, slicePrototypes} from '../../model/head.js'
import type {Head} from '../../model/head.js'
import {backwardTrain, castParams, forwardTrain, freeTrace, gridOf} from '../../model/vit.js'
import type {ImageView, Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {oneProcess, sumAllOverProcesses} from '../../tensor/ops/collectives.js'
import {constant} from '../../tensor/ops/constant.js'
import {bytesOfNumber, cast} from '../../tensor/ops/precision.js'
import {RowSum} from '../../tensor/ops/row-sum.js'
import {addRows} from '../../tensor/ops/rows.js'
import type {Rng} from '../../tensor/random.js'
import {Tensor, add, concat, dispose, fill, slice, stack, sum, tensor1d, tidy} from '../../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {disposeTree, flatten} from '../../tensor/tree.js'
import {freeParts, splitBatch, tokenRows} from './batch-parts.js'
import type {BatchPart, LazyBatch, StepBatch} from './batch-parts.js'
import {
  addGradients,
  addMissingGradients,
  inParameterOrder,
  meanCosine,
  measuredOverProcesses,
  regularize,
  regularizerLosses
} from './gradient-sums.js'
import type {Regularized} from './gradient-sums.js'
import {withScaledLosses} from './loss-scale.js'
import type {Network, StepSettings} from './step-types.js'
import {readMeasured} from './steps-ahead.js'
import type {MeasuredStep} from './steps-ahead.js'
import {MAX_CACHED_LOGITS_BYTES, castHeads, chunkWidths, headInputs, prototypesOf} from './teacher-targets.js'
import type {CastHeads, ChunkWidths} from './teacher-targets.js'

/** What a step measured. Losses are weighted as they are optimized; `total` is their sum. */
export type StepReport = {
  readonly losses: Losses<'dino_local' | 'dino_global' | 'ibot'>
  /** Gradient norm of each sub-module before clipping. */
  readonly gradNorms: Readonly<Record<string, number>>
  readonly masked: number
  /** Mean entropy of the teacher's targets for cls tokens, in nats; ln K when they are uniform. */
  readonly teacherEntropy: number
  /**
   * Mean cosine between the cls tokens of different images' global crops; near one when all images look alike to the
   * model. Undefined where a batch holds one image.
   */
  readonly clsCosine: number | undefined
}

/** What a student's pass measured. */
export type PassReport = Omit<StepReport, 'gradNorms' | 'masked'>

/** Gradients of a student's parameters by path, and what its pass measured. */
export type StudentGradients = {grads: ParamMap; report: PassReport}

/** Targets of a batch, as a student's pass takes them. */
export type StudentTargets = {readonly cls: Targets; readonly patches?: Targets; readonly entropy: Scalar}

/** Student pass, losses and the gradient of every student parameter, by path, for given targets of a batch. */
export function studentGradients(
  student: Network,
  batch: StepBatch | LazyBatch,
  targets: StudentTargets,
  settings: StepSettings,
  random?: Rng
): StudentGradients {
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(prototypesOf(student), parts, settings.processes)
  const {grads, measured} = gradientsOfParts(parts, targets, {student, settings, widths, random})
  freeParts(parts)
  return {grads, report: readMeasured(measured)}
}

/** What the student's passes add to, part by part. */
type Sums = {
  /** Gradients of all but the last layers, by path; empty before the first part. */
  readonly grads: ParamMap
  readonly last: Map<'dino_head' | 'ibot_head', {gain: RowSum; direction: RowSum}>
  /** Losses: local, global, iBOT, then the regularizers. */
  losses: Tensor1D /* [3 + regularizers] */
  /** Sum of the unit cls tokens of the first global crops. */
  cls: Tensor2D /* [1, C] */
}

/** What is the same for all parts of a batch. */
export type PassContext = {
  readonly student: Network
  readonly settings: StepSettings
  readonly widths: ChunkWidths
  readonly random: Rng | undefined
  /** Called when the targets have served. */
  readonly onTargetsDone?: () => void
}

type PartContext = PassContext & {
  /** Backbone and heads in the precision of products. */
  readonly params: Vit
  /** The heads, asked for when a part has been through the backbone. */
  readonly castHeads: () => CastHeads
  /** Whether patches have a head of their own. */
  readonly separate: boolean
  readonly sums: Sums
  /** Images of the whole batch, B. */
  readonly images: number
}

type HeadContext = PartContext & {readonly heads: CastHeads}

/** The gradients of a batch in parts, and what was measured, which nobody has waited for. */
export function gradientsOfParts(
  parts: readonly BatchPart[],
  targets: StudentTargets,
  context: PassContext
): {grads: ParamMap; measured: MeasuredStep<PassReport>} {
  const {student} = context
  const {lossScale = 1} = context.settings
  const settings = withScaledLosses(context.settings)
  const {vit, precision, processes = oneProcess, access} = settings
  const backbone = castParams(student.backbone, precision)
  let heads: CastHeads | undefined
  const own = {
    ...context,
    settings,
    params: backbone.params,
    castHeads: () => (heads ??= castHeads(student, precision, access?.student)),
    separate: prototypesOf(student, access?.student).ibot !== undefined,
    sums: emptySums(vit.width)
  }
  const {sums} = own
  let ofHeads: ParamMap | undefined
  const images = parts.reduce((total, {b}) => total + b, 0) * processes.size
  const start = {cls: 0, patches: 0}
  for (const part of parts) {
    const rows = {
      cls: targetRows(targets.cls, start.cls, 2 * part.b),
      patches: targets.patches && part.indices.length > 0 ? targetRows(targets.patches, start.patches, part.indices.length) : undefined
    }
    addPart({...own, images}, part, rows, () => {
      dispose([rows.cls.logRowScale, ...(rows.patches ? [rows.patches.logRowScale] : [])])
      if (part !== parts.at(-1)) return
      dispose([heads!.dino, heads!.ibot].flatMap(head => head?.owned ?? [])) // a step needs the most memory after this
      context.onTargetsDone?.()
      ofHeads = headGradients(student, sums, context.widths.rows?.patches ?? 0)
      access?.student.headGradients(ofHeads)
    })
    start.cls += 2 * part.b
    start.patches += part.indices.length
  }
  dispose(backbone.owned)
  const numbers = measuredOverProcesses([sums.losses, targets.entropy], sums.cls, processes)
  dispose([sums.losses, sums.cls])
  const end = 3 + regularizers.length
  const grads = inParameterOrder(student, new Map([...sums.grads, ...(access ? [] : ofHeads!)]))
  if (!access) sumAllOverProcesses([...grads.values()], processes)
  const report = (read: Float32Array): PassReport => {
    const values = read.map((value, i) => (i < end ? value / lossScale : value))
    return {
      losses: withTotal({dino_local: values[0]!, dino_global: values[1]!, ...regularizerLosses(values, 3), ibot: values[2]!}),
      teacherEntropy: values[end]! / processes.size,
      clsCosine: meanCosine(values[end + 1]!, images)
    }
  }
  return {grads, measured: {values: numbers, report}}
}

const emptySums = (width: number): Sums => ({
  grads: new Map(),
  last: new Map(),
  losses: fill([3 + regularizers.length], 0) as Tensor1D,
  cls: fill([1, width], 0) as Tensor2D
})

/** Takes the gradients of heads out of the sums, where all parts have been through them. */
function headGradients(student: Network, sums: Sums, patchRows: number): ParamMap {
  const found: ParamMap = new Map([...sums.grads].filter(([name]) => !name.startsWith('backbone.')))
  for (const name of found.keys()) sums.grads.delete(name)
  for (const [name, {gain, direction}] of sums.last) {
    const [weight_g, weight_v] = [gain.take(), direction.take()]
    if (weight_g) found.set(`${name}.last_layer.weight_g`, weight_g)
    if (weight_v) found.set(`${name}.last_layer.weight_v`, weight_v)
  }
  addMissingGradients(student, found, patchRows)
  return inParameterOrder(student, found)
}

/** Where the rows that heads see lie among the tokens of all crops: local cls, global cls, masked patches. */
type Rows = {readonly cls: Int32Array; readonly patches: Tensor1D | undefined}

/** One part of a batch; all it finds is added to the sums. `onHeadsDone` is called once the heads have served. */
function addPart(
  context: PartContext,
  part: BatchPart,
  targets: {cls: Targets; patches: Targets | undefined},
  onHeadsDone: () => void
): void {
  const {params, settings, sums, images: B} = context
  const {vit, memory = 'fast', headsOnly = false} = settings
  const {b, m} = part
  const n = targets.patches ? part.indices.length : 0

  const weights = lossWeights(context, part, n > 0)
  const crops = [part.globals(), ...(part.locals ? [part.locals()] : [])]
  const views: ImageView[] = crops.map((images, i) => (i === 0 ? {images, masks: part.masks} : {images}))
  const options = blockOptions(views, settings, context.random)
  const {y, trace} = forwardTrain(params, views, vit, options, headsOnly ? 'small' : memory, settings.access?.student) // y [T, C]
  dispose(crops)

  const global = tokenRows(views[0]!, vit, part.indices)
  const local = views[1] ? tokenRows(views[1], vit, new Int32Array(0)).cls.map(row => row + global.rows) : new Int32Array(0)
  const rows: Rows = {cls: Int32Array.from([...local, ...global.cls]), patches: n > 0 ? part.patchRows(vit) : undefined}
  const {clsRows, patchRows} = headInputs(y, rows.cls, rows.patches) // [(m + 2)·b, C], [n, C]
  const T = y.shape
  dispose(y)

  const passes = passHeads({...context, heads: context.castHeads()}, {part, targets, weights}, clsRows, patchRows)
  dispose([...weights.values()])
  addGradients(sums.grads, flatten({dino_head: {mlp: passes.dino.mlp}, ...(passes.ibot ? {ibot_head: {mlp: passes.ibot.mlp}} : {})}))
  onHeadsDone()
  const regularized = tidy((): Regularized => regularize(slice(clsRows, [m * b, 0], [2 * b, -1]), b / B, settings))
  addMeasured(sums, passes, regularized, clsRows, {b, m, n})
  dispose([clsRows, ...(patchRows ? [patchRows] : [])])

  const dy = headsOnly ? undefined : tidy(() => tokenGradient(T, rows, passes, regularized.gradient, {b, m, n})) // [T, C]
  for (const pass of [passes.dino, passes.ibot]) if (pass) dispose([pass.dx, pass.losses])
  dispose([regularized.losses, ...(regularized.gradient ? [regularized.gradient] : [])])

  const backbone = dy && backwardTrain(dy, params, trace, vit, settings.access?.student)
  if (dy) dispose(dy)
  else freeTrace(trace)
  for (const {attn, mlp} of options)
    for (const kept of [attn, mlp]) if (kept) disposeTree([kept.rows, ...(kept.factor instanceof Tensor ? [kept.factor] : [])])
  if (backbone) addGradients(sums.grads, flatten({backbone}))
}

/** What a head gives for its rows: losses, the gradient of the rows, and of its MLP. */
type HeadPass = {losses: Tensor1D /* [R] */; dx: Tensor2D /* [R, C] float32 */; mlp: Head['mlp']}
type HeadPasses = {readonly dino: HeadPass; readonly ibot: HeadPass | undefined}

/** Numbers that depend on the sizes of a batch alone. */
const int32 = (length: number, at: (i: number) => number): Tensor1D =>
  constant(
    Int32Array.from({length}, (_, i) => at(i)),
    [length]
  )

/** Weights of the rows of each head, [R]. */
type LossWeights = ReadonlyMap<'dino' | 'ibot', Tensor1D>

/**
 * The weights of all rows that the heads see; the caller's. They are made before a part begins, so that they go to the
 * device with what else it is given.
 */
function lossWeights({separate, images: B, settings}: PartContext, {b, m, weights}: BatchPart, hasPatches: boolean): LossWeights {
  const cls = new Array<number>((m + 2) * b).fill(settings.dinoWeight / ((2 + 2 * m) * B))
  const patches = hasPatches ? [...weights].map(w => (w * settings.ibotWeight) / (2 * B)) : []
  if (!separate || !hasPatches) return new Map([['dino', tensor1d([...cls, ...patches])]])
  return new Map([
    ['dino', tensor1d(cls)],
    ['ibot', tensor1d(patches)]
  ])
}

/**
 * Cross-entropies of class tokens [(m + 2)·b, C] and masked patches [n, C] through their heads. Where patches share
 * the DINO head, they are its last rows.
 */
function passHeads(
  context: HeadContext,
  {part, targets, weights}: {part: BatchPart; targets: {cls: Targets; patches: Targets | undefined}; weights: LossWeights},
  clsRows: Tensor2D,
  patchRows: Tensor2D | undefined
): HeadPasses {
  const {heads} = context
  const {b, m} = part
  const crossing = [int32(m * b, i => i % b), int32(m * b, i => b + (i % b)), int32(2 * b, i => (i + b) % (2 * b))] as const
  const clsSegments: Segment[] = [
    ...(m > 0 ? [{rows: m * b, targets: targets.cls, teachers: [crossing[0], crossing[1]] as const}] : []),
    {rows: 2 * b, targets: targets.cls, teachers: [crossing[2]] as const} // the other global crop of the image
  ]
  const patchSegments: Segment[] = patchRows ? [{rows: part.indices.length, targets: targets.patches!}] : []
  const own = weights.get('dino')!
  const dino =
    patchRows && !heads.ibot
      ? passHead(context, 'dino', [clsRows, patchRows], [...clsSegments, ...patchSegments], own)
      : passHead(context, 'dino', [clsRows], clsSegments, own)
  const ibot = patchRows && heads.ibot ? passHead(context, 'ibot', [patchRows], patchSegments, weights.get('ibot')!) : undefined
  dispose([...crossing])
  return {dino, ibot}
}

/** Rows through a head, their cross-entropies, and back; the gradient of the last layer is added to the sums. */
function passHead(
  {student, heads, settings, widths, sums}: HeadContext,
  name: 'dino' | 'ibot',
  rows: Tensor2D[],
  segments: readonly Segment[],
  weights: Tensor1D
): HeadPass {
  const {last_layer} = student[`${name}_head`]!
  const {low, w} = heads[name]!
  const [K, D] = last_layer.weight_v.shape
  const into = sums.last.get(`${name}_head`) ?? {gain: new RowSum([K, 1]), direction: new RowSum([K, D])}
  sums.last.set(`${name}_head`, into)
  const bytes = weights.size * w.shape[0] * bytesOfNumber(settings.precision)
  return tidy(() => {
    const {z, saved} = headForward(rows.length === 1 ? rows[0]! : concat(rows), low) // z [R, D]
    const {losses, dz} = prototypeLoss(z, w, segments, weights, settings.studentTemp, {
      width: widths[name],
      cacheLogits: (settings.memory ?? 'fast') === 'fast' && bytes <= MAX_CACHED_LOGITS_BYTES,
      onPrototypes: (start, dw) =>
        tidy(() => {
          const own = prototypesBackward(dw, {last_layer: slicePrototypes(last_layer, start, dw.shape[0])})
          into.gain.add(start, own.weight_g)
          into.direction.add(start, own.weight_v)
        })
    })
    const {dx, mlp} = headBackward(dz, saved, low) // dx [R, C]
    return {losses, dx: cast(dx, 'fp32'), mlp}
  })
}

type Counts = {readonly b: number; readonly m: number; readonly n: number}

/** Adds a part's losses and unit class tokens to the sums. */
function addMeasured(sums: Sums, {dino, ibot}: HeadPasses, regularized: Regularized, clsRows: Tensor2D, {b, m, n}: Counts): void {
  const measured = tidy(() => {
    const total = (pass: HeadPass, from: number, rows: number): Scalar => sum<Scalar>(slice(pass.losses, [from], [rows]))
    const patches = n === 0 ? (fill([], 0) as Scalar) : ibot ? sum<Scalar>(ibot.losses) : total(dino, (m + 2) * b, n)
    const losses = concat([stack([total(dino, 0, m * b), total(dino, m * b, 2 * b), patches]) as Tensor1D, regularized.losses])
    return {
      losses: add<Tensor1D>(sums.losses, losses),
      cls: add<Tensor2D>(sums.cls, sum<Tensor2D>(l2Normalize(slice(clsRows, [m * b, 0], [b, -1])), 0, true)) // [1, C]
    }
  })
  dispose([sums.losses, sums.cls])
  Object.assign(sums, measured)
}

/** Gradient of all tokens [T, C]: zero but for the rows that the losses touched. */
function tokenGradient(
  shape: [number, number],
  rows: Rows,
  {dino, ibot}: HeadPasses,
  regularizer: Tensor2D | undefined,
  {b, m, n}: Counts
): Tensor2D {
  const dcls = slice(dino.dx, [0, 0], [(m + 2) * b, -1])
  const dglobal = regularizer && add<Tensor2D>(slice(dcls, [m * b, 0], [2 * b, -1]), regularizer) // [2b, C]
  const touched = [
    ...(dglobal ? [...(m > 0 ? [slice(dcls, [0, 0], [m * b, -1])] : []), dglobal] : [dcls]),
    ...(n > 0 ? [ibot ? ibot.dx : slice(dino.dx, [(m + 2) * b, 0], [n, -1])] : [])
  ] as Tensor2D[]
  const cls = constant<Tensor1D>(rows.cls, [rows.cls.length])
  return addRows(fill(shape, 0), rows.patches ? concat([cls, rows.patches]) : cls, touched.length === 1 ? touched[0]! : concat(touched))
}

/** Options of each block: heads, and the sequences that stochastic depth keeps. */
function blockOptions(views: readonly ImageView[], {vit, dropPath}: StepSettings, random: Rng | undefined): BlockOptions[] {
  const groups = views.map(view => {
    const {count, rows, columns} = gridOf(view, vit)
    return {count, length: 1 + vit.registers + rows * columns}
  })
  return Array.from({length: vit.depth}, (_, i): BlockOptions => {
    const rate = dropPath[i] ?? 0
    if (rate === 0) return {heads: vit.heads}
    if (!random) throw new Error('stochastic depth needs a random stream')
    return {heads: vit.heads, attn: sampleDropPath(groups, rate, random), mlp: sampleDropPath(groups, rate, random)}
  })
}
