/**
 * The settings of a run, put together before it begins: what the user gave, above what a run that goes on recorded,
 * what weights decide, or what a recipe says that suits images and device.
 */
import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {derive} from '../../config/derived.js'
import {resolveFile, settingsOfFile} from '../../config/read-layers.js'
import {overlaySettings, resolveRecorded, withSetting, type ResolvedSettings} from '../../config/settings.js'
import {runNames} from '../../files/run/run-folder.js'
import {chooseRecipe, PRETRAIN_RECIPES, type RunToSuit} from './default-recipe.js'
import {canonicalPath, isInferable, readOrigin, valueOf, withInferredSettings} from './init-weights.js'
import type {WeightsOrigin} from './init-weights.js'
import type {Recipes} from './memory-fit.js'
import {settingsOfRun} from './resume.js'

/** What a command says of where settings come from. */
export type SettingsRequest = {
  readonly config?: readonly string[] | undefined
  readonly resume?: boolean | undefined
  /** The run folder. */
  readonly output?: string | undefined
}

/**
 * Without `--config`, a run that goes on has the settings of its own config.yaml, or of its newest checkpoint where
 * that file is gone, below what the user gave besides.
 */
export async function settingsToResume(given: ResolvedSettings, {config, resume, output}: SettingsRequest): Promise<ResolvedSettings> {
  if (!resume || output === undefined || (config?.length ?? 0) > 0) return given
  const file = join(output, runNames.config)
  if (existsSync(file)) return overlaySettings(resolveFile(file), given)
  const recorded = await settingsOfRun(output)
  return recorded ? overlaySettings(resolveRecorded(recorded, `the newest checkpoint of ${output}`), given) : given
}

/**
 * The settings of pretraining, with what the weights of `init` decide where nobody else did, and where those weights
 * come from. A run that goes on keeps what they decided when it began, and does not need them.
 */
export async function settingsOfPretraining(
  given: ResolvedSettings,
  request: SettingsRequest & {readonly init?: string | undefined}
): Promise<{resolved: ResolvedSettings; origin?: WeightsOrigin}> {
  const {init, resume, output} = request
  const resolved = await settingsToResume(given, request)
  const weights = init ?? resolved.settings.student.pretrained_weights
  if (!weights) return {resolved}
  const path = 'student.pretrained_weights'
  const source = init === undefined ? path : '--init'
  const known = init === undefined ? (resolved.sources.get(path) ?? path) : '--init'
  let next = withSetting(resolved, path, await canonicalPath(weights), known)
  const begun = resume && output !== undefined ? await settingsOfRun(output) : undefined
  if (begun) {
    for (const [name, from] of next.sources)
      if (from === 'default' && isInferable(name))
        next = withSetting(next, name, valueOf({...next, settings: begun}, name) ?? valueOf(next, name), source)
    return {resolved: next}
  }
  const origin = await readOrigin(weights, settingsOfFile)
  return {resolved: withInferredSettings(origin, next, source), origin}
}

/**
 * Whether a run names neither a recipe nor a model: then one is chosen for it. Sizes of model or crops that are set
 * belong to a model that the user has in mind.
 */
export const isModelOpen = ({sources}: ResolvedSettings, {config}: SettingsRequest): boolean =>
  (config?.length ?? 0) === 0 && ![...sources].some(([path, source]) => source !== 'default' && /^(student|crops)\./.test(path))

/** The settings of a run that names no model, and what was chosen, in words. */
export const settingsOfChosenRecipe = (given: ResolvedSettings, suited: RunToSuit): {resolved: ResolvedSettings; words: string} =>
  chooseRecipe(name => overlaySettings(resolveFile(name), given), suited)

/** Recipes of pretraining with what the user gave above them, but for sizes of batches and level of memory. */
export function pretrainRecipes(): Recipes {
  return PRETRAIN_RECIPES.map(({name}) => ({name, settings: settingsOfFile(name)}))
}

/** Throws where the settings contradict each other; better before anything is read. */
export const assertConsistent = ({settings}: ResolvedSettings): void => void derive(settings)
