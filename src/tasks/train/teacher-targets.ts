/**
 * The teacher's targets for a batch (docs/spec.md §2.3): its pass without gradients, and targets over prototypes.
 *
 * B images, n masked patches, C width, D bottleneck of a head, K prototypes.
 */
import {cachedLogits, chunkWidth, lazyLogits} from '../../loss/logits.js'
import type {CachedLogits, Logits} from '../../loss/logits.js'
import {sharedMean, sharedSinkhornTargets} from '../../loss/targets-over-processes.js'
import {centerAfter, centeredTargets, sinkhornTargets, targetEntropy} from '../../loss/targets.js'
import type {Targets} from '../../loss/targets.js'
import {castMlp, headForward, prototypes} from '../../model/head.js'
import type {Head} from '../../model/head.js'
import {castParams, normedTokens} from '../../model/vit.js'
import type {ImageView} from '../../model/vit.js'
import {gatherNumbers, oneProcess} from '../../tensor/ops/collectives.js'
import {castLike} from '../../tensor/ops/precision.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {constant} from '../../tensor/ops/constant.js'
import {takeRows} from '../../tensor/ops/rows.js'
import {concat, dispose, slice, tidy} from '../../tensor/tf.js'
import type {Scalar, Tensor, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {tokenRows} from './batch-parts.js'
import type {BatchPart} from './batch-parts.js'
import type {NetworkAccess} from './sharding.js'
import type {Network, StepRates, StepSettings, TrainState} from './step-types.js'

/** A head in the precision of products, once a step; `disposeTree` what is `owned`. */
export type CastHead = {low: Head; w: Tensor2D /* [K, D], the prototypes */; owned: Tensor[]}

export function castHead(head: Head, precision: Precision): CastHead {
  const {head: low, owned} = castMlp(head, precision)
  const w = prototypes(head, precision)
  return {low, w, owned: [...owned, w]}
}

/** The heads of a network in the precision of products. */
export type CastHeads = {readonly dino: CastHead; readonly ibot?: CastHead | undefined}

/** The heads of a network, which are waited for where they are under way. */
export function castHeads(network: Network, precision: Precision, access?: NetworkAccess): CastHeads {
  access?.heads()
  return {dino: castHead(network.dino_head, precision), ibot: network.ibot_head && castHead(network.ibot_head, precision)}
}

/** Rows through the MLPs of their heads, [2b, D] and [n, D]. */
function embedRows({clsRows, patchRows}: ReturnType<typeof headInputs>, {dino, ibot}: CastHeads): {cls: Tensor2D; patches?: Tensor2D} {
  const through = (x: Tensor2D, {low, w}: CastHead): Tensor2D => tidy(() => castLike(headForward(x, low).z, w))
  if (ibot || !patchRows) return {cls: through(clsRows, dino), ...(patchRows ? {patches: through(patchRows, ibot ?? dino)} : {})}
  const both = through(concat([clsRows, patchRows]), dino) // [2b + n, D]
  const [start] = clsRows.shape
  return {cls: slice(both, [0, 0], [start, -1]), patches: slice(both, [start, 0], [patchRows.shape[0], -1])}
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
export function computeTeacherTargets(
  teacher: Network,
  parts: readonly BatchPart[],
  rates: StepRates,
  settings: StepSettings,
  centers: TrainState['centers'],
  widths: ChunkWidths
): TeacherTargets {
  const {vit, precision, access} = settings
  const backbone = castParams(teacher.backbone, precision)
  let heads: CastHeads | undefined
  const rows = parts.map(part => {
    const inputs = tidy(() => {
      const view: ImageView = {images: part.globals()}
      const {cls} = tokenRows(view, vit, part.indices)
      const patches = part.patchRows(vit)
      return headInputs(normedTokens(backbone.params, view, vit, 'fp32', access?.teacher), cls, patches)
    })
    const own = (heads ??= castHeads(teacher, precision, access?.teacher))
    const embedded = tidy(() => embedRows(inputs, own))
    dispose([inputs.clsRows, ...(inputs.patchRows ? [inputs.patchRows] : [])])
    return embedded
  })
  const {dino, ibot} = heads!
  dispose(backbone.owned)
  const z = {
    cls: concatRows(rows.map(({cls}) => cls)),
    patches: rows.some(({patches}) => patches) ? concatRows(rows.flatMap(({patches}) => (patches ? [patches] : []))) : undefined
  }
  for (const head of [dino, ibot]) if (head) dispose(head.owned.filter(leaf => leaf !== head.w))
  const said = targetsOfEmbeddings(z, {dino: dino.w, ibot: ibot?.w}, rates, settings, {
    centers,
    widths,
    keep: parts.length === 1
  })
  return {
    ...said,
    dispose: () => {
      said.dispose()
      dispose([z.cls, ...(z.patches ? [z.patches] : []), dino.w, ...(ibot ? [ibot.w] : [])])
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
  {centering, memory = 'fast', precision, processes = oneProcess}: StepSettings,
  {centers, widths, keep}: {readonly centers?: TrainState['centers']; readonly widths: ChunkWidths; readonly keep: boolean}
): TeacherTargets {
  const holds: CachedLogits[] = []
  const scoresOf = (rows: Tensor2D, own: Tensor2D): Logits => {
    const scores = lazyLogits(rows, own)
    const bytes = rows.shape[0] * own.shape[0] * bytesOfNumber(precision)
    if (!keep || memory !== 'fast' || bytes > MAX_CACHED_LOGITS_BYTES) return scores
    const held = cachedLogits(scores)
    holds.push(held)
    return held
  }
  const average: Record<'dino' | 'ibot', Tensor2D | undefined> = {dino: undefined, ibot: undefined}
  const target = (rows: Tensor2D | undefined, which: 'dino' | 'ibot', all = rows?.shape[0] ?? 0): Targets | undefined => {
    if (all === 0) return undefined
    const prototypes = (which === 'ibot' ? w.ibot : undefined) ?? w.dino
    const scores = rows && scoresOf(rows, prototypes)
    const [temperature, width, shared] = [rates.teacherTemp, widths[which], {processes, rows: all}]
    if (centering === 'sinkhorn_knopp')
      return scores && processes.size === 1
        ? sinkhornTargets(scores, temperature, width)
        : sharedSinkhornTargets(scores, {...shared, temperature, width, prototypes: prototypes.shape[0]})
    const own = scores && centeredTargets(scores, centers![which], temperature, width)
    average[which] = processes.size === 1 ? own?.mean : sharedMean(own?.mean, scores?.rows ?? 0, shared, prototypes.shape[0])
    return own?.targets
  }
  const cls = target(z.cls, 'dino', widths.rows?.cls)!
  const patches = target(z.patches, 'ibot', widths.rows?.patches)
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
export const headInputs = (y: Tensor2D, cls: Int32Array, patches: Tensor1D | undefined): {clsRows: Tensor2D; patchRows?: Tensor2D} =>
  tidy(() => ({
    clsRows: takeRows(y, constant<Tensor1D>(cls, [cls.length])),
    ...(patches ? {patchRows: takeRows(y, patches)} : {})
  }))

/**
 * Columns of scores that each head takes at a time: the same for teacher and student, since scores are held by these
 * pieces.
 */
export type ChunkWidths = {
  readonly dino: number
  readonly ibot: number
  /** Rows of the teacher's targets over all processes, where there are several. */
  readonly rows?: {readonly cls: number; readonly patches: number}
}

/** Prototypes of each head; patches have one of their own, or share that of class tokens. */
export type PrototypeCounts = {readonly dino: number; readonly ibot?: number | undefined}

/** The prototypes of a network, whether its heads are there or still under way. */
export function prototypesOf(network: Network, access?: NetworkAccess): PrototypeCounts {
  const count = (head: 'dino_head' | 'ibot_head'): number | undefined =>
    (access ? access.shapeOf(`${head}.last_layer.weight_v`) : network[head]?.last_layer.weight_v.shape)?.[0]
  return {dino: count('dino_head')!, ibot: count('ibot_head')}
}

/** The widths for a batch; of several processes the same, for they sum by these pieces. */
export function chunkWidths(prototypes: PrototypeCounts, parts: readonly BatchPart[], processes = oneProcess): ChunkWidths {
  const own = ownWidths(prototypes, parts)
  if (processes.size === 1) return own
  const rows = [2, 0].map(n => parts.reduce((total, {b, indices}) => total + (n === 0 ? indices.length : n * b), 0))
  const all = gatherNumbers([own.dino, own.ibot, ...rows], processes)
  const column = (i: number): number[] => all.map(numbers => numbers[i]!)
  const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0)
  return {dino: Math.min(...column(0)), ibot: Math.min(...column(1)), rows: {cls: sum(column(2)), patches: sum(column(3))}}
}

function ownWidths({dino, ibot}: PrototypeCounts, parts: readonly BatchPart[]): ChunkWidths {
  const teacher = {cls: 0, patches: 0}
  const own = {cls: 0, patches: 0, both: 0}
  for (const {b, m, indices} of parts) {
    teacher.cls += 2 * b
    teacher.patches += indices.length
    own.cls = Math.max(own.cls, (2 + m) * b)
    own.patches = Math.max(own.patches, indices.length)
    own.both = Math.max(own.both, (2 + m) * b + indices.length)
  }
  if (ibot !== undefined)
    return {
      dino: chunkWidth(Math.max(teacher.cls, own.cls), dino),
      ibot: chunkWidth(Math.max(teacher.patches, own.patches), ibot)
    }
  const width = chunkWidth(Math.max(teacher.cls, teacher.patches, own.both), dino)
  return {dino: width, ibot: width}
}
