/**
 * What pretraining needs before its first step: images, an engine, settings in force, and enough memory. Everything
 * that can be refused is refused here, before the run folder is touched.
 */
import type {Precision} from '../../tensor/ops/precision.js'
import {architecture, derive, type Derived} from '../../config/derived.js'
import {counted} from '../../config/counted.js'
import {withSetting, type ResolvedSettings} from '../../config/settings.js'
import type {Settings} from '../../config/table.js'
import type {ImageTable} from '../../data/sources/image-table.js'
import type {SourceNote} from '../../data/sources/source.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'
import {autoBatch, describeAutoBatch} from './auto-batch.js'
import type {RunToSuit} from './default-recipe.js'
import {openBackbone} from '../../files/checkpoint/backbone.js'
import {STARTER} from '../../files/checkpoint/model-zoo.js'
import {incompatibilities} from '../../model/adapt.js'
import type {VitConfig} from '../../model/config.js'
import {assertCompatible, describeStart, type WeightsOrigin} from './init-weights.js'
import {assertMemory, memoryForRun} from './memory-fit.js'
import {batchOfRun, settingsOfRun} from './resume.js'
import {assertConsistent, isModelOpen, pretrainRecipes, settingsOfChosenRecipe, settingsOfSuitedSchedule} from './run-settings.js'
import {assertMinutesDecide, stepsForMinutes} from './steps-for-minutes.js'
import type {TrainingProcesses} from './processes.js'
import {isFollower, joinProcesses, withShareOfThreads, type CommonGround} from './with-processes.js'
import {slowEngineWarning} from './slow-engine.js'
import {gatherImages, openRun, startTrainingEngine} from './setup.js'

export type BeginOptions = {
  readonly inputs: readonly string[]
  readonly null: boolean
  readonly config?: readonly string[] | undefined
  /** The run folder; undefined for a trial. */
  readonly output: string | undefined
  /** The run folder that a trial is asked about: only looked at, and refused as a run would refuse it. */
  readonly trialOf?: string | undefined
  readonly force: boolean
  readonly resume: boolean
  /** Images a step where they are not those of the settings; `auto` finds as many as fit. */
  readonly batch?: number | 'auto' | undefined
  readonly engine: EngineRequest
  /** How long the run is to take; its steps are measured and counted. A run that goes on keeps its number. */
  readonly minutes?: number | undefined
  /** Hears sentences about what was chosen. */
  readonly note: (sentence: string) => void
  readonly onSkipped?: (skipped: SourceNote) => void
  /** Hears how many images there are, before anything expensive. */
  readonly onImages?: (count: number) => void
  /** Bytes that the run may use; what is free where absent. */
  readonly memoryLimit?: number
  /** The processes that train together, which have met but are not yet connected. */
  readonly processes?: TrainingProcesses
  /** What is evaluated while training, which all processes must share. */
  readonly evaluation?: CommonGround['evaluation']
  /** The version of this program, which all processes must share. */
  readonly version?: string
}

export type BegunPretraining = {
  readonly images: ImageTable
  readonly engine: EngineInfo
  readonly precision: Precision
  readonly settings: Settings
  readonly plan: Derived
}

/** The settings with the batch of `--batch` where that is a number. */
export const withBatch = (resolved: ResolvedSettings, batch: number | 'auto' | undefined): ResolvedSettings =>
  typeof batch === 'number' ? withSetting(resolved, 'train.batch_size_per_gpu', batch, '--batch') : resolved

/** Up to so many images weights that have learnt elsewhere are worth more than random ones after the same steps. */
const FEW_IMAGES = 10_000

/** Advice where few images are learnt from random weights, and a model of the same sizes comes with the program. */
async function adviseStart(vit: VitConfig, images: number): Promise<string | undefined> {
  if (images > FEW_IMAGES) return undefined
  const {config, checkpoint} = await openBackbone(STARTER)
  await checkpoint.close()
  if (incompatibilities(config, vit).length > 0) return undefined
  return `starting from random weights; from few images more is learnt with --init ${STARTER}, the model that comes along (docs/small-data.md)`
}

