/**
 * One optimisation step of DINOv2 (spec §2.2): teacher targets, student pass, losses, gradients, clipping, AdamW, teacher average.
 *
 * No tape: forward and backward halves are called in order and each lets go of what it no longer needs. The state is changed in place
 * where the engine can; whoever calls `trainStep` gives the old state up. B images, C width, K prototypes, n masked patches.
 */
import {prototypeLoss} from '../loss/cross-entropy.js'
import type {PrototypeLoss, Share} from '../loss/cross-entropy.js'
import {koleo} from '../loss/koleo.js'
import {centred, nextCenter, sinkhorn} from '../loss/sinkhorn.js'
import type {BlockOptions} from '../model/block.js'
import type {VitConfig} from '../model/config.js'
import {drawKept} from '../model/drop-path.js'
import {headBackward, headCopy, headForward, prototypes, prototypesBackward, unit} from '../model/head.js'
import type {Head, HeadSaved} from '../model/head.js'
import {backwardTrain, computeCopy, forwardTrain, gridOf, normedTokens} from '../model/vit.js'
import type {View, Vit} from '../model/vit.js'
import {adamw, clip, ema} from '../optim/adamw.js'
import type {Named} from '../optim/adamw.js'
import {groupOf} from '../optim/groups.js'
import type {GroupRules} from '../optim/groups.js'
import {linearForward} from '../tensor/ops/linear.js'
import {cast} from '../tensor/ops/precision.js'
import type {Precision} from '../tensor/ops/precision.js'
import {addRows, takeRows} from '../tensor/ops/rows.js'
import type {Rng} from '../tensor/random.js'
import {Tensor, add, concat, dispose, fill, log, mul, slice, square, stack, sub, sum, tensor1d, tidy, zeros} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D, Tensor4D} from '../tensor/tf.js'
import {flat, free, grow} from '../tensor/tree.js'

/** A network with its heads, keys as in Meta's training checkpoints. */
export type Network = {backbone: Vit; dino_head: Head; ibot_head?: Head}

/** Everything that training changes. Parameters and moments are float32, by path. */
export type TrainState = {
  student: Named
  teacher: Named
  moments: {m: Named; v: Named}
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
}

/** What a schedule says about one step. */
export type StepRates = {
  readonly lr: number
  readonly lastLayerLr: number
  readonly wd: number
  readonly momentum: number
  readonly teacherTemp: number
}

/** One collated batch (spec §4.2); crops are normalised and crop-major. */
export type StepBatch = {
  readonly globals: Tensor4D /* [2B, G, G, 3] */
  readonly locals?: Tensor4D /* [m·B, S, S, 3] */
  readonly masks: Tensor2D /* [2B, N], one where hidden */
  /** Flat numbers of the masked patches, ascending. */
  readonly indices: Int32Array /* [n] */
  /** One over the masked patches of the image, for each of them. */
  readonly weights: Float32Array /* [n] */
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
  /** Mean cosine between the cls tokens of different images' global crops; near one when all images look alike to the model. */
  readonly clsCosine: number
}

const modules = (named: Named): Network => grow<Network>(named)

/** Gradients of a head for student rows and their losses. */
type HeadPass = {z: Tensor2D; saved: HeadSaved; head: Head; low: Head; w: Tensor2D}

function enterHead(rows: Tensor2D[], head: Head, precision: Precision): HeadPass {
  return tidy(() => {
    const {head: low} = headCopy(head, precision)
    const {z, saved} = headForward(rows.length === 1 ? rows[0]! : concat(rows), low)
    return {z, saved, head, low, w: prototypes(head, precision)}
  })
}

/** All scores of teacher rows, [n, K], held in `precision`. */
const scoresOf = (rows: Tensor2D, head: Head, precision: Precision): Tensor2D =>
  tidy(() => {
    const {head: low} = headCopy(head, precision)
    return linearForward(cast(headForward(rows, low).z, precision), {weight: prototypes(head, precision)})
  })

type Targets = {cls: Tensor2D /* [2B, K] */; patches?: Tensor2D /* [n, K] */; centers?: {dino: Tensor2D; ibot: Tensor2D}; entropy: Scalar}

