/**
 * One optimisation step of DINOv2 (docs/spec.md §2.2): teacher targets, student pass, losses, gradients, clipping,
 * AdamW, teacher average.
 *
 * No tape: forward and backward halves are called in order and each lets go of what it no longer needs. The state is
 * changed in place where the engine can; whoever calls `trainStep` gives the old state up. B images, C width, K
 * prototypes, n masked patches.
 */
import {prototypeLoss} from '../../loss/cross-entropy.js'
import type {Segment} from '../../loss/cross-entropy.js'
import {koleoLoss} from '../../loss/koleo.js'
import {chunkWidth, cachedLogits, lazyLogits} from '../../loss/logits.js'
import type {CachedLogits, Logits} from '../../loss/logits.js'
import {centerAfter, centeredTargets, targetEntropy, sinkhornTargets, targetRows} from '../../loss/targets.js'
import type {Targets} from '../../loss/targets.js'
import type {BlockOptions, MemoryLevel} from '../../model/block.js'
import type {VitConfig} from '../../model/config.js'
import {sampleDropPath} from '../../model/drop-path.js'
import {castMlp, headBackward, headForward, prototypes, prototypesBackward, slicePrototypes, l2Normalize} from '../../model/head.js'
import type {Head} from '../../model/head.js'
import {backwardTrain, castParams, forwardTrain, freeTrace, gridOf, normedTokens} from '../../model/vit.js'
import type {View, Vit} from '../../model/vit.js'
import {adamw, clipGradients, ema} from '../../optim/adamw.js'
import type {ParamMap} from '../../optim/adamw.js'
import {paramGroup} from '../../optim/groups.js'
import type {GroupRules} from '../../optim/groups.js'
import {cast, castLike} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {RowSum, addAll} from '../../tensor/ops/row-sum.js'
import {addRows, takeRows} from '../../tensor/ops/rows.js'
import type {Rng} from '../../tensor/random.js'
import {Tensor, add, concat, dispose, fill, mul, slice, square, stack, sum, tensor1d, tidy, zeros} from '../../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D, Tensor4D} from '../../tensor/tf.js'
import {flatten, disposeTree, unflatten, leaves} from '../../tensor/tree.js'
import {checkFinite} from './non-finite.js'

/** A network with its heads, keys as in Meta's training checkpoints. */
export type Network = {backbone: Vit; dino_head: Head; ibot_head?: Head}

/** Everything that training changes. Parameters and moments are float32, by path. */
export type TrainState = {
  student: ParamMap
  teacher: ParamMap
  moments: {m: ParamMap; v: ParamMap}
  /** Running centres [1, K], where targets are centred. */
  centers?: {dino: Tensor2D; ibot: Tensor2D}
  /** Steps taken. */
  step: number
}

/** What stays the same for a whole run. */
export type StepSettings = {
  readonly vit: VitConfig
  readonly precision: Precision
  readonly centering: 'centering' | 'sinkhorn_knopp'
  readonly dinoWeight: number
  readonly ibotWeight: number
  readonly koleoWeight: number
  readonly studentTemp: number
  /** Stochastic depth of each block; empty for none. */
  readonly dropPath: readonly number[]
  /** Largest gradient norm of each sub-module; 0: no clipping. */
  readonly clipGrad: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly rules: GroupRules
  /** What the student's forward pass keeps; `fast` where not said. */
  readonly memory?: MemoryLevel
  /** In how many parts a batch goes through the networks; 1 where not said. */
  readonly accumulate?: number
  /** First steps in which the heads learn and the backbone stands still; none where not said. */
  readonly headWarmup?: number
  /** Leaves the gradients of the backbone out; `trainStep` says so while the backbone stands still. */
  readonly headsOnly?: boolean
}

/** What a schedule says about one step. */
export type StepRates = {
  readonly lr: number
  /** Of the backbone, where it is not that of the heads. */
  readonly backboneLr?: number
  readonly lastLayerLr: number
  readonly wd: number
  readonly momentum: number
  readonly teacherTemp: number
}

