/**
 * The settings of a run, put together before it begins: what the user gave, above what a run that goes on recorded,
 * what weights decide, or what a recipe says that suits images and device.
 */
import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {counted} from '../../config/counted.js'
import {derive} from '../../config/derived.js'
import {isRecipe, resolveFile, settingsOfFile} from '../../config/read-layers.js'
import {overlaySettings, resolveRecorded, settingAt, withSetting, type ResolvedSettings} from '../../config/settings.js'
import {starterFiles} from '../../files/checkpoint/model-zoo.js'
import {runNames} from '../../files/run/run-folder.js'
import {chooseRecipe, PRETRAIN_RECIPES, scheduleFor, type RunToSuit} from './default-recipe.js'
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
  const {open, recipe} = withOpenSizes(resolved, request)
  let next = withSetting(open, path, await canonicalPath(weights), known)
  const begun = resume && output !== undefined ? await settingsOfRun(output) : undefined
  if (begun) {
    for (const [name, from] of next.sources)
      if (from === 'default' && isInferable(name))
        next = withSetting(next, name, valueOf({...next, settings: begun}, name) ?? valueOf(next, name), source)
    return {resolved: next}
  }
  const origin = await readOrigin(weights, settingsOfFile)
  const {embed_dim: width, depth} = resolved.settings.student
  const differ = recipe !== undefined && (width !== origin.config.width || depth !== origin.config.depth)
  const insteadOf = differ ? `${recipe} (${width} wide, ${depth} blocks)` : undefined
  return {resolved: withInferredSettings(origin, next, source), origin: {...origin, insteadOf}}
}

const SIZES = ['arch', 'embed_dim', 'depth', 'num_heads', 'ffn_layer'].map(key => `student.${key}`)

/**
 * Settings in which the sizes of a recipe count as not set, so that weights decide them: a recipe for small models
 * says how to train, and is no wish for that one model. One that is named after a model keeps its sizes, as do a
 * user's file and `--set`. `recipe` is the one whose sizes are open.
 */
function withOpenSizes(resolved: ResolvedSettings, {config = []}: SettingsRequest): {open: ResolvedSettings; recipe?: string | undefined} {
  const recipe = config.findLast(isRecipe)
  if (recipe === undefined || resolved.settings.student.arch !== 'custom') return {open: resolved}
  const isOfRecipe = (path: string): boolean => resolved.sources.get(path)?.replace(/:\d+$/, '') === recipe
  const sizes = SIZES.filter(isOfRecipe)
  if (sizes.length === 0) return {open: resolved}
  const open = sizes.reduce((next, path) => withSetting(next, path, valueOf(next, path), 'default'), resolved)
  return {open, recipe}
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

/** What a recipe says of the length of a run. */
const SCHEDULE: ReadonlySet<string> = new Set([
  'train.OFFICIAL_EPOCH_LENGTH',
  'train.batch_size_per_gpu',
  'train.checkpoint_every',
  'optim.epochs',
  'optim.warmup_epochs',
  'optim.freeze_last_layer_epochs',
  'teacher.warmup_teacher_temp_epochs'
])

/**
 * The settings of a run that begins with weights and names no recipe, and what was chosen, in words; undefined where
 * the published schedule stays, as for many images on a GPU. The models that come along are trained by a recipe as
 * random weights are, which was measured (docs/small-data.md); of other weights the rest of the settings is known
 * better, so a recipe says how long they are trained, and no more.
 */
export function settingsOfSuitedSchedule(
  given: ResolvedSettings,
  origin: WeightsOrigin,
  suited: RunToSuit
): {resolved: ResolvedSettings; words: string} | undefined {
  const comesAlong = starterFiles.has(origin.path)
  const recipe = scheduleFor(suited, comesAlong)
  if (recipe === undefined) return undefined
  const {settings, sources} = resolveFile(recipe)
  const inferred = (path: string): boolean => ['default', '--init', 'student.pretrained_weights'].includes(given.sources.get(path)!)
  let resolved = given
  for (const [path, source] of sources)
    if (source !== 'default' && inferred(path) && (comesAlong ? !SIZES.includes(path) : SCHEDULE.has(path)))
      resolved = withSetting(resolved, path, settingAt(settings, path), source)
  const {steps, batch} = derive(resolved.settings)
  const what = comesAlong
    ? `the recipe ${recipe} is taken, with the sizes of ${origin.path}`
    : `the length of the recipe ${recipe} is taken`
  const words =
    `no --config: ${what}, which suits ${counted(suited.images, 'image')} (${counted(steps, 'step')} of ${counted(batch, 'image')}). ` +
    'Choose another with --config, or another length with --set train.steps=N or --minutes'
  return {resolved, words}
}

/** Recipes of pretraining with what the user gave above them, but for sizes of batches and level of memory. */
export function pretrainRecipes(): Recipes {
  return PRETRAIN_RECIPES.map(({name}) => ({name, settings: settingsOfFile(name)}))
}

/** Throws where the settings contradict each other; better before anything is read. */
export const assertConsistent = ({settings}: ResolvedSettings): void => void derive(settings)
