/**
 * What a run starts from, where that is not chance: weights of a run, a checkpoint or a released model, what they
 * decide where nobody else did, and how they are made to fit.
 *
 * Precedence is one rule. Whatever somebody set (a file, `--set`, a flag) stands. Of the rest, sizes come from the
 * shapes of the weights; losses, heads, crops and teacher from the settings of the run that made them, where that is
 * known; and three settings are chosen for going on: a low learning rate, one that falls with depth, and heads that
 * learn by themselves at first where they are new. Headers alone are read for this; the numbers are read when the
 * state is made.
 */
import {readFinite} from '../../files/checkpoint/tensor-entry.js'
import {counted} from '../../config/counted.js'
import {stat} from 'node:fs/promises'
import {basename, dirname, resolve} from 'node:path'
import {headSizes, type Derived, type HeadSize} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import {withSetting} from '../../config/settings.js'
import {recordedSettings} from './resume.js'
import type {ResolvedSettings} from '../../config/settings.js'
import {foldNormalization} from '../../files/checkpoint/fold-normalization.js'
import {expectedShapes} from '../../files/checkpoint/architecture.js'
import {openBackbone, readBackbone} from '../../files/checkpoint/backbone.js'
import type {Checkpoint} from '../../files/checkpoint/checkpoint.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import {runNames} from '../../files/run/run-folder.js'
import {adapt, resamplings, incompatibilities} from '../../model/adapt.js'
import type {VitConfig} from '../../model/config.js'
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {dispose, tensor} from '../../tensor/tf.js'
import type {Tensor} from '../../tensor/tf.js'
import {flatten, disposeTree, unflatten} from '../../tensor/tree.js'

type HeadName = 'dino_head' | 'ibot_head'
export type OriginHeads = {readonly dino_head?: HeadSize; readonly ibot_head?: HeadSize}

export type WeightsOrigin = {
  /**
   * Where the weights are, as the settings of the run name them: a path from the root, or the name of a released
   * model.
   */
  readonly path: string
  readonly config: VitConfig
  readonly heads: OriginHeads
  /** Settings of the run that made the weights, by section; undefined where they are not known. */
  readonly settings: Sections | undefined
  /** A recipe whose sizes of the model give way to those of the weights, with its sizes in words. */
  readonly insteadOf?: string | undefined
}

type Sections = Readonly<Record<string, Readonly<Record<string, unknown>>>>

/** A path that means the same from every folder; what is no path here is the name of a released model. */
export const canonicalPath = async (path: string): Promise<string> => ((await stat(path).catch(() => undefined)) ? resolve(path) : path)

/**
 * Sizes of the heads of a file, by the shapes of their layers; a head that lacks something, or is for another width,
 * is none.
 */
export function headsOf({heads}: Pick<Checkpoint, 'heads'>, width: number): OriginHeads {
  const found: {[name in HeadName]?: HeadSize} = {}
  for (const name of ['dino_head', 'ibot_head'] as const) {
    const layers = [...heads]
      .flatMap(([key, {shape}]) => {
        const layer = new RegExp(`^${name}\\.mlp(?:\\.(\\d+))?\\.weight$`).exec(key)
        return layer ? [{at: Number(layer[1] ?? 0), shape}] : []
      })
      .sort((a, b) => a.at - b.at)
    const last = heads.get(`${name}.last_layer.weight_v`)?.shape
    const [first, end] = [layers[0]?.shape, layers.at(-1)?.shape]
    if (!last || !first || !end || first[1] !== width || !heads.has(`${name}.last_layer.weight_g`)) continue
    found[name] = {layers: layers.length, hidden: first[0]!, bottleneck: end[0]!, prototypes: last[0]!}
  }
  return found
}

/**
 * Reads the headers of weights. `settingsOf` reads a `config.yaml` of a run; what it throws counts as not known.
 * Throws as `openBackbone`: nothing there, damaged, or no backbone.
 */
export async function readOrigin(path: string, settingsOf: (configFile: string) => Sections): Promise<WeightsOrigin> {
  const {config, checkpoint} = await openBackbone(path)
  await checkpoint.close()
  let settings: Sections | undefined
  try {
    const recorded = checkpoint.metadata['settings']
    if (recorded) settings = recordedSettings(recorded, path)
    else if (basename(dirname(checkpoint.path)) === runNames.final && checkpoint.path.endsWith('backbone.safetensors'))
      settings = settingsOf(resolve(dirname(checkpoint.path), '..', 'config.yaml'))
  } catch {
    settings = undefined // of another version, or no run at all: shapes tell enough
  }
  return {path: await canonicalPath(path), config, heads: headsOf(checkpoint, config.width), settings}
}

const sizes: Readonly<Record<string, readonly [width: number, depth: number, heads: number]>> = {
  vit_small: [384, 12, 6],
  vit_base: [768, 12, 12],
  vit_large: [1024, 24, 16],
  vit_giant2: [1536, 40, 24]
}

