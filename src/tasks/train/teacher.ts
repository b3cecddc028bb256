/**
 * A frozen teacher: any backbone that `embed` reads, with its heads where they lie beside it, and what it says of a
 * batch of crops.
 *
 * With heads it says targets over prototypes, as in pretraining; without them its tokens themselves are the targets.
 * One pass serves any number of students: what it costs is the teacher's forward, and students differ at most in the
 * grid of patches, to which the teacher's patch tokens are resampled. Its own bytes never change.
 *
 * b images in a part of a batch, N patches of the student, M of the teacher, C the teacher's width, D a head's
 * bottleneck, K prototypes.
 */
import {createHash} from 'node:crypto'
import type {HeadSize} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {openBackbone} from '../../files/checkpoint/backbone.js'
import {isImageNet, type Normalization} from '../../files/checkpoint/preprocessing.js'
import {float32Bytes, readFinite} from '../../files/checkpoint/tensor-entry.js'
import {standardizeRows} from '../../loss/feature.js'
import type {VitConfig} from '../../model/config.js'
import {headForward} from '../../model/head.js'
import type {Head} from '../../model/head.js'
import {normedTokens} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import {castLike} from '../../tensor/ops/precision.js'
import {imageMean, imageStd} from '../../tensor/ops/patches.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {resizeForward} from '../../tensor/ops/resize.js'
import {add, dispose, mul, reshape, slice, tensor, tensor1d, tidy} from '../../tensor/tf.js'
import type {Tensor, Tensor2D, Tensor3D, Tensor4D} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'
import {loadBackbone} from '../embed/load-backbone.js'
import {headShape, headsOf} from './init-weights.js'
import {castHead, concatRows, targetsOfEmbeddings} from './teacher-targets.js'
import type {BatchPart} from './batch-parts.js'
import type {StepRates, StepSettings} from './step-types.js'
import type {CastHead, TeacherTargets, ChunkWidths} from './teacher-targets.js'

/** What a file says of a teacher before any of its numbers are read. */
export type TeacherPlan = {
  readonly path: string
  readonly vit: VitConfig
  /** Prototypes of its heads; undefined where it has none, or none that a student could share. */
  readonly heads?: {readonly dino_head: HeadSize; readonly ibot_head?: HeadSize}
  /** Numbers in the backbone. */
  readonly parameters: number
  /** Bytes that it takes while it teaches. */
  readonly bytes: (precision: Precision) => number
  /** Mean and deviation of the channels that its images are normalized by, where they are not those of ImageNet. */
  readonly normalization?: Normalization
}

export type Teacher = TeacherPlan & {
  readonly precision: Precision
  /** SHA-256 of the weights of the backbone and of the heads in use. */
  readonly fingerprint: string
  readonly backbone: Vit
  readonly copies?: {readonly dino: CastHead; readonly ibot?: CastHead}
  dispose(): void
}

/**
 * What a student learns from a teacher: the targets of its heads, or its features; `auto` takes the heads where there
 * are any.
 */
export type DistillFrom = 'auto' | 'heads' | 'features'

/**
 * Looks at a teacher without loading it. Throws `UserError`: no backbone there (as `openBackbone`); heads wanted that
 * it has not (exit 2).
 */
export async function planTeacher(path: string, from: DistillFrom): Promise<TeacherPlan> {
  const {config: vit, checkpoint} = await openBackbone(path)
  try {
    const found = headsOf(checkpoint, vit.width)
    const heads = from === 'features' || !found.dino_head ? undefined : {...found, dino_head: found.dino_head}
    if (from === 'heads' && !heads)
      throw new UserError(`The teacher ${path} has no DINO head, which distill.from=heads asks for.`, {
        exit: 2,
        code: 'NO_HEADS',
        hint: 'Name a run folder or a training checkpoint of Meta’s, which hold heads; or leave distill.from at auto: its features are then distilled.'
      })
    const own = checkpoint.preprocessing
    let [parameters, linear] = [0, 0]
    for (const [name, shape] of expectedShapes(vit)) {
      const size = shape.reduce((a, b) => a * b, 1)
      parameters += size
      if (isLinear(name)) linear += size
    }
    let headNumbers = 0
    if (heads)
      for (const [name, entry] of checkpoint.heads)
        if (/^(dino|ibot)_head\./.test(name)) headNumbers += entry.shape.reduce((a, b) => a * b, 1)
    return {
      path,
      vit,
      ...(heads ? {heads} : {}),
      parameters,
      bytes: precision =>
        bytesOfNumber(precision) === 2 ? 4 * (parameters - linear) + 2 * (linear + headNumbers) : 4 * (parameters + headNumbers),
      ...(own && !isImageNet(own) ? {normalization: {mean: own.mean, std: own.std}} : {})
    }
  } finally {
    await checkpoint.close()
  }
}

const isLinear = (name: string): boolean => /\.(qkv|proj|fc1|fc2|w12|w3)\./.test(name)

/**
 * Loads a teacher into the running engine, its weights in `precision`; `most` bytes may be used. Throws `UserError`:
 * it needs more (exit 5), before anything is read; what reading its file throws.
 */
