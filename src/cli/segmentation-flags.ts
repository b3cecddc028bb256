/** The flags of `seg-eval`: protocol, training, and what masks mean. */
import {Errors, Flags} from './oclif.js'
import {notNegative, positive} from './depth-flags.js'
import {layers, modelFlag, pixelFlags} from './feature-flags.js'

/** Numbers separated by commas, each of which passes; none where the text is empty. */
const numberList = (passes: (value: number) => boolean) =>
  Flags.custom<number[]>({
    parse: async input => {
      if (input.trim() === '') return []
      const values = input.split(',').map(Number)
      if (!values.every(passes)) throw new Errors.CLIError(`expected numbers separated by commas, but received ${input}`, {exit: 2})
      return values
    }
  })
const numbers = numberList(value => value > 0 && value <= 16)
const classIds = numberList(value => Number.isInteger(value) && value >= 0 && value <= 65535)

export const segmentationEvalFlags = {
  protocol: Flags.option({options: ['linear', 'ms'] as const})({
    default: 'linear',
    helpGroup: 'PROTOCOL',
    summary: 'linear: last block, one scale. ms: last four blocks, five scales, mirrored.'
  }),
  layers: layers({helpGroup: 'PROTOCOL', helpValue: 'N|LIST', summary: 'Join the last N blocks, or the listed ones, counted from 0.'}),
  size: Flags.integer({
    min: 16,
    max: 8192,
    helpGroup: 'PROTOCOL',
    helpValue: 'PIXELS',
    summary: 'Short side of images; 512 by default, for ms 640.'
  }),
  crop: Flags.integer({
    min: 0,
    max: 8192,
    helpGroup: 'PROTOCOL',
    helpValue: 'PIXELS',
    summary: 'Side of views and windows; --size by default. 0: whole images, as with --cached.'
  }),
  stride: Flags.integer({
    min: 1,
    max: 8192,
    helpGroup: 'PROTOCOL',
    helpValue: 'PIXELS',
    summary: 'From window to window; two thirds of --crop by default, for ms half.'
  }),
  scales: numbers({
    helpGroup: 'PROTOCOL',
    helpValue: 'LIST',
    summary: 'Times --size at which images are looked at; probabilities are averaged. For ms 1,1.32,1.73,2.28,3.'
  }),
  flip: Flags.boolean({allowNo: true, helpGroup: 'PROTOCOL', summary: 'Look at images mirrored too; on for ms.'}),
  cached: Flags.boolean({
    helpGroup: 'TRAINING',
    summary: 'Compute features once, of whole images and their mirror images, and train on those.'
  }),
  steps: Flags.integer({
    min: 1,
    helpGroup: 'TRAINING',
    helpValue: 'N',
    summary: 'Steps of training; 40000 by default, with --cached 1000. The warm-up scales along.'
  }),
  'train-batch': Flags.integer({
    aliases: ['pictures'],
    min: 1,
    max: 4096,
    default: 16,
    helpGroup: 'TRAINING',
    helpValue: 'N',
    summary: 'Images a training step.'
  }),
  lr: positive({
    default: async () => 0.001,
    defaultHelp: async () => '0.001',
    helpGroup: 'TRAINING',
    helpValue: 'X',
    summary: 'Highest learning rate.'
  }),
  'weight-decay': notNegative({
    default: async () => 0.0001,
    defaultHelp: async () => '0.0001',
    helpGroup: 'TRAINING',
    helpValue: 'X',
    summary: 'Weight decay of AdamW.'
  }),
  'cache-memory': positive({
    helpGroup: 'TRAINING',
    helpValue: 'GIB',
    default: async () => 2,
    defaultHelp: async () => '2',
    summary: 'Features kept in memory (--cached); what does not fit goes to the disk.'
  }),
  'cache-disk': notNegative({
    helpGroup: 'TRAINING',
    helpValue: 'GIB',
    default: async () => 16,
    defaultHelp: async () => '16',
    summary: 'Features kept in a temporary file beyond those; what does not fit is computed again.'
  }),
  'cache-mb': Flags.integer({min: 0, hidden: true, summary: 'Old form of --cache-memory, in MiB.'}),
  'cache-disk-mb': Flags.integer({min: 0, hidden: true, summary: 'Old form of --cache-disk, in MiB.'}),
  classes: Flags.string({
    helpGroup: 'MASKS',
    helpValue: 'FILE',
    summary: 'Classes, a line each: id and name, or name alone; a colour #rrggbb may follow.'
  }),
  ignore: classIds({
    default: async () => [255],
    defaultHelp: async () => '255',
    helpGroup: 'MASKS',
    helpValue: 'IDS',
    summary: 'Ids whose pixels do not count, separated by commas.'
  }),
  'reduce-zero-label': Flags.boolean({helpGroup: 'MASKS', summary: 'Id 0 does not count and classes begin at 1, as in ADE20K.'}),
  'max-pixels': pixelFlags['max-pixels']
}

/** The flags of commands that segment images with a trained head. */
export const segmentationHeadFlags = {
  model: modelFlag,
  head: Flags.string({required: true, helpValue: 'FILE', summary: 'Segmentation head: .safetensors of seg-eval, or a published .pth.'}),
  size: Flags.integer({
    min: 16,
    max: 8192,
    helpValue: 'PIXELS',
    summary: 'Short side at which images are looked at; by default as the head was trained.'
  }),
  'max-pixels': pixelFlags['max-pixels']
}