/** The teacher's targets for a batch, and the centres that follow from it. */
function teacherTargets(
  teacher: Network,
  batch: StepBatch,
  rates: StepRates,
  settings: StepSettings,
  centers: TrainState['centers']
): Targets {
  const {vit, precision, centering} = settings
  const count = batch.globals.shape[0]
  const n = batch.indices.length
  return tidy(() => {
    const {params} = computeCopy(teacher.backbone, precision)
    const view: View = {images: batch.globals}
    const y = normedTokens(params, view, vit)
    const {cls, patches} = rowNumbers(view, vit, batch.indices)
    const clsRows = takeRows(y, tensor1d(cls, 'int32'))
    const patchRows = n > 0 ? takeRows(y, tensor1d(patches, 'int32')) : undefined
    let clsScores: Tensor2D
    let patchScores: Tensor2D | undefined
    if (teacher.ibot_head || !patchRows) {
      clsScores = scoresOf(clsRows, teacher.dino_head, precision)
      patchScores = patchRows && scoresOf(patchRows, teacher.ibot_head ?? teacher.dino_head, precision)
    } else {
      const all = scoresOf(concat([clsRows, patchRows]), teacher.dino_head, precision)
      clsScores = slice(all, [0, 0], [count, -1])
      patchScores = slice(all, [count, 0], [n, -1])
    }
    const target = (scores: Tensor2D, center: Tensor2D | undefined): Tensor2D =>
      centering === 'centering' ? centred(cast(scores, 'fp32'), center!, rates.teacherTemp) : sinkhorn(scores, rates.teacherTemp)
    const targets = target(clsScores, centers?.dino)
    return {
      cls: targets,
      ...(patchScores ? {patches: target(patchScores, centers?.ibot)} : {}),
      ...(centering === 'centering'
        ? {
            centers: {
              dino: nextCenter(centers!.dino, cast(clsScores, 'fp32')),
              ibot: patchScores ? nextCenter(centers!.ibot, cast(patchScores, 'fp32')) : centers!.ibot.clone()
            }
          }
        : {}),
      entropy: meanEntropy(targets)
    }
  })
}

/** Mean entropy of rows of chances [n, K], in nats. */
const meanEntropy = (chances: Tensor2D): Scalar =>
  tidy(() => {
    const t = cast(chances, 'fp32')
    return mul<Scalar>(sum(mul(t, log(add(t, 1e-12)))), -1 / t.shape[0])
  })