/** One collated batch (docs/spec.md §4.2); crops are normalised and crop-major. */
export type StepBatch = {
  readonly globals: Tensor4D /* [2B, G, G, 3] */
  readonly locals?: Tensor4D /* [m·B, S, S, 3] */
  readonly masks: Tensor2D /* [2B, N], one where hidden */
  /** Flat numbers of the masked patches, ascending. */
  readonly indices: Int32Array /* [n] */
  /** One over the masked patches of the image, for each of them. */
  readonly weights: Float32Array /* [n] */
}

/** Makes the crops of the images `from` to `to` (exclusive) of a batch, crop-major. The tensor is the caller's. */
export type CropLoader = (from: number, to: number) => Tensor4D

/**
 * The same with crops that are made when they are needed, so that the pixels of a large batch need not exist at once.
 */
export type LazyBatch = Omit<StepBatch, 'globals' | 'locals'> & {
  readonly globals: CropLoader
  readonly locals?: CropLoader
  /** Local crops of an image, m. */
  readonly localCount: number
}

/** What a step measured. Losses are weighted as they are optimised; `total` is their sum. */
export type StepReport = {
  readonly losses: {
    readonly dino_local: number
    readonly dino_global: number
    readonly koleo: number
    readonly ibot: number
    readonly total: number
  }
  /** Gradient norm of each sub-module before clipping. */
  readonly gradNorms: Readonly<Record<string, number>>
  readonly masked: number
  /** Mean entropy of the teacher's targets for cls tokens, in nats; ln K when they are uniform. */
  readonly teacherEntropy: number
  /**
   * Mean cosine between the cls tokens of different images' global crops; near one when all images look alike to the
   * model.
   */
  readonly clsCosine: number
}

const modules = (named: ParamMap): Network => unflatten<Network>(named)

/** A head in the precision of products, once a step; `disposeTree` what is `owned`. */
export type CastHead = {low: Head; w: Tensor2D /* [K, D], the prototypes */; owned: Tensor[]}

export function castHead(head: Head, precision: Precision): CastHead {
  const {head: low, owned} = castMlp(head, precision)
  const w = prototypes(head, precision)
  return {low, w, owned: [...owned, w]}
}

/** Part of a batch: what goes through the networks at once. */
export type BatchPart = {
  /** Images. */
  readonly b: number
  /** Local crops of an image, m. */
  readonly m: number
  readonly globals: () => Tensor4D /* [2b, G, G, 3]; the caller's */
  readonly locals?: () => Tensor4D /* [m·b, S, S, 3]; the caller's */
  readonly masks: Tensor2D /* [2b, N] */
  readonly indices: Int32Array
  readonly weights: Float32Array
}

/** The crops of the images `from` to `to` of B: crop-major, so one piece of each crop. */
function cropsOf(crops: Tensor4D | CropLoader, B: number, from: number, to: number): Tensor4D {
  if (typeof crops === 'function') return crops(from, to)
  if (to - from === B) return crops.clone()
  const each = crops.shape[0] / B
  const [, height, width, channels] = crops.shape
  const own = (crop: number): Tensor4D => slice(crops, [crop * B + from, 0, 0, 0], [to - from, height, width, channels])
  return tidy(() => concat(Array.from({length: each}, (_, crop) => own(crop))))
}

/** Local crops of an image. */
const localCrops = (batch: StepBatch | LazyBatch): number =>
  'localCount' in batch ? batch.localCount : batch.locals ? batch.locals.shape[0] / (batch.masks.shape[0] / 2) : 0

/**
 * A batch in `count` parts, whose numbers of images differ by one at most. What is new of them, the masks, is the
 * caller's.
 */
