/** How images are prepared for one model: what the user asks for, completed by the model's own preprocessing. */
import {UserError} from '../../config/errors.js'
import type {Transform} from '../../data/image/geometry.js'
import {describePreprocessing, isImageNet, type Normalization, type Preprocessing} from '../../files/checkpoint/preprocessing.js'

/**
 * A transform in which parts may be left to the model. `crop` absent means the whole image where `resize` is given (as
 * in a `Transform`), and the model's own where it is not.
 */
export type TransformRequest = {
  /** Short side after resizing, in pixels; absent: the model's own. */
  readonly resize?: number
  /** Side of the centre crop in pixels, the model's own, or none: the whole image. */
  readonly crop?: number | 'own' | 'none'
  readonly patch?: number
  readonly cropBorders?: boolean
}

/**
 * The transform in force. Explicit values win over the model's own. Throws `UserError` (exit 2) where the crop is
 * larger than the short side that it is cut from.
 */
export function resolveTransform(request: TransformRequest, own: Pick<Preprocessing, 'resize' | 'crop'>, patch: number): Transform {
  const {resize = own.resize, cropBorders} = request
  const asked = request.crop ?? (request.resize === undefined ? 'own' : 'none')
  const crop = asked === 'own' ? own.crop : asked === 'none' ? undefined : asked
  const borders = cropBorders ? {cropBorders} : {}
  if (crop === undefined) return {resize, patch, ...borders}
  if (crop > resize)
    throw new UserError(`A crop of ${crop} pixels does not fit into images whose short side is ${resize}.`, {
      exit: 2,
      code: 'USAGE',
      hint: asked === 'own' ? `Give --crop too, or --size ${resize} for both.` : `Give --resize too, or --size ${crop} for both.`
    })
  return {resize, crop, ...borders}
}

/** The transform and the normalization as they stand in the record of embeddings. */
export const preprocessingRecord = (
  {resize, crop, patch, cropBorders}: Transform,
  normalization: Normalization
): Readonly<Record<string, unknown>> => ({
  ...(crop === undefined ? {resize, crop: null, multiple: patch} : {resize, crop}),
  interpolation: 'bicubic',
  mean: isImageNet(normalization) ? 'imagenet' : [...normalization.mean],
  std: isImageNet(normalization) ? 'imagenet' : [...normalization.std],
  ...(cropBorders ? {borders: 'cropped'} : {})
})

/** What is in force, in sentences for the log: nothing where it is the default of a model that records nothing. */
export function transformNotes({resize, crop}: Transform, own: Preprocessing): string[] {
  const isOwn = resize === own.resize && crop === own.crop
  if (own.source === undefined) return []
  const {mean, std, source} = own
  const inForce = describePreprocessing({resize, crop, mean, std, source: isOwn ? source : `asked for; ${source} has another size`})
  return [inForce, ...sizeAdvice(crop ?? resize, own), ...own.notes]
}

/** Up to this size in pixels, a model gives better features at twice the size; docs/small-data.md has the figures. */
const SMALL_SIZE = 64

/** Recommends a size in the log of what has no transform of its own; `size` undefined: images keep theirs. */
export const notesOnSize = (size: number | undefined, own: Preprocessing): string[] =>
  own.source === undefined || size === undefined ? [] : sizeAdvice(size, own)

/** Recommends a size where images are smaller than the model was made for, or could well be larger. */
function sizeAdvice(size: number, {crop: ownCrop, resize: ownResize, source}: Preprocessing): string[] {
  const own = ownCrop ?? ownResize
  if (size < own) return [`recommended: --size ${own}, for which ${source} was made; features of smaller images are mostly worse`]
  if (size > SMALL_SIZE || size > own) return []
  return [
    `recommended: --size ${2 * own}; features of a model for ${own} pixels are mostly better at twice the size, at four times the work`
  ]
}
