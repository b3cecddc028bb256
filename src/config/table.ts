/**
 * The settings of training, each declared once: kind, range, default and a sentence. Files, `--set`,
 * `configs/default.yaml`, the type `Settings` and the messages about wrong values all come from here.
 *
 * Names are Meta's (`ssl_default_config.yaml`) wherever the thing is the same; a file written for the Python code
 * means the same here. `elsewhere` names the keys of theirs that have no place in this project and says what to use
 * instead.
 */

type Declared<T> = {
  readonly default: T
  /** What it is, in a sentence or two, as shown in `configs/default.yaml`. */
  readonly description: string
}
export type NumberSetting = Declared<number> & {
  readonly kind: 'number' | 'integer'
  readonly min: number
  readonly max: number
  readonly above?: boolean
}
export type MaybeSetting = Declared<number | null> & {readonly kind: 'integer or null'; readonly min: number; readonly max: number}
export type SwitchSetting = Declared<boolean> & {readonly kind: 'switch'}
export type TextSetting = Declared<string> & {readonly kind: 'text'}
export type ChoiceSetting<T extends string = string> = Declared<T> & {readonly kind: 'choice'; readonly options: readonly T[]}
export type RangeSetting = Declared<readonly [number, number]> & {readonly kind: 'range'; readonly min: number; readonly max: number}
export type Setting = NumberSetting | MaybeSetting | SwitchSetting | TextSetting | ChoiceSetting | RangeSetting

type Bounds = {readonly min?: number; readonly max?: number; readonly above?: boolean}
const number = (value: number, {min = 0, max = Infinity, above = false}: Bounds, says: string): NumberSetting => ({
  kind: 'number',
  default: value,
  min,
  max,
  above,
  description: says
})
const integer = (value: number, {min = 0, max = 2 ** 31 - 1}: Bounds, says: string): NumberSetting => ({
  kind: 'integer',
  default: value,
  min,
  max,
  description: says
})
const maybe = ({min = 1, max = 2 ** 20}: Bounds, says: string): MaybeSetting => ({
  kind: 'integer or null',
  default: null,
  min,
  max,
  description: says
})
const toggle = (value: boolean, says: string): SwitchSetting => ({kind: 'switch', default: value, description: says})
const text = (value: string, says: string): TextSetting => ({kind: 'text', default: value, description: says})
const choice = <const T extends string>(value: NoInfer<T>, options: readonly T[], says: string): ChoiceSetting<T> => ({
  kind: 'choice',
  default: value,
  options,
  description: says
})
const range = (value: readonly [number, number], says: string): RangeSetting => ({
  kind: 'range',
  default: value,
  min: 0,
  max: 1,
  description: says
})

/**
 * The head that the class token (and, where shared, the masked patches) go through. Section 2.1 of the paper's
 * appendix; sizes are Meta's.
 */
const head = (who: string) => ({
  head_n_prototypes: integer(65_536, {min: 2}, `Prototypes K of the ${who} head: the length of its output.`),
  head_bottleneck_dim: integer(256, {min: 1}, `Width of the ${who} head before its normalized last layer.`),
  head_nlayers: integer(3, {min: 1, max: 16}, `Layers of the ${who} head before the last layer.`),
  head_hidden_dim: integer(2048, {min: 1}, `Hidden width of the ${who} head.`)
})