export function splitBatch(batch: StepBatch | LazyBatch, count: number): BatchPart[] {
  const [twoB, N] = batch.masks.shape
  const B = twoB / 2
  if (count > B) throw new RangeError(`expected at most ${B} parts, one an image, but received ${count}`)
  return Array.from({length: count}, (_, i) => {
    const [from, to] = [Math.floor((i * B) / count), Math.floor(((i + 1) * B) / count)]
    const b = to - from
    const indices: number[] = []
    const weights: number[] = []
    batch.indices.forEach((at, j) => {
      const [row, patch] = [Math.trunc(at / N), at % N]
      const image = row % B
      if (image < from || image >= to) return
      indices.push(((row < B ? 0 : b) + image - from) * N + patch)
      weights.push(batch.weights[j]!)
    })
    const {globals, locals, masks} = batch
    return {
      b,
      m: localCrops(batch),
      globals: () => cropsOf(globals, B, from, to),
      ...(locals ? {locals: () => cropsOf(locals, B, from, to)} : {}),
      masks: tidy(() => (b === B ? masks.clone() : concat([slice(masks, [from, 0], [b, N]), slice(masks, [B + from, 0], [b, N])]))),
      indices: Int32Array.from(indices),
      weights: Float32Array.from(weights)
    }
  })
}

/** Targets of all rows of a batch, part behind part, and what was found beside them. */
export type TeacherTargets = {
  cls: Targets /* 2b rows of each part */
  patches?: Targets /* n rows */
  centers?: {dino: Tensor2D; ibot: Tensor2D}
  entropy: Scalar
  dispose: () => void
}

/** The teacher's targets for a batch, and the centres that follow from it: over all parts together. */
function computeTeacherTargets(
  teacher: Network,
  parts: readonly BatchPart[],
  rates: StepRates,
  settings: StepSettings,
  centers: TrainState['centers'],
  widths: ChunkWidths
): TeacherTargets {
  const {vit, precision} = settings
  const backbone = castParams(teacher.backbone, precision)
  const heads = {dino: castHead(teacher.dino_head, precision), ibot: teacher.ibot_head && castHead(teacher.ibot_head, precision)}
  const rows = parts.map(part =>
    tidy(() => {
      const view: View = {images: part.globals()}
      const {cls, patches} = tokenRows(view, vit, part.indices)
      const {clsRows, patchRows} = tidy(() => headInputs(normedTokens(backbone.params, view, vit), cls, patches))
      const through = (x: Tensor2D, {low, w}: CastHead): Tensor2D => tidy(() => castLike(headForward(x, low).z, w))
      if (heads.ibot || !patchRows)
        return {cls: through(clsRows, heads.dino), ...(patchRows ? {patches: through(patchRows, heads.ibot ?? heads.dino)} : {})}
      const both = through(concat([clsRows, patchRows]), heads.dino)
      return {cls: slice(both, [0, 0], [cls.length, -1]), patches: slice(both, [cls.length, 0], [patches.length, -1])}
    })
  )
  dispose(backbone.owned)
  const z = {
    cls: concatRows(rows.map(({cls}) => cls)),
    patches: rows.some(({patches}) => patches) ? concatRows(rows.flatMap(({patches}) => (patches ? [patches] : []))) : undefined
  }
  for (const head of [heads.dino, heads.ibot]) if (head) dispose(head.owned.filter(leaf => leaf !== head.w))
  const said = targetsOfEmbeddings(z, {dino: heads.dino.w, ibot: heads.ibot?.w}, rates, settings, centers, widths, parts.length === 1)
  return {
    ...said,
    dispose: () => {
      said.dispose()
      dispose([z.cls, ...(z.patches ? [z.patches] : []), heads.dino.w, ...(heads.ibot ? [heads.ibot.w] : [])])
    }
  }
}

/** Matrices one below the other, as one; consumes them. */
export function concatRows(list: readonly Tensor2D[]): Tensor2D {
  const all = tidy(() => (list.length === 1 ? list[0]!.clone() : concat([...list])))
  dispose([...list])
  return all
}

