/**
 * From the shapes of a checkpoint to the model that it is, and back: which tensors that model needs.
 *
 * Names and shapes are those of DINOv2's released backbones (docs/spec.md §1.9). What shapes cannot tell (heads, how
 * positions are resampled) comes from metadata, else from what all released models have in common: heads of 64, and
 * antialiased resampling to a size exactly where there are registers.
 */
import {UserError} from '../../config/errors.js'
import type {VitConfig} from '../../model/config.js'

export type Shapes = ReadonlyMap<string, readonly number[]>

/** What to do where a model says one thing and its weights another. */
export const OTHER_WEIGHTS = 'Weights and what is said of them are of different models, or one was changed: fetch or export both again.'

/** What all released models have in common, and their shapes do not tell. */
const HEAD_WIDTH = 64
const usualOffset = (registers: number): number => (registers > 0 ? 0 : 0.1)
const usualAntialias = (registers: number): boolean => registers > 0

const list = (shape: readonly number[]): string => `[${shape.join(', ')}]`

/**
 * The architecture that these tensors make.
 *
 * `metadata` may hold `heads`, `interpolate_offset` and `interpolate_antialias` as strings; `overrides` wins over
 * both. Throws `UserError` when the tensors make no backbone of this kind, when the number of heads is unknown or does
 * not divide the width, or when the position grid is not square.
 */
export function inferConfig(
  shapes: Shapes,
  metadata: Readonly<Record<string, string>> = {},
  overrides: Partial<VitConfig> = {},
  path = 'The checkpoint'
): VitConfig {
  const refuse = (what: string, hint?: string): UserError => new UserError(`${path} ${what}.`, {code: 'BAD_CHECKPOINT', hint})
  const shape = (name: string, axes: number): readonly number[] => {
    const found = shapes.get(name)
    if (!found) {
      const names = [...shapes.keys()]
      throw refuse(
        `is not a DINOv2 backbone: it lacks ${name}`,
        names.length ? `It holds ${groups(names).slice(0, 8).join(', ')}${groups(names).length > 8 ? ', …' : ''}.` : 'It holds no tensors.'
      )
    }
    if (found.length !== axes) throw refuse(`is not a DINOv2 backbone: ${name} is ${list(found)}, but ${axes} axes were expected`)
    return found
  }

  const [width, , patch, patchWidth] = shape('patch_embed.proj.weight', 4) as [number, number, number, number]
  if (patch !== patchWidth) throw refuse(`has patches of ${patch} by ${patchWidth} pixels; this model has square ones`)
  const positions = shape('pos_embed', 3)[1]! - 1
  const grid = Math.round(Math.sqrt(Math.max(positions, 0)))
  if (grid < 1 || grid * grid !== positions)
    throw refuse(`has ${positions + 1} positions; one for the class token and a square grid were expected`)
  const indices = [...shapes.keys()].map(name => Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? -1))
  const depth = indices.reduce((most, index) => Math.max(most, index), -1) + 1
  if (depth === 0) throw refuse('is not a DINOv2 backbone: it has no blocks')
  const gated = [...shapes.keys()].some(name => /^blocks\.\d+\.mlp\.w12\./.test(name))
  const output = gated ? 'blocks.0.mlp.w3.weight' : 'blocks.0.mlp.fc2.weight'
  const hidden = shape(output, 2)[1]!
  const registers = shapes.get('register_tokens')?.[1] ?? 0

  const heads = overrides.heads ?? count(metadata['heads'], 'heads', refuse) ?? (width % HEAD_WIDTH === 0 ? width / HEAD_WIDTH : undefined)
  if (heads === undefined)
    throw refuse(
      `has the width ${width}, which is no multiple of 64, so the number of its heads is unknown`,
      `Say it once: dinov2 export ${path} --num-heads N --to safetensors -o weights.safetensors`
    )
  const config: VitConfig = {
    width,
    depth,
    heads,
    patch,
    ffn: gated ? 'swiglu' : 'mlp',
    hidden,
    registers,
    grid,
    layerScale: [...shapes.keys()].some(name => /^blocks\.\d+\.ls[12]\.gamma$/.test(name)),
    interpolateOffset: decimal(metadata['interpolate_offset'], 'interpolate_offset', refuse) ?? usualOffset(registers),
    interpolateAntialias: flag(metadata['interpolate_antialias'], 'interpolate_antialias', refuse) ?? usualAntialias(registers),
    ...Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined))
  }
  for (const name of ['width', 'depth', 'patch', 'ffn', 'hidden', 'registers'] as const)
    if (metadata[name] !== undefined && metadata[name] !== String(config[name]))
      throw refuse(`says of itself ${name} ${JSON.stringify(metadata[name])}, but its weights have ${config[name]}`, OTHER_WEIGHTS)
  if (config.width % config.heads !== 0) throw refuse(`has the width ${config.width}, which ${config.heads} heads do not divide`)
  return config
}