export const settingsTable = {
  dino: {
    loss_weight: number(1, {}, 'Weight of the loss on class tokens.'),
    ...head('DINO'),
    koleo_loss_weight: number(0.1, {}, 'Weight of KoLeo, which spreads the class tokens of a batch apart. 0 leaves it out.')
  },
  ibot: {
    loss_weight: number(1, {}, 'Weight of the loss on masked patches. 0 leaves it out.'),
    mask_sample_probability: number(0.5, {max: 1}, 'Share of the global crops that are masked.'),
    mask_ratio_min_max: range([0.1, 0.5], 'Smallest and largest share of patches hidden in a masked crop.'),
    separate_head: toggle(
      false,
      'Whether masked patches have a head of their own; otherwise they share the DINO head, and the sizes below are not read.'
    ),
    ...head('iBOT')
  },
  train: {
    batch_size_per_gpu: integer(64, {min: 1}, 'Images a step on one device. Also written train.batch.'),
    seed: integer(0, {}, 'Where all draws start: the same seed gives the same run.'),
    OFFICIAL_EPOCH_LENGTH: integer(
      1250,
      {min: 1},
      'Steps that count as one epoch in the lengths below; unrelated to the number of images.'
    ),
    steps: integer(
      0,
      {},
      'Length of the whole run in steps; warm-ups and all else given in epochs shrink or stretch with it. 0: optim.epochs times train.OFFICIAL_EPOCH_LENGTH.'
    ),
    centering: choice(
      'centering',
      ['centering', 'sinkhorn_knopp'],
      'How the teacher is kept from collapsing: a running centre, or Sinkhorn-Knopp.'
    ),
    memory: choice(
      'fast',
      ['fast', 'balanced', 'small'],
      "What the forward pass keeps for the backward pass: fast keeps what is dear to compute; balanced each block's input, its queries, keys, values and attention; small each block's input alone, and computes the rest anew. The numbers are the same."
    ),
    grad_accumulation: integer(
      1,
      {min: 1, max: 65536},
      'In how many parts a batch goes through the networks, one after the other; their gradients are added. Images a step, learning rate, Sinkhorn-Knopp and centres are those of the whole batch; KoLeo looks for neighbours within a part, and stochastic depth draws in each part by itself.'
    ),
    koleo: choice(
      'process',
      ['process', 'global'],
      'Where KoLeo looks for neighbours when several processes train: among the images of its own process, as the reference does, or among all of a step.'
    ),
    parallel: choice(
      'auto',
      ['auto', 'none', 'ddp', 'fsdp'],
      'How the processes that torchrun, mpirun or srun started train together. ddp: each takes train.batch_size_per_gpu other images of a step, and gradients are summed. fsdp (pretrain): besides, each holds a part of every parameter, its moments and its average, and blocks are gathered while they are used. auto: ddp where there are several. none: each trains by itself.'
    ),
    process_timeout: integer(
      60,
      {min: 1, max: 86400},
      'Seconds after which a process that does not respond, or finds no images, ends the run of all.'
    ),
    workers: integer(
      0,
      {max: 1024},
      'Threads that decode and crop images. 0: one fewer than there are cores. Also written train.num_workers.'
    ),
    decode: choice(
      'full',
      ['full', 'scaled'],
      'Whether JPEGs are decoded in full, as the reference does, or large ones at a half, a quarter or an eighth of their sides where no crop needs more: about four times as fast for photos of 12 megapixels.'
    ),
    cache_mb: integer(512, {}, 'Memory in MiB for decoded images that are met again in later epochs. 0: none.'),
    log_every: integer(10, {min: 1}, 'Steps between two lines of metrics.jsonl.'),
    checkpoint_every: integer(
      3750,
      {min: 1},
      'Steps between two checkpoints. One is also written at the end and when a signal stops the run.'
    ),
    keep_checkpoints: integer(3, {min: 1}, 'How many of the latest checkpoints are kept.'),
    keep_every: integer(0, {}, 'Besides, keep the checkpoint of every so many steps for good. 0: none.')
  },
  student: {
    arch: choice(
      'vit_large',
      ['vit_small', 'vit_base', 'vit_large', 'vit_giant2', 'custom'],
      'Size of the backbone. custom takes it from embed_dim, depth and num_heads.'
    ),
    embed_dim: maybe({}, 'Width of a custom backbone.'),
    depth: maybe({max: 1024}, 'Blocks of a custom backbone.'),
    num_heads: maybe({max: 4096}, 'Attention heads of a custom backbone; they divide its width.'),
    patch_size: integer(16, {min: 1, max: 256}, 'Side of a patch in pixels.'),
    drop_path_rate: number(0.3, {max: 0.95}, 'Share of the images of a batch that skip a residual branch (stochastic depth).'),
    drop_path_uniform: toggle(
      true,
      'Whether that share is the same in all blocks; otherwise it grows from 0 in the first to drop_path_rate in the last.'
    ),
    layerscale: number(1e-5, {}, 'Where LayerScale starts. 0: blocks without LayerScale.'),
    pretrained_weights: text(
      '',
      'Weights from which student and teacher start, as --init names them: a run, a checkpoint, a released model; empty: random weights. What is not set beside it is taken from them.'
    ),
    ffn_layer: choice('mlp', ['mlp', 'swiglu', 'swiglufused'], 'Feed-forward layer of a block; swiglu and swiglufused are the same.'),
    num_register_tokens: integer(0, {max: 256}, 'Register tokens.'),
    interpolate_antialias: toggle(false, 'Whether positions are resampled with antialiasing (models with registers).'),
    interpolate_offset: number(
      0.1,
      {max: 1},
      'Offset in the scale by which positions are resampled: 0.1 in models without registers, 0 in those with them.'
    )
  },
  teacher: {
    momentum_teacher: number(0.992, {max: 1}, 'Share of itself that the teacher keeps at each step, at the start.'),
    final_momentum_teacher: number(1, {max: 1}, 'The same at the end; a cosine leads there.'),
    warmup_teacher_temp: number(0.04, {above: true}, "Temperature of the teacher's softmax at the start."),
    teacher_temp: number(0.07, {above: true}, 'The same after its warm-up.'),
    warmup_teacher_temp_epochs: number(30, {}, 'Epochs of that warm-up, which is linear.')
  },
  distill: {
    teacher: text('', 'The frozen teacher: a run folder or checkpoint, also given as --teacher.'),
    from: choice(
      'auto',
      ['auto', 'heads', 'features'],
      'What is handed on: heads are the targets of its DINO and iBOT heads, features its tokens themselves; auto takes the heads where it has any.'
    ),
    teacher_crops_size: integer(
      0,
      {max: 4096},
      'Side in pixels at which the teacher sees the global crops, a multiple of its patch. 0: as they are, or the nearest multiple.'
    ),
    huber: number(0.5, {}, 'With features: weight of the distance of tokens (Huber) beside that of their directions (cosine).')
  },
  optim: {
    epochs: number(100, {above: true}, 'Length of the run in epochs of train.OFFICIAL_EPOCH_LENGTH steps.'),
    weight_decay: number(0.04, {}, 'Weight decay at the start.'),
    weight_decay_end: number(0.4, {}, 'Weight decay at the end; a cosine leads there.'),
    base_lr: number(0.004, {}, 'Learning rate for 1024 images a step.'),
    warmup_epochs: number(10, {}, 'Epochs in which the learning rate climbs from 0.'),
    min_lr: number(1e-6, {}, 'Learning rate at the end; a cosine leads there.'),
    clip_grad: number(3, {}, 'Largest norm of the gradient of backbone and of each head, one by one. 0: no clipping.'),
    head_warmup_epochs: number(
      0,
      {},
      'Epochs in which the heads learn and the backbone stands still; its learning rate begins to climb after them. A run that starts from weights without fitting heads sets a twentieth of optim.epochs.'
    ),
    freeze_last_layer_epochs: number(1, {}, 'Epochs in which the last layer of the heads stands still.'),
    scaling_rule: choice(
      'sqrt_wrt_1024',
      ['sqrt_wrt_1024', 'none'],
      'How base_lr becomes the learning rate: times the root of images a step over 1024, or as it is.'
    ),
    patch_embed_lr_mult: number(0.2, {}, 'Factor on the learning rate of the patch embedding.'),
    layerwise_decay: number(
      0.9,
      {above: true, max: 1},
      'Factor on the learning rate from each block to the one below it. 1: the same for all.'
    ),
    adamw_beta1: number(0.9, {max: 0.999999}, 'Memory of the first moment of AdamW.'),
    adamw_beta2: number(0.999, {max: 0.999999}, 'Memory of the second moment of AdamW.')
  },
  crops: {
    global_crops_scale: range([0.32, 1], 'Smallest and largest share of the area of an image that a global crop covers.'),
    local_crops_number: integer(8, {max: 64}, 'Local crops of an image; there are always two global ones.'),
    local_crops_scale: range([0.05, 0.32], 'Smallest and largest share of the area of an image that a local crop covers.'),
    global_crops_size: integer(224, {min: 1, max: 4096}, 'Side of a global crop in pixels, a multiple of student.patch_size.'),
    local_crops_size: integer(96, {min: 1, max: 4096}, 'Side of a local crop in pixels, a multiple of student.patch_size.'),
    blur: choice(
      'released',
      ['released', 'paper'],
      'How often crops are blurred (global 1, global 2, local): released is 0, 0.9, 0.5, as the published models were trained; paper is 1, 0.1, 0.5.'
    ),
    blur_sigma_max: number(2, {min: 0.1}, 'Widest blur in pixels; the narrowest is 0.1.'),
    jitter_prob: number(
      0.8,
      {max: 1},
      'How often the colours of a crop are jittered: brightness, contrast, saturation and hue, in random order.'
    ),
    jitter_brightness: number(0.4, {max: 1}, 'Brightness is multiplied by a factor between 1 less this and 1 plus this.'),
    jitter_contrast: number(0.4, {max: 1}, 'The same for contrast.'),
    jitter_saturation: number(0.2, {max: 1}, 'The same for saturation.'),
    jitter_hue: number(0.1, {max: 0.5}, 'Hue is turned by at most this part of the colour circle, either way.'),
    grayscale_prob: number(0.2, {max: 1}, 'How often a crop loses its colours.'),
    solarize_prob: number(0.2, {max: 1}, 'How often the second global crop is solarized: bytes from 128 on are inverted.'),
    horizontal_flip_prob: number(0.5, {max: 1}, 'How often a crop is mirrored left to right.'),
    vertical_flip_prob: number(
      0,
      {max: 1},
      'How often a crop is mirrored top to bottom: for images without an up, as from the air or a microscope.'
    ),
    quarter_turns: toggle(false, 'Whether crops are turned by 0, 90, 180 or 270 degrees at random: for images without an up.')
  }
} as const satisfies Readonly<Record<string, Readonly<Record<string, Setting>>>>