/**
 * Scores of one head that would be larger than this, in bytes, are computed again whenever they are asked for rather
 * than kept.
 */
export const MAX_CACHED_LOGITS_BYTES = 2 ** 30

/**
 * Targets for rows that have been through the heads' MLPs, z [n, D], against the prototypes w [K, D] of these heads.
 * `keep`: where there is room, scores are computed once and kept; over several parts they would be those of the whole
 * batch. Rows and prototypes must outlive the targets, whose `dispose` leaves them.
 */
export function targetsOfEmbeddings(
  z: {readonly cls: Tensor2D; readonly patches?: Tensor2D | undefined},
  w: {readonly dino: Tensor2D; readonly ibot?: Tensor2D | undefined},
  rates: StepRates,
  {centering, memory = 'fast', precision}: StepSettings,
  centers: TrainState['centers'],
  widths: ChunkWidths,
  keep: boolean
): TeacherTargets {
  const holds: CachedLogits[] = []
  const scoresOf = (rows: Tensor2D, own: Tensor2D): Logits => {
    const scores = lazyLogits(rows, own)
    const bytes = rows.shape[0] * own.shape[0] * (precision === 'bf16' ? 2 : 4)
    if (!keep || memory !== 'fast' || bytes > MAX_CACHED_LOGITS_BYTES) return scores
    const held = cachedLogits(scores)
    holds.push(held)
    return held
  }
  const average: Record<'dino' | 'ibot', Tensor2D | undefined> = {dino: undefined, ibot: undefined}
  const target = (rows: Tensor2D, which: 'dino' | 'ibot'): Targets => {
    const scores = scoresOf(rows, (which === 'ibot' ? w.ibot : undefined) ?? w.dino)
    if (centering === 'sinkhorn_knopp') return sinkhornTargets(scores, rates.teacherTemp, widths[which])
    const {targets, mean} = centeredTargets(scores, centers![which], rates.teacherTemp, widths[which])
    average[which] = mean
    return targets
  }
  const cls = target(z.cls, 'dino')
  const patches = z.patches && target(z.patches, 'ibot')
  const next = (which: 'dino' | 'ibot'): Tensor2D => {
    const mean = average[which]
    if (!mean) return centers![which].clone()
    const center = centerAfter(centers![which], mean)
    dispose(mean)
    return center
  }
  return {
    cls,
    ...(patches ? {patches} : {}),
    ...(centering === 'centering' ? {centers: {dino: next('dino'), ibot: next('ibot')}} : {}),
    entropy: targetEntropy(cls, widths.dino),
    dispose: () => {
      for (const targets of [cls, patches]) if (targets) dispose([targets.logRowScale, targets.logColumnScale])
      for (const held of holds) held.dispose()
    }
  }
}

/** The rows of y that heads see: cls tokens, and masked patches where there are any. */
const headInputs = (y: Tensor2D, cls: Int32Array, patches: Int32Array): {clsRows: Tensor2D; patchRows?: Tensor2D} =>
  tidy(() => ({
    clsRows: takeRows(y, tensor1d(cls, 'int32')),
    ...(patches.length > 0 ? {patchRows: takeRows(y, tensor1d(patches, 'int32'))} : {})
  }))

/**
 * Columns of scores that each head takes at a time: the same for teacher and student, since scores are held by these
 * pieces.
 */
export type ChunkWidths = {readonly dino: number; readonly ibot: number}

