/**
 * Pretraining: images in, a trained backbone out, as a generator of plain events.
 *
 * Every step is a pure function of (settings, seed, step, images): which images, which crops, which masks, which sequences stochastic depth
 * keeps. So the state of a run is its parameters, moments, centres and its step, and a resumed run goes on as if it had never stopped.
 */
import {appendFile, mkdir, readFile, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../config/errors.js'
import type {Derived} from '../config/derived.js'
import type {Settings} from '../config/table.js'
import type {CropSettings} from '../data/augment.js'
import {cropBatches} from '../data/batches.js'
import type {BadImage, CropBatch} from '../data/batches.js'
import {maskSettings} from '../data/masks.js'
import {shuffledSampler} from '../data/sampler.js'
import type {ImageList} from '../data/table.js'
import {saveBackbone, saveHuggingFace} from '../files/backbone.js'
import type {NamedTensor} from '../files/backbone.js'
import {writeSafetensors} from '../files/safetensors.js'
import {bytesOf} from '../files/tensor-entry.js'
import {listStates, pruneStates, readState, writeState} from '../files/training-state.js'
import type {StateTensor} from '../files/training-state.js'
import {initHead, initVit} from '../model/init.js'
import type {Named} from '../optim/adamw.js'
import {cosine} from '../optim/schedule.js'
import type {Precision} from '../tensor/ops/precision.js'
import {normalizePixels} from '../tensor/ops/patches.js'
import {rng} from '../tensor/random.js'
import {Tensor, dispose, tensor, tidy, zeros, zerosLike} from '../tensor/tf.js'
import type {Tensor2D} from '../tensor/tf.js'
import {flat} from '../tensor/tree.js'
import {loadBackbone} from './backbone.js'
import {memoryParts} from './memory.js'
import type {MemoryParts} from './memory.js'
import {trainStep} from './train-step.js'
import type {CropsOf, LazyBatch, StepBatch, StepRates, StepReport, StepSettings, TrainState} from './train-step.js'

export type PretrainOptions = {
  readonly images: ImageList
  readonly settings: Settings
  readonly plan: Derived
  readonly precision: Precision
  /** The run folder; it exists. */
  readonly run: string
  /** The settings as YAML, as they stand in the run folder and in each checkpoint. */
  readonly yaml: string
  readonly version: string
  /** Go on from the newest checkpoint of the run folder. */
  readonly resume?: boolean
  readonly signal?: AbortSignal
  readonly onBad?: (bad: BadImage) => void
  /** Asked after each step; false ends the run as a signal does, with a checkpoint. */
  readonly goOn?: () => boolean
}

/** Averages since the last line of metrics, as written there. */
export type Metrics = Readonly<Record<string, number>> & {readonly step: number}

export type PretrainEvent =
  | {
      readonly kind: 'resumed'
      readonly step: number
      readonly path: string /** Of the run so far, where it differs. */
      readonly precision?: string
    }
  | {readonly kind: 'step'; readonly step: number; readonly report: StepReport; readonly dataWait: number; readonly seconds: number}
  | {readonly kind: 'metrics'; readonly metrics: Metrics}
  | {readonly kind: 'checkpoint'; readonly step: number; readonly path: string}
  | {readonly kind: 'stopped'; readonly step: number; readonly path: string}
  | {readonly kind: 'finished'; readonly step: number; readonly model: string; readonly health: Health}

export type Health = {readonly healthy: boolean; readonly words: string}

/** The parts of the step's settings that the plan gives. */
export const stepSettings = ({dino, ibot, train, optim}: Settings, plan: Derived, precision: Precision): StepSettings => ({
  vit: plan.vit,
  precision,
  centering: train.centering,
  dinoWeight: dino.loss_weight,
  ibotWeight: ibot.loss_weight,
  koleoWeight: dino.koleo_loss_weight,
  studentTemp: 0.1,
  dropPath: plan.dropPath,
  clipGrad: optim.clip_grad,
  betas: [optim.adamw_beta1, optim.adamw_beta2],
  eps: 1e-8,
  rules: {depth: plan.vit.depth, layerwiseDecay: optim.layerwise_decay, patchEmbedLrMult: optim.patch_embed_lr_mult},
  memory: train.memory,
  accumulate: train.accumulate
})

/** What the schedules say about step number `step`, counted from 0. */
export const ratesAt = ({curves}: Derived, step: number): StepRates => ({
  lr: cosine(curves.lr, step),
  lastLayerLr: cosine(curves.lastLayerLr, step),
  wd: cosine(curves.weightDecay, step),
  momentum: cosine(curves.momentum, step),
  teacherTemp: cosine(curves.teacherTemperature, step)
})

/** A state at step 0: student and teacher alike, moments zero. */
export async function freshState(settings: Settings, plan: Derived): Promise<TrainState> {
  const seed = settings.train.seed
  const heads = {
    dino_head: initHead({width: plan.vit.width, ...plan.dinoHead}, seed, 'dino_head'),
    ...(plan.ibotHead ? {ibot_head: initHead({width: plan.vit.width, ...plan.ibotHead}, seed, 'ibot_head')} : {})
  }
  const backbone = initVit(plan.vit, seed, settings.student.layerscale)
  const student = flat({backbone, ...heads})
  if (settings.student.pretrained_weights) {
    try {
      await startFrom(settings.student.pretrained_weights, student, plan)
    } catch (error) {
      dispose([...student.values()])
      throw error
    }
  }
  const copy = (make: (x: Tensor) => Tensor): Named => new Map([...student].map(([name, leaf]) => [name, make(leaf)]))
  const K = plan.dinoHead.prototypes
  return {
    student,
    teacher: copy(leaf => tidy(() => leaf.add(0))), // a copy of the numbers: the average changes in place
    moments: {m: copy(zerosLike), v: copy(zerosLike)},
    ...(settings.train.centering === 'centering'
      ? {centers: {dino: zeros([1, K]) as Tensor2D, ibot: zeros([1, plan.ibotHead?.prototypes ?? K]) as Tensor2D}}
      : {}),
    step: 0
  }
}

/** Puts the weights of a checkpoint in the place of the student's backbone. */
async function startFrom(path: string, student: Named, {vit}: Derived): Promise<void> {
  const loaded = await loadBackbone(path, {trainable: true})
  const names = ['width', 'depth', 'heads', 'patch', 'ffn', 'hidden', 'registers', 'grid', 'layerScale'] as const
  const differs = names.filter(name => loaded.config[name] !== vit[name])
  if (differs.length > 0) {
    loaded[Symbol.dispose]()
    throw new UserError(
      `student.pretrained_weights ${path} does not fit the settings: ${differs.map(name => `${name} is ${String(loaded.config[name])} there and ${String(vit[name])} here`).join('; ')}.`,
      {exit: 2, code: 'SETTINGS', hint: 'Set student and crops.global_crops_size to the sizes of the checkpoint.'}
    )
  }
  for (const [name, leaf] of flat(loaded.params)) {
    dispose(student.get(`backbone.${name}`)!)
    student.set(`backbone.${name}`, leaf)
  }
}

/** Every tensor of a state by its name in a checkpoint file. */
function* stateTensors({student, teacher, moments, centers}: TrainState): Generator<StateTensor> {
  const groups: [string, Iterable<[string, Tensor]>][] = [
    ['student', student],
    ['teacher', teacher],
    ['moment1', moments.m],
    ['moment2', moments.v],
    ['center', centers ? Object.entries(centers) : []]
  ]
  for (const [group, leaves] of groups)
    for (const [name, leaf] of leaves)
      yield {name: `${group}.${name}`, shape: leaf.shape, read: async () => (await leaf.data()) as Float32Array}
}

/** Settings that say how a run is carried out, not what it computes: these may change when it is resumed. */
const FREE = new Set([
  'train.memory', // every level computes the same numbers
  'train.workers',
  'train.cache_mb',
  'train.log_every',
  'train.checkpoint_every',
  'train.keep_checkpoints',
  'train.keep_every'
])

/** Throws a `UserError` of status 2 where a run is to go on with other settings, or other images, than it began with. */
function refuseChanges(path: string, metadata: Readonly<Record<string, string>>, settings: Settings, images: number): void {
  const before = metadata['settings']
  const changes: string[] = []
  if (before) {
    const known = JSON.parse(before) as Record<string, Record<string, unknown>>
    for (const [section, values] of Object.entries(settings))
      for (const [key, value] of Object.entries(values)) {
        const old = known[section]?.[key]
        if (!FREE.has(`${section}.${key}`) && JSON.stringify(old) !== JSON.stringify(value))
          changes.push(`${section}.${key} was ${JSON.stringify(old)} and is ${JSON.stringify(value)}`)
      }
  }
  if (metadata['images'] && metadata['images'] !== String(images)) changes.push(`there were ${metadata['images']} images and are ${images}`)
  if (changes.length === 0) return
  throw new UserError(`The run of ${path} cannot go on as it began: ${changes.join('; ')}.`, {
    exit: 2,
    code: 'SETTINGS',
    hint: 'Resume with its own config.yaml and the same images, or begin a new run from its model with student.pretrained_weights.'
  })
}

/**
 * Fills a state from a checkpoint file. `check` sees the file's metadata first.
 * Throws what `check` throws, and a `UserError` where names or shapes differ, with all differences.
 */
export async function loadState(
  path: string,
  state: TrainState,
  check: (metadata: Readonly<Record<string, string>>) => void = () => undefined
): Promise<TrainState & {metadata: Readonly<Record<string, string>>}> {
  const places = new Map<string, {shape: readonly number[]; put(value: Tensor): void}>()
  const maps: [string, Named][] = [
    ['student', state.student],
    ['teacher', state.teacher],
    ['moment1', state.moments.m],
    ['moment2', state.moments.v]
  ]
  for (const [group, named] of maps)
    for (const [name, leaf] of named)
      places.set(`${group}.${name}`, {
        shape: leaf.shape,
        put: value => {
          dispose(named.get(name)!)
          named.set(name, value)
        }
      })
  const centers = state.centers
  if (centers)
    for (const key of ['dino', 'ibot'] as const)
      places.set(`center.${key}`, {
        shape: centers[key].shape,
        put: value => {
          dispose(centers[key])
          centers[key] = value as Tensor2D
        }
      })
  const wrong: string[] = []
  const {step, metadata} = await readState(path, check, (name, shape, values) => {
    const place = places.get(name)
    if (!place || place.shape.join() !== shape.join()) {
      wrong.push(place ? `${name} is [${shape.join(', ')}] there and [${place.shape.join(', ')}] here` : `${name} has no place here`)
      return
    }
    places.delete(name)
    place.put(tensor(values, shape as number[]))
  })
  for (const name of places.keys()) if (!wrong.some(line => line.startsWith(`${name} `))) wrong.push(`${name} is missing there`)
  if (wrong.length > 0) {
    wrong.sort((a, b) => Number(!a.startsWith('student')) - Number(!b.startsWith('student'))) // the rest differs as the student does
    throw new UserError(
      `The checkpoint ${path} does not fit the settings: ${wrong.slice(0, 12).join('; ')}${wrong.length > 12 ? `; and ${wrong.length - 12} more` : ''}.`,
      {
        exit: 2,
        code: 'SETTINGS',
        hint: 'Resume with the settings of the run (its config.yaml).'
      }
    )
  }
  return {...state, step, metadata}
}

/** One batch of bytes for the engine, for `freeBatch`. Where it is computed in parts, the crops of each are made when it comes to it. */
export function stepBatch(
  {globals, locals, masks, indices, weights}: CropBatch,
  batch: number,
  crops: CropSettings,
  patch: number,
  parts = 1
): StepBatch | LazyBatch {
  const {globalSize: G, localSize: S, localCount} = crops
  const N = Math.floor(G / patch) ** 2
  const rest = {masks: tensor(Float32Array.from(masks), [2 * batch, N]) as Tensor2D, indices, weights}
  if (parts === 1)
    return {
      globals: normalizePixels(globals, [2 * batch, G, G]),
      ...(localCount > 0 ? {locals: normalizePixels(locals, [localCount * batch, S, S])} : {}),
      ...rest
    }
  const some =
    (bytes: Uint8Array, each: number, side: number): CropsOf =>
    (from, to) => {
      const own = new Uint8Array(each * (to - from) * side * side * 3)
      for (let crop = 0; crop < each; crop++) {
        const start = (crop * batch + from) * side * side * 3
        own.set(bytes.subarray(start, start + (to - from) * side * side * 3), crop * (to - from) * side * side * 3)
      }
      return normalizePixels(own, [each * (to - from), side, side])
    }
  return {globals: some(globals, 2, G), ...(localCount > 0 ? {locals: some(locals, localCount, S)} : {}), localCount, ...rest}
}

/** Lets a batch's tensors go. */
export const freeBatch = ({globals, locals, masks}: StepBatch | LazyBatch): void =>
  dispose([globals, locals, masks].filter(crops => crops instanceof Tensor))

/** Lets all tensors of a state go. */
export function freeState({student, teacher, moments, centers}: TrainState): void {
  for (const named of [student, teacher, moments.m, moments.v]) dispose([...named.values()])
  if (centers) dispose([centers.dino, centers.ibot])
}

/** The crops that the settings ask for. */
export const cropSettings = ({crops, train}: Settings): CropSettings => ({
  decode: train.decode,
  globalSize: crops.global_crops_size,
  localSize: crops.local_crops_size,
  globalScale: crops.global_crops_scale,
  localScale: crops.local_crops_scale,
  localCount: crops.local_crops_number,
  blur: crops.blur,
  blurSigma: [0.1, crops.blur_sigma_max]
})

/** Names the loss that is not finite, for the error of status 6. */
function refuseUnhealthy(report: StepReport, step: number, ids: readonly string[], last: string | undefined): void {
  const bad = [
    ...Object.entries(report.losses),
    ...Object.entries(report.gradNorms).map(([name, norm]) => [`gradient of ${name}`, norm] as const)
  ].filter(([, value]) => !Number.isFinite(value))
  if (bad.length === 0) return
  throw new UserError(
    `Step ${step + 1} is not finite: ${bad.map(([name, value]) => `${name} is ${value}`).join(', ')}. Its images: ${ids.slice(0, 8).join(', ')}${ids.length > 8 ? `, and ${ids.length - 8} more` : ''}.`,
    {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${last ? `The last good checkpoint is ${last}. ` : ''}Try a lower optim.base_lr, a longer optim.warmup_epochs, or --precision fp32.`
    }
  )
}

/** Says how a run went, from its last lines of metrics. K prototypes, so that ln K is the loss of a model that knows nothing. */
export function judge(lines: readonly Metrics[], prototypes: number, settings: Settings): Health {
  const mean = (name: string): number => lines.reduce((sum, line) => sum + (line[name] ?? 0), 0) / Math.max(1, lines.length)
  const uniform = Math.log(prototypes)
  const weight = settings.dino.loss_weight
  const loss = weight > 0 ? (mean('dino_local') + mean('dino_global')) / weight : uniform // the weights of all pairs sum to one
  const alike = mean('cls_cosine')
  if (alike > 0.98)
    return {
      healthy: false,
      words: `collapsed: all images look alike to the model (mean cosine of cls tokens ${alike.toFixed(3)}, expected well below 1)`
    }
  if (weight > 0 && loss < 0.02 * uniform && mean('teacher_entropy') < 0.02 * uniform)
    return {
      healthy: false,
      words: `collapsed: one prototype for every image (DINO loss ${loss.toFixed(3)} and entropy of the teacher ${mean('teacher_entropy').toFixed(3)})`
    }
  if (weight > 0 && loss > 0.998 * uniform)
    return {
      healthy: false,
      words: `not learning: the DINO loss stands at ${loss.toFixed(3)} a pair, which is ln ${prototypes} = ${uniform.toFixed(3)}, the loss of a uniform guess`
    }
  return {
    healthy: true,
    words: `healthy: DINO loss ${loss.toFixed(3)} a pair against ${uniform.toFixed(3)} for a uniform guess, mean cosine of cls tokens ${alike.toFixed(3)}`
  }
}

/** Lines of metrics that the verdict looks at: the noise of a single one must not decide. */
const JUDGED = 5

/**
 * Trains from step 0, or from the newest checkpoint, to the end of the plan or until `signal` aborts; then a checkpoint is written first.
 * Throws a `UserError` of status 6 at a loss or gradient that is not finite.
 */
export async function* pretrain(options: PretrainOptions): AsyncGenerator<PretrainEvent> {
  const {images, settings, plan, precision, run, signal} = options
  const {train} = settings
  const fixed = stepSettings(settings, plan, precision)
  const metricsFile = join(run, 'metrics.jsonl')
  const metadata = {tool: `dinov2 ${options.version}`, settings: JSON.stringify(settings), precision, images: String(images.length)}
  let state = await freshState(settings, plan)
  let lastPath: string | undefined
  if (options.resume) {
    const newest = (await listStates(run)).at(-1)
    if (!newest)
      throw new UserError(`${run} has no checkpoint to go on from.`, {exit: 3, code: 'NO_INPUT', hint: 'Start it anew with --force.'})
    const {metadata: made, ...loaded} = await loadState(newest.path, state, found =>
      refuseChanges(newest.path, found, settings, images.length)
    )
    state = loaded
    lastPath = newest.path
    await keepLines(metricsFile, state.step)
    yield {
      kind: 'resumed',
      step: state.step,
      path: newest.path,
      ...(made['precision'] === precision ? {} : {precision: made['precision'] ?? 'another'})
    }
  } else {
    await mkdir(run, {recursive: true})
    for (const old of ['checkpoints', 'final']) await rm(join(run, old), {recursive: true, force: true})
    await writeFile(join(run, 'config.yaml'), options.yaml)
    await writeFile(metricsFile, '')
  }

  const checkpoint = async (): Promise<string> => {
    lastPath = await writeState(run, state.step, stateTensors(state), metadata)
    await pruneStates(run, train.keep_checkpoints, train.keep_every)
    return lastPath
  }
  const crops = cropSettings(settings)
  const average = new Averages()
  const batches = cropBatches({
    refs: images,
    sampler: shuffledSampler(images.length, train.seed),
    batch: plan.batch,
    crops,
    masks: maskSettings(crops.globalSize, plan.vit.patch, settings.ibot.mask_sample_probability, settings.ibot.mask_ratio_min_max),
    seed: train.seed,
    start: state.step,
    end: plan.steps,
    cacheBytes: train.cache_mb * 2 ** 20,
    ...(train.workers > 0 ? {workers: train.workers} : {}),
    ...(options.onBad ? {onBad: options.onBad} : {})
  })
  try {
    for await (const made of batches) {
      const begun = performance.now()
      const batch = stepBatch(made, plan.batch, crops, plan.vit.patch, train.accumulate)
      const rates = ratesAt(plan, made.step)
      const stepped = trainStep(state, batch, rates, fixed, rng(train.seed, 'drop path', made.step))
      state = stepped.state
      freeBatch(batch)
      const {report} = stepped
      refuseUnhealthy(report, made.step, made.ids, lastPath)
      const seconds = (performance.now() - begun) / 1000 + made.waitSeconds
      average.add({
        ...report.losses,
        ...Object.fromEntries(Object.entries(report.gradNorms).map(([name, norm]) => [`grad_norm_${name}`, norm])),
        teacher_entropy: report.teacherEntropy,
        cls_cosine: report.clsCosine,
        masked_patches: report.masked,
        seconds,
        waited: made.waitSeconds
      })
      yield {kind: 'step', step: state.step, report, dataWait: made.waitSeconds, seconds}
      if (state.step % train.log_every === 0 || state.step === plan.steps) {
        const metrics = metricsLine(state.step, average.take(), rates, plan.batch, memoryParts(state, precision))
        await appendFile(metricsFile, JSON.stringify(metrics) + '\n')
        yield {kind: 'metrics', metrics}
      }
      const stopping = signal?.aborted === true || options.goOn?.() === false
      if (state.step % train.checkpoint_every === 0 || state.step === plan.steps || stopping) {
        const path = await checkpoint()
        yield {kind: 'checkpoint', step: state.step, path}
        if (stopping && state.step < plan.steps) {
          yield {kind: 'stopped', step: state.step, path}
          return
        }
      }
    }
    const model = await saveFinal(run, state, options)
    const last = (await parsed(metricsFile)).slice(-JUDGED)
    const health = last.length > 0 ? judge(last, plan.dinoHead.prototypes, settings) : {healthy: true, words: 'no step was taken'}
    yield {kind: 'finished', step: state.step, model, health}
  } finally {
    freeState(state)
  }
}

/** Sums of what the steps since the last line measured. */
class Averages {
  private sums = new Map<string, number>()
  private count = 0

  add(values: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(values)) this.sums.set(name, (this.sums.get(name) ?? 0) + value)
    this.count++
  }

  take(): Map<string, number> {
    const means = new Map([...this.sums].map(([name, sum]) => [name, sum / this.count]))
    this.sums = new Map()
    this.count = 0
    return means
  }
}

/** One line of metrics.jsonl: means since the last line, the rates of this step, images a second, the share of time lost waiting, and what memory was made of at its peak. */
function metricsLine(step: number, means: Map<string, number>, rates: StepRates, batch: number, parts: MemoryParts): Metrics {
  const seconds = means.get('seconds') ?? 0
  const waited = means.get('waited') ?? 0
  means.delete('seconds')
  means.delete('waited')
  const round = (value: number): number => Number(value.toPrecision(7))
  return {
    step,
    ...Object.fromEntries([...means].map(([name, value]) => [name, round(value)])),
    lr: round(rates.lr),
    last_layer_lr: round(rates.lastLayerLr),
    wd: round(rates.wd),
    momentum: round(rates.momentum),
    teacher_temp: round(rates.teacherTemp),
    images_per_second: round(batch / seconds),
    data_wait: round(waited / seconds),
    ...Object.fromEntries(
      Object.entries(parts).flatMap(([name, bytes]) => (bytes === undefined ? [] : [[`memory_${name}_mib`, Math.round(bytes / 2 ** 20)]]))
    )
  }
}

const parsed = async (file: string): Promise<Metrics[]> =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').flatMap(line => {
    try {
      return line ? [JSON.parse(line) as Metrics] : []
    } catch {
      return [] // the last line of a run that was killed may be torn
    }
  })

/** Drops metrics of steps that will be taken again. */
async function keepLines(file: string, until: number): Promise<void> {
  const kept = (await parsed(file)).filter(({step}) => step <= until)
  await writeFile(file, kept.map(line => JSON.stringify(line) + '\n').join(''))
}

/** Writes `final/`: the teacher's backbone as safetensors and as a Hugging Face folder, and its heads. Returns the path of the backbone. */
async function saveFinal(run: string, {teacher, step}: TrainState, {plan, settings, version}: PretrainOptions): Promise<string> {
  const folder = join(run, 'final')
  await mkdir(folder, {recursive: true})
  async function* backbone(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of teacher)
      if (name.startsWith('backbone.'))
        yield {name: name.slice('backbone.'.length), shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  const crop = settings.crops.global_crops_size
  const resize = Math.round((crop * 256) / 224)
  const metadata = {
    tool: `dinov2 ${version}`,
    step: String(step),
    seed: String(settings.train.seed),
    resize: String(resize),
    crop: String(crop)
  }
  const path = join(folder, 'backbone.safetensors')
  await saveBackbone(path, plan.vit, backbone(), metadata, {force: true})
  await saveHuggingFace(join(folder, 'huggingface'), plan.vit, backbone(), {force: true, metadata, preprocessing: {resize, crop}})
  const heads = [...teacher].filter(([name]) => !name.startsWith('backbone.'))
  await writeSafetensors(
    join(folder, 'heads.safetensors'),
    heads.map(([name, leaf]) => ({
      name,
      dtype: 'F32' as const,
      shape: leaf.shape,
      read: async () => bytesOf((await leaf.data()) as Float32Array)
    })),
    metadata,
    {force: true}
  )
  return path
}