/** What is chosen for a run whose user left it open, with what was chosen in words; undefined where nothing is. */
function chooseSettings(
  given: ResolvedSettings,
  origin: WeightsOrigin | undefined,
  {config}: BeginOptions,
  suited: RunToSuit
): {resolved: ResolvedSettings; words: string} | undefined {
  if (origin) return (config?.length ?? 0) > 0 ? undefined : settingsOfSuitedSchedule(given, origin, suited)
  return isModelOpen(given, {config}) ? settingsOfChosenRecipe(given, suited) : undefined
}

/**
 * Gathers images, starts the engine, chooses a recipe and a batch where the user left them open, and checks that the
 * run fits into memory. Throws `UserError`: no images (3), no engine or too little memory (5), settings that
 * contradict each other or a folder that is taken (2).
 */
export async function beginPretraining(
  given: ResolvedSettings,
  origin: WeightsOrigin | undefined,
  options: BeginOptions
): Promise<BegunPretraining> {
  const {inputs, output, force, resume, batch, note, onSkipped} = options
  let resolved = withBatch(given, batch)
  if (batch !== 'auto') assertConsistent(resolved)
  if (options.minutes !== undefined) assertMinutesDecide(resolved, options.processes?.size ?? 1)
  if (origin) assertCompatible(origin.path, origin.config, architecture(resolved.settings))
  const images = await gatherImages(inputs, {nul: options.null, onSkipped})
  const folder = output ?? options.trialOf
  if (folder !== undefined && !isFollower(options)) await openRun(folder, {force, resume, make: false})
  options.onImages?.(images.length)
  const engine = await startTrainingEngine(withShareOfThreads(options.engine))
  const {device, precision} = engine
  const limit = options.memoryLimit ?? (await memoryForRun(device))
  const suited = {images: images.length, device, precision, limit, minutes: options.minutes}
  const chosen = chooseSettings(resolved, origin, options, suited)
  if (chosen) {
    note(chosen.words)
    resolved = chosen.resolved
  }
  if (batch === 'auto') {
    const kept = resume && output !== undefined ? await batchOfRun(output) : undefined
    const found = kept ?? (await autoBatch(resolved.settings, {precision, device, images: images.length}))
    note(describeAutoBatch(found))
    resolved = withSetting(resolved, 'train.batch_size_per_gpu', typeof found === 'number' ? found : found.batch, '--batch')
  }
  if (options.minutes !== undefined) {
    const recorded = resume && output !== undefined ? await settingsOfRun(output) : undefined
    const begun = {images, engine, precision, settings: resolved.settings, plan: derive(resolved.settings)}
    if (!recorded) await assertMemory({students: [begun], precision, device}, {recipes: pretrainRecipes(), limit})
    const {steps, words} = recorded
      ? {steps: recorded.train.steps, words: `--minutes ${options.minutes}: the run keeps its ${counted(derive(recorded).steps, 'step')}`}
      : await stepsForMinutes(begun, options.minutes)
    note(words)
    resolved = withSetting(resolved, 'train.steps', steps, '--minutes')
  }
  const {settings} = resolved
  const plan = derive(settings, options.processes?.size)
  const advice = origin || resume ? undefined : await adviseStart(plan.vit, images.length)
  for (const sentence of origin ? describeStart(origin, plan.vit, plan) : [advice]) if (sentence) note(sentence)
  // A trial says what is needed, whether it is there or not; a batch that was found fits.
  if (output !== undefined && batch !== 'auto')
    await assertMemory({students: [{settings, plan}], precision, device}, {recipes: pretrainRecipes(), limit})
  const slow = output === undefined ? undefined : slowEngineWarning([{settings, plan}], {engine, precision})
  if (slow) note(slow)
  if (options.processes)
    await joinProcesses(options.processes, {...options, version: options.version ?? '', settings: [settings], images, engine, precision})
  return {images, engine, precision, settings, plan}
}
