/** Writes the folder of a backbone that transformers opens, with its preprocessor and its model card. */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {VitConfig} from '../../model/config.js'
import {atomicFolder, type AtomicOptions} from '../../system/atomic.js'
import {configMetadata, expectedShapes} from './architecture.js'
import {writeStream, type NamedTensor, type TensorStream} from './backbone.js'
import {toHuggingFaceNames} from './key-mapping.js'
import {defaultPreprocessing, isImageNet, type Preprocessing} from './preprocessing.js'

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
  const {preprocessing = defaultPreprocessing, modelCard = {}, metadata = {}, force} = options
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
      await writeStream(
        join(folder, 'model.safetensors'),
        {shapes: expectedShapes(config), tensors, rename: toHuggingFaceNames},
        {metadata: {...metadata, ...configMetadata({...config, layerScale: true})}, added: gains}
      )
      await writeFile(join(folder, 'config.json'), withFractions(described))
      await writeFile(join(folder, 'preprocessor_config.json'), `${JSON.stringify(preprocessor(preprocessing), null, 2)}\n`)
      await writeFile(join(folder, 'README.md'), card(config, preprocessing, modelCard))
    },
    {force}
  )
}

/** transformers takes 1.0 for a rate and refuses 1, a difference that JavaScript's numbers do not make. */
export const withFractions = (config: unknown): string =>
  `${JSON.stringify(config, null, 2)}\n`.replace(/("(?:layerscale_value|drop_path_rate|\w+_prob)": \d+)(,?)$/gm, '$1.0$2')

/**
 * The config.json of a backbone. Throws `UserError` where transformers has no model of that hidden width, unless
 * `ratio` says what to write.
 */
export function huggingFaceConfig(config: VitConfig, ratio = huggingFaceRatio(config)): Record<string, unknown> {
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
    mlp_ratio: ratio,
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

/** The preprocessor_config.json of an image processor. */
export const preprocessor = ({resize, crop, mean, std}: Preprocessing): Record<string, unknown> => ({
  crop_size: {height: crop ?? resize, width: crop ?? resize},
  do_center_crop: crop !== undefined,
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

function card(
  config: VitConfig,
  {resize, crop, ...normalization}: Preprocessing,
  {title, license, datasets = [], metrics = {}, text}: ModelCard
): string {
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
    `Images are resized to ${resize} pixels along the shorter edge (bicubic)${crop === undefined ? '' : `, cut to ${crop} × ${crop} from the centre`} and normalized with ${isImageNet(normalization) ? 'the mean and deviation of ImageNet' : `mean ${normalization.mean.join(', ')} and deviation ${normalization.std.join(', ')}`}.`,
    ...(config.interpolateOffset !== 0 || config.interpolateAntialias !== config.registers > 0
      ? [
          `At other sizes than ${side} × ${side}, transformers resamples the positions a little differently than the original model does, and features differ slightly.`
        ]
      : [])
  ]
  return `---\n${head.join('\n')}\n---\n\n${body.join('\n\n')}\n`
}
