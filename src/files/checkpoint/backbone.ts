/**
 * A whole backbone in and out of files: opened with its architecture, saved as safetensors, as a folder for
 * transformers, or as a folder for timm.
 *
 * Tensors pass through one at a time, in any order; since the architecture tells every name and shape beforehand,
 * their places in the file are known before the first one comes.
 */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {VitConfig} from '../../model/config.js'
import {checkFit, configMetadata, expectedShapes, inferConfig} from './architecture.js'
import {atomicFolder, type AtomicOptions} from '../../system/atomic.js'
import {openCheckpoint, type Checkpoint, type CheckpointOptions} from './checkpoint.js'
import {toHuggingFaceNames} from './key-mapping.js'
import {createSafetensors, type TensorSpec} from './safetensors.js'
import {bytesOf} from './tensor-entry.js'

/** One tensor on its way to a file: Meta's name, row-major float32. */
export type NamedTensor = {readonly name: string; readonly shape: readonly number[]; readonly data: Float32Array}
export type TensorStream = Iterable<NamedTensor> | AsyncIterable<NamedTensor>

/**
 * Opens a checkpoint, infers its architecture and checks that it is complete. Throws as `openCheckpoint`,
 * `inferConfig` and `checkFit`.
 */
export async function openBackbone(
  path: string,
  {overrides, ...options}: CheckpointOptions & {readonly overrides?: Partial<VitConfig>} = {}
): Promise<{config: VitConfig; checkpoint: Checkpoint}> {
  const checkpoint = await openCheckpoint(path, options)
  try {
    const shapes = new Map([...checkpoint.tensors].map(([name, {shape}]) => [name, shape]))
    const config = inferConfig(shapes, checkpoint.metadata, overrides, path)
    checkFit(expectedShapes(config), shapes, path)
    return {config, checkpoint}
  } catch (error) {
    await checkpoint.close()
    throw error
  }
}

/** The backbone's tensors one after another as float32, in Meta's order. */
export async function* readBackbone(config: VitConfig, {tensors}: Pick<Checkpoint, 'tensors'>): AsyncGenerator<NamedTensor> {
  for (const [name, shape] of expectedShapes(config)) yield {name, shape, data: await tensors.get(name)!.readFloat32()}
}

/**
 * Writes a backbone as one safetensors file under Meta's names; its architecture goes into the metadata, so that
 * `openBackbone` gives back the same.
 *
 * Throws `UserError` when the output exists without `force`; an `Error` when tensors are missing or of another shape,
 * which is a defect of the caller.
 */
export async function saveBackbone(
  path: string,
  config: VitConfig,
  tensors: TensorStream,
  metadata: Readonly<Record<string, string>> = {},
  options: AtomicOptions = {}
): Promise<void> {
  const shapes = expectedShapes(config)
  await stream(path, shapes, tensors, name => [name], {...metadata, ...configMetadata(config)}, options)
}

/**
 * Writes tensors as they come to the places that `rename` gives them; several names share the rows of one tensor
 * evenly.
 */
async function stream(
  path: string,
  shapes: ReadonlyMap<string, readonly number[]>,
  tensors: TensorStream,
  rename: (name: string) => readonly string[],
  metadata: Readonly<Record<string, string>>,
  options: AtomicOptions,
  added: readonly NamedTensor[] = []
): Promise<void> {
  const specs: TensorSpec[] = []
  for (const [name, [rows, ...rest]] of shapes) {
    const names = rename(name)
    for (const part of names) specs.push({name: part, dtype: 'F32', shape: [rows! / names.length, ...rest]})
  }
  for (const {name, shape} of added) specs.push({name, dtype: 'F32', shape})
  const writer = await createSafetensors(path, specs, metadata, options)
  try {
    for (const {name, data} of added) await writer.write(name, bytesOf(data))
    for await (const {name, shape, data} of tensors) {
      const expected = shapes.get(name)
      if (!expected || expected.join() !== shape.join())
        throw new Error(`Expected ${expected ? `[${expected.join(', ')}]` : 'no tensor'} for ${name} but received [${shape.join(', ')}]`)
      const names = rename(name)
      const length = data.length / names.length
      for (const [i, part] of names.entries()) await writer.write(part, bytesOf(data.subarray(i * length, (i + 1) * length)))
    }
    await writer.commit()
  } catch (error) {
    await writer.abort()
    throw error
  }
}

