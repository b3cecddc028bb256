/**
 * The course of a training run around its steps: batches in, metrics, checkpoints, evaluations and warnings out,
 * stopped and resumed at will.
 *
 * What learns is a `Learner`; everything else is here, so that pretraining and whatever else trains on crops runs,
 * stops and goes on in the same way. Which batch comes at a step is a pure function of seed and step, and a checkpoint
 * holds the learner's tensors with the sums of the line of metrics that is open: so a run that goes on from it writes
 * the same lines and the same numbers as one that was never stopped, times apart.
 */
import {mkdir, readFile, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import {jsonObjectOr} from '../../system/json.js'
import type {Settings} from '../../config/table.js'
import type {CropSettings} from '../../data/augment/multi-crop.js'
import {cropBatches, describeLoad} from '../../data/loader/batches.js'
import type {RejectedImage, Batches, CropBatch} from '../../data/loader/batches.js'
import {maskSettings} from '../../data/augment/block-masks.js'
import type {MaskSettings} from '../../data/augment/block-masks.js'
import {shuffledSampler} from '../../data/loader/sampler.js'
import type {ImageList} from '../../data/sources/image-table.js'
import {atomicFile} from '../../system/atomic.js'
import {saveBackbone} from '../../files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import type {NamedTensor} from '../../files/checkpoint/backbone.js'
import {AppendFile} from '../../files/run/append-file.js'
import {clearRun, openRun, runNames, removeTemporaries} from '../../files/run/run-folder.js'
import {lockRun} from '../../system/lock.js'
import {writeSafetensors} from '../../files/checkpoint/safetensors.js'
import {openEvents} from '../../files/run/tensorboard.js'
import {bytesOf} from '../../files/checkpoint/tensor-entry.js'
import {listStates, pruneStates, stateMetadata, writeState} from '../../files/run/training-state.js'
import {lossTerms, progressOf} from '../../loss/terms.js'
import {globalNorm} from '../../optim/adamw.js'
import type {ParamMap} from '../../optim/adamw.js'
import {assessHealth, windowSize, HealthWatch, improvementOf} from './health.js'
import type {Health, Improvement} from './health.js'
import {NotFiniteStep, nonFiniteTensors} from './non-finite.js'
import type {Explanation} from './non-finite.js'
import {carriedOver, compare, cropMetadata, loadStateDict, imageSet, assertSameCourse, stateRecord, stateTensors} from './resume.js'
import type {Change, Computing, Recorded, StateDict} from './resume.js'

/** What a step gave. */
export type StepResult<Report> = {
  readonly report: Report
  /** Measured: a line of metrics holds their means over its steps. */
  readonly measured: Readonly<Record<string, number>>
  /** What the schedules said of this step. */
  readonly rates: Readonly<Record<string, number>>
}

/** What learns, one batch at a time. */
export type Trainer<Report> = {
  /** Steps taken. */
  readonly stepsTaken: number
  /** All that training changes, by its name in a checkpoint. */
  stateDict(): StateDict
  /** After `places` were filled from a checkpoint of this step. */
  setStep(step: number): void
  /** Takes one step. Throws `NotFiniteStep` where it cannot be taken, with everything as it was. */
  step(made: CropBatch): StepResult<Report>
  /** Where a step that could not be taken stopped being finite. */
  explain(error: NotFiniteStep, made: CropBatch): Explanation
  /** The weights that are judged and kept at last: `backbone.…` and heads. */
  model(): ParamMap
  /** What memory was made of at its highest point so far, in bytes by part. */
  memory?(): Readonly<Record<string, number | undefined>>
  dispose(): void
}

/** Judges the model while it learns. It must not draw from the run's random numbers nor change its tensors. */
export type Evaluation = {
  /** Steps between two evaluations; one more is made at the end. */
  readonly every: number
  /** Whether the model is judged before the first step too: where it begins with weights that are worth something. */
  readonly before?: boolean
  /** Scores by name. */
  run(model: ParamMap): Promise<Readonly<Record<string, number>>>
}

export type RunOptions = {
  readonly images: ImageList
  readonly settings: Settings
  readonly plan: Derived
  readonly crops: CropSettings
  readonly computing: Computing
  /** The run folder. */
  readonly run: string
  /** The settings as YAML, as they stand in the run folder. */
  readonly yaml: string
  readonly version: string
  /** Go on from the newest checkpoint of the run folder, or from the beginning where none was written yet. */
  readonly resume?: boolean
  /** Begin anew where a run is in the folder. */
  readonly force?: boolean
  /** Go on although settings or images differ. */
  readonly acceptChanges?: boolean
  readonly evaluation?: Evaluation
  readonly signal?: AbortSignal
  /**
   * Fingerprint of a frozen teacher that the run learns from; part of what a resumed run must have in common with the
   * one so far.
   */
  readonly teacherFingerprint?: string
  /** Batches from a step on, where they do not come from `images` alone for this run. */
  readonly batches?: (start: number) => Batches<CropBatch>
  readonly onRejected?: (bad: RejectedImage) => void
  /** Asked after each step; false ends the run as a signal does, with a checkpoint. */
  readonly shouldContinue?: () => boolean
}

/** Averages since the last line of metrics, or scores, as written there. */
export type Metrics = Readonly<Record<string, number>> & {readonly step: number}

export type RunEvent<Report> =
  | {
      readonly kind: 'resumed'
      readonly step: number
      /** Undefined where no checkpoint was written before. */
      readonly path: string | undefined
      /** How the rest differs from the run so far, as sentences; empty where it does not. */
      readonly changes: readonly string[]
    }
  | {
      readonly kind: 'step'
      readonly step: number
      readonly report: Report
      /** Losses as a progress line shows them. */ readonly progress: Readonly<Record<string, number>>
      readonly dataWait: number
      readonly seconds: number
    }
  | {readonly kind: 'metrics'; readonly metrics: Metrics}
  | {readonly kind: 'scores'; readonly step: number; readonly scores: Readonly<Record<string, number>>; readonly seconds: number}
  | {readonly kind: 'warning'; readonly message: string}
  | {readonly kind: 'checkpoint'; readonly step: number; readonly path: string}
  /** How the images were loaded, in words, once, before the run stops or ends. */
  | {readonly kind: 'loaded'; readonly words: string}
  | {readonly kind: 'stopped'; readonly step: number; readonly path: string}
  | {readonly kind: 'finished'; readonly step: number; readonly model: string; readonly health: Health; readonly worth?: Improvement}

/**
 * Trains to the end of the plan, or until `signal` aborts or `shouldContinue` says no; then a checkpoint is
 * written first.
 *
 * Throws `UserError`: what `openRun`, `lockRun` and resuming refuse (exit 1, 2, 3); a step that is not finite (exit
 * 6), with the layer, and `not-finite.json` in the run folder; no image can be read any more (exit 4), with a
 * checkpoint; the last checkpoint, the model or the metrics could not be written (exit 1).
 */
export async function* runTraining<Report>(learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const {run, resume = false, force = false} = options
  try {
    await openRun(run, {force, resume})
    const lock = await lockRun(run)
    try {
      yield* underLock(learner, options)
    } finally {
      await lock.release()
    }
  } finally {
    learner.dispose()
  }
}

async function* underLock<Report>(learner: Trainer<Report>, options: RunOptions): AsyncGenerator<RunEvent<Report>> {
  const {images, settings, plan, computing, run, signal, evaluation, version} = options
  const {train} = settings
  const set = imageSet(images)
  const recorded: Omit<Recorded, 'step' | 'window' | 'history'> = {
    version,
    settings,
    plan,
    computing,
    set,
    teacherFingerprint: options.teacherFingerprint
  }
  const metricsPath = join(run, runNames.metrics)
  const scale = {prototypes: plan.dinoHead.prototypes, weight: settings.dino.loss_weight}
  const window = new Averages()
  let history: readonly Change[] = []
  let last: string | undefined // the newest checkpoint that is whole

  await removeTemporaries(run)
  if (options.resume) {
    const found = await latestValidCheckpoint(run)
    const changes = [...found.damaged]
    if (found.path !== undefined) {
      const {path} = found
      const {step, metadata} = await loadStateDict(path, learner.stateDict(), said =>
        assertSameCourse(path, compare(said, recorded), options.acceptChanges ?? false)
      )
      learner.setStep(step)
      const kept = carriedOver(metadata, path)
      window.restore(kept.window)
      history = kept.history
      const {course, carried, digits} = compare(metadata, recorded)
      if (course.length > 0) history = [...history, {step, changes: course}]
      changes.push(
        ...course.map(change => `${change}: the rest is no longer what the unbroken run would have been`),
        ...carried.map(change => `${change}: what is computed stays the same`),
        ...digits.map(change => `${change}: the last digits may differ from those of the unbroken run`)
      )
      last = path
      await rm(join(run, runNames.notFinite), {force: true}) // what stopped it is behind it, or will come again
    }
    yield {kind: 'resumed', step: learner.stepsTaken, path: found.path, changes}
  } else await clearRun(run)
  await atomicFile(join(run, runNames.config), async path => writeFile(path, options.yaml), {force: true})
  const metrics = await AppendFile.open(metricsPath, await lengthUntil(metricsPath, learner.stepsTaken > 0 ? learner.stepsTaken : -1))
  const events = await openEvents(join(run, runNames.events), learner.stepsTaken + 1)

  const said: RunEvent<Report>[] = []
  const warned = new Set<string>()
  const warn = (about: string, failure: UserError | undefined, after: string): void => {
    if (failure === undefined) warned.delete(about)
    else if (!warned.has(about)) {
      warned.add(about)
      said.push({kind: 'warning', message: `${failure.message} ${after}`})
    }
  }
  const watch = new HealthWatch(scale, Math.max(plan.curves.lr.warmup, plan.steps / 10))
  const line = async (values: Metrics): Promise<void> => {
    await metrics.append(JSON.stringify(values) + '\n')
    await events.write(values.step, tagged(values))
    warn('metrics', metrics.failure ?? events.failure, 'Training goes on, and what is missing is added as soon as there is room.')
  }

  // One checkpoint at a time is on its way to the disk while training goes on.
  let writing: Promise<void> | undefined
  let failure: UserError | undefined
  const settle = async (): Promise<void> => {
    await writing
    writing = undefined
  }
  const checkpoint = async (): Promise<void> => {
    await settle()
    const {stepsTaken: step} = learner
    const places = learner.stateDict()
    if (!Number.isFinite(globalNorm([...places.values()].map(({get}) => get())))) {
      const sick = nonFiniteTensors([...places].map(([name, {get}]) => [name, get()] as const))
      if (sick.length > 0) throw await refuseState(run, step, sick, last)
    }
    const metadata = stateRecord({...recorded, step, window: window.kept(), history})
    const {copied, written} = writeState(run, step, stateTensors(places), metadata, () => metrics.sync())
    writing = written.then(
      async path => {
        last = path
        failure = undefined
        warned.delete('checkpoint')
        await pruneStates(run, train.keep_checkpoints, train.keep_every)
        said.push({kind: 'checkpoint', step, path})
      },
      (error: unknown) => {
        if (!(error instanceof UserError)) throw error
        failure = error
        warn('checkpoint', error, `Training goes on${last ? ` (the last good checkpoint is ${last})` : ''}; the next is tried at its time.`)
      }
    )
    writing.catch(() => undefined) // a defect is heard of in `settle`
    await copied
  }
  const lastGood = (): string => (last ? `The last good checkpoint is ${last}. ` : 'No checkpoint was written yet. ')

  const batches = options.batches?.(learner.stepsTaken) ?? trainingBatches(options, learner.stepsTaken)
  let written = learner.stepsTaken // the step of the last checkpoint
  const score = async (judge: Evaluation): Promise<RunEvent<Report>> => {
    const {stepsTaken: step} = learner
    const from = performance.now()
    const scores = await judge.run(learner.model())
    await line({step, ...scores})
    return {kind: 'scores', step, scores, seconds: (performance.now() - from) / 1000}
  }
  try {
    if (evaluation?.before && learner.stepsTaken === 0) yield await score(evaluation)
    for (;;) {
      const next = await batches.next().catch(async (error: unknown) => {
        if (learner.stepsTaken > written) await checkpoint()
        await settle()
        throw error instanceof UserError && learner.stepsTaken > 0
          ? new UserError(error.message, {
              exit: error.exit,
              code: error.code,
              hint: `${lastGood()}When the images are there again, go on with --resume.`
            })
          : error
      })
      if (next.done) break
      const made = next.value
      const begun = performance.now()
      let taken: StepResult<Report>
      try {
        taken = learner.step(made)
      } catch (error) {
        await settle()
        if (error instanceof NotFiniteStep) throw await refuseStep(run, learner.explain(error, made), made, lastGood())
        throw error
      }
      const {stepsTaken: step} = learner
      const seconds = (performance.now() - begun) / 1000 + made.waitSeconds
      window.add(taken.measured, {seconds, waited: made.waitSeconds})
      yield {kind: 'step', step, report: taken.report, progress: progressOf(taken.measured), dataWait: made.waitSeconds, seconds}
      if (step % train.log_every === 0 || step === plan.steps) {
        const values = metricsLine(step, window.take(), taken.rates, plan.batch, learner.memory?.() ?? {})
        await line(values)
        yield {kind: 'metrics', metrics: values}
        for (const message of watch.see(values)) yield {kind: 'warning', message}
      }
      if (evaluation && (step % evaluation.every === 0 || step === plan.steps)) yield await score(evaluation)
      const stopping = signal?.aborted === true || options.shouldContinue?.() === false
      if (step % train.checkpoint_every === 0 || step === plan.steps || stopping) {
        await checkpoint()
        written = step
      }
      if (stopping && step < plan.steps) {
        await settle()
        yield* said.splice(0)
        if (failure) throw unwritten(failure, lastGood())
        yield {kind: 'loaded', words: describeLoad(batches.stats())}
        yield {kind: 'stopped', step, path: last!}
        return
      }
      yield* said.splice(0)
    }
    yield {kind: 'loaded', words: describeLoad(batches.stats())}
    const model = await saveFinal(learner, options).catch(async (error: unknown) => {
      await settle()
      throw error
    })
    await settle()
    yield* said.splice(0)
    if (failure) throw unwritten(failure, `${lastGood()}The model stands in ${model} all the same. `)
    if (metrics.failure) throw metrics.failure
    const all = await readLines(metricsPath)
    const lines = all.filter(({total}) => total !== undefined).slice(-windowSize)
    const health = lines.length > 0 ? assessHealth(lines, scale) : {healthy: true, words: 'no step was taken'}
    const worth = improvementOf(all.map(({step, ...values}) => ({step, values: new Map(Object.entries(values))})))
    yield {kind: 'finished', step: learner.stepsTaken, model, health, ...(worth ? {worth} : {})}
  } finally {
    await batches.return()
    await settle().catch(() => undefined)
    await Promise.all([metrics.close(), events.close()])
  }
}

/** How many patches of which crops are masked. */
export const maskSettingsOf = ({ibot, crops}: Settings, {vit}: Derived): MaskSettings =>
  maskSettings(crops.global_crops_size, vit.patch, ibot.mask_sample_probability, ibot.mask_ratio_min_max)

/**
 * The batches of a run from step `start` on: which images, crops and masks come at a step follows from seed and step.
 */
export const trainingBatches = (
  {images, settings, plan, crops, onRejected}: Pick<RunOptions, 'images' | 'settings' | 'plan' | 'crops' | 'onRejected'>,
  start: number
): Batches<CropBatch> =>
  cropBatches({
    refs: images,
    sampler: shuffledSampler(images.length, settings.train.seed),
    batch: plan.batch,
    crops,
    masks: maskSettingsOf(settings, plan),
    seed: settings.train.seed,
    start,
    end: plan.steps,
    cacheBytes: settings.train.cache_mb * 2 ** 20,
    ...(settings.train.workers > 0 ? {workers: settings.train.workers} : {}),
    ...(onRejected ? {onRejected} : {})
  })

const unwritten = (failure: UserError, lastGood: string): UserError =>
  new UserError(failure.message, {exit: 1, code: failure.code, hint: `${lastGood}Free some space and go on from there with --resume.`})

/** The newest checkpoint that can be opened; those that cannot (a disk that lost power) are passed over, and named. */
export async function latestValidCheckpoint(run: string): Promise<{path: string | undefined; damaged: string[]}> {
  const damaged: string[] = []
  for (const {path} of (await listStates(run)).reverse()) {
    try {
      await stateMetadata(path)
      return {path, damaged}
    } catch (error) {
      if (!(error instanceof UserError)) throw error
      damaged.push(`${error.message} The one before it is taken`)
    }
  }
  if (damaged.length > 0)
    throw new UserError(`No checkpoint of ${run} can be read: ${damaged[0]}.`, {code: 'BAD_CHECKPOINT', hint: 'Start anew with --force.'})
  return {path: undefined, damaged}
}

/** Names what is not finite and where it began, for the error of status 6; all of it goes into a file. */
async function refuseStep(run: string, why: Explanation, {step, ids}: CropBatch, lastGood: string): Promise<UserError> {
  const saved = await saveDiagnosis(run, {step: step + 1, images: ids, ...why})
  return new UserError(
    `Step ${step + 1} is not finite: ${why.terms.join(', ')}; it began in ${why.layer}. Its images: ${ids.slice(0, 8).join(', ')}${ids.length > 8 ? `, and ${ids.length - 8} more` : ''}.`,
    {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${lastGood}${saved}Try a lower optim.base_lr, a longer optim.warmup_epochs, or --precision fp32; --resume --accept-changes goes on from a checkpoint with them.`
    }
  )
}

/** The same for weights that a step left not finite: they are never written as a checkpoint. */
async function refuseState(run: string, step: number, names: readonly string[], last: string | undefined): Promise<UserError> {
  const saved = await saveDiagnosis(run, {step, notFinite: names})
  return new UserError(
    `After step ${step} ${names[0]} is not finite${names.length > 1 ? `, nor are ${names.length - 1} other tensors` : ''}.`,
    {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${last ? `The last good checkpoint is ${last}. ` : ''}${saved}Try a lower optim.base_lr, a longer optim.warmup_epochs, or --precision fp32.`
    }
  )
}

async function saveDiagnosis(run: string, what: object): Promise<string> {
  const path = join(run, runNames.notFinite)
  const text = JSON.stringify(
    what,
    (_, value: unknown) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value),
    1
  )
  return atomicFile(path, async to => writeFile(to, text + '\n'), {force: true}).then(
    () => `More in ${path}. `,
    () => ''
  )
}

