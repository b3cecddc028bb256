/**
 * What a run would need where its steps cannot be tried: because the model does not fit into this machine's memory,
 * because a few steps would take too long, or because another machine is asked about.
 *
 * Nothing here allocates the model. Parameters, their memory and the arithmetic of a step are counted from sizes; what
 * a step keeps besides is counted from what each block saves (`model/block.ts`); and the time is that arithmetic over
 * the throughput of one block of this width, forwards and backwards, measured here in a short loop. Memory is that of
 * the code as it is; time is an estimate, and said to be one: images are taken to come in time.
 */
import {numberAt} from '../../config/derived.js'
import type {Derived, HeadSize} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {cpuDevice, cudaDevices, freeMemory} from '../../engine/machine.js'
import type {EngineInfo} from '../../engine/start.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {regularizers} from '../../loss/terms.js'
import type {VitConfig} from '../../model/config.js'
import {initVit} from '../../model/init.js'
import {backwardTrain, castParams, forwardTrain} from '../../model/vit.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, tidy, truncatedNormal} from '../../tensor/tf.js'
import type {Tensor4D} from '../../tensor/tf.js'
import {disposeTree} from '../../tensor/tree.js'
import {probeCost, secondsPerByteWritten} from './cost-probe.js'
import type {MeasuredCost, CostProbeOptions} from './cost-probe.js'
import type {Trainer} from './training-loop.js'
import {MAX_CACHED_LOGITS_BYTES} from './teacher-targets.js'

export type CostCounts = {
  readonly parameters: number
  /** Floating-point operations of one step on one device. */
  readonly flops: number
  /** Bytes of student, teacher, moments and centres: a checkpoint. */
  readonly state: number
  /** Bytes of copies of weights in the precision of products. */
  readonly copies: number
  /** Bytes at the dearest moment of a step besides: what blocks save, gradients, scores that are held, scratch. */
  readonly activations: number
}

type View = {readonly count: number; readonly tokens: number; readonly patches: number}

/** Multiplications of a token in the linear layers of one block. */
const perToken = ({width: C, hidden: F, ffn}: VitConfig): number => 4 * C * C + (ffn === 'swiglu' ? 3 : 2) * C * F

/** Floating-point operations of a forward pass; `share` of the sequences goes through each branch. */
const forwardFlops = (vit: VitConfig, views: readonly View[], share = 1): number =>
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