type Value<S> =
  S extends ChoiceSetting<infer T>
    ? T
    : S extends RangeSetting
      ? readonly [number, number]
      : S extends SwitchSetting
        ? boolean
        : S extends TextSetting
          ? string
          : S extends MaybeSetting
            ? number | null
            : number

/** Every setting with its value: `settings.optim.base_lr`. Frozen. */
export type Settings = {
  readonly [Section in keyof typeof settingsTable]: {
    readonly [Key in keyof (typeof settingsTable)[Section]]: Value<(typeof settingsTable)[Section][Key]>
  }
}

/** Other spellings of a setting. */
export const aliases: Readonly<Record<string, string>> = {
  'train.batch': 'train.batch_size_per_gpu',
  'train.num_workers': 'train.workers'
}

/**
 * Meta's keys that have no place here. `same` accepts the values that ask for nothing else than what happens anyway,
 * so that files of theirs load; `instead` ends the refusal of any other value. A key ending in `.*` stands for all
 * below it.
 */
export const foreignKeys: Readonly<Record<string, {readonly same?: (value: unknown) => boolean; readonly instead: string}>> = {
  'MODEL.WEIGHTS': {
    same: value => value === '' || value === null,
    instead: 'name the checkpoint to start from in student.pretrained_weights'
  },
  'MODEL.*': {instead: 'settings of the model are under student'},
  'compute_precision.*': {instead: 'choose the number format with --precision; sums that need it are kept in fp32'},
  'train.dataset_path': {instead: 'name the images on the command line: a folder, a list or tar shards'},
  'train.output_dir': {instead: 'name the run folder with --output'},
  'train.saveckp_freq': {instead: 'set train.checkpoint_every, in steps'},
  'train.cache_dataset': {instead: 'set train.cache_mb; 0 keeps nothing in memory'},
  'student.block_chunks': {
    same: value => typeof value === 'number' && Number.isInteger(value) && value >= 0, // groups blocks for sharding; neither result nor names here depend on it
    instead: 'expected a whole number'
  },
  'student.qkv_bias': {same: value => value === true, instead: 'these layers always have a bias'},
  'student.proj_bias': {same: value => value === true, instead: 'these layers always have a bias'},
  'student.ffn_bias': {same: value => value === true, instead: 'these layers always have a bias'},
  'optim.lr': {same: value => value === 0, instead: 'set optim.base_lr, with optim.scaling_rule=none where it is meant as it stands'},
  'evaluation.eval_period_iterations': {
    instead: 'keep checkpoints for good with train.keep_every and evaluate them with the evaluation commands'
  },
  'evaluation.*': {instead: 'evaluate checkpoints with the evaluation commands'}
}

/** Every setting as (path, declaration), in the order of the table. */
export function* settingRows(): Generator<readonly [path: string, setting: Setting]> {
  for (const [section, keys] of Object.entries(settingsTable))
    for (const [key, setting] of Object.entries(keys)) yield [`${section}.${key}`, setting as Setting]
}
