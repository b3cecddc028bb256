/**
 * How a model wants its images: resize, crop, mean and standard deviation, as its own files give them.
 *
 * Three sources are read: `preprocessor_config.json` of a transformers folder, `pretrained_cfg` in the `config.json`
 * of a timm folder, and the metadata of our own safetensors files. A model that records nothing gets DINOv2's
 * evaluation protocol (docs/spec.md §4.1): short side 256, centre crop 224, mean and deviation of ImageNet.
 *
 * Pixels are normalized by ImageNet's values everywhere in this program. Where a model has others, `foldNormalization`
 * multiplies the difference into its patch embedding, so that every command computes the same function of the pixels.
 */
import {valueText} from '../../system/json.js'
import {UserError} from '../../config/errors.js'
import {imageMean, imageStd} from '../../tensor/ops/patches.js'

type Triple = readonly [number, number, number]

export type Normalization = {
  /** Per channel, of values between 0 and 1. */
  readonly mean: Triple
  readonly std: Triple
}

export type Preprocessing = Normalization & {
  /** Length of the short side after resizing, in pixels. */
  readonly resize: number
  /** Side of the square cut from the centre, in pixels; absent: the whole image is kept. */
  readonly crop?: number
  /** The file that says so; absent: nothing is recorded, and these are the defaults. */
  readonly source?: string
  /** What this program does otherwise than the file asks, in sentences. */
  readonly notes: readonly string[]
}

export const defaultPreprocessing: Preprocessing = {resize: 256, crop: 224, mean: imageMean, std: imageStd, notes: []}

const MAX_SIDE = 8192

type Json = Readonly<Record<string, unknown>>

/** Typed access to the fields of one file; every wrong value is a `UserError` that names field and file. */
class Fields {
  constructor(
    readonly json: Json,
    readonly path: string
  ) {}