export async function loadTeacher(plan: TeacherPlan, precision: Precision, most?: number): Promise<Teacher> {
  const needed = plan.bytes(precision)
  if (most !== undefined && needed > most) {
    const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`
    throw new UserError(
      `The teacher ${plan.path} has ${(plan.parameters / 1e6).toFixed(0)} million parameters, which take ${gib(needed)} in ${precision}, but ${gib(most)} may be used.`,
      {
        exit: 5,
        code: 'OUT_OF_MEMORY',
        hint:
          bytesOfNumber(precision) === 4 && plan.bytes('bf16') <= most
            ? `In bf16 it takes ${gib(plan.bytes('bf16'))}: --precision bf16.`
            : 'Take a smaller teacher, or a machine with more memory.'
      }
    )
  }
  const loaded = await loadBackbone(plan.path, {precision, foldsNormalization: false})
  try {
    const {copies, hash} = plan.heads ? await loadHeads(plan.path, precision) : {copies: undefined, hash: ''}
    return {
      ...plan,
      precision,
      fingerprint: createHash('sha256').update(loaded.fingerprint).update(hash).digest('hex'),
      backbone: loaded.params,
      ...(copies ? {copies} : {}),
      dispose: () => {
        loaded[Symbol.dispose]()
        for (const copy of [copies?.dino, copies?.ibot]) if (copy) dispose(copy.owned)
      }
    }
  } catch (error) {
    loaded[Symbol.dispose]()
    throw error
  }
}

async function loadHeads(path: string, precision: Precision): Promise<{copies: {dino: CastHead; ibot?: CastHead}; hash: string}> {
  const {checkpoint} = await openBackbone(path)
  const hash = createHash('sha256')
  const named: [string, Tensor][] = []
  try {
    for (const name of [...checkpoint.heads.keys()].filter(key => /^(dino|ibot)_head\./.test(key)).sort()) {
      const entry = checkpoint.heads.get(name)!
      const data = await readFinite(entry, name, path)
      hash.update(`${name}[${entry.shape.join()}]`).update(float32Bytes(data))
      named.push([name, tensor(data, headShape(name, entry.shape))])
    }
    const heads = unflatten<{dino_head: Head; ibot_head?: Head}>(named)
    const copies = {
      dino: castHead(heads.dino_head, precision),
      ...(heads.ibot_head ? {ibot: castHead(heads.ibot_head, precision)} : {})
    }
    return {copies, hash: hash.digest('hex')}
  } finally {
    dispose(named.map(([, leaf]) => leaf))
    await checkpoint.close()
  }
}

/**
 * Side of the crops that a teacher sees for a student's crops of `side` pixels: the same, or the nearest multiple of
 * its patch.
 */
export const teacherCropSide = (side: number, {patch}: VitConfig): number => Math.max(1, Math.round(side / patch)) * patch

/**
 * The teacher's normed tokens of one part: cls [2b, C], and its patches on a student's grid. Both are the caller's.
 */
type Tokens = {readonly cls: Tensor2D; readonly patches: (grid: number) => Tensor2D /* [2b·N, C] */; readonly dispose: () => void}

/** The large crops of a part through the teacher, which sees them at `side` pixels, unmasked. */
function teacherTokens({backbone, vit, normalization}: Teacher, part: BatchPart, side: number): Tokens {
  const M = side / vit.patch
  const {cls, patches} = tidy(() => {
    const globals = normalization ? renormalize(part.globals(), normalization) : part.globals()
    const images = globals.shape[1] === side ? globals : resizeForward(globals, [side, side]) // [2b, side, side, 3]
    const y = normedTokens(backbone, {images}, vit) // [2b·tokens, C]
    const n = globals.shape[0]
    const rows: Tensor3D = reshape(y, [n, 1 + vit.registers + M * M, vit.width]) // [2b, tokens, C]
    return {
      cls: reshape(slice(rows, [0, 0, 0], [n, 1, -1]), [n, vit.width]) as Tensor2D,
      patches: reshape(slice(rows, [0, 1 + vit.registers, 0]), [n, M, M, vit.width]) as Tensor4D
    }
  })
  return {
    cls,
    patches: grid => tidy(() => reshape(grid === M ? patches.clone() : resizeForward(patches, [grid, grid]), [-1, vit.width]) as Tensor2D),
    dispose: () => dispose([cls, patches])
  }
}

/** Images normalized as ImageNet's are, normalized by another mean and deviation; [n, H, W, 3]. */
const renormalize = (images: Tensor4D, {mean, std}: Normalization): Tensor4D =>
  tidy(() => {
    const scale = tensor1d(std.map((value, i) => imageStd[i]! / value)) // [3]
    const shift = tensor1d(std.map((value, i) => (imageMean[i]! - mean[i]!) / value))
    return add<Tensor4D>(mul(images, scale), shift)
  })

/** What a teacher with heads says of a batch, before prototypes: rows for the targets of each grid. */
type Rows = {readonly cls: Tensor2D /* [2B, D] */; readonly patches: ReadonlyMap<number, Tensor2D> /* [2B·N, D] by grid */}

/**
 * The targets of a teacher without heads: its tokens for a batch, brought to mean 0 and variance 1 row by row, part
 * behind part.
 */
export type FeatureTargets = {readonly cls: Tensor2D /* [2B, C] */; readonly patches: Tensor2D /* [2B·N, C] */}

/**
 * A teacher for `students` that take the same batches, one step after the other. Each asks once a step; what was
 * computed for the first serves the rest, and is freed when the last has taken it. All students of a step must bring
 * the same batch in the same parts; they may differ in their grids of patches.
 */
export class TeacherTargetCache {
  readonly #open = new Map<number, {rows?: Rows; features?: ReadonlyMap<string, Tensor2D>; taken: number}>()
  #students: number

  constructor(
    readonly teacher: Teacher,
    /** The grid of each student; 0 for one that takes no loss on patches. */
    private readonly grids: readonly number[],
    /** Side of the crops as the teacher sees them. */
    private readonly side: number
  ) {
    this.#students = grids.length
  }

  /** One student fewer asks from now on. */
  leave(): void {
    this.#students--
    for (const [step, {taken}] of this.#open) if (taken >= this.#students) this.#close(step)
  }

  /** Targets of the heads for a student of this grid, for step `step`. The caller disposes them. */
  targets(
    step: number,
    parts: readonly BatchPart[],
    grid: number,
    widths: ChunkWidths,
    rates: StepRates,
    settings: StepSettings
  ): TeacherTargets {
    const {copies} = this.teacher
    if (!copies) throw new Error('this teacher has no heads')
    const entry = this.#entry(step)
    const rows = (entry.rows ??= this.#rows(parts, copies))
    const z = {cls: rows.cls, patches: parts.some(({indices}) => indices.length > 0) ? rows.patches.get(grid) : undefined}
    const made = targetsOfEmbeddings(z, {dino: copies.dino.w, ibot: copies.ibot?.w}, rates, settings, {widths, keep: parts.length === 1})
    return {
      ...made,
      dispose: () => {
        made.dispose()
        this.#taken(step)
      }
    }
  }

  /** The teacher's features for a student of this grid, for step `step`; `done` when they have served. */
  features(step: number, parts: readonly BatchPart[], grid: number): FeatureTargets & {readonly done: () => void} {
    const entry = this.#entry(step)
    const all = (entry.features ??= this.#features(parts))
    return {cls: all.get('cls')!, patches: all.get(`patches ${grid}`)!, done: () => this.#taken(step)}
  }

  /** Lets go of the steps before `step`, which no student will ask for any more. */
  doneBefore(step: number): void {
    for (const open of [...this.#open.keys()]) if (open < step) this.#close(open)
  }

  /** Lets go of all that is open; the teacher stays the caller's. */
  dispose(): void {
    for (const step of [...this.#open.keys()]) this.#close(step)
  }

  #wanted(): Set<number> {
    return new Set(this.grids.filter(grid => grid > 0))
  }

  #entry(step: number): {rows?: Rows; features?: ReadonlyMap<string, Tensor2D>; taken: number} {
    let entry = this.#open.get(step)
    if (!entry) this.#open.set(step, (entry = {taken: 0}))
    return entry
  }

  #taken(step: number): void {
    const entry = this.#open.get(step)
    if (entry && ++entry.taken >= this.#students) this.#close(step)
  }

  #close(step: number): void {
    const {rows, features} = this.#open.get(step) ?? {}
    if (rows) dispose([rows.cls, ...rows.patches.values()])
    if (features) dispose([...features.values()])
    this.#open.delete(step)
  }

  #rows(parts: readonly BatchPart[], {dino, ibot}: {dino: CastHead; ibot?: CastHead}): Rows {
    const through = (x: Tensor2D, {low, w}: CastHead): Tensor2D => tidy(() => castLike(headForward(x, low).z, w))
    const [cls, patches]: [Tensor2D[], Map<number, Tensor2D[]>] = [[], new Map()]
    for (const part of parts) {
      const tokens = teacherTokens(this.teacher, part, this.side)
      cls.push(through(tokens.cls, dino))
      for (const grid of this.#wanted())
        patches.set(grid, [...(patches.get(grid) ?? []), tidy(() => through(tokens.patches(grid), ibot ?? dino))])
      tokens.dispose()
    }
    return {cls: concatRows(cls), patches: new Map([...patches].map(([grid, list]) => [grid, concatRows(list)]))}
  }

  #features(parts: readonly BatchPart[]): ReadonlyMap<string, Tensor2D> {
    const out = new Map<string, Tensor2D[]>()
    const add = (name: string, rows: Tensor2D): void => void out.set(name, [...(out.get(name) ?? []), rows])
    for (const part of parts) {
      const tokens = teacherTokens(this.teacher, part, this.side)
      add('cls', standardizeRows(tokens.cls))
      for (const grid of new Set(this.grids))
        add(
          `patches ${grid}`,
          tidy(() => standardizeRows(tokens.patches(grid)))
        )
      tokens.dispose()
    }
    return new Map([...out].map(([name, list]) => [name, concatRows(list)]))
  }
}
