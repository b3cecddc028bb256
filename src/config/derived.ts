/**
 * What follows from the settings and is wanted in several places: sizes of the backbone, lengths in steps, the
 * learning rate. Computed here once, as pure functions, so that the mathematics never reads a setting twice or
 * differently.
 */
import {UserError} from './errors.js'
import type {VitConfig} from '../model/config.js'
import type {Settings} from './table.js'

/**
 * The length of the short side from which a square of `crop` pixels is cut: 8/7 of it, as 256 is of 224, to the
 * nearest even margin. With an even margin torchvision and transformers cut the same pixels; they round an odd one
 * differently.
 */
export const shortSideFor = (crop: number): number => crop + 2 * Math.round(crop / 14)

/**
 * A curve over steps 0 to `total` - 1: a line from `start` to `base` over `warmup` steps, both ends included, then
 * half a cosine to `final`, which also holds afterwards. The first `frozen` steps are then set to 0; they do not shift
 * the rest.
 */
export type Curve = {
  readonly base: number
  readonly final: number
  readonly total: number
  readonly warmup: number
  readonly start: number
  readonly frozen: number
}

/** Sizes of a projection head. */
export type HeadSize = {readonly layers: number; readonly hidden: number; readonly bottleneck: number; readonly prototypes: number}

/** All that follows from the settings. Lengths are in steps, sides of crops in pixels, grids in patches. */
export type Derived = {
  readonly vit: VitConfig
  readonly dinoHead: HeadSize
  /** Undefined where masked patches share the DINO head. */
  readonly ibotHead: HeadSize | undefined
  /** Share of images that skip a residual branch, by block. */
  readonly dropPath: readonly number[]
  /** Images a step over all devices. */
  readonly batch: number
  readonly steps: number
  /** Steps in one epoch; not a whole number when train.steps stretches the run. */
  readonly epochLength: number
  /** Learning rate after the scaling rule. */
  readonly lr: number
  /** First steps in which the heads learn and the backbone stands still. */
  readonly headWarmup: number
  readonly curves: {
    readonly lr: Curve
    /** Of the backbone: as lr, but begun after those steps. */
    readonly backboneLr: Curve
    /** As lr, but 0 for the first steps: for the last layer of the heads. */
    readonly lastLayerLr: Curve
    readonly weightDecay: Curve
    readonly momentum: Curve
    /** A line from `start` to `base` in `warmup` = `total` steps, then constant; it may be longer than the run. */
    readonly teacherTemperature: Curve
  }
  readonly globalGrid: number
  readonly localGrid: number
  /** Most patches that one rectangle of a mask may cover. */
  readonly maskMaxPatches: number
  /** Probability of blur for the first global, the second global and the local crops. */
  readonly blurProbability: readonly [number, number, number]
}

const sizes = {
  vit_small: {width: 384, depth: 12, heads: 6},
  vit_base: {width: 768, depth: 12, heads: 12},
  vit_large: {width: 1024, depth: 24, heads: 16},
  vit_giant2: {width: 1536, depth: 40, heads: 24}
} as const

const wrong = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'SETTINGS', ...(hint ? {hint} : {})})

/**
 * Width, depth and heads that `student` asks for. Throws a `UserError` where a custom size is incomplete or a named
 * one is contradicted.
 */
function size(student: Settings['student']): {width: number; depth: number; heads: number} {
  const {arch, embed_dim: width, depth, num_heads: heads} = student
  if (arch !== 'custom') {
    const given = Object.entries({embed_dim: width, depth, num_heads: heads}).filter(([, value]) => value !== null)
    if (given.length > 0) {
      throw wrong(`student.${given[0]![0]} is set, but student.arch is ${arch}, which has a size of its own.`, 'Set student.arch=custom.')
    }
    return sizes[arch]
  }
  if (width === null || depth === null || heads === null) {
    throw wrong('student.arch is custom, which needs student.embed_dim, student.depth and student.num_heads.')
  }
  if (width % heads !== 0) throw wrong(`student.embed_dim ${width} is not a multiple of student.num_heads ${heads}.`)
  return {width, depth, heads}
}

/** Hidden width of the feed-forward layer: 4 C, for SwiGLU two thirds of that rounded up to a multiple of 8. */
export const hiddenWidth = (width: number, ffn: 'mlp' | 'swiglu'): number =>
  ffn === 'mlp' ? 4 * width : 8 * Math.ceil(Math.trunc((4 * width * 2) / 3) / 8)

/** The heads that the settings describe; without `ibotHead` masked patches share the DINO head. */
export function headSizes({dino, ibot}: Pick<Settings, 'dino' | 'ibot'>): {dinoHead: HeadSize; ibotHead: HeadSize | undefined} {
  const size = (head: Settings['dino'] | Settings['ibot']): HeadSize => ({
    layers: head.head_nlayers,
    hidden: head.head_hidden_dim,
    bottleneck: head.head_bottleneck_dim,
    prototypes: head.head_n_prototypes
  })
  return {dinoHead: size(dino), ibotHead: ibot.separate_head ? size(ibot) : undefined}
}

/** The backbone that the settings describe; its position grid is that of the global crops. */
export function architecture({student, crops}: Settings): VitConfig {
  const {width, depth, heads} = size(student)
  const ffn = student.ffn_layer === 'mlp' ? 'mlp' : 'swiglu'
  return {
    width,
    depth,
    heads,
    patch: student.patch_size,
    ffn,
    hidden: hiddenWidth(width, ffn),
    registers: student.num_register_tokens,
    grid: grid(crops.global_crops_size, student.patch_size, 'crops.global_crops_size'),
    layerScale: student.layerscale > 0,
    interpolateOffset: student.interpolate_offset,
    interpolateAntialias: student.interpolate_antialias
  }
}

