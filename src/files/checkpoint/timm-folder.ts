/** Writes the folder of a backbone that timm opens. */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import type {VitConfig} from '../../model/config.js'
import {atomicFolder, type AtomicOptions} from '../../system/atomic.js'
import {configMetadata, expectedShapes} from './architecture.js'
import {writeStream, type NamedTensor, type TensorStream} from './backbone.js'
import {defaultPreprocessing, type Preprocessing} from './preprocessing.js'

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
  {
    preprocessing,
    metadata = {},
    force
  }: AtomicOptions & {readonly preprocessing?: Preprocessing; readonly metadata?: Readonly<Record<string, string>>} = {}
): Promise<void> {
  const {width, grid, registers} = config
  const shapes = expectedShapes(config)
  shapes.delete('mask_token')
  if (registers) shapes.set('pos_embed', [1, grid * grid, width])
  await atomicFolder(
    dir,
    async folder => {
      const path = join(folder, 'model.safetensors')
      await writeStream(
        path,
        {shapes, tensors: timmTensors(config, tensors), rename: name => [timmName(name)]},
        {metadata: {...metadata, ...configMetadata(config)}}
      )
      await writeFile(
        join(folder, 'config.json'),
        `${JSON.stringify(timmConfig(config, preprocessing ?? defaultPreprocessing), null, 2)}\n`
      )
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

function timmConfig(
  {width, depth, heads, patch, ffn, hidden, registers, grid, layerScale}: VitConfig,
  {resize, crop, mean, std, source}: Preprocessing
): Record<string, unknown> {
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
      crop_pct: source === undefined ? 1 : cropShare(resize, crop ?? resize), // as the released models, where nothing is recorded
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

/** timm resizes the short side to floor(crop / share); this share gives `resize` back in spite of rounding. */
function cropShare(resize: number, crop: number): number {
  const share = crop / resize
  return Math.floor(crop / share) === resize ? share : crop / (resize + 0.5)
}