/**
 * Sums of what the steps since the last line measured. Times are kept apart: they belong to this process, not to the
 * run.
 */
class Averages {
  #sums: Record<string, number> = {}
  #count = 0
  #times = {seconds: 0, waited: 0, steps: 0}

  add(values: Readonly<Record<string, number>>, {seconds, waited}: {seconds: number; waited: number}): void {
    for (const [name, value] of Object.entries(values)) this.#sums[name] = (this.#sums[name] ?? 0) + value
    this.#count++
    this.#times = {seconds: this.#times.seconds + seconds, waited: this.#times.waited + waited, steps: this.#times.steps + 1}
  }

  take(): {means: Record<string, number>; seconds: number; waited: number} {
    const means = Object.fromEntries(Object.entries(this.#sums).map(([name, sum]) => [name, sum / this.#count]))
    const {seconds, waited, steps} = this.#times
    this.#sums = {}
    this.#count = 0
    this.#times = {seconds: 0, waited: 0, steps: 0}
    return {means, seconds: seconds / steps, waited: waited / steps}
  }

  /** What a checkpoint keeps. */
  kept(): {sums: Record<string, number>; count: number} {
    return {sums: this.#sums, count: this.#count}
  }

  restore(kept: unknown): void {
    if (typeof kept !== 'object' || kept === null) return
    const {sums, count} = kept as {sums: Record<string, number>; count: number}
    this.#sums = {...sums}
    this.#count = count
  }
}

/**
 * One line of metrics.jsonl: means since the last line, the rates of this step, images a second, the share of time
 * lost waiting, what the process holds, and what memory was made of at its peak.
 */
function metricsLine(
  step: number,
  {means, seconds, waited}: ReturnType<Averages['take']>,
  rates: Readonly<Record<string, number>>,
  batch: number,
  memory: Readonly<Record<string, number | undefined>>
): Metrics {
  const mib = (bytes: number): number => Math.round(bytes / 2 ** 20)
  const round = (values: Readonly<Record<string, number>>): Record<string, number> =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value.toPrecision(7))]))
  return {
    step,
    ...round({...means, ...rates, images_per_second: batch / seconds, data_wait: waited / seconds}),
    rss_mib: mib(process.memoryUsage.rss()),
    ...Object.fromEntries(
      Object.entries(memory).flatMap(([part, bytes]) => (bytes === undefined ? [] : [[`memory_${part}_mib`, mib(bytes)]]))
    )
  }
}

