/**
 * What a run would need where its steps cannot be tried: because the model does not fit into this machine's memory,
 * because a few steps would take too long, or because another machine is asked about.
 *
 * Nothing here allocates the model. Parameters, memory and arithmetic are counted from sizes (`cost-counts.ts`), and
 * the time is that arithmetic over the throughput of one block of this width, forwards and backwards, measured here in
 * a short loop. The time is an estimate, and reported as one: it assumes that images come in time.
 */
import {cpuDevice, cudaDevices, freeMemory} from '../../engine/machine.js'
import type {EngineInfo} from '../../engine/start.js'
import type {VitConfig} from '../../model/config.js'
import {initVit} from '../../model/init.js'
import {backwardTrain, castParams, forwardTrain} from '../../model/vit.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {dispose, tidy, truncatedNormal} from '../../tensor/tf.js'
import type {Tensor4D} from '../../tensor/tf.js'
import {disposeTree} from '../../tensor/tree.js'
import {countCost, forwardFlops} from './cost-counts.js'
import type {CropGroup, TeacherCost} from './cost-counts.js'
import {costOfProcesses} from './cost-processes.js'
import type {ProcessesCost} from './cost-processes.js'
import {probeCost, secondsPerByteWritten} from './cost-probe.js'
import type {MeasuredCost, CostProbeOptions} from './cost-probe.js'
import {BASE_PROCESS_BYTES, FREE_SHARE, gib} from './memory-fit.js'
import type {Trainer} from './run-types.js'

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
  const view: CropGroup = {count, patches: side ** 2, tokens: 1 + vit.registers + side ** 2}
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
  /** What each of several processes would need, where several are asked about. */
  readonly several?: ProcessesCost
}

/** A probe takes some steps, so none is tried where one alone would take longer. */
const MAX_PROBE_SECONDS = 45
/** Operations a second that any machine achieves which one trains on. */
const MIN_FLOPS = 2e10

/**
 * What a run will need: measured by its first steps where they fit and do not take too long, else estimated. With
 * `tflops` no step is tried: the time is that of a device which achieves so many 10¹² operations a second. `limits`
 * say how many bytes and seconds a step of the probe may take; by default what is free, and 45 s.
 */
export async function estimateCost(
  options: CostProbeOptions & {
    readonly engine: Pick<EngineInfo, 'engine' | 'version' | 'device' | 'threads'>
    readonly tflops?: number
    /** Processes that share a step, each with the images that the settings give one. */
    readonly processCount?: number
    readonly teacher?: TeacherCost
    /** Makes what learns, where steps are tried; pretraining where absent. */
    readonly begin?: () => Promise<Trainer<unknown>>
    readonly limits?: {readonly bytes?: number; readonly seconds?: number}
  }
): Promise<CostEstimate> {
  const {engine, tflops, settings, plan, precision} = options
  const {processCount = 1} = options
  const several = processCount > 1 ? costOfProcesses(settings, plan, precision, processCount, options.teacher) : undefined
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
      several,
      estimated: why
    }
  }
  if (tflops !== undefined)
    return estimate(`a device that achieves ${tflops} TFLOP/s is asked about`, tflops * 1e12, `a device of ${tflops} TFLOP/s, ${precision}`)
  const roomy = free === undefined || needed <= FREE_SHARE * free
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
  return {...(await probeCost({...options, ...(learner ? {learner} : {})})), machine, flopsPerStep: sizes.flops, several}
}
