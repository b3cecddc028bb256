/**
 * What a run has and does, counted from its settings: parameters, arithmetic of a step, bytes of its state and of what
 * a step keeps. Nothing is allocated. What a step keeps is counted from what each block saves (`model/block.ts`).
 *
 * C width, F hidden width of a block, K prototypes, M patches that the teacher sees.
 */
import {numberAt} from '../../config/derived.js'
import type {Derived, HeadSize} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {regularizers} from '../../loss/terms.js'
import type {VitConfig} from '../../model/config.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {isProduct} from './sharding.js'
import {MAX_CACHED_LOGITS_BYTES} from './teacher-targets.js'

export type CostCounts = {
  readonly parameters: number
  /** Floating-point operations of one step on one device. */
  readonly flops: number
  /** Bytes of student, teacher, moments and centres: a checkpoint. */
  readonly state: number
  /** Bytes of copies of weights in the precision of products. */
  readonly copies: number
  /** Bytes at the highest point of a step besides: what blocks save, gradients, logits that are kept, scratch. */
  readonly activations: number
  /** Parameters of the student's blocks, and those of them in linear layers. */
  readonly blocks: number
  readonly products: number
} & StepPeaks

/** Bytes at the two highest points of a step, of which `activations` is the higher. */
type StepPeaks = {
  /** All logits are there, and gradients of last layers alone. */
  readonly heads: number
  /** Nearly all gradients are there, which are not in this number. */
  readonly backward: number
}

/** Images that go through a backbone: how many, and their tokens. */
export type CropGroup = {readonly count: number; readonly tokens: number; readonly patches: number}

/** Multiplications of a token in the linear layers of one block. */
const perToken = ({width: C, hidden: F, ffn}: VitConfig): number => 4 * C * C + (ffn === 'swiglu' ? 3 : 2) * C * F

/** Floating-point operations of a forward pass; `share` of the sequences goes through each branch. */
export const forwardFlops = (vit: VitConfig, views: readonly CropGroup[], share = 1): number =>
  views.reduce((sum, {count, tokens, patches}) => {
    const blocks = share * vit.depth * tokens * (perToken(vit) + 2 * tokens * vit.width)
    return sum + 2 * count * (blocks + patches * 3 * vit.patch ** 2 * vit.width)
  }, 0)

/** Parameters of a head without and with its prototypes. */
function headParameters({layers, hidden, bottleneck, prototypes}: HeadSize, width: number): {mlp: number; last: number; all: number} {
  const ends = Array.from(
    {length: Math.max(1, layers)},
    (_, i) => [i === 0 ? width : hidden, i === layers - 1 ? bottleneck : hidden] as const
  )
  const mlp = ends.reduce((sum, [into, out]) => sum + (into + 1) * out, 0)
  const last = prototypes * bottleneck
  return {mlp, last, all: mlp + last + prototypes}
}

const viewsOf = ({crops, student}: Settings, batch: number): {globals: CropGroup; locals: CropGroup} => {
  const view = (count: number, side: number): CropGroup => {
    const patches = Math.floor(side / student.patch_size) ** 2
    return {count, patches, tokens: 1 + student.num_register_tokens + patches}
  }
  return {
    globals: view(2 * batch, crops.global_crops_size),
    locals: view(crops.local_crops_number * batch, crops.local_crops_size)
  }
}

/** A frozen teacher, as far as it costs: its sizes, the side of its crops, and what it takes in memory. */
export type TeacherCost = {
  readonly vit: VitConfig
  /**
   * Whether its heads teach; else its features do, and the student has a layer for each kind of token in the place of
   * heads.
   */
  readonly heads: {readonly dino_head: HeadSize; readonly ibot_head?: HeadSize} | undefined
  readonly side: number
  readonly bytes: number
}

type HeadCount = ReturnType<typeof headParameters>

/** What both counts below need: crops, heads, shares. */
type StepCounts = {
  readonly settings: Settings
  readonly plan: Derived
  readonly teacher: TeacherCost | undefined
  readonly globals: CropGroup
  readonly locals: CropGroup
  readonly heads: readonly HeadCount[]
  /** Patches in the patch loss. */
  readonly masked: number
  /** Share of the sequences that go through a branch. */
  readonly share: number
}

function stepCounts(settings: Settings, plan: Derived, teacher: TeacherCost | undefined): StepCounts {
  const {vit, batch, dropPath} = plan
  const {ibot} = settings
  const {globals, locals} = viewsOf(settings, batch)
  const projector = teacher && (vit.width + 1) * teacher.vit.width
  const heads =
    teacher && !teacher.heads
      ? [0, 1].map(() => ({mlp: projector!, last: 0, all: projector!}))
      : [plan.dinoHead, ...(plan.ibotHead ? [plan.ibotHead] : [])].map(size => headParameters(size, vit.width))
  const share = 1 - dropPath.reduce((sum, rate) => sum + rate, 0) / Math.max(1, vit.depth)
  const [low, high] = ibot.mask_ratio_min_max
  const inLoss = teacher ? 1 : ibot.mask_sample_probability * ((low + high) / 2) // of the patches
  const masked = ibot.loss_weight > 0 || (teacher && !teacher.heads) ? globals.count * inLoss * globals.patches : 0
  return {settings, plan, teacher, globals, locals, heads, masked, share}
}