/** Sections of which a run that goes on takes over everything that was not set. */
const inherited = /^(dino|ibot|teacher|crops|student)\.|^train\.centering$|^optim\.weight_decay(_end)?$/
const chosen = new Set(['optim.base_lr', 'optim.layerwise_decay', 'optim.head_warmup_epochs'])
/** The settings that weights may decide where nobody did. */
export const isInferable = (path: string): boolean => path !== 'student.pretrained_weights' && (inherited.test(path) || chosen.has(path))

/**
 * Highest learning rate for 1024 images with which weights of unknown making are gone on with: a tenth of that for
 * random ones.
 */
const GENTLE_LR = 4e-4

/** How the released models were made (paper, table 16), for weights that do not say it of themselves. */
const PUBLISHED_SETTINGS: readonly (readonly [path: string, value: unknown])[] = [
  ['train.centering', 'sinkhorn_knopp'],
  ['teacher.momentum_teacher', 0.994],
  ['optim.weight_decay_end', 0.2]
]

/** What the weights decide, by setting, given what was set: `isSet` and `value` look into the settings in force. */
function inferSettings(
  {config, heads, settings}: WeightsOrigin,
  isSet: (path: string) => boolean,
  value: (path: string) => unknown
): Map<string, unknown> {
  const found = new Map<string, unknown>()
  const suggest = (path: string, wanted: unknown): void => {
    if (!isSet(path)) found.set(path, wanted)
  }
  for (const [section, values] of Object.entries(settings ?? {}))
    for (const [key, wanted] of Object.entries(values)) {
      const path = `${section}.${key}`
      if (inherited.test(path) && path !== 'student.pretrained_weights') suggest(path, wanted)
    }

  if (!settings) for (const [path, wanted] of PUBLISHED_SETTINGS) suggest(path, wanted)

  const {width, depth, patch, ffn, registers, grid, layerScale} = config
  const own = {embed_dim: width, depth, num_heads: config.heads}
  const parts = Object.keys(own).map(key => `student.${key}`)
  const named = Object.entries(sizes).find(([, [w, d, h]]) => w === width && d === depth && h === config.heads)?.[0]
  if (isSet('student.arch') && value('student.arch') !== 'custom') for (const part of parts) found.delete(part)
  else if (named && !isSet('student.arch') && !parts.some(isSet)) {
    suggest('student.arch', named)
    for (const part of parts) suggest(part, null)
  } else {
    suggest('student.arch', 'custom')
    for (const [key, wanted] of Object.entries(own)) suggest(`student.${key}`, wanted)
  }
  suggest('student.patch_size', patch)
  suggest('student.ffn_layer', ffn === 'mlp' ? 'mlp' : 'swiglufused')
  suggest('student.num_register_tokens', registers)
  suggest('student.interpolate_offset', config.interpolateOffset)
  suggest('student.interpolate_antialias', config.interpolateAntialias)
  if (!layerScale) suggest('student.layerscale', 0)
  else if (found.get('student.layerscale') === 0) found.delete('student.layerscale')

  // Crops of whole patches: those of the run, else the usual ones, or smaller where the weights are for smaller
  // images.
  const side = (isSet('student.patch_size') ? value('student.patch_size') : patch) as number
  const whole = (pixels: number): number => Math.max(1, Math.round(pixels / side)) * side
  const large = (found.get('crops.global_crops_size') as number | undefined) ?? Math.min(224, grid * patch)
  suggest('crops.global_crops_size', whole(large))
  const inForce = (found.get('crops.global_crops_size') ?? value('crops.global_crops_size')) as number
  suggest('crops.local_crops_size', whole((found.get('crops.local_crops_size') as number | undefined) ?? (96 * inForce) / 224))

  for (const [section, name] of [
    ['dino', 'dino_head'],
    ['ibot', 'ibot_head']
  ] as const) {
    const size = heads[name]
    if (!size) continue
    suggest(`${section}.head_n_prototypes`, size.prototypes)
    suggest(`${section}.head_bottleneck_dim`, size.bottleneck)
    suggest(`${section}.head_nlayers`, size.layers)
    if (size.layers > 1) suggest(`${section}.head_hidden_dim`, size.hidden)
  }
  if (heads.dino_head) suggest('ibot.separate_head', heads.ibot_head !== undefined)

  const before = settings?.['optim']?.['base_lr']
  const lowered = settings?.['student']?.['pretrained_weights'] !== '' // it was itself gone on with
  suggest('optim.base_lr', typeof before !== 'number' ? GENTLE_LR : lowered ? before : Number((before / 10).toPrecision(6)))
  suggest('optim.layerwise_decay', 0.9)
  return found
}

/** The settings with what the weights decide filled in, `source` as its origin. */
export function withInferredSettings(origin: WeightsOrigin, resolved: ResolvedSettings, source: string): ResolvedSettings {
  let next = resolved
  const value = (path: string): unknown => valueOf(next, path)
  const isSet = (path: string): boolean => next.sources.get(path) !== 'default'
  for (const [path, wanted] of inferSettings(origin, isSet, value))
    if (next.sources.has(path) && wanted !== undefined) next = withSetting(next, path, wanted, source)
  const {settings} = next
  const fresh = newHeads(origin.heads, headSizes(settings))
  if (fresh.length > 0 && !isSet('optim.head_warmup_epochs'))
    next = withSetting(next, 'optim.head_warmup_epochs', Number((settings.optim.epochs / 20).toPrecision(6)), source)
  return next
}

