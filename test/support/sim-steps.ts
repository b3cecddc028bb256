/**
 * Three steps of training on the simulated device, launched one after the other and then read: what they cost and what
 * they gave. Run as a program it is one of several processes that a launcher started, and prints them as JSON.
 *
 * usage: sim-steps.js REQUEST, a `SimRequest` as JSON
 */
import {argv} from 'node:process'
import {fileURLToPath} from 'node:url'
import {derive} from '../../src/config/derived.js'
import {resolveFile} from '../../src/config/read-layers.js'
import type {Settings} from '../../src/config/table.js'
import {forgetConstants} from '../../src/engine/torch/kernels/constants.js'
import {castForInference} from '../../src/model/vit.js'
import {launchOf} from '../../src/system/launch.js'
import {noiseBatches} from '../../src/tasks/train/cost-probe.js'
import {distillTrainer, initStudent, patchTargetGrid} from '../../src/tasks/train/distill-trainer.js'
import {initState} from '../../src/tasks/train/pretrain-state.js'
import {pretrainTrainer} from '../../src/tasks/train/pretrain-trainer.js'
import {TrainingProcesses} from '../../src/tasks/train/processes.js'
import {shardingOf} from '../../src/tasks/train/spread.js'
import type {Network} from '../../src/tasks/train/step-types.js'
import {castHead} from '../../src/tasks/train/teacher-targets.js'
import {TeacherTargetCache, type Teacher} from '../../src/tasks/train/teacher.js'
import {maskSettingsOf} from '../../src/tasks/train/training-batches.js'
import type {Trainer} from '../../src/tasks/train/run-types.js'
import type {Precision} from '../../src/tensor/ops/precision.js'
import {dispose} from '../../src/tensor/tf.js'
import {unflatten} from '../../src/tensor/tree.js'
import {counted} from './engine.js'
import {onSim, type SimCounts} from './sim.js'

export type SimRequest = {
  readonly kind: 'pretrain' | 'heads' | 'features'
  readonly precision: Precision
  readonly parallel?: 'none' | 'ddp' | 'fsdp'
  /** Whether steps are launched and read together, or read one by one. */
  readonly ahead: boolean
  /** Where the loss scale begins. */
  readonly scale?: number
}

export type SimSteps = {
  /** Of each step; `reading` is what it costs to read all of them. */
  readonly steps: readonly Pick<SimCounts, 'toDevice' | 'toHost' | 'operators'>[]
  readonly reading: number
  readonly losses: readonly number[]
  readonly norms: readonly number[]
  readonly scale: number | undefined
  /** Tensors and bytes of the device that are left when all is let go. */
  readonly left: readonly [tensors: number, bytes: number]
}

const STEPS = 3

function settingsOf(parallel: 'none' | 'ddp' | 'fsdp'): Settings {
  const {settings} = resolveFile('small')
  return {
    ...settings,
    train: {...settings.train, batch_size_per_gpu: 2, parallel},
    student: {...settings.student, embed_dim: 32, num_heads: 2, depth: 1, drop_path_rate: 0},
    dino: {...settings.dino, head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32},
    crops: {...settings.crops, local_crops_number: 1, global_crops_size: 32, local_crops_size: 16}
  }
}

/** A frozen teacher of the student's own size, which nobody has trained. */
async function teacherOf(settings: Settings, precision: Precision, withHeads: boolean): Promise<Teacher> {
  const plan = derive({...settings, train: {...settings.train, seed: 7}})
  const {student, teacher, moments} = await initState(settings, plan)
  dispose([...student.values(), ...moments.m.values(), ...moments.v.values()])
  const {backbone, dino_head} = unflatten<Network>(teacher)
  const low = castForInference(backbone, precision)
  const dino = castHead(dino_head, precision)
  return {
    path: 'teacher',
    vit: plan.vit,
    parameters: 0,
    bytes: () => 0,
    precision,
    fingerprint: '',
    backbone: low.params,
    ...(withHeads ? {heads: {dino_head: plan.dinoHead}, copies: {dino}} : {}),
    dispose: () => dispose([...new Set([...teacher.values(), ...low.owned, ...dino.owned])])
  }
}

async function learnerOf({kind, precision, ahead}: SimRequest, settings: Settings, processes: TrainingProcesses | undefined) {
  const plan = derive(settings, processes?.size)
  const spreading = shardingOf(settings, precision, processes)
  const options = {settings, plan, precision, worksAhead: ahead, ...(processes ? {processes} : {})}
  if (kind === 'pretrain') {
    const state = await initState(settings, plan, undefined, spreading.spread)
    const learner: Trainer<{losses: {total: number}}> = pretrainTrainer(state, options, spreading.sharding)
    return {learner, dispose: () => learner.dispose()}
  }
  const teacher = await teacherOf(settings, precision, kind === 'heads')
  const cache = new TeacherTargetCache(teacher, [patchTargetGrid(settings, plan, teacher)], settings.crops.global_crops_size)
  const state = await initStudent(settings, plan, teacher, spreading.spread)
  const learner: Trainer<{losses: {total: number}}> = distillTrainer(state, cache, options, spreading.sharding)
  const all = (): void => {
    learner.dispose()
    cache.dispose()
    teacher.dispose()
  }
  return {learner, dispose: all}
}

/** Takes the steps; `processes` are those of a run of several. */
export async function simSteps(request: SimRequest, processes?: TrainingProcesses): Promise<SimSteps> {
  const {sim} = await onSim(request.precision as 'fp32')
  if (processes) await processes.join('sim:0', {request})
  const settings = settingsOf(processes ? (request.parallel ?? 'ddp') : 'none')
  const before = counted()
  const {learner, dispose: letGo} = await learnerOf(request, settings, processes)
  if (request.scale) learner.lossScale!.restore({value: request.scale, since: 0})
  const steps: SimSteps['steps'][number][] = []
  const results: ReturnType<typeof learner.step>[] = []
  for await (const made of noiseBatches(settings, 2, maskSettingsOf(settings, derive(settings)))) {
    sim.reset()
    if (learner.ahead) learner.ahead.launch(made)
    else results.push(learner.step(made))
    const {toDevice, toHost, operators} = sim.counts()
    steps.push({toDevice, toHost, operators})
    if (steps.length === STEPS) break
  }
  sim.reset()
  if (learner.ahead) {
    const {taken, notFinite} = learner.ahead.settle()
    if (notFinite !== undefined) throw new Error(`step ${notFinite} is not finite`)
    results.push(...taken)
  }
  const reading = sim.counts().toHost
  const scale = learner.lossScale?.kept().value
  letGo()
  forgetConstants()
  const norms = results.map(({measured}) => measured['grad_norm_backbone']!)
  return {
    steps,
    reading,
    losses: results.map(({report}) => report.losses.total),
    norms,
    scale,
    left: [counted() - before, sim.counts().bytes]
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  const processes = await TrainingProcesses.meet(launchOf()!, {timeout: 60, note: () => undefined})
  process.stdout.write(`${JSON.stringify(await simSteps(JSON.parse(argv[2]!) as SimRequest, processes))}\n`)
  await processes.exchange({end: true})
  processes.close()
}