/** Counts what a run has and does, from its settings alone; with a teacher, what learning from it has and does. */
export function countCost(settings: Settings, plan: Derived, precision: Precision, teacher?: TeacherCost): CostCounts {
  const counts = stepCounts(settings, plan, teacher)
  const {heads} = counts
  let backbone = 0
  let [blocks, products] = [0, 0]
  for (const [name, shape] of expectedShapes(plan.vit)) {
    const size = shape.reduce((a, b) => a * b, 1)
    backbone += size
    if (name.startsWith('blocks.')) blocks += size
    if (isProduct(name)) products += size
  }
  const parameters = backbone + heads.reduce((sum, {all}) => sum + all, 0)
  const prototypes = plan.dinoHead.prototypes + (plan.ibotHead ?? plan.dinoHead).prototypes
  const low = bytesOfNumber(precision) // bytes of a number in products
  const linear = backbone - 4 * plan.vit.width * plan.vit.depth
  const [last, mlps] = [heads.reduce((sum, head) => sum + head.last, 0), heads.reduce((sum, head) => sum + head.mlp, 0)]
  const peaks = countPeaks(counts, low)
  return {
    parameters,
    blocks,
    products,
    ...peaks,
    flops: countFlops(counts),
    state: 16 * parameters + (settings.train.centering === 'centering' ? 4 * prototypes : 0),
    copies: (low === 2 ? 2 * (linear + mlps) : 0) + low * last + (teacher?.bytes ?? 0),
    activations: Math.max(peaks.heads, peaks.backward + 4 * parameters, 4 * parameters)
  }
}

/** Floating-point operations of one step. */
function countFlops({settings, plan, teacher, globals, locals, heads, masked, share}: StepCounts): number {
  const {vit, batch} = plan
  const headFlops = (rows: {cls: number; patches: number}, of: readonly HeadCount[] = heads): number => {
    const [dino, own] = of as [HeadCount, HeadCount | undefined]
    return 2 * (rows.cls * (dino.mlp + dino.last) + rows.patches * ((own ?? dino).mlp + (own ?? dino).last))
  }
  const student = forwardFlops(vit, [globals, locals], share)
  const again = {fast: 0, balanced: 0.5, small: 1}[settings.train.memory] // what the backward pass computes anew
  const M = teacher ? (teacher.side / teacher.vit.patch) ** 2 : 0
  const targets = teacher
    ? forwardFlops(teacher.vit, [{count: globals.count, patches: M, tokens: 1 + teacher.vit.registers + M}]) +
      (teacher.heads
        ? headFlops(
            {cls: globals.count, patches: masked},
            Object.values(teacher.heads).map(size => headParameters(size, teacher.vit.width))
          )
        : 0)
    : forwardFlops(vit, [globals]) + headFlops({cls: globals.count, patches: masked})
  const extra = regularizers.reduce((sum, term) => sum + (numberAt(settings, term.weight) > 0 ? term.flops(batch, vit.width) : 0), 0)
  return (3 + again) * student + targets + 3 * headFlops({cls: globals.count + locals.count, patches: masked}) + extra
}

/**
 * Bytes at the two points of a step of which one is the highest: all logits are there and nothing is computed back
 * yet, or nearly all gradients are there. A part of a batch (`train.grad_accumulation`) is what goes through at once.
 */
function countPeaks({settings, plan, teacher, globals, locals, heads, masked, share}: StepCounts, low: number): StepPeaks {
  const {train, crops} = settings
  const {width: C, hidden, ffn, depth} = plan.vit
  const part = 1 / train.grad_accumulation
  const tokens = part * (globals.count * globals.tokens + locals.count * locals.tokens)
  const F = ffn === 'swiglu' ? 2 * hidden : hidden
  const branch = tokens * share
  const saved = {
    fast: branch * (2 * 4 * C + low * (4 * C + F)),
    balanced: tokens * 4 * C + branch * low * 4 * C,
    small: tokens * 4 * C
  }[train.memory]
  const within = tokens * 4 * 3 * C + branch * low * (5 * C + 2 * F) // one block in the backward pass
  const [dinoK, ibotK] = [plan.dinoHead.prototypes, (plan.ibotHead ?? plan.dinoHead).prototypes]
  const shared = !plan.ibotHead
  const rows = globals.count + locals.count
  const logits = [
    globals.count * dinoK, // the teacher's
    masked * ibotK,
    (rows + (shared ? masked : 0)) * dinoK, // the student's
    shared ? 0 : masked * ibotK
  ].map(numbers => low * numbers)
  const areCached = train.memory === 'fast' && train.grad_accumulation === 1 && (!teacher || teacher.heads !== undefined)
  const cached = areCached ? logits.reduce((sum, bytes) => sum + (bytes > MAX_CACHED_LOGITS_BYTES ? 0 : bytes), 0) : 0
  const pixels = part * 4 * 3 * (globals.count * crops.global_crops_size ** 2 + locals.count * crops.local_crops_size ** 2)
  const lastGradients = 4 * heads.reduce((sum, head) => sum + head.last, 0)
  return {heads: depth * saved + cached + lastGradients + pixels, backward: depth * saved * 0.5 + within}
}