type Refuse = (what: string) => UserError

function decimal(value: string | undefined, name: string, refuse: Refuse): number | undefined {
  if (value === undefined) return undefined
  const number = Number(value)
  if (value.trim() === '' || !Number.isFinite(number))
    throw refuse(`has the metadata ${name}: ${JSON.stringify(value)}, which is no number`)
  return number
}

function count(value: string | undefined, name: string, refuse: Refuse): number | undefined {
  const number = decimal(value, name, refuse)
  if (number !== undefined && !(Number.isSafeInteger(number) && number > 0))
    throw refuse(`has the metadata ${name}: ${JSON.stringify(value)}, which is no count`)
  return number
}

function flag(value: string | undefined, name: string, refuse: Refuse): boolean | undefined {
  if (value === undefined) return undefined
  if (!/^(true|false)$/i.test(value)) throw refuse(`has the metadata ${name}: ${JSON.stringify(value)}; true or false were expected`)
  return value.toLowerCase() === 'true'
}

/**
 * The metadata by which `inferConfig` gives back exactly this architecture; the rest of it is there for people to
 * read.
 */
export const configMetadata = (config: VitConfig): Record<string, string> => ({
  width: String(config.width),
  depth: String(config.depth),
  heads: String(config.heads),
  patch: String(config.patch),
  ffn: config.ffn,
  hidden: String(config.hidden),
  registers: String(config.registers),
  grid: String(config.grid),
  layer_scale: String(config.layerScale),
  interpolate_offset: String(config.interpolateOffset),
  interpolate_antialias: String(config.interpolateAntialias)
})

/** What changes the features of the same weights and is not as in the released models, by its name in the metadata. */
export function unusualParts(config: VitConfig): readonly (readonly [string, string])[] {
  const {width, registers} = config
  const usual = configMetadata({
    ...config,
    heads: width / HEAD_WIDTH,
    interpolateOffset: usualOffset(registers),
    interpolateAntialias: usualAntialias(registers)
  })
  return Object.entries(configMetadata(config)).filter(([name, value]) => value !== usual[name])
}

/**
 * Every tensor of the backbone with its shape, in the order of Meta's files. Linear weights are [out, in], the patch
 * kernel [C, 3, P, P].
 */
export function expectedShapes({width: C, depth, patch: P, ffn, hidden, registers, grid, layerScale}: VitConfig): Map<string, number[]> {
  const shapes = new Map<string, number[]>([
    ['cls_token', [1, 1, C]],
    ['pos_embed', [1, 1 + grid * grid, C]],
    ...(registers ? ([['register_tokens', [1, registers, C]]] as const) : []),
    ['mask_token', [1, C]],
    ['patch_embed.proj.weight', [C, 3, P, P]],
    ['patch_embed.proj.bias', [C]]
  ] as [string, number[]][])
  const linear = (name: string, out: number, input: number): void => {
    shapes.set(`${name}.weight`, [out, input])
    shapes.set(`${name}.bias`, [out])
  }
  const norm = (name: string): void => {
    shapes.set(`${name}.weight`, [C])
    shapes.set(`${name}.bias`, [C])
  }
  for (let i = 0; i < depth; i++) {
    const block = `blocks.${i}`
    norm(`${block}.norm1`)
    linear(`${block}.attn.qkv`, 3 * C, C)
    linear(`${block}.attn.proj`, C, C)
    if (layerScale) shapes.set(`${block}.ls1.gamma`, [C])
    norm(`${block}.norm2`)
    if (ffn === 'swiglu') {
      linear(`${block}.mlp.w12`, 2 * hidden, C)
      linear(`${block}.mlp.w3`, C, hidden)
    } else {
      linear(`${block}.mlp.fc1`, hidden, C)
      linear(`${block}.mlp.fc2`, C, hidden)
    }
    if (layerScale) shapes.set(`${block}.ls2.gamma`, [C])
  }
  norm('norm')
  return shapes
}

/**
 * Compares what a model needs with what a file has. Throws one `UserError` that lists everything missing, unexpected
 * and of another shape, blocks taken together, with the likely cause.
 */
