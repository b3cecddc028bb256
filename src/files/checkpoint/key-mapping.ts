/**
 * One vocabulary for all checkpoints: whatever a file calls its tensors, the rest of the project sees Meta's names.
 *
 * Three dialects are known besides Meta's own flat names: Meta's chunked training names (`blocks.<chunk>.<i>.…`), the
 * Hugging Face models `Dinov2Model` and `Dinov2WithRegistersModel` (query, key and value apart), and timm (no mask
 * token; with registers, the class token carries its position). Wrappers around a model (`module.`,
 * `_fsdp_wrapped_module.`, `teacher.backbone.`) are prefixes that say nothing and are taken off.
 */
import {UserError} from '../../config/errors.js'
import {concatenated, itemSize, renamed, tensorEntry, type TensorEntry} from './tensor-entry.js'

export type Dialect = 'meta' | 'chunked' | 'huggingface' | 'timm'

export type Named = {
  /** The backbone under Meta's names. */
  readonly tensors: Map<string, TensorEntry>
  /** What stands beside the backbone: `dino_head.…`, `ibot_head.…`, `decode_head.…`, a classifier. */
  readonly heads: Map<string, TensorEntry>
  readonly dialect: Dialect
  /** The part of the file that was taken, such as `teacher`; undefined where there is but one. */
  readonly root: string | undefined
  /** What the reader of the file had to supply, as sentences. */
  readonly notes: readonly string[]
}

/** Names that every backbone has, in one dialect or another; what stands before them is the prefix. */
const anchors = ['patch_embed.proj.weight', 'embeddings.patch_embeddings.projection.weight', 'cls_token', 'embeddings.cls_token']
/** Names by which models wrap their backbone, dots included. */
const wrappers = ['backbone.', 'module.', 'dinov2.', 'dinov2_with_registers.']
const headName =
  /^(dino_head|ibot_head|cls_projector|patch_projector|decode_head|auxiliary_head|dino_loss|ibot_patch_loss|center|classifier|classifiers_dict|linear_head|head)\./
const rootOrder = ['teacher', 'state_dict', 'model', 'student', 'model_ema', 'ema']

/**
 * Sorts the tensors of a file into backbone and heads, under Meta's names.
 *
 * `root` chooses between several models in one file; the teacher is taken when nothing is said. Throws `UserError`: no
 * such root, several models and none is the teacher, sharded parameters, names that collide.
 */