/** Numbers of the rows of cls tokens and of masked patches in the packed tokens of a view. */
function rowNumbers(view: View, vit: VitConfig, indices: Int32Array): {cls: Int32Array; patches: Int32Array; rows: number} {
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
 * `random` draws the kept sequences of stochastic depth and may be left out where there is none.
 */
export function trainStep(
  state: TrainState,
  batch: StepBatch,
  rates: StepRates,
  settings: StepSettings,
  random?: Rng
): {state: TrainState; report: StepReport} {
  const {rules} = settings
  const student = modules(state.student)
  const targets = teacherTargets(modules(state.teacher), batch, rates, settings, state.centers)

  const {grads, report} = studentGradients(student, batch, targets, settings, random)
  free([targets.cls, ...(targets.patches ? [targets.patches] : []), targets.entropy])

  // Clip each sub-module apart, then step.
  const gradNorms: Record<string, number> = {}
  for (const name of Object.keys(student)) {
    const own: Named = new Map([...grads].filter(([path]) => path.startsWith(`${name}.`)))
    gradNorms[name] = clip(own, settings.clipGrad > 0 ? settings.clipGrad : Infinity)
    for (const [path, grad] of own) grads.set(path, grad)
  }
  const step = state.step + 1
  adamw(state.student, grads, state.moments, {
    betas: settings.betas,
    eps: settings.eps,
    step,
    rates: name => {
      const group = groupOf(name, rules)
      return {lr: (group.last ? rates.lastLayerLr : rates.lr) * group.lr, wd: rates.wd * group.wd}
    }
  })
  for (const grad of grads.values()) dispose(grad)
  ema(state.teacher, state.student, rates.momentum)
  if (state.centers) free([state.centers.dino, state.centers.ibot])
  return {
    state: {...state, step, ...(targets.centers ? {centers: targets.centers} : {})},
    report: {...report, gradNorms, masked: batch.indices.length}
  }
}

/** Student pass, losses and the gradient of every student parameter, by path. */
export function studentGradients(
  student: Network,
  batch: StepBatch,
  targets: Pick<Targets, 'cls' | 'patches' | 'entropy'>,
  settings: StepSettings,
  random?: Rng
): {grads: Named; report: Omit<StepReport, 'gradNorms' | 'masked'>} {
  const {vit, precision, dinoWeight, ibotWeight, koleoWeight, studentTemp} = settings
  const twoB = batch.globals.shape[0]
  const B = twoB / 2
  const n = targets.patches ? batch.indices.length : 0
  const locals = batch.locals ? batch.locals.shape[0] / B : 0
  const terms = 2 + 2 * locals

  const views: View[] = [{images: batch.globals, masks: batch.masks}, ...(batch.locals ? [{images: batch.locals}] : [])]
  const {params, owned} = computeCopy(student.backbone, precision)
  const options = blockOptions(views, settings, random)
  const {y, trace} = forwardTrain(params, views, vit, options)

  // Rows that the heads see: local cls, global cls, masked patches.
  const global = rowNumbers(views[0]!, vit, batch.indices)
  const local = batch.locals ? rowNumbers(views[1]!, vit, new Int32Array(0)).cls.map(row => row + global.rows) : new Int32Array(0)
  const clsAt = tensor1d(Int32Array.from([...local, ...global.cls]), 'int32')
  const patchAt = tensor1d(global.patches, 'int32')
  const clsRows = takeRows(y, clsAt) //                                                      [m·B + 2B, C]
  const patchRows = n > 0 ? takeRows(y, patchAt) : undefined //                               [n, C]
  const shared = !student.ibot_head
  const dinoPass = enterHead(shared && patchRows ? [clsRows, patchRows] : [clsRows], student.dino_head, precision)
  const ibotPass = student.ibot_head && patchRows ? enterHead([patchRows], student.ibot_head, precision) : undefined

  // Cross-entropies. Rows of local crops are compared with both global crops of their image, those of a global crop with the other one.
  const int32 = (length: number, value: (i: number) => number): Tensor1D =>
    tensor1d(
      Int32Array.from({length}, (_, i) => value(i)),
      'int32'
    )
  const fromLocal: Share[] =
    locals > 0
      ? [
          {
            ...{rows: locals * B, targets: targets.cls, weights: fill([locals * B], dinoWeight / (terms * B))},
            first: int32(locals * B, i => i % B),
            second: int32(locals * B, i => B + (i % B))
          }
        ]
      : []
  const fromGlobal: Share = {
    ...{rows: twoB, targets: targets.cls, weights: fill([twoB], dinoWeight / (terms * B))},
    first: int32(twoB, i => (i + B) % twoB)
  }
  const fromPatches: Share[] =
    n > 0
      ? [{rows: n, targets: targets.patches!, weights: tensor1d(batch.weights.map(w => (w * ibotWeight) / twoB)), first: int32(n, i => i)}]
      : []
  const together = [...fromLocal, fromGlobal, ...(ibotPass ? [] : fromPatches)]
  const dinoLoss = prototypeLoss(dinoPass.z, dinoPass.w, together, studentTemp)
  const ibotLoss = ibotPass && prototypeLoss(ibotPass.z, ibotPass.w, fromPatches, studentTemp)
  for (const {first, second, weights} of [...fromLocal, fromGlobal, ...fromPatches]) dispose([first, weights, ...(second ? [second] : [])])
  const spread = tidy(() => {
    if (koleoWeight === 0) return undefined
    const crops = [0, 1].map(crop => koleo(slice(clsRows, [locals * B + crop * B, 0], [B, -1])))
    return {
      loss: mul<Scalar>(add(crops[0]!.loss, crops[1]!.loss), koleoWeight),
      gradient: mul<Tensor2D>(concat(crops.map(c => c.gradient)), koleoWeight)
    }
  })
  const alike = tidy(() => meanCosine(slice(clsRows, [locals * B, 0], [B, -1])))
  dispose([clsRows, ...(patchRows ? [patchRows] : [])])
  const measured = tidy(() => {
    const zero = fill([], 0) as Scalar
    const total = ({losses}: PrototypeLoss, start: number, rows: number): Scalar =>
      rows > 0 ? sum<Scalar>(slice(losses, [start], [rows])) : zero
    const ofPatches = ibotLoss ? total(ibotLoss, 0, n) : total(dinoLoss, locals * B + twoB, n)
    const ofCls = [total(dinoLoss, 0, locals * B), total(dinoLoss, locals * B, twoB)]
    return stack([...ofCls, ofPatches, spread?.loss ?? zero, targets.entropy, alike])
  })

  // Heads backward.
  const leave = (pass: HeadPass, {dz, dw}: PrototypeLoss): {dx: Tensor2D; grads: Head} =>
    tidy(() => {
      const {dx, mlp} = headBackward(dz, pass.saved, pass.low)
      return {dx: cast(dx, 'fp32'), grads: {mlp, last_layer: prototypesBackward(dw, pass.head)}}
    })
  const viaDino = leave(dinoPass, dinoLoss)
  free(dinoLoss)
  const viaIbot = ibotPass && leave(ibotPass, ibotLoss!)
  if (ibotLoss) free(ibotLoss)
  for (const pass of [dinoPass, ibotPass]) if (pass) letGo(pass)

  // Gradient of all tokens: zero but for the rows the losses touched.
  const dy = tidy(() => {
    const clsCount = locals * B + twoB
    let dcls: Tensor2D = slice(viaDino.dx, [0, 0], [clsCount, -1])
    if (spread) {
      const globalPart: Tensor2D = add(slice(dcls, [locals * B, 0], [twoB, -1]), spread.gradient)
      dcls = locals > 0 ? concat([slice(dcls, [0, 0], [locals * B, -1]), globalPart]) : globalPart
    }
    let grad = addRows(zeros(y.shape), clsAt, dcls)
    if (n > 0) grad = addRows(grad, patchAt, viaIbot ? viaIbot.dx : slice(viaDino.dx, [clsCount, 0], [n, -1]))
    return grad
  })
  free([viaDino.dx, ...(viaIbot ? [viaIbot.dx] : []), ...(spread ? [spread.loss, spread.gradient] : []), clsAt, patchAt, y])

  const backbone = backwardTrain(dy, params, trace, vit)
  dispose(dy)
  dispose(owned)
  for (const {attn, mlp} of options)
    for (const kept of [attn, mlp]) if (kept) free([kept.rows, ...(kept.factor instanceof Tensor ? [kept.factor] : [])])

  const values = measured.dataSync<'float32'>() as unknown as Float32Array
  const [dino_local, dino_global, ibot, koleoLoss, entropy, cosine] = values as unknown as [number, number, number, number, number, number]
  dispose([measured, alike])
  const grads: Named = flat({backbone, dino_head: viaDino.grads, ...(viaIbot ? {ibot_head: viaIbot.grads} : {})})
  return {
    grads,
    report: {
      losses: {dino_local, dino_global, koleo: koleoLoss, ibot, total: dino_local + dino_global + koleoLoss + ibot},
      teacherEntropy: entropy,
      clsCosine: cosine
    }
  }
}

/** Mean cosine between different rows of x [B, C]: (‖Σ û‖² − B) / (B·(B − 1)); zero where there is one row. */
function meanCosine(x: Tensor2D): Scalar {
  const B = x.shape[0]
  if (B < 2) return fill([], 0) as Scalar
  const total = sum<Scalar>(square(sum(unit(x), 0)))
  return mul<Scalar>(sub(total, B), 1 / (B * (B - 1)))
}

/** Frees a head pass but for what belongs to the student's own parameters. */
function letGo({z, saved, low, w, head}: HeadPass): void {
  free([z, ...saved.inputs, ...saved.pres, saved.raw, w])
  const own = new Set(flat(head).values())
  for (const leaf of flat({mlp: low.mlp}).values()) if (!own.has(leaf)) dispose(leaf)
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
    return {heads: vit.heads, attn: drawKept(groups, rate, random), mlp: drawKept(groups, rate, random)}
  })
}