export const valueOf = ({settings}: ResolvedSettings, path: string): unknown => {
  const [section, key] = path.split('.') as [string, string]
  return (settings as unknown as Record<string, Record<string, unknown>>)[section]?.[key]
}

/** The heads of a run that its weights do not have in that size, each with the reason. */
function newHeads(there: OriginHeads, {dinoHead, ibotHead}: Pick<Derived, 'dinoHead' | 'ibotHead'>): {name: HeadName; why: string}[] {
  const wanted = [['dino_head', dinoHead] as const, ...(ibotHead ? [['ibot_head', ibotHead] as const] : [])]
  return wanted.flatMap(([name, here]) => {
    const found = there[name]
    if (!found) return [{name, why: 'there is none'}]
    const keys = (Object.keys(here) as (keyof HeadSize)[]).filter(key => found[key] !== here[key] && (key !== 'hidden' || here.layers > 1))
    return keys.length === 0 ? [] : [{name, why: keys.map(key => `${key} is ${found[key]} there and ${here[key]} here`).join(', ')}]
  })
}

/** Throws a `UserError` of status 2 with all differences that no resampling bridges. */
export function assertCompatible(path: string, from: VitConfig, to: VitConfig): void {
  const wrong = incompatibilities(from, to)
  if (wrong.length === 0) return
  throw new UserError(`student.pretrained_weights ${path} does not fit the settings: ${wrong.join('; ')}.`, {
    exit: 2,
    code: 'SETTINGS',
    hint: 'Leave out what names another model (student, or a recipe with sizes of its own): what is not set is taken from the weights. Patch size, more registers and the size of crops may differ.'
  })
}

/** What is done to the weights on the way into a run, as sentences. Throws as `assertCompatible`. */
export function describeStart(
  {path, config, heads, insteadOf}: WeightsOrigin,
  vit: VitConfig,
  plan: Pick<Derived, 'dinoHead' | 'ibotHead' | 'headWarmup'>
): string[] {
  assertCompatible(path, config, vit)
  const {width, depth, patch, grid} = config
  const fresh = newHeads(heads, plan)
  const spoken = fresh.map(({name, why}) => `${name} is new (${why})`)
  const rest = plan.headWarmup > 0 ? `; for ${counted(plan.headWarmup, 'step')} the heads learn and the backbone stands still` : ''
  return [
    `starting from ${path}: ${width} wide, ${depth} blocks, patches of ${patch}, positions for ${grid * patch} pixels`,
    ...(insteadOf === undefined ? [] : [`the sizes of these weights take the place of those of ${insteadOf}`]),
    ...resamplings(config, vit),
    (spoken.length > 0 ? spoken.join('; ') : 'its heads are taken too') + rest
  ]
}

/**
 * The parameters of a network by path, started from weights, and the names of heads that they have; all are the
 * caller's. Throws as `bridge`.
 */
export async function weightsFor(path: string, plan: Pick<Derived, 'vit' | 'dinoHead' | 'ibotHead'>, seed: number): Promise<ParamMap> {
  const {vit} = plan
  const {config, checkpoint} = await openBackbone(path)
  const read: [string, Tensor][] = []
  const heads: ParamMap = new Map()
  try {
    assertCompatible(path, config, vit)
    for await (const {name, shape, data} of foldNormalization(
      readBackbone(config, checkpoint),
      checkpoint.preprocessing ?? defaultPreprocessing
    ))
      read.push([name, tensor(data, shape as number[])])
    const there = headsOf(checkpoint, config.width)
    const fresh = new Set(newHeads(there, plan).map(({name}) => name))
    for (const [name, entry] of checkpoint.heads) {
      const head = name.split('.')[0] as HeadName
      if (!there[head] || fresh.has(head) || (head === 'ibot_head' && !plan.ibotHead)) continue
      heads.set(name, tensor(await readFinite(entry, name, path), headShape(name, entry.shape)))
    }
  } catch (error) {
    dispose([...read.map(([, leaf]) => leaf), ...heads.values()])
    throw error
  } finally {
    await checkpoint.close()
  }
  const tree = unflatten<Vit>(read)
  const fitted = flatten(adapt(tree, config, vit, seed))
  disposeTree(tree)
  const named: ParamMap = new Map()
  for (const name of expectedShapes(vit).keys()) named.set(`backbone.${name}`, fitted.get(name)!) // the order of fresh parameters
  for (const [name, leaf] of heads) named.set(name, leaf)
  return named
}

/** Gains lie as [K, 1], however a file holds them. */
export const headShape = (name: string, shape: readonly number[]): number[] => (name.endsWith('.weight_g') ? [shape[0]!, 1] : [...shape])