export function nameTensors(path: string, found: ReadonlyMap<string, TensorEntry>, root?: string): Named {
  const bare = new Map<string, TensorEntry>()
  for (const [name, entry] of found)
    bare.set(name.replaceAll(/(?:_fsdp_wrapped_module|_orig_mod|_checkpoint_wrapped_module)\./g, ''), entry)
  const names = [...bare.keys()]
  if (names.some(name => /(^|\.)_?flat_param(_\d+)?$/.test(name)))
    throw new UserError(`${path} holds the shards of one process of a training run (flat parameters), not a model.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Use the teacher_checkpoint.pth that the run wrote under eval/.'
    })

  const {prefix, chosen} = choosePrefix(path, names, root)
  let parent = prefix
  for (let wrapper: string | undefined; (wrapper = wrappers.find(name => parent.endsWith(name)));) parent = parent.slice(0, -wrapper.length)
  const backbone = new Map<string, TensorEntry>()
  const heads = new Map<string, TensorEntry>()
  const hasBackbone = names.some(name => anchors.some(anchor => name === prefix + anchor))
  for (const [name, entry] of bare) {
    const inside = name.startsWith(prefix) ? name.slice(prefix.length) : undefined
    const beside = (name.startsWith(parent) ? name.slice(parent.length) : name).replace(/^(?:module\.)+/, '')
    if (inside !== undefined && !headName.test(inside)) backbone.set(inside, entry)
    else if (headName.test(beside)) heads.set(headTensor(beside), renamed(entry, headTensor(beside)))
  }

  const notes: string[] = []
  const has = (name: string): boolean => backbone.has(name)
  let dialect: Dialect = 'meta'
  let tensors = backbone
  if (has('embeddings.patch_embeddings.projection.weight') || has('embeddings.cls_token')) {
    dialect = 'huggingface'
    tensors = fromHuggingFace(path, backbone)
  } else if ([...backbone.keys()].some(name => /^blocks\.\d+\.\d+\./.test(name))) {
    dialect = 'chunked'
    tensors = collect(
      path,
      [...backbone].map(([name, entry]) => [name.replace(/^blocks\.\d+\.(\d+\.)/, 'blocks.$1'), entry])
    )
  } else if (hasBackbone && has('patch_embed.proj.weight') && (has('reg_token') || !has('mask_token'))) {
    dialect = 'timm'
    tensors = fromTimm(path, backbone)
  }
  const cls = tensors.get('cls_token')
  if ((dialect === 'timm' || dialect === 'huggingface') && cls && !tensors.has('mask_token')) {
    tensors.set('mask_token', zeros('mask_token', [1, cls.shape.at(-1)!], cls))
    notes.push('The file has no mask token; zeros stand in, which matter only where images are masked.')
  }
  return {
    tensors: new Map([...tensors].map(([name, entry]) => [name, renamed(entry, name)])),
    heads,
    dialect,
    root: chosen,
    notes
  }
}

/** What stands before the backbone's names, and the root that this means. */
function choosePrefix(path: string, names: readonly string[], root: string | undefined): {prefix: string; chosen: string | undefined} {
  let prefixes: string[] = []
  for (const anchor of anchors) {
    prefixes = names.filter(name => name === anchor || name.endsWith(`.${anchor}`)).map(name => name.slice(0, -anchor.length))
    if (prefixes.length) break
  }
  // A file of heads alone: what stands first may still be a root.
  if (!prefixes.length) {
    const first = new Set(names.map(name => name.split('.')[0]!))
    prefixes = [...rootOrder.filter(name => first.has(name)).map(name => `${name}.`), '']
    if (root === undefined) return {prefix: prefixes[0]!, chosen: prefixes[0] === '' ? undefined : prefixes[0]!.slice(0, -1)}
  }
  const within = (prefix: string, name: string): boolean => `.${prefix}`.includes(`.${name}.`)
  const listed = prefixes.map(prefix => prefix.replace(/\.$/, '') || '(the top level)').join(', ')
  if (root !== undefined) {
    const fitting = prefixes.filter(prefix => within(prefix, root))
    if (fitting.length === 1) return {prefix: fitting[0]!, chosen: root}
    throw new UserError(`${path} has ${fitting.length ? 'several models' : 'no model'} under ${root}; it has: ${listed}.`, {
      exit: 2,
      code: 'NO_ROOT',
      hint: 'Name one of these as the root, or leave the root out.'
    })
  }
  const teachers = prefixes.filter(prefix => /(^|[._])teacher(_\w+)?\./.test(prefix)) // also teacher_backbone. and ema_teacher.
  const [only] = prefixes.length === 1 ? prefixes : prefixes.includes('') ? [''] : teachers.length === 1 ? teachers : []
  if (only === undefined)
    throw new UserError(`${path} holds several models: ${listed}.`, {
      exit: 2,
      code: 'NO_ROOT',
      hint: `Take one out: dinov2 export ${path} --root ${listed.split(', ')[0]} --to safetensors -o weights.safetensors`
    })
  return {prefix: only, chosen: rootOrder.find(name => within(only, name))}
}

/**
 * PyTorch has two spellings for the two halves of a weight-normed matrix; Meta's is gain `weight_g` and direction
 * `weight_v`.
 */
const headTensor = (name: string): string =>
  name.replace(/\.parametrizations\.weight\.original([01])$/, (_, half: string) => (half === '0' ? '.weight_g' : '.weight_v'))

function collect(path: string, pairs: Iterable<readonly [string, TensorEntry]>): Map<string, TensorEntry> {
  const out = new Map<string, TensorEntry>()
  for (const [name, entry] of pairs) {
    if (out.has(name))
      throw new UserError(`${path} has two tensors that mean ${name}: ${out.get(name)!.name} and ${entry.name}.`, {code: 'BAD_CHECKPOINT'})
    out.set(name, entry)
  }
  return out
}

const zeros = (name: string, shape: readonly number[], {dtype}: TensorEntry): TensorEntry =>
  tensorEntry(name, dtype, shape, async () => new Uint8Array(shape.reduce((product, length) => product * length, itemSize[dtype])))

// ---- Hugging Face --------------------------------------------------------------------------------------------------

/** Meta's name and, where several Hugging Face tensors make one of Meta's, the place among them. */
function fromHuggingFaceName(name: string): [name: string, part?: number] {
  const block = /^encoder\.layer\.(\d+)\.(.+)\.(weight|bias|lambda1)$/.exec(name)
  if (!block) {
    return [
      name
        .replace(/^embeddings\.patch_embeddings\.projection\./, 'patch_embed.proj.')
        .replace(/^embeddings\.position_embeddings$/, 'pos_embed')
        .replace(/^embeddings\./, '')
        .replace(/^layernorm\./, 'norm.')
    ]
  }
  const [, index, module, leaf] = block as unknown as [string, string, string, string]
  const at = (rest: string): string => `blocks.${index}.${rest}`
  const qkv = ['query', 'key', 'value'].findIndex(
    (part, i) => module === `attention.attention.${part}` || module === `attention.${'qkv'[i]}_proj`
  )
  if (qkv >= 0) return [at(`attn.qkv.${leaf}`), qkv]
  switch (module) {
    case 'attention.output.dense':
    case 'attention.o_proj':
      return [at(`attn.proj.${leaf}`)]
    case 'layer_scale1':
    case 'layer_scale2':
      return [at(`ls${module.at(-1)}.gamma`)]
    case 'mlp.weights_in':
      return [at(`mlp.w12.${leaf}`)]
    case 'mlp.gate_proj':
    case 'mlp.up_proj':
      return [at(`mlp.w12.${leaf}`), module === 'mlp.gate_proj' ? 0 : 1]
    case 'mlp.weights_out':
    case 'mlp.down_proj':
      return [at(`mlp.w3.${leaf}`)]
    default:
      return [at(`${module}.${leaf}`)]
  }
}

function fromHuggingFace(path: string, found: ReadonlyMap<string, TensorEntry>): Map<string, TensorEntry> {
  const whole: [string, TensorEntry][] = []
  const parts = new Map<string, (TensorEntry | undefined)[]>()
  for (const [hugging, entry] of found) {
    const [name, part] = fromHuggingFaceName(hugging)
    if (part === undefined) whole.push([name, entry])
    else {
      const list = parts.get(name) ?? new Array<TensorEntry | undefined>(name.includes('qkv') ? 3 : 2).fill(undefined)
      list[part] = entry
      parts.set(name, list)
    }
  }
  // An incomplete set keeps the names of the file, so that the check of the architecture reports what is there.
  for (const [name, list] of parts) {
    const present = list.filter(entry => entry !== undefined)
    if (present.length === list.length) whole.push([name, concatenated(name, present)])
    else for (const entry of present) whole.push([entry.name, entry])
  }
  return collect(path, whole)
}

/**
 * Hugging Face's names for one of Meta's tensors: one, or three for query, key and value, in the order of their rows.
 * They are the names of published files, which every version of transformers reads, whatever it calls the modules
 * inside.
 */
export function toHuggingFaceNames(name: string): readonly string[] {
  const block = /^blocks\.(\d+)\.(.+)$/.exec(name)
  if (!block) {
    const outside: Readonly<Record<string, string>> = {
      cls_token: 'embeddings.cls_token',
      mask_token: 'embeddings.mask_token',
      register_tokens: 'embeddings.register_tokens',
      pos_embed: 'embeddings.position_embeddings',
      'patch_embed.proj.weight': 'embeddings.patch_embeddings.projection.weight',
      'patch_embed.proj.bias': 'embeddings.patch_embeddings.projection.bias',
      'norm.weight': 'layernorm.weight',
      'norm.bias': 'layernorm.bias'
    }
    const there = outside[name]
    if (there === undefined) throw new Error(`No Hugging Face name is known for ${name}`)
    return [there]
  }
  const [, index, rest] = block as unknown as [string, string, string]
  const layer = `encoder.layer.${index}.`
  const qkv = /^attn\.qkv\.(weight|bias)$/.exec(rest)
  if (qkv) return ['query', 'key', 'value'].map(part => `${layer}attention.attention.${part}.${qkv[1]}`)
  return [
    layer +
      rest
        .replace(/^attn\.proj\./, 'attention.output.dense.')
        .replace(/^ls([12])\.gamma$/, 'layer_scale$1.lambda1')
        .replace(/^mlp\.w12\./, 'mlp.weights_in.')
        .replace(/^mlp\.w3\./, 'mlp.weights_out.')
  ]
}

// ---- timm ----------------------------------------------------------------------------------------------------------

function fromTimm(path: string, found: ReadonlyMap<string, TensorEntry>): Map<string, TensorEntry> {
  const out: [string, TensorEntry][] = []
  for (const [name, entry] of found) {
    const block = /^blocks\.\d+\.mlp\./.exec(name)?.[0]
    if (name === 'reg_token') out.push(['register_tokens', entry])
    else if (name === 'pos_embed' && found.has('reg_token') && entry.shape.length === 3) {
      // The class token's position is already added to the token; here it gets the position zero.
      const [one, positions, width] = entry.shape as [number, number, number]
      out.push([
        name,
        tensorEntry(name, entry.dtype, [one, positions + 1, width], async () => {
          const bytes = new Uint8Array(one * (positions + 1) * width * itemSize[entry.dtype])
          bytes.set(await entry.read(), bytes.byteLength - entry.byteLength)
          return bytes
        })
      ])
    } else if (block && isGated(found, block)) out.push([name.replace('.mlp.fc1.', '.mlp.w12.').replace('.mlp.fc2.', '.mlp.w3.'), entry])
    else out.push([name, entry])
  }
  return collect(path, out)
}

/** A gated layer has two rows of fc1 for each column of fc2. */
function isGated(found: ReadonlyMap<string, TensorEntry>, mlp: string): boolean {
  const rows = found.get(`${mlp}fc1.weight`)?.shape[0]
  const columns = found.get(`${mlp}fc2.weight`)?.shape[1]
  return rows !== undefined && columns !== undefined && rows === 2 * columns
}
