/**
 * The flags of commands that take features from a model: which model, which of its outputs, and how images are made
 * ready for it.
 */
import {Errors, Flags} from './oclif.js'
import {shortSideFor} from '../config/derived.js'
import {UserError} from '../config/errors.js'
import type {TransformRequest} from '../tasks/embed/transform.js'

const poolings = ['cls', 'mean', 'cls+mean', 'patch'] as const

/** The last n blocks, or these blocks. */
export type LayerChoice = number | readonly number[]

/**
 * Reads `4` as the last four blocks and `2,5,8,11` as these, counted from 0. Throws a usage error on anything else.
 */
function parseLayers(text: string): LayerChoice {
  const found = /^\d+(,\d+)*,?$/.test(text) ? text.split(',').filter(part => part !== '') : []
  const numbers = found.map(Number)
  if (numbers.length === 0 || (!text.includes(',') && numbers[0] === 0))
    throw new Errors.CLIError(`expected a number such as 4, or a list of blocks such as 2,5,8,11, but received ${text}`, {exit: 2})
  return text.includes(',') ? numbers : numbers[0]!
}

export const layers = Flags.custom<LayerChoice>({parse: async input => parseLayers(input)})

/** The model. */
export const modelFlag = Flags.string({
  char: 'm',
  required: true,
  helpValue: 'MODEL',
  summary:
    'Backbone: a file or folder in any format that is read, the name of a released model or an id of the Hugging Face hub (both are downloaded where they are missing), or starter, a small one that is always here.'
})

/** The model, where it is only needed for images. */
export const modelForImagesFlag = Flags.string({
  char: 'm',
  helpValue: 'MODEL',
  summary: 'Backbone, where images are given instead of embeddings (a file, a folder, or a name such as starter).'
})

/** How images become pixels. */
export const pixelFlags = {
  size: Flags.integer({
    min: 1,
    max: 4096,
    helpGroup: 'IMAGES',
    helpValue: 'PIXELS',
    summary: 'Side of the square that the model sees; the short side is first resized to about 8/7 of it (an even margin).',
    exclusive: ['resize', 'crop', 'no-crop']
  }),
  resize: Flags.integer({
    min: 1,
    max: 8192,
    helpGroup: 'IMAGES',
    helpValue: 'PIXELS',
    summary: 'Resize the short side to this (bicubic); by default what the model records, else 256.'
  }),
  crop: Flags.integer({
    min: 1,
    max: 8192,
    helpGroup: 'IMAGES',
    helpValue: 'PIXELS',
    summary: 'Cut this square from the middle; by default what the model records, else 224.',
    exclusive: ['no-crop']
  }),
  'no-crop': Flags.boolean({helpGroup: 'IMAGES', summary: 'Keep the whole image; both sides become multiples of the patch.'}),
  'max-pixels': Flags.integer({
    min: 1,
    helpGroup: 'IMAGES',
    helpValue: 'N',
    summary: 'Refuse images of more pixels than this; 200 million by default.'
  }),
  workers: Flags.integer({
    min: 0,
    max: 256,
    helpGroup: 'IMAGES',
    helpValue: 'N',
    summary: 'Threads that decode ahead; by default one fewer than cores.'
  })
}

/**
 * For commands that take one vector of a whole image: where a mask or a map lies on the image, nothing may be cut off.
 */
export const borderFlags = {
  'crop-borders': Flags.boolean({
    helpGroup: 'IMAGES',
    summary: 'First cut off even bars of one colour on two opposite sides (letter boxes).'
  })
}

/** Which of the model's outputs a vector is. */
export const vectorFlags = {
  pool: Flags.option({options: poolings})({
    default: 'cls',
    helpGroup: 'VECTORS',
    summary: 'cls token, mean of the patch tokens, both, or every patch token (rows × columns × channels in one vector).'
  }),
  layers: layers({
    default: async () => 1,
    defaultHelp: async () => '1',
    helpGroup: 'VECTORS',
    helpValue: 'N|LIST',
    summary: 'Join the outputs of the last N blocks, or of the listed ones, counted from 0.'
  }),
  normalize: Flags.boolean({
    allowNo: true,
    default: false,
    helpGroup: 'VECTORS',
    summary: 'Bring every vector (of patch: every token) to length 1.'
  })
}

/**
 * What the size flags ask for; what they leave open comes from the model's own preprocessing. Throws a usage error
 * where the crop is larger than what it is cut from.
 */
export function transformOf(flags: {
  readonly size?: number
  readonly resize?: number
  readonly crop?: number
  readonly 'no-crop'?: boolean
  readonly 'crop-borders'?: boolean
}): TransformRequest {
  const cropBorders = flags['crop-borders']
  const {resize, crop} = flags
  if (flags.size !== undefined) return {resize: shortSideFor(flags.size), crop: flags.size, cropBorders}
  if (flags['no-crop']) return {resize, crop: 'none', cropBorders}
  if (crop !== undefined && resize !== undefined && crop > resize)
    throw new UserError(`A crop of ${crop} pixels does not fit into images whose short side is ${resize}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give a larger --resize, or --size ${crop} for both.`
    })
  return {resize, crop: crop ?? 'own', cropBorders}
}