export function checkFit(expected: Shapes, found: Shapes, path: string): void {
  const missing = [...expected.keys()].filter(name => !found.has(name))
  const unexpected = [...found.keys()].filter(name => !expected.has(name))
  const differs = [...expected].flatMap(([name, shape]) => {
    const there = found.get(name)
    return there && list(there) !== list(shape) ? [{name, wrong: `${list(there)} instead of ${list(shape)}`}] : []
  })
  if (!missing.length && !unexpected.length && !differs.length) return
  const lines: string[] = []
  const section = (title: string, names: readonly string[], entries: readonly string[]): void => {
    if (names.length) lines.push(`  ${title} (${names.length}):`, ...entries.map(entry => `    ${entry}`))
  }
  section('missing', missing, groups(missing))
  section('unexpected', unexpected, groups(unexpected))
  const byShapes = new Map<string, string[]>()
  for (const {name, wrong} of differs) {
    const names = byShapes.get(wrong)
    if (names) names.push(name)
    else byShapes.set(wrong, [name])
  }
  section(
    'wrong shape',
    differs.map(({name}) => name),
    [...byShapes].flatMap(([wrong, names]) => groups(names).map(name => `${name}: ${wrong}`))
  )
  const cause = likelyCause(expected, found, missing, unexpected)
  throw new UserError(`${path} does not fit the model.\n${lines.join('\n')}`, {code: 'MISFIT', ...(cause && {hint: cause})})
}

/** Names that differ only in the number of their block, as one: `blocks.{0-11}.ls1.gamma`. */
function groups(names: readonly string[]): string[] {
  const byRest = new Map<string, number[]>()
  for (const name of names) {
    const block = /^blocks\.(\d+)\.(.+)$/.exec(name)
    const rest = block ? `blocks.*.${block[2]}` : name
    const indices = byRest.get(rest) ?? []
    if (block) indices.push(Number(block[1]))
    byRest.set(rest, indices)
  }
  return [...byRest].map(([rest, indices]) => (indices.length ? rest.replace('*', ranges(indices)) : rest))
}

/** 0, 1, 2, 5 → {0-2,5}; a single number stays bare. */
function ranges(indices: readonly number[]): string {
  const sorted = [...indices].sort((a, b) => a - b)
  const runs: [number, number][] = []
  for (const index of sorted) {
    const last = runs.at(-1)
    if (last && index === last[1] + 1) last[1] = index
    else runs.push([index, index])
  }
  const text = runs.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join(',')
  return sorted.length === 1 ? text : `{${text}}`
}

const sizes: Readonly<Record<number, string>> = {384: 'ViT-S', 768: 'ViT-B', 1024: 'ViT-L', 1536: 'ViT-g'}

function likelyCause(expected: Shapes, found: Shapes, missing: readonly string[], unexpected: readonly string[]): string | undefined {
  const some = (names: readonly string[], pattern: RegExp): boolean => names.some(name => pattern.test(name))
  if (some(unexpected, /^blocks\.\d+\.\d+\./))
    return 'The file names its blocks by chunks (blocks.<chunk>.<i>), as training checkpoints do.'
  const prefix = [...found.keys()].find(name => name !== 'cls_token' && name.endsWith('.cls_token'))?.slice(0, -'cls_token'.length)
  if (prefix) return `The names in the file begin with ${prefix}, so the model lies one level deeper, under ${prefix.split('.')[0]}.`
  const [want, have] = [expected, found].map(shapes => shapes.get('cls_token')?.at(-1))
  if (want !== undefined && have !== undefined && want !== have) {
    const called = (width: number): string => (sizes[width] ? `${sizes[width]} (width ${width})` : `of width ${width}`)
    return `The file is a model of another size: ${called(have)}, but ${called(want)} was expected.`
  }
  if (some(missing, /\.mlp\.fc1\./) && some(unexpected, /\.mlp\.w12\./))
    return 'The file has SwiGLU layers (as ViT-g), but plain ones were expected.'
  if (some(missing, /\.mlp\.w12\./) && some(unexpected, /\.mlp\.fc1\./))
    return 'The file has plain layers, but SwiGLU ones (as in ViT-g) were expected.'
  if (unexpected.includes('register_tokens')) return 'The file is a model with registers, but one without was expected.'
  if (missing.includes('register_tokens')) return 'The file is a model without registers, but one with them was expected.'
  if (list(expected.get('register_tokens') ?? []) !== list(found.get('register_tokens') ?? []))
    return 'The file has another number of registers.'
  const depths = [expected, found].map(shapes => new Set([...shapes.keys()].flatMap(name => /^blocks\.(\d+)\./.exec(name)?.[1] ?? [])).size)
  if (depths[0] !== depths[1]) return `The file has ${depths[1]} blocks, but ${depths[0]} were expected.`
  if (list(expected.get('patch_embed.proj.weight') ?? []) !== list(found.get('patch_embed.proj.weight') ?? []))
    return 'The file has patches of another size or images of another number of channels.'
  if (list(expected.get('pos_embed') ?? []) !== list(found.get('pos_embed') ?? []))
    return 'The file was trained for another image size: its position grid differs.'
  if (missing.length && !unexpected.length) return 'The file is incomplete.'
  return undefined
}