function grid(side: number, patch: number, name: string): number {
  if (side % patch === 0) return side / patch
  const below = side - (side % patch)
  const tries = [below, below + patch].filter(n => n > 0).join(' or ')
  throw wrong(`${name} ${side} is not a multiple of student.patch_size ${patch}.`, `Try ${tries}.`)
}

/** Learning rate for `batch` images a step: base_lr times the root of batch / 1024 (section B.1 of the paper). */
const scaledLr = ({base_lr, scaling_rule}: Settings['optim'], batch: number): number =>
  scaling_rule === 'none' ? base_lr : base_lr * Math.sqrt(batch / 1024)

/**
 * Half of a crop of `side` pixels in patches, floored after each division from left to right as the Python code does:
 * 128 at 224 / 14, 98 at 224 / 16.
 */
export const maskMaxPatches = (side: number, patch: number): number => Math.floor((Math.floor((0.5 * side) / patch) * side) / patch)

/**
 * All that follows from `settings` on `world` devices. Throws a `UserError` with status 2 where settings contradict
 * each other.
 *
 * Epochs become steps by truncation, as in the Python code; with `train.steps` every length is taken in proportion.
 */
export function derive(settings: Settings, world = 1): Derived {
  const {ibot, train, student, teacher, optim, crops} = settings
  const vit = architecture(settings)
  const batch = train.batch_size_per_gpu * world
  if (train.grad_accumulation > train.batch_size_per_gpu)
    throw wrong(
      `train.grad_accumulation ${train.grad_accumulation} is more than the ${train.batch_size_per_gpu} images of a batch.`,
      'A part holds one image at least.'
    )
  const steps = train.steps > 0 ? train.steps : Math.max(1, Math.trunc(optim.epochs * train.OFFICIAL_EPOCH_LENGTH))
  const epochLength = train.steps > 0 ? steps / optim.epochs : train.OFFICIAL_EPOCH_LENGTH
  const inSteps = (epochs: number): number => Math.trunc(epochs * epochLength + 1e-9)
  const warmup = inSteps(optim.warmup_epochs)
  const frozen = inSteps(optim.freeze_last_layer_epochs)
  const temperatureWarmup = inSteps(teacher.warmup_teacher_temp_epochs)
  if (warmup > steps) {
    throw wrong(
      `optim.warmup_epochs ${optim.warmup_epochs} (${warmup} steps) is longer than the whole run (${steps} steps).`,
      'Shorten it, or set train.steps.'
    )
  }
  const headWarmup = inSteps(optim.head_warmup_epochs)
  if (headWarmup > 0 && headWarmup + warmup >= steps) {
    throw wrong(
      `optim.head_warmup_epochs ${optim.head_warmup_epochs} (${headWarmup} steps) and optim.warmup_epochs ${optim.warmup_epochs} (${warmup} steps) leave nothing of the run (${steps} steps).`,
      'Shorten them, or set train.steps.'
    )
  }
  const headClimb = headWarmup > 0 ? Math.min(warmup, headWarmup) : warmup // heads are at their full rate when the backbone begins
  const ratio = ibot.mask_ratio_min_max
  if (ibot.loss_weight > 0 && ibot.mask_sample_probability === 0) {
    throw wrong(
      'ibot.mask_sample_probability is 0, so that no patch is ever masked, but ibot.loss_weight is above 0.',
      'Set ibot.loss_weight=0.'
    )
  }
  if (ratio[1] >= 1) throw wrong(`ibot.mask_ratio_min_max ${ratio.join(', ')} hides whole crops.`, 'Keep the upper end below 1.')
  const lr = scaledLr(optim, batch)
  const curve = (base: number, final: number, more: Partial<Curve> = {}): Curve => ({
    base,
    final,
    total: steps,
    warmup: 0,
    start: 0,
    frozen: 0,
    ...more
  })
  const globalGrid = vit.grid
  return {
    vit,
    ...headSizes(settings),
    dropPath: Array.from({length: vit.depth}, (_, i) =>
      student.drop_path_uniform ? student.drop_path_rate : vit.depth === 1 ? 0 : (student.drop_path_rate * i) / (vit.depth - 1)
    ),
    batch,
    steps,
    epochLength,
    lr,
    headWarmup,
    curves: {
      lr: curve(lr, optim.min_lr, {warmup: headClimb}),
      backboneLr: curve(lr, optim.min_lr, {warmup, total: steps - headWarmup}),
      lastLayerLr: curve(lr, optim.min_lr, {warmup: headClimb, frozen}),
      weightDecay: curve(optim.weight_decay, optim.weight_decay_end),
      momentum: curve(teacher.momentum_teacher, teacher.final_momentum_teacher),
      teacherTemperature: curve(teacher.teacher_temp, teacher.teacher_temp, {
        start: teacher.warmup_teacher_temp,
        warmup: temperatureWarmup,
        total: temperatureWarmup
      })
    },
    globalGrid,
    localGrid: grid(crops.local_crops_size, student.patch_size, 'crops.local_crops_size'),
    maskMaxPatches: maskMaxPatches(crops.global_crops_size, student.patch_size),
    blurProbability: crops.blur === 'released' ? [0, 0.9, 0.5] : [1, 0.1, 0.5]
  }
}

/** The number that a setting has, by its path. */
export const numberAt = (settings: Settings, path: string): number => {
  const [section, key] = path.split('.') as [keyof Settings, string]
  return (settings[section] as Readonly<Record<string, unknown>>)[key] as number
}