function chunkWidths(student: Network, parts: readonly BatchPart[]): ChunkWidths {
  const K = (head: Head): number => head.last_layer.weight_v.shape[0]
  const teacher = {cls: 0, patches: 0}
  const own = {cls: 0, patches: 0, both: 0}
  for (const {b, m, indices} of parts) {
    teacher.cls += 2 * b
    teacher.patches += indices.length
    own.cls = Math.max(own.cls, (2 + m) * b)
    own.patches = Math.max(own.patches, indices.length)
    own.both = Math.max(own.both, (2 + m) * b + indices.length)
  }
  const {dino_head: dino, ibot_head: ibot} = student
  if (ibot)
    return {
      dino: chunkWidth(Math.max(teacher.cls, own.cls), K(dino)),
      ibot: chunkWidth(Math.max(teacher.patches, own.patches), K(ibot))
    }
  const width = chunkWidth(Math.max(teacher.cls, teacher.patches, own.both), K(dino))
  return {dino: width, ibot: width}
}

/** Numbers of the rows of cls tokens and of masked patches in the packed tokens of a view. */
export function tokenRows(view: View, vit: VitConfig, indices: Int32Array): {cls: Int32Array; patches: Int32Array; rows: number} {
  const {count, rows, columns} = gridOf(view, vit)
  const N = rows * columns
  const S = 1 + vit.registers + N
  return {
    cls: Int32Array.from({length: count}, (_, i) => i * S),
    patches: indices.map(at => Math.trunc(at / N) * S + 1 + vit.registers + (at % N)),
    rows: count * S
  }
}

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
  const student = modules(state.student)
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const widths = chunkWidths(student, parts)
  const targets = guide?.(parts, widths) ?? computeTeacherTargets(modules(state.teacher), parts, rates, settings, state.centers, widths)
  const resting = state.step < (settings.headWarmup ?? 0)
  const wanted = resting ? {...settings, headsOnly: true} : settings
  const {grads, report} = gradientsOfParts(student, parts, targets, wanted, widths, random, targets.dispose)
  dispose([targets.entropy, ...parts.map(({masks}) => masks)])
  if (guide) deleteMaskTokenGradient(grads)
  const {state: next, gradNorms} = applyGradients(state, grads, report.losses, rates, settings, targets.centers)
  return {state: next, report: {...report, gradNorms, masked: batch.indices.length}}
}

/**
 * A batch in which nothing is masked and the patch loss is taken on all patches alike, as a student learns from a
 * frozen teacher.
 */