// ---- Hugging Face --------------------------------------------------------------------------------------------------

export type Preprocessing = {
  /** Shorter edge after resizing, in pixels. */
  readonly resize: number
  /** Side of the square cut from the centre, in pixels. */
  readonly crop: number
}

export type ModelCard = {
  readonly title?: string
  /** Licence of the weights, as a Hugging Face identifier; left out when not said. */
  readonly license?: string
  readonly datasets?: readonly string[]
  /** Names and values of measurements, e.g. `{'kNN top-1': 0.79}`. */
  readonly metrics?: Readonly<Record<string, number>>
  /** Paragraphs in Markdown: where the weights come from. */
  readonly text?: string
}

export type HuggingFaceOptions = AtomicOptions & {
  readonly preprocessing?: Preprocessing
  readonly modelCard?: ModelCard
  readonly metadata?: Readonly<Record<string, string>>
}

const mean = [0.485, 0.456, 0.406]
const std = [0.229, 0.224, 0.225]

/**
 * Writes a folder that transformers opens as `Dinov2Model`, or with registers as `Dinov2WithRegistersModel`:
 * config.json, model.safetensors, preprocessor_config.json and README.md. The folder appears whole.
 *
 * Blocks without LayerScale get gains of one, which is the same. Throws `UserError` where transformers has no such
 * model (hidden width), or the output exists without `force`.
 */
export async function saveHuggingFace(
  dir: string,
  config: VitConfig,
  tensors: TensorStream,
  options: HuggingFaceOptions = {}
): Promise<void> {
  const {preprocessing = {resize: 256, crop: 224}, modelCard = {}, metadata = {}, force} = options
  const described = huggingFaceConfig(config)
  const gains: NamedTensor[] = []
  if (!config.layerScale)
    for (let i = 0; i < config.depth; i++)
      for (const half of [1, 2])
        gains.push({
          name: `encoder.layer.${i}.layer_scale${half}.lambda1`,
          shape: [config.width],
          data: new Float32Array(config.width).fill(1)
        })
  await atomicFolder(
    dir,
    async folder => {
      await stream(
        join(folder, 'model.safetensors'),
        expectedShapes(config),
        tensors,
        toHuggingFaceNames,
        {...metadata, ...configMetadata({...config, layerScale: true})},
        {},
        gains
      )
      await writeFile(join(folder, 'config.json'), withFractions(described))
      await writeJson(join(folder, 'preprocessor_config.json'), preprocessor(preprocessing))
      await writeFile(join(folder, 'README.md'), card(config, preprocessing, modelCard))
    },
    {force}
  )
}

const writeJson = (path: string, value: unknown): Promise<void> => writeFile(path, `${JSON.stringify(value, null, 2)}\n`)

/** transformers takes 1.0 for a rate and refuses 1, a difference that JavaScript's numbers do not make. */
const withFractions = (config: unknown): string =>
  `${JSON.stringify(config, null, 2)}\n`.replace(/("(?:layerscale_value|drop_path_rate|\w+_prob)": \d+)(,?)$/gm, '$1.0$2')

function huggingFaceConfig(config: VitConfig): Record<string, unknown> {
  const registers = config.registers > 0
  return {
    architectures: [registers ? 'Dinov2WithRegistersModel' : 'Dinov2Model'],
    attention_probs_dropout_prob: 0,
    drop_path_rate: 0,
    hidden_act: 'gelu',
    hidden_dropout_prob: 0,
    hidden_size: config.width,
    image_size: config.grid * config.patch,
    initializer_range: 0.02,
    layer_norm_eps: 1e-6,
    layerscale_value: 1,
    mlp_ratio: huggingFaceRatio(config),
    model_type: registers ? 'dinov2_with_registers' : 'dinov2',
    num_attention_heads: config.heads,
    num_channels: 3,
    num_hidden_layers: config.depth,
    ...(registers && {num_register_tokens: config.registers}),
    patch_size: config.patch,
    qkv_bias: true,
    torch_dtype: 'float32',
    use_mask_token: true,
    use_swiglu_ffn: config.ffn === 'swiglu'
  }
}