const viewsOf = ({crops, student}: Settings, batch: number): {globals: View; locals: View} => {
  const view = (count: number, side: number): View => {
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

/** Counts what a run has and does, from its settings alone; with a teacher, what learning from it has and does. */
export function countCost(settings: Settings, plan: Derived, precision: Precision, teacher?: TeacherCost): CostCounts {
  const {vit, batch, dropPath} = plan
  const {train, ibot} = settings
  const {globals, locals} = viewsOf(settings, batch)
  const projector = teacher && (vit.width + 1) * teacher.vit.width
  const heads =
    teacher && !teacher.heads
      ? [0, 1].map(() => ({mlp: projector!, last: 0, all: projector!}))
      : [plan.dinoHead, ...(plan.ibotHead ? [plan.ibotHead] : [])].map(size => headParameters(size, vit.width))
  let backbone = 0
  for (const shape of expectedShapes(vit).values()) backbone += shape.reduce((a, b) => a * b, 1)
  const parameters = backbone + heads.reduce((sum, {all}) => sum + all, 0)
  const share = 1 - dropPath.reduce((sum, rate) => sum + rate, 0) / Math.max(1, vit.depth)

  const [low, high] = ibot.mask_ratio_min_max
  const inLoss = teacher ? 1 : ibot.mask_sample_probability * ((low + high) / 2) // of the patches that are in the loss
  const masked = ibot.loss_weight > 0 || (teacher && !teacher.heads) ? globals.count * inLoss * globals.patches : 0
  type Counted = ReturnType<typeof headParameters>
  const headFlops = (rows: {cls: number; patches: number}, of: readonly Counted[] = heads): number => {
    const [dino, own] = of as [Counted, Counted | undefined]
    return 2 * (rows.cls * (dino.mlp + dino.last) + rows.patches * ((own ?? dino).mlp + (own ?? dino).last))
  }
  const student = forwardFlops(vit, [globals, locals], share)
  const again = {fast: 0, balanced: 0.5, small: 1}[train.memory] // what is computed anew on the way back
  const M = teacher ? (teacher.side / teacher.vit.patch) ** 2 : 0
  const guidance = teacher
    ? forwardFlops(teacher.vit, [{count: globals.count, patches: M, tokens: 1 + teacher.vit.registers + M}]) +
      (teacher.heads
        ? headFlops(
            {cls: globals.count, patches: masked},
            Object.values(teacher.heads).map(size => headParameters(size, teacher.vit.width))
          )
        : 0)
    : forwardFlops(vit, [globals]) + headFlops({cls: globals.count, patches: masked})
  const extra = regularizers.reduce((sum, term) => sum + (numberAt(settings, term.weight) > 0 ? term.flops(batch, vit.width) : 0), 0)
  const flops = (3 + again) * student + guidance + 3 * headFlops({cls: globals.count + locals.count, patches: masked}) + extra

  // Bytes. A part of a batch is what goes through the networks at once.
  const low16 = precision === 'bf16' ? 2 : 4
  const part = 1 / train.accumulate
  const tokens = part * (globals.count * globals.tokens + locals.count * locals.tokens)
  const {width: C, hidden, ffn, depth} = vit
  const F = ffn === 'swiglu' ? 2 * hidden : hidden
  const branch = tokens * share
  const saved = {
    fast: branch * (2 * 4 * C + low16 * (4 * C + F)),
    balanced: tokens * 4 * C + branch * low16 * 4 * C,
    small: tokens * 4 * C
  }[train.memory]
  const within = tokens * 4 * 3 * C + branch * low16 * (5 * C + 2 * F) // one block on its way back
  const K = (name: 'dinoHead' | 'ibotHead'): number => (plan[name] ?? plan.dinoHead).prototypes
  const shared = !plan.ibotHead
  const rows = globals.count + locals.count
  const scores = [
    globals.count * K('dinoHead'), // the teacher's
    masked * K('ibotHead'),
    (rows + (shared ? masked : 0)) * K('dinoHead'), // the student's
    shared ? 0 : masked * K('ibotHead')
  ].map(numbers => low16 * numbers)
  const keeps = train.memory === 'fast' && train.accumulate === 1 && (!teacher || teacher.heads !== undefined)
  const held = keeps ? scores.reduce((sum, bytes) => sum + (bytes > MAX_CACHED_LOGITS_BYTES ? 0 : bytes), 0) : 0
  const pixels =
    part * 4 * 3 * (globals.count * settings.crops.global_crops_size ** 2 + locals.count * settings.crops.local_crops_size ** 2)
  const centers = train.centering === 'centering' ? 4 * (K('dinoHead') + K('ibotHead')) : 0
  const linear = backbone - 4 * C * depth
  const [last, mlps] = [heads.reduce((sum, head) => sum + head.last, 0), heads.reduce((sum, head) => sum + head.mlp, 0)]
  // The dearest moment is one of two: the scores are there and nothing is computed back yet, or all gradients are
  // nearly there.
  const lastGradients = 4 * last
  const activations = Math.max(depth * saved + held + lastGradients + pixels, depth * saved * 0.5 + within + 4 * parameters, 4 * parameters)
  return {
    parameters,
    flops,
    state: 16 * parameters + centers,
    copies: (low16 === 2 ? 2 * (linear + mlps) : 0) + low16 * last + (teacher?.bytes ?? 0),
    activations
  }
}

/**
 * Floating-point operations a second of one block of this width, forwards and backwards, on whatever engine runs;
 * `images` bounds those that go through at once.
 */
export function throughputOf(
  vit: VitConfig,
  precision: Precision,
  {seconds = 1.5, pixels = 224, images: most = Infinity}: {seconds?: number; pixels?: number; images?: number} = {}
): number {
  const side = Math.max(1, Math.floor(pixels / vit.patch))
  const one: VitConfig = {...vit, depth: 1, grid: side}
  const count = Math.min(most, Math.max(2, Math.round(2048 / side ** 2)))
  const params = initVit(one, 0)
  const {params: low, owned} = castParams(params, precision)
  const images = truncatedNormal([count, side * vit.patch, side * vit.patch, 3]) as Tensor4D
  const view: View = {count, patches: side ** 2, tokens: 1 + vit.registers + side ** 2}
  const step = (): void => {
    const {y, trace} = forwardTrain(low, [{images}], one, [{heads: vit.heads}])
    const grads = backwardTrain(y, low, trace, one)
    tidy(() => grads.norm.weight.sum().dataSync()) // waited for, also where the engine works ahead
    y.dispose()
    disposeTree(grads)
  }
  try {
    step()
    let [taken, spent] = [0, 0]
    const begun = performance.now()
    do {
      step()
      taken++
      spent = (performance.now() - begun) / 1000
    } while (spent < seconds && taken < 1000)
    return (taken * 3 * forwardFlops(one, [view])) / spent
  } finally {
    images.dispose()
    dispose(owned)
    disposeTree(params)
  }
}

export type CostEstimate = MeasuredCost & {
  /** What computed, in words: processor or GPU, threads, engine and precision. */
  readonly machine: string
  readonly flopsPerStep: number
  /** Why no step was tried and the numbers are an estimate; undefined where they were measured. */
  readonly estimated?: string
}

/** A probe takes some steps, so none is tried where one alone would take longer. */
const MAX_PROBE_SECONDS = 45
/** Operations a second that any machine achieves which one trains on. */
const MIN_FLOPS = 2e10
/** Of a process without tensors: engine, JavaScript, threads that decode. */
const BASE_PROCESS_BYTES = 400 * 2 ** 20

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/**
 * What a run will need: measured by its first steps where they fit and do not take too long, else estimated. With
 * `tflops` no step is tried: the time is that of a device which achieves so many 10¹² operations a second. `limits`
 * say how many bytes and seconds a step of the probe may take; by default what is free, and 45 s.
 */
export async function estimateCost(
  options: CostProbeOptions & {
    readonly engine: Pick<EngineInfo, 'engine' | 'version' | 'device' | 'threads'>
    readonly tflops?: number
    readonly teacher?: TeacherCost
    /** Makes what learns, where steps are tried; pretraining where absent. */
    readonly begin?: () => Promise<Trainer<unknown>>
    readonly limits?: {readonly bytes?: number; readonly seconds?: number}
  }
): Promise<CostEstimate> {
  const {engine, tflops, settings, plan, precision} = options
  const sizes = countCost(settings, plan, precision, options.teacher)
  const onCpu = engine.device === 'cpu'
  const title = onCpu ? cpuDevice().title : ((await cudaDevices()).find(({name}) => name === engine.device)?.title ?? engine.device)
  const machine = `${title}, ${onCpu ? `${engine.threads} thread${engine.threads === 1 ? '' : 's'}, ` : ''}${engine.engine} ${engine.version}, ${precision}`
  const tensors = sizes.state + sizes.copies + sizes.activations
  const outside = BASE_PROCESS_BYTES + settings.train.cache_mb * 2 ** 20
  const needed = tensors + (onCpu ? outside : 0)
  const free = options.limits?.bytes ?? (await freeMemory(engine.device))
  const estimate = async (why: string, perSecond: number, where = machine): Promise<CostEstimate> => {
    const secondsPerStep = sizes.flops / perSecond
    const secondsPerByte = await secondsPerByteWritten(options.folder, 2 ** 22)
    const checkpoints = Math.ceil(plan.steps / settings.train.checkpoint_every)
    return {
      images: typeof options.images === 'number' ? options.images : options.images.length,
      steps: plan.steps,
      parameters: sizes.parameters,
      secondsPerStep,
      dataWait: 0,
      checkpointSeconds: sizes.state * secondsPerByte,
      checkpointBytes: sizes.state,
      seconds: secondsPerStep * plan.steps + (checkpoints + 0.5) * sizes.state * secondsPerByte,
      peakBytes: tensors,
      processBytes: onCpu ? needed : undefined,
      parts: {
        state: sizes.state,
        copies: sizes.copies,
        activations: sizes.activations,
        base: onCpu ? BASE_PROCESS_BYTES : undefined,
        tensors,
        process: onCpu ? tensors + BASE_PROCESS_BYTES : undefined
      },
      machine: where,
      flopsPerStep: sizes.flops,
      estimated: why
    }
  }
  if (tflops !== undefined)
    return estimate(`a device that achieves ${tflops} TFLOP/s is asked about`, tflops * 1e12, `a device of ${tflops} TFLOP/s, ${precision}`)
  const roomy = free === undefined || needed <= 0.95 * free
  const limit = options.limits?.seconds ?? MAX_PROBE_SECONDS
  // Where even a slow processor takes the step in time, its throughput need not be known; and the probe's own memory
  // is then the highest that this process sees.
  if (!roomy || sizes.flops > limit * MIN_FLOPS) {
    const perSecond = throughputOf(plan.vit, precision, {pixels: settings.crops.global_crops_size, images: plan.batch}) // no more than a step takes
    const achieved = `one block of this width achieves ${(perSecond / 1e12).toPrecision(2)} TFLOP/s here`
    if (!roomy) return estimate(`a probe would need about ${gib(needed)} and ${gib(free)} are free; ${achieved}`, perSecond)
    const each = sizes.flops / perSecond
    if (each > limit) return estimate(`a step takes about ${each.toPrecision(2)} s, too long to try some; ${achieved}`, perSecond)
  }
  const learner = await options.begin?.()
  return {...(await probeCost({...options, ...(learner ? {learner} : {})})), machine, flopsPerStep: sizes.flops}
}