export function withAllPatchesInLoss<T extends {readonly indices: Int32Array; readonly weights: Float32Array}>(
  batch: T,
  crops: number,
  patches: number
): T {
  return {
    ...batch,
    indices: Int32Array.from({length: crops * patches}, (_, i) => i),
    weights: new Float32Array(crops * patches).fill(1 / patches)
  }
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
    gradNorms[name] = clipGradients(own, settings.clipGrad > 0 ? settings.clipGrad : Infinity)
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

type Gradients = {grads: ParamMap; report: Omit<StepReport, 'gradNorms' | 'masked'>}

/** Student pass, losses and the gradient of every student parameter, by path, for given targets of a batch. */
export function studentGradients(
  student: Network,
  batch: StepBatch | LazyBatch,
  targets: {readonly cls: Targets; readonly patches?: Targets; readonly entropy: Scalar},
  settings: StepSettings,
  random?: Rng
): Gradients {
  const parts = splitBatch(batch, settings.accumulate ?? 1)
  const found = gradientsOfParts(student, parts, targets, settings, chunkWidths(student, parts), random)
  dispose(parts.map(({masks}) => masks))
  return found
}

/** What the student's passes add to, part by part. */
type Sums = {
  /** Gradients of all but the last layers, by path; empty before the first part. */
  others: ParamMap
  readonly last: ReadonlyMap<string, {gain: RowSum; direction: RowSum}>
  /** Losses: local, global, iBOT, KoLeo. */
  losses: Tensor1D /* [4] */
  /** Sum of the unit cls tokens of the first global crops. */
  cls: Tensor2D /* [1, C] */
}

function gradientsOfParts(
  student: Network,
  parts: readonly BatchPart[],
  targets: {readonly cls: Targets; readonly patches?: Targets; readonly entropy: Scalar},
  settings: StepSettings,
  widths: ChunkWidths,
  random: Rng | undefined,
  onTargetsDone?: () => void
): Gradients {
  const {vit, precision} = settings
  const backbone = castParams(student.backbone, precision)
  const heads: Heads = {
    dino: castHead(student.dino_head, precision),
    ...(student.ibot_head ? {ibot: castHead(student.ibot_head, precision)} : {})
  }
  const names = student.ibot_head ? ['dino_head', 'ibot_head'] : ['dino_head']
  const sums: Sums = {
    others: new Map(),
    last: new Map(
      names.map(name => {
        const [K, D] = student[name as 'dino_head'].last_layer.weight_v.shape
        return [name, {gain: new RowSum([K, 1]), direction: new RowSum([K, D])}]
      })
    ),
    losses: zeros([4]) as Tensor1D,
    cls: zeros([1, vit.width]) as Tensor2D
  }
  const B = parts.reduce((sum, {b}) => sum + b, 0)
  const start = {cls: 0, patches: 0}
  for (const part of parts) {
    const own = {
      cls: targetRows(targets.cls, start.cls, 2 * part.b),
      patches: targets.patches && part.indices.length > 0 ? targetRows(targets.patches, start.patches, part.indices.length) : undefined
    }
    addPart(student, {params: backbone.params, heads}, part, B, own, settings, widths, sums, random, () => {
      dispose([own.cls.logRowScale, ...(own.patches ? [own.patches.logRowScale] : [])])
      if (part !== parts.at(-1)) return
      dispose([...heads.dino.owned, ...(heads.ibot?.owned ?? [])]) // what follows is the dearest moment of a step
      onTargetsDone?.()
    })
    start.cls += 2 * part.b
    start.patches += part.indices.length
  }
  dispose(backbone.owned)

  const grads: ParamMap = new Map()
  const found = new Map(sums.others)
  for (const [name, {gain, direction}] of sums.last) {
    const own = [gain.take(), direction.take()]
    if (own[0]) found.set(`${name}.last_layer.weight_g`, own[0])
    if (own[1]) found.set(`${name}.last_layer.weight_v`, own[1])
  }
  for (const [name] of leaves(student)) if (found.has(name)) grads.set(name, found.get(name)!) // in the order of the parameters
  const measured = tidy(() => concat([sums.losses, stack([targets.entropy, sum<Scalar>(square(sums.cls))])]))
  const [dino_local, dino_global, ibot, koleoLoss, teacherEntropy, length] = measured.dataSync<'float32'>() as unknown as Six
  dispose([measured, sums.losses, sums.cls])
  return {
    grads,
    report: {
      losses: {dino_local, dino_global, koleo: koleoLoss, ibot, total: dino_local + dino_global + koleoLoss + ibot},
      teacherEntropy,
      clsCosine: B < 2 ? 0 : (length - B) / (B * (B - 1)) // mean of û·û' over pairs: (‖Σ û‖² − B) / (B·(B − 1))
    }
  }
}

type Six = [number, number, number, number, number, number]
type Heads = {dino: CastHead; ibot?: CastHead}

/**
 * One part of a batch of B images: forward, losses, backward; everything is added to `sums`. Once the heads have
 * served, `onHeadsDone` is called.
 */
function addPart(
  student: Network,
  {params, heads}: {params: Vit; heads: Heads},
  part: BatchPart,
  B: number,
  targets: {cls: Targets; patches: Targets | undefined},
  settings: StepSettings,
  widths: ChunkWidths,
  sums: Sums,
  random: Rng | undefined,
  onHeadsDone: () => void
): void {
  const {vit, precision, dinoWeight, ibotWeight, koleoWeight, studentTemp, memory = 'fast', headsOnly = false} = settings
  const {b} = part
  const n = targets.patches ? part.indices.length : 0
  const locals = part.m
  const terms = 2 + 2 * locals

  const images = [part.globals(), ...(part.locals ? [part.locals()] : [])]
  const views: View[] = images.map((crops, i) => (i === 0 ? {images: crops, masks: part.masks} : {images: crops}))
  const options = blockOptions(views, settings, random)
  const {y, trace} = forwardTrain(params, views, vit, options, headsOnly ? 'small' : memory)
  dispose(images)

  // Rows that the heads see: local cls, global cls, masked patches.
  const global = tokenRows(views[0]!, vit, part.indices)
  const local = views[1] ? tokenRows(views[1], vit, new Int32Array(0)).cls.map(row => row + global.rows) : new Int32Array(0)
  const [T, clsCount] = [y.shape, (locals + 2) * b]
  const clsAt = [...local, ...global.cls]
  const {clsRows, patchRows} = headInputs(y, Int32Array.from(clsAt), n > 0 ? global.patches : new Int32Array(0))
  dispose(y)

  // Cross-entropies. Rows of cls tokens, then the patches where they share the head.
  const shared = !heads.ibot
  const int32 = (length: number, at: (i: number) => number): Tensor1D =>
    tensor1d(
      Int32Array.from({length}, (_, i) => at(i)),
      'int32'
    )
  const crossing = [int32(locals * b, i => i % b), int32(locals * b, i => b + (i % b)), int32(2 * b, i => (i + b) % (2 * b))] as const
  const clsSegments: Segment[] = [
    ...(locals > 0 ? [{rows: locals * b, targets: targets.cls, teachers: [crossing[0], crossing[1]] as const}] : []),
    {rows: 2 * b, targets: targets.cls, teachers: [crossing[2]] as const} // the other global crop of the image
  ]
  const clsWeights = new Array<number>(clsCount).fill(dinoWeight / (terms * B))
  const patchSegments: Segment[] = n > 0 ? [{rows: n, targets: targets.patches!}] : []
  const patchWeights = n > 0 ? [...part.weights].map(w => (w * ibotWeight) / (2 * B)) : []
  const through = (name: 'dino' | 'ibot', rows: Tensor2D[], segments: Segment[], weights: number[]): HeadPass =>
    passHead(student[`${name}_head`]!, heads[name]!, rows, segments, weights, studentTemp, {
      width: widths[name],
      hold: memory === 'fast' && weights.length * heads[name]!.w.shape[0] * (precision === 'bf16' ? 2 : 4) <= MAX_CACHED_LOGITS_BYTES,
      into: sums.last.get(`${name}_head`)!
    })
  const viaDino =
    shared && patchRows
      ? through('dino', [clsRows, patchRows], [...clsSegments, ...patchSegments], [...clsWeights, ...patchWeights])
      : through('dino', [clsRows], clsSegments, clsWeights)
  const viaIbot = !shared && patchRows ? through('ibot', [patchRows], patchSegments, patchWeights) : undefined
  dispose([...crossing])
  onHeadsDone()

  const spread = tidy(() => {
    const by = koleoWeight * (b / B)
    const crops = [0, 1].map(crop => koleoLoss(slice(clsRows, [(locals + crop) * b, 0], [b, -1])))
    return {
      loss: mul<Scalar>(add(crops[0]!.loss, crops[1]!.loss), by),
      gradient: mul<Tensor2D>(concat(crops.map(c => c.gradient)), by)
    }
  })
  const measured = tidy(() => {
    const total = (pass: HeadPass, from: number, rows: number): Scalar => sum<Scalar>(slice(pass.losses, [from], [rows]))
    const patches = n === 0 ? (fill([], 0) as Scalar) : viaIbot ? sum<Scalar>(viaIbot.losses) : total(viaDino, clsCount, n)
    const losses = stack([
      total(viaDino, 0, locals * b),
      total(viaDino, locals * b, 2 * b),
      patches,
      koleoWeight === 0 ? fill([], 0) : spread.loss
    ])
    return {
      losses: add<Tensor1D>(sums.losses, losses as Tensor1D),
      cls: add<Tensor2D>(sums.cls, sum<Tensor2D>(l2Normalize(slice(clsRows, [locals * b, 0], [b, -1])), 0, true))
    }
  })
  dispose([sums.losses, sums.cls, clsRows, ...(patchRows ? [patchRows] : [])])
  Object.assign(sums, measured)

  // Gradient of all tokens: zero but for the rows the losses touched.
  const gradient = (): Tensor2D => {
    const dcls = slice(viaDino.dx, [0, 0], [clsCount, -1])
    const dglobal = koleoWeight === 0 ? undefined : add<Tensor2D>(slice(dcls, [locals * b, 0], [2 * b, -1]), spread.gradient)
    const touched = [
      ...(dglobal ? [...(locals > 0 ? [slice(dcls, [0, 0], [locals * b, -1])] : []), dglobal] : [dcls]),
      ...(n > 0 ? [viaIbot ? viaIbot.dx : slice(viaDino.dx, [clsCount, 0], [n, -1])] : [])
    ] as Tensor2D[]
    const at = tensor1d(Int32Array.from([...clsAt, ...(n > 0 ? global.patches : [])]), 'int32')
    return addRows(fill(T, 0), at, touched.length === 1 ? touched[0]! : concat(touched))
  }
  const dy = headsOnly ? undefined : tidy(gradient)
  for (const pass of [viaDino, viaIbot]) if (pass) dispose([pass.dx, pass.losses])
  dispose([spread.loss, spread.gradient])

  const own = dy && backwardTrain(dy, params, trace, vit)
  if (dy) dispose(dy)
  else freeTrace(trace)
  for (const {attn, mlp} of options)
    for (const kept of [attn, mlp]) if (kept) disposeTree([kept.rows, ...(kept.factor instanceof Tensor ? [kept.factor] : [])])

  const grads = flatten({
    backbone: own,
    dino_head: {mlp: viaDino.mlp},
    ...(viaIbot ? {ibot_head: {mlp: viaIbot.mlp}} : {})
  })
  const fresh = [...grads].filter(([name]) => !sums.others.has(name))
  const known = [...grads].filter(([name]) => sums.others.has(name))
  const added = addAll(
    known.map(([name]) => sums.others.get(name)!),
    known.map(([, grad]) => grad)
  )
  known.forEach(([name], i) => sums.others.set(name, added[i]!))
  for (const [name, grad] of fresh) sums.others.set(name, grad)
}

/** What a head gives for its rows: losses, the gradient of the rows, and of its MLP. */
type HeadPass = {losses: Tensor1D; dx: Tensor2D /* [R, C] float32 */; mlp: Head['mlp']}

/** Rows through a head, their cross-entropies, and back; the gradient of the last layer is added to `into`. */
function passHead(
  {last_layer}: Head,
  {low, w}: CastHead,
  rows: Tensor2D[],
  segments: readonly Segment[],
  weights: readonly number[],
  temperature: number,
  {width, hold, into}: {width: number; hold: boolean; into: {gain: RowSum; direction: RowSum}}
): HeadPass {
  return tidy(() => {
    const {z, saved} = headForward(rows.length === 1 ? rows[0]! : concat(rows), low)
    const {losses, dz} = prototypeLoss(z, w, segments, tensor1d([...weights]), temperature, {
      width,
      cacheLogits: hold,
      onPrototypes: (start, dw) =>
        tidy(() => {
          const own = prototypesBackward(dw, {last_layer: slicePrototypes(last_layer, start, dw.shape[0])})
          into.gain.add(start, own.weight_g)
          into.direction.add(start, own.weight_v)
        })
    })
    const {dx, mlp} = headBackward(dz, saved, low)
    return {losses, dx: cast(dx, 'fp32'), mlp}
  })
}

/** What each block is told: heads, and the sequences kept by stochastic depth. */
function blockOptions(views: readonly View[], {vit, dropPath}: StepSettings, random: Rng | undefined): BlockOptions[] {
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