  refuse(name: string, expected: string): UserError {
    return new UserError(`${this.path} has ${name} = ${JSON.stringify(this.json[name])?.slice(0, 80)}; ${expected} was expected.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Fetch the folder again, or correct that field.'
    })
  }

  boolean(name: string): boolean | undefined {
    const value = this.json[name]
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'boolean') throw this.refuse(name, 'true or false')
    return value
  }

  /** A length in pixels, or lengths by name. */
  lengths(name: string): Readonly<Record<string, number>> | undefined {
    const value = this.json[name]
    if (value === undefined || value === null) return undefined
    const isSide = (side: unknown): side is number => Number.isSafeInteger(side) && (side as number) >= 1 && (side as number) <= MAX_SIDE
    if (isSide(value)) return {shortest_edge: value}
    if (typeof value !== 'object' || Array.isArray(value))
      throw this.refuse(name, `a length from 1 to ${MAX_SIDE} pixels, or lengths by name`)
    const known = Object.entries(value).filter(([key, side]) => ['shortest_edge', 'height', 'width'].includes(key) && side !== null)
    if (!known.every((entry): entry is [string, number] => isSide(entry[1])))
      throw this.refuse(name, `lengths from 1 to ${MAX_SIDE} pixels`)
    return Object.fromEntries(known) as Record<string, number>
  }

  number(name: string): number | undefined {
    const value = this.json[name]
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.refuse(name, 'a number')
    return value
  }

  /** Three numbers, or one for all channels. */
  triple(name: string): Triple | undefined {
    const given = this.json[name]
    if (given === undefined || given === null) return undefined
    const value: unknown = typeof given === 'number' ? [given, given, given] : given
    if (!Array.isArray(value) || value.length !== 3 || !value.every(item => typeof item === 'number' && Number.isFinite(item)))
      throw this.refuse(name, 'a list of three numbers')
    return value as unknown as Triple
  }

  /** The same for deviations, which divide. */
  deviations(name: string): Triple | undefined {
    const value = this.triple(name)
    if (value?.some(item => item < 1e-6)) throw this.refuse(name, 'a list of three positive numbers')
    return value
  }
}

/** Whether the file is for ConvNeXt's processor, which stretches images of 384 pixels and more. */
const isConvNext = ({image_processor_type: type, feature_extractor_type: older}: Json): boolean =>
  /^ConvNext/.test(valueText(type ?? older ?? ''))

const filters = ['nearest', 'Lanczos', 'bilinear', 'bicubic', 'box', 'Hamming']

const interpolationNote = (path: string, name: string): string =>
  `${path} asks for ${name} interpolation; images are resized by the bicubic filter.`

/**
 * Reads a `preprocessor_config.json` of transformers. Throws `UserError` (exit 1) for a field that cannot be what it
 * says.
 */
export function huggingFacePreprocessing(json: Json, path: string): Preprocessing {
  const fields = new Fields(json, path)
  const notes: string[] = []
  const size = fields.lengths('size')
  const cropSize = fields.lengths('crop_size')
  const isCropped = fields.boolean('do_center_crop') ?? cropSize !== undefined
  const sides = (lengths: Readonly<Record<string, number>> | undefined): number[] =>
    lengths === undefined
      ? []
      : [lengths['height'] ?? lengths['shortest_edge'], lengths['width'] ?? lengths['shortest_edge']].flatMap(side => side ?? [])
  let crop = isCropped ? Math.min(...(cropSize ? sides(cropSize) : [224])) : undefined
  if (cropSize && new Set(sides(cropSize)).size > 1)
    notes.push(`${path} cuts ${sides(cropSize).join(' × ')} pixels; a square of ${crop} is cut.`)
  const longest = (json['size'] as Json | null | undefined)?.['longest_edge']
  if (size && typeof longest === 'number') notes.push(`${path} limits the long side to ${longest} pixels; it is not limited.`)
  let resize = size === undefined ? (crop ?? defaultPreprocessing.resize) : Math.min(...sides(size))
  if (!Number.isFinite(resize)) throw fields.refuse('size', 'shortest_edge, or height and width')
  const share = fields.number('crop_pct')
  const short = size?.['shortest_edge']
  if (share !== undefined && short !== undefined) {
    // As ConvNeXt's and PoolFormer's processors: the side is that of the crop, and images are resized to more.
    if (!(share >= 0.05 && share <= 1)) throw fields.refuse('crop_pct', 'a share from 0.05 to 1')
    crop ??= short
    if (isConvNext(json) && short >= 384)
      notes.push(`${path} stretches images to ${short} × ${short} pixels; the shape is kept, and the centre is cut.`)
    else resize = Math.floor(short / share)
  }
  if (fields.boolean('do_resize') === false) {
    resize = crop ?? resize
    notes.push(`${path} does not resize images; their short side is resized to ${resize} pixels.`)
  } else if (size && size['shortest_edge'] === undefined) {
    notes.push(`${path} stretches images to ${sides(size).join(' × ')} pixels; the shape is kept, and the centre is cut.`)
    crop ??= resize
  }
  if (fields.boolean('do_pad') === true || json['size_divisor'] || json['pad_size'])
    notes.push(`${path} pads images; nothing is padded: the crop, or whole patches, are what a model sees.`)
  const resample = fields.number('resample') ?? 3
  if (resample !== 3) notes.push(interpolationNote(path, filters[resample] ?? String(resample)))
  for (const name of ['image_mean', 'image_std'])
    if (json[name] === undefined && json['do_normalize'] !== false) notes.push(`${path} has no ${name}; ImageNet's is taken.`)
  return {resize, crop, ...huggingFaceNormalization(fields), source: path, notes}
}

/** Mean and deviation of values between 0 and 1, whatever factor the file rescales bytes by. */
function huggingFaceNormalization(fields: Fields): Normalization {
  const factor = fields.boolean('do_rescale') === false ? 1 : (fields.number('rescale_factor') ?? 1 / 255)
  if (!(factor > 0)) throw fields.refuse('rescale_factor', 'a positive number')
  const isNormalized = fields.boolean('do_normalize') ?? true
  const mean = isNormalized ? (fields.triple('image_mean') ?? imageMean) : ([0, 0, 0] as const)
  const std = isNormalized ? (fields.deviations('image_std') ?? imageStd) : ([1, 1, 1] as const)
  const scale = Math.abs(255 * factor - 1) < 1e-4 ? 1 : 255 * factor
  return {mean: mean.map(value => value / scale) as unknown as Triple, std: std.map(value => value / scale) as unknown as Triple}
}

/** Reads the `pretrained_cfg` of a timm folder: the short side becomes floor(input / crop_pct). Throws as above. */
export function timmPreprocessing(json: Json, path: string): Preprocessing {
  const fields = new Fields(json, path)
  const notes: string[] = []
  const input = json['input_size']
  const sides = (Array.isArray(input) ? input.slice(-2) : input === undefined || input === null ? [224, 224] : []) as unknown[]
  if (!sides.every(side => Number.isSafeInteger(side) && (side as number) >= 1 && (side as number) <= MAX_SIDE) || sides.length !== 2)
    throw fields.refuse('input_size', '[3, height, width]')
  const crop = Math.min(...(sides as number[]))
  if (sides[0] !== sides[1]) notes.push(`${path} cuts ${sides.join(' × ')} pixels; a square of ${crop} is cut.`)
  const share = fields.number('crop_pct') ?? 0.875
  if (!(share >= 0.05 && share <= 1)) throw fields.refuse('crop_pct', 'a share from 0.05 to 1')
  const mode = json['crop_mode'] ?? 'center'
  if (mode !== 'center') notes.push(`${path} asks for the crop mode ${valueText(mode)}; the centre is cut.`)
  const interpolation = json['interpolation'] ?? 'bicubic'
  if (interpolation !== 'bicubic') notes.push(interpolationNote(path, valueText(interpolation)))
  const mean = fields.triple('mean') ?? imageMean
  return {resize: Math.floor(crop / share), crop, mean, std: fields.deviations('std') ?? imageStd, source: path, notes}
}

/** Reads the metadata of a safetensors file of this program; undefined where it says nothing of images. */
export function recordedPreprocessing(metadata: Readonly<Record<string, string>>, path: string): Preprocessing | undefined {
  const {resize, crop, image_mean: mean, image_std: std} = metadata
  if (resize === undefined && mean === undefined) return undefined
  const list = (text: string | undefined): unknown => (text === undefined ? undefined : text.split(' ').map(Number))
  const count = (text: string | undefined): unknown =>
    text === undefined || text === 'none' ? undefined : /^\d{1,6}$/.test(text) ? Number(text) : text
  const fields = new Fields({resize: count(resize), crop: count(crop), image_mean: list(mean), image_std: list(std)}, path)
  const side = fields.lengths('crop')?.['shortest_edge']
  return {
    resize: fields.lengths('resize')?.['shortest_edge'] ?? defaultPreprocessing.resize,
    crop: side,
    mean: fields.triple('image_mean') ?? imageMean,
    std: fields.deviations('image_std') ?? imageStd,
    source: path,
    notes: []
  }
}

/** The metadata from which `recordedPreprocessing` reads the same back; ImageNet's mean and deviation are left out. */
export const preprocessingMetadata = ({resize, crop, ...normalization}: Preprocessing): Record<string, string> => ({
  resize: String(resize),
  crop: crop === undefined ? 'none' : String(crop),
  ...(isImageNet(normalization) ? {} : {image_mean: normalization.mean.join(' '), image_std: normalization.std.join(' ')})
})

/** Whether mean and deviation are those of ImageNet, up to the digits that files round to. */
export function isImageNet({mean, std}: Normalization): boolean {
  const near = (a: Triple, b: Triple): boolean => a.every((value, i) => Math.abs(value - b[i]!) < 1e-3)
  return near(mean, imageMean) && near(std, imageStd)
}

/** What is in force, for the log. */
export function describePreprocessing({resize, crop, mean, std, source}: Omit<Preprocessing, 'notes'>): string {
  const cut = crop === undefined ? 'no crop' : `centre crop ${crop}`
  const three = (values: Triple): string => values.map(value => Number(value.toFixed(4))).join(' ')
  const scale = isImageNet({mean, std}) ? "ImageNet's mean and deviation" : `mean ${three(mean)}, deviation ${three(std)}`
  return `images: short side ${resize}, ${cut}, ${scale}${source === undefined ? '' : ` (${source})`}`
}