/**
 * transformers knows the hidden width only as a whole multiple of the width; SwiGLU layers take two thirds of it,
 * rounded up to a multiple of 8.
 */
function huggingFaceRatio({width, hidden, ffn}: VitConfig): number {
  for (const ratio of [4, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]) {
    const full = width * ratio
    if (hidden === (ffn === 'swiglu' ? Math.ceil(Math.trunc((full * 2) / 3) / 8) * 8 : full)) return ratio
  }
  throw new UserError(
    ffn === 'swiglu'
      ? `transformers has no SwiGLU model of width ${width} with ${hidden} hidden units: it takes two thirds of a multiple of the width, rounded up to a multiple of 8.`
      : `transformers has no model of width ${width} with ${hidden} hidden units: it takes whole multiples of the width.`,
    {code: 'UNSUPPORTED', hint: 'Export it as safetensors or meta instead.'}
  )
}

const preprocessor = ({resize, crop}: Preprocessing): Record<string, unknown> => ({
  crop_size: {height: crop, width: crop},
  do_center_crop: true,
  do_convert_rgb: true,
  do_normalize: true,
  do_rescale: true,
  do_resize: true,
  image_mean: mean,
  image_processor_type: 'BitImageProcessor',
  image_std: std,
  resample: 3,
  rescale_factor: 1 / 255,
  size: {shortest_edge: resize}
})

/** A string that YAML takes as one, whatever is in it. */
const yamlString = (text: string): string =>
  /^[A-Za-z][\w./-]*$/.test(text) && !/^(true|false|null|yes|no|on|off)$/i.test(text) ? text : JSON.stringify(text)

function card(config: VitConfig, {resize, crop}: Preprocessing, {title, license, datasets = [], metrics = {}, text}: ModelCard): string {
  const measured = Object.entries(metrics)
  const head = [
    ...(license !== undefined ? [`license: ${yamlString(license)}`] : []),
    'library_name: transformers',
    'pipeline_tag: image-feature-extraction',
    ...(datasets.length ? ['datasets:', ...datasets.map(name => `- ${yamlString(name)}`)] : []),
    ...(measured.length ? ['metrics:', ...measured.map(([name]) => `- ${yamlString(name)}`)] : []),
    'tags:',
    '- dinov2',
    '- self-supervised'
  ]
  const model = config.registers ? 'Dinov2WithRegistersModel' : 'Dinov2Model'
  const side = config.grid * config.patch
  const body = [
    `# ${title ?? 'DINOv2 vision transformer'}`,
    ...(text !== undefined ? [text] : []),
    [
      '| | |',
      '| --- | --- |',
      `| width, depth, heads | ${config.width}, ${config.depth}, ${config.heads} |`,
      `| patch | ${config.patch} × ${config.patch} pixels |`,
      `| feed-forward | ${config.ffn === 'swiglu' ? 'SwiGLU' : 'GELU MLP'}, ${config.hidden} hidden |`,
      `| registers | ${config.registers} |`,
      `| positions | ${config.grid} × ${config.grid}, images of ${side} × ${side} |`,
      ...measured.map(([name, value]) => `| ${name} | ${value} |`)
    ].join('\n'),
    [
      '```python',
      `from transformers import AutoImageProcessor, ${model}`,
      '',
      'processor = AutoImageProcessor.from_pretrained(folder)',
      `model = ${model}.from_pretrained(folder)`,
      'tokens = model(**processor(images=image, return_tensors="pt")).last_hidden_state',
      `cls, patches = tokens[:, 0], tokens[:, ${1 + config.registers}:]`,
      '```'
    ].join('\n'),
    `Images are resized to ${resize} pixels along the shorter edge (bicubic), cut to ${crop} × ${crop} from the centre and normalised with the mean and deviation of ImageNet.`,
    ...(config.interpolateOffset !== 0 || config.interpolateAntialias !== config.registers > 0
      ? [
          `At other sizes than ${side} × ${side}, transformers resamples the positions a little differently than the original model does, and features differ slightly.`
        ]
      : [])
  ]
  return `---\n${head.join('\n')}\n---\n\n${body.join('\n\n')}\n`
}