/** The names under which TensorBoard groups a line of metrics. */
const tags: readonly (readonly [names: RegExp, group: string])[] = [
  [new RegExp(`^(${lossTerms.map(({name}) => name).join('|')}|total|.*loss.*)$`), 'loss'],
  [/^grad_norm_/, 'grad_norm'],
  [/^(lr|backbone_lr|last_layer_lr|wd|momentum|teacher_temp)$/, 'schedule'],
  [/^(images_per_second|data_wait|rss_mib|memory_.*)$/, 'machine'],
  [/^knn_/, 'eval']
]
const tagged = ({step: _, ...values}: Metrics): Record<string, number> =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => {
      const group = tags.find(([names]) => names.test(name))?.[1] ?? 'health'
      return [`${group}/${name.replace(/^grad_norm_/, '')}`, value]
    })
  )

const parsed = (line: string): Metrics | undefined => {
  const found = jsonObjectOr(line) // the last line of a run that was killed may be torn
  return typeof found?.['step'] === 'number' ? (found as Metrics) : undefined
}

const readLines = async (file: string): Promise<Metrics[]> =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').flatMap(line => parsed(line) ?? [])

/** Bytes of a file of metrics up to the lines of steps that will be taken again. */
async function lengthUntil(file: string, step: number): Promise<number> {
  const text = await readFile(file, 'utf8').catch(() => '')
  let length = 0
  for (const line of text.split('\n')) {
    const values = parsed(line)
    if (!values || values.step > step) break
    length += Buffer.byteLength(line) + 1
  }
  return length
}

/**
 * Writes `final/`: the backbone as safetensors and as a Hugging Face folder, and its heads. Returns the path of the
 * backbone.
 */
async function saveFinal<Report>(learner: Trainer<Report>, {run, plan, settings, version}: RunOptions): Promise<string> {
  const folder = join(run, runNames.final)
  await mkdir(folder, {recursive: true})
  const model = learner.model()
  async function* backbone(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of model)
      if (name.startsWith('backbone.'))
        yield {name: name.slice('backbone.'.length), shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  const {resize, crop} = cropMetadata(settings)
  const metadata = {tool: `dinov2 ${version}`, step: String(learner.stepsTaken), seed: String(settings.train.seed), resize, crop}
  const path = join(folder, 'backbone.safetensors')
  await saveBackbone(path, plan.vit, backbone(), metadata, {force: true})
  await saveHuggingFace(join(folder, 'huggingface'), plan.vit, backbone(), {
    force: true,
    metadata,
    preprocessing: {...defaultPreprocessing, resize: Number(resize), crop: Number(crop)}
  })
  const heads = [...model].filter(([name]) => !name.startsWith('backbone.'))
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
