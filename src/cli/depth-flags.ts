/** The flags of commands about depth: how depth maps are read, which range counts, what stands for numbers. */
import {Errors, Flags} from './oclif.js'
import {layers, pixelFlags} from './feature-flags.js'

/** Reads `0.5`, `1e-3` or a fraction such as `1/256` as a number above 0. Throws a usage error on anything else. */
function parsePositive(text: string): number {
  const [top, bottom, ...rest] = text.split('/').map(part => (part.trim() === '' ? NaN : Number(part)))
  const value = bottom === undefined ? top! : top! / bottom
  if (rest.length > 0 || !(value > 0 && value < Infinity))
    throw new Errors.CLIError(`expected a number above 0 such as 0.001 or 1/256, but received ${text}`, {exit: 2})
  return value
}

/** A flag whose value is a number above 0. */
export const positive = Flags.custom<number>({parse: async input => parsePositive(input)})

/** A flag whose value is a number of 0 or more. */
export const notNegative = Flags.custom<number>({parse: async input => (Number(input) === 0 ? 0 : parsePositive(input))})

/** Where depth maps are and what they say. */
export const depthFlags = {
  depths: Flags.string({
    helpGroup: 'DEPTH',
    helpValue: 'FOLDER',
    summary:
      'Depth maps under the same relative paths as the images, with any ending (relative to the folder that holds all sets named). Without it, each row of a list names its map in the field depth.'
  }),
  'depth-scale': positive({
    helpGroup: 'DEPTH',
    helpValue: 'METRES',
    summary:
      'Metres that one unit of a map stands for; by default 0.001 (millimetres) for whole numbers and 1 for floating-point ones. KITTI: 1/256.'
  }),
  'min-depth': positive({helpGroup: 'DEPTH', helpValue: 'METRES', summary: 'Least depth that is predicted and scored; 0.001 by default.'}),
  'max-depth': positive({
    helpGroup: 'DEPTH',
    helpValue: 'METRES',
    summary: 'Largest depth that is predicted and scored; 10 by default, or what the preset or the head says.'
  })
}

/** The trained head that predicts depth. */
export const depthHeadFlag = Flags.string({
  required: true,
  helpValue: 'FILE',
  summary: 'A head of depth-eval --head-out, an mmcv checkpoint, or the name of a released head.'
})

/** How a head looks at an image. */
export const depthViewFlags = {
  size: Flags.integer({
    min: 8,
    max: 4096,
    helpGroup: 'IMAGES',
    helpValue: 'PIXELS',
    summary: 'Short side that the model sees; by default what the head was trained on, else the image as it is.'
  }),
  flip: Flags.boolean({
    allowNo: true,
    default: true,
    helpGroup: 'IMAGES',
    summary: 'Average each prediction with that of the mirrored image.'
  }),
  'max-pixels': pixelFlags['max-pixels']
}

/** `544x416` as width and height. */
const extent = Flags.custom<{width: number; height: number}>({
  parse: async input => {
    const found = /^(\d+)\s*[x×]\s*(\d+)$/.exec(input.trim())
    const [width, height] = [Number(found?.[1]), Number(found?.[2])]
    if (!found || !(width >= 16 && height >= 16))
      throw new Errors.CLIError(`expected width × height in pixels such as 544x416, both at least 16, but received ${input}`, {exit: 2})
    return {width, height}
  }
})

/** What the published evaluations of a data set fix together. */
export const PRESETS = {
  // The rim of NYU images is white: rows 45…471, columns 43…608 are trained on.
  nyu: {
    max: 10,
    crop: 'eigen',
    train: {width: 544, height: 416},
    box: {x: 43 / 640, y: 45 / 480, width: (608 - 43) / 640, height: (472 - 45) / 480},
    scale: undefined
  },
  kitti: {max: 80, crop: 'garg', train: {width: 704, height: 352}, box: undefined, scale: 1 / 256},
  none: {max: undefined, crop: 'none', train: {width: 544, height: 416}, box: undefined, scale: undefined}
} as const

/** How a head is trained and scored, for `depth-eval`. */
export const depthEvalFlags = {
  preset: Flags.option({options: ['nyu', 'kitti', 'none'] as const})({
    default: 'none',
    helpGroup: 'DEPTH',
    summary: 'nyu: 0.001–10 m, Eigen crop. kitti: 0.001–80 m, Garg crop, maps in 1/256 m. none: 0.001–10 m, every pixel counts.'
  }),
  ...depthFlags,
  size: Flags.integer({
    min: 8,
    max: 4096,
    helpGroup: 'IMAGES',
    helpValue: 'PIXELS',
    summary:
      'Short side that the model sees; by default images stay as they are and are padded to whole patches. Scores are at the full size of the map.'
  }),
  flip: depthViewFlags.flip,
  'max-pixels': depthViewFlags['max-pixels'],
  cached: Flags.boolean({
    helpGroup: 'TRAINING',
    summary: 'Compute features once, of each training image and its mirror image, instead of anew for random views at every step.'
  }),
  'cache-memory': positive({
    helpGroup: 'TRAINING',
    helpValue: 'GIB',
    default: async () => 1,
    defaultHelp: async () => '1',
    summary: 'Features kept in memory; what does not fit goes to the disk.'
  }),
  'cache-disk': notNegative({
    helpGroup: 'TRAINING',
    helpValue: 'GIB',
    default: async () => 16,
    defaultHelp: async () => '16',
    summary: 'Features kept in a temporary file beyond those; what does not fit is computed again.'
  }),
  layers: layers({
    helpGroup: 'TRAINING',
    helpValue: 'N|LIST',
    summary: 'Blocks that a new head reads, counted from 0; by default the last one, or four as published.'
  }),
  norm: Flags.boolean({
    allowNo: true,
    default: false,
    helpGroup: 'TRAINING',
    summary: 'Apply the final norm to what a new head reads; the published heads do without.'
  }),
  bins: Flags.integer({
    min: 2,
    max: 4096,
    default: 256,
    helpGroup: 'TRAINING',
    helpValue: 'N',
    summary: 'Bins that a new head divides the range of depth into.'
  }),
  'bin-spacing': Flags.option({options: ['uniform', 'log'] as const})({
    default: 'uniform',
    helpGroup: 'TRAINING',
    summary: 'Equal steps of depth, or of its logarithm.'
  }),
  'train-crop': extent({
    helpGroup: 'TRAINING',
    helpValue: 'WxH',
    summary: 'Random crop of a view; 544x416, for kitti 704x352. Not with --cached.',
    exclusive: ['cached']
  }),
  steps: Flags.integer({
    min: 1,
    max: 10_000_000,
    helpGroup: 'TRAINING',
    helpValue: 'N',
    summary: 'Steps of training; 38,400, with --cached 1,200. The schedule is stretched over them.'
  }),
  'train-batch': Flags.integer({
    aliases: ['step-images'],
    min: 1,
    max: 4096,
    helpGroup: 'TRAINING',
    helpValue: 'N',
    summary: 'Views a step; 16, with --cached 8.'
  }),
  lr: positive({helpGroup: 'TRAINING', helpValue: 'RATE', summary: 'Highest learning rate; 1e-4, with --cached 1e-2.'}),
  'weight-decay': notNegative({aliases: ['wd'], helpGroup: 'TRAINING', helpValue: 'DECAY', summary: 'Weight decay; 0.01.'}),
  'gradient-weight': notNegative({
    helpGroup: 'TRAINING',
    helpValue: 'W',
    summary: 'Weight of the gradient loss beside SigLoss; 0.5, with --cached 0.'
  })
}