// ---- timm ----------------------------------------------------------------------------------------------------------

/**
 * Writes a folder that timm opens by `timm.create_model('local-dir:<folder>', pretrained=True)`: config.json and
 * model.safetensors in timm's names.
 *
 * timm's models have no mask token, so it is left out; with registers the class token takes its position with it.
 * Throws `UserError` when the output exists without `force`.
 */
export async function saveTimm(
  dir: string,
  config: VitConfig,
  tensors: TensorStream,
  {metadata = {}, force}: AtomicOptions & {readonly metadata?: Readonly<Record<string, string>>} = {}
): Promise<void> {
  const {width, grid, registers} = config
  const shapes = expectedShapes(config)
  shapes.delete('mask_token')
  if (registers) shapes.set('pos_embed', [1, grid * grid, width])
  await atomicFolder(
    dir,
    async folder => {
      const path = join(folder, 'model.safetensors')
      await stream(path, shapes, timmTensors(config, tensors), name => [timmName(name)], {...metadata, ...configMetadata(config)}, {})
      await writeJson(join(folder, 'config.json'), timmConfig(config))
    },
    {force}
  )
}

const timmName = (name: string): string =>
  name
    .replace(/^register_tokens$/, 'reg_token')
    .replace('.mlp.w12.', '.mlp.fc1.')
    .replace('.mlp.w3.', '.mlp.fc2.')

/** Drops the mask token and, where there are registers, moves the class token's position into the token. */
async function* timmTensors({registers, width}: VitConfig, tensors: TensorStream): AsyncGenerator<NamedTensor> {
  let cls: NamedTensor | undefined
  let positions: NamedTensor | undefined
  for await (const tensor of tensors) {
    if (tensor.name === 'mask_token') continue
    if (registers && tensor.name === 'cls_token') cls = tensor
    else if (registers && tensor.name === 'pos_embed') positions = tensor
    else yield tensor
  }
  if (!cls || !positions) return
  const [one, count] = positions.shape as [number, number]
  yield {...cls, data: cls.data.map((value, i) => value + positions.data[i]!)}
  yield {...positions, shape: [one, count - 1, width], data: positions.data.subarray(width)}
}

function timmConfig({width, depth, heads, patch, ffn, hidden, registers, grid, layerScale}: VitConfig): Record<string, unknown> {
  const side = grid * patch
  const rows = ffn === 'swiglu' ? 2 * hidden : hidden
  const size = ffn === 'swiglu' ? 'giant' : ({384: 'small', 768: 'base', 1024: 'large'}[width] ?? 'base')
  return {
    architecture: `vit_${size}_patch14_${registers ? 'reg4_' : ''}dinov2`,
    num_classes: 0,
    num_features: width,
    global_pool: 'token',
    model_args: {
      img_size: side,
      patch_size: patch,
      embed_dim: width,
      depth,
      num_heads: heads,
      // timm truncates width × ratio, so a half keeps a ratio that is no binary fraction on the right side.
      mlp_ratio: rows % width === 0 ? rows / width : (rows + 0.5) / width,
      init_values: layerScale ? 1e-5 : null,
      reg_tokens: registers
    },
    pretrained_cfg: {
      input_size: [3, side, side],
      fixed_input_size: true,
      interpolation: 'bicubic',
      crop_pct: 1,
      crop_mode: 'center',
      mean,
      std,
      num_classes: 0,
      pool_size: null,
      first_conv: 'patch_embed.proj',
      classifier: 'head'
    }
  }
}
