/**
 * What is to be done to make the random crops of self-distillation: two large and several small views of one image,
 * drawn before any of it is done.
 *
 * Follows the published training code in distribution: crop and resize (bicubic), flip, colour jitter in random order,
 * grey, blur, and for the second large view solarization. Turns and vertical flips, which that code lacks, come last
 * and only where they are asked for. Everything random comes from one generator for each view, so
 * views do not shift one another's draws and a plan is a pure function of seed, position, settings and the size of the
 * image.
 */
import {rng, type Rng} from '../../tensor/random.js'
import {roundHalfEven} from '../image/geometry.js'
import type {Box} from '../image/resample.js'

export type CropSettings = {
  /** Sides of the large and the small square views, in pixels. */
  readonly globalSize: number
  readonly localSize: number
  /** Area of a view as a part of the image's, [least, most]. */
  readonly globalScale: readonly [number, number]
  readonly localScale: readonly [number, number]
  /** How many small views. */
  readonly localCount: number
  /**
   * `scaled`: large JPEGs are decoded at a half, a quarter or an eighth of their sides, see `shrinkOf`; `full` if
   * absent.
   */
  readonly decode?: 'full' | 'scaled'
  /** Width over height of what is cut out, before it is made square; [3/4, 4/3] if absent. */
  readonly ratio?: readonly [number, number]
  /**
   * How often each view is blurred: first large, second large, small. `released` (the default): 0, 0.9, 0.5, under
   * which the released weights were trained, since the code takes the probability for its complement; `paper`: 1, 0.1,
   * 0.5, as it was meant.
   */
  readonly blur?: 'released' | 'paper'
  /** Deviation of the blur in pixels, drawn evenly; [0.1, 2] if absent. Nine taps always. */
  readonly blurSigma?: readonly [number, number]
  /** Strengths of the colour jitter; 0.4, 0.4, 0.2, 0.1 with probability 0.8 if absent. */
  readonly jitter?: {
    readonly brightness: number
    readonly contrast: number
    readonly saturation: number
    readonly hue: number
    readonly probability: number
  }
  /** Probabilities: 0.5, 0.2, 0.2 (second large view only) if absent. */
  readonly flip?: number
  readonly grey?: number
  readonly solarize?: number
  /** Probability that a view is mirrored top to bottom; 0 if absent. */
  readonly verticalFlip?: number
  /** Each view is turned by 0, 90, 180 or 270 degrees, all equally likely. */
  readonly quarterTurns?: boolean
}

/** Blur probabilities of the first large, the second large and the small views. */
export const BLUR = {released: [0, 0.9, 0.5], paper: [1, 0.1, 0.5]} as const

const JITTER = {brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, probability: 0.8}

/** Bytes from here on are turned over by solarization. */
export const SOLARIZE_FROM = 128

/**
 * The part of an image that a random resized crop cuts out, in whole pixels (torchvision's rule).
 *
 * Area evenly in scale × area, aspect evenly in the logarithm, ten tries; if none fits, the largest centred rectangle
 * of an allowed aspect.
 */
export function randomCropBox(
  random: Rng,
  width: number,
  height: number,
  scale: readonly [number, number],
  ratio: readonly [number, number] = [3 / 4, 4 / 3]
): Box {
  const area = width * height
  for (let attempt = 0; attempt < 10; attempt++) {
    const target = area * random.uniform(scale[0], scale[1])
    const aspect = Math.exp(random.uniform(Math.log(ratio[0]), Math.log(ratio[1])))
    const w = roundHalfEven(Math.sqrt(target * aspect))
    const h = roundHalfEven(Math.sqrt(target / aspect))
    if (w > 0 && w <= width && h > 0 && h <= height) {
      const y = random.int(height - h + 1)
      return {x: random.int(width - w + 1), y, width: w, height: h}
    }
  }
  const shape = width / height
  const w = shape > ratio[1] ? Math.max(1, roundHalfEven(height * ratio[1])) : width
  const h = shape < ratio[0] ? Math.max(1, roundHalfEven(width / ratio[0])) : height
  return {x: Math.floor((width - w) / 2), y: Math.floor((height - h) / 2), width: w, height: h}
}

/**
 * By how much the sides of a JPEG of width × height may shrink while it is decoded: 8, 4 or 2 where even the smallest
 * crop still has at least the pixels that come out of it, so that nothing is enlarged that was not before; else 1.
 * Pixels differ from those of full decoding, as those of any other way to shrink do.
 */
export function shrinkOf(width: number, height: number, settings: CropSettings): number {
  const [narrow, wide] = settings.ratio ?? [3 / 4, 4 / 3]
  const room = (scale: readonly [number, number], size: number): number =>
    Math.sqrt(scale[0] * width * height * Math.min(narrow, 1 / wide)) / size
  const large = room(settings.globalScale, settings.globalSize)
  const least = settings.localCount > 0 ? Math.min(large, room(settings.localScale, settings.localSize)) : large
  return [8, 4, 2].find(by => least >= by) ?? 1
}

/** What may be done to the colours of a view, in the order that was drawn. */
export type ColourChange =
  | {readonly kind: 'brightness' | 'contrast' | 'saturation'; readonly factor: number}
  | {readonly kind: 'hue'; readonly turn: number}
  | {readonly kind: 'grey'}

/** Brightness, contrast, saturation and hue by random amounts, in random order; those of no strength are left out. */
export function drawJitter(random: Rng, strength: {brightness: number; contrast: number; saturation: number; hue: number}): ColourChange[] {
  const order = random.permutation(4)
  const around = (by: number): number => random.uniform(Math.max(0, 1 - by), 1 + by)
  const changes: ColourChange[] = [
    {kind: 'brightness', factor: around(strength.brightness)},
    {kind: 'contrast', factor: around(strength.contrast)},
    {kind: 'saturation', factor: around(strength.saturation)},
    {kind: 'hue', turn: random.uniform(-strength.hue, strength.hue)}
  ]
  return [...order].map(which => changes[which]!).filter(({kind}) => kind === 'grey' || strength[kind] > 0)
}

/** Which view: it decides size, scale, blur and solarization. */
export type CropView = 'global1' | 'global2' | 'local'

/** All that is drawn for one view, in the order in which it is done. */
export type ViewPlan = {
  /** Side of the square that comes out, in pixels. */
  readonly size: number
  /** What is cut out of the image. */
  readonly box: Box
  readonly flip: boolean
  readonly changes: readonly ColourChange[]
  /** Deviation of the blur in pixels; absent for none. */
  readonly blur?: number
  readonly solarize: boolean
  /** Turns and mirrors the finished view, by the numbers of EXIF (2 to 8); absent for none. */
  readonly orientation?: number
}

/** Numbers of EXIF for turns by 0, 90, 180 and 270 degrees, as the view is and mirrored top to bottom. */
const ORIENTATIONS = {upright: [1, 6, 3, 8], mirrored: [4, 5, 2, 7]} as const

/** Draws nothing where a view is neither mirrored nor turned, so that the draws of other settings stay as they are. */
function drawOrientation(random: Rng, {verticalFlip = 0, quarterTurns = false}: CropSettings): number {
  const mirrored = verticalFlip > 0 && random.chance(verticalFlip)
  const turns = quarterTurns ? random.int(4) : 0
  return ORIENTATIONS[mirrored ? 'mirrored' : 'upright'][turns]!
}

/** Draws what is to be done to make one view of an image of width × height. */
export function planView(random: Rng, width: number, height: number, view: CropView, settings: CropSettings): ViewPlan {
  const size = view === 'local' ? settings.localSize : settings.globalSize
  const box = randomCropBox(random, width, height, view === 'local' ? settings.localScale : settings.globalScale, settings.ratio)
  const flip = random.chance(settings.flip ?? 0.5)
  const jitter = settings.jitter ?? JITTER
  const changes = random.chance(jitter.probability) ? drawJitter(random, jitter) : []
  if (random.chance(settings.grey ?? 0.2)) changes.push({kind: 'grey'})
  const probability = BLUR[settings.blur ?? 'released'][view === 'global1' ? 0 : view === 'global2' ? 1 : 2]
  const blurred = random.chance(probability)
  const [least, most] = settings.blurSigma ?? [0.1, 2]
  const blur = blurred ? {blur: random.uniform(least, most)} : {}
  const turned = view === 'global2' && random.chance(settings.solarize ?? 0.2)
  const orientation = drawOrientation(random, settings)
  return {size, box, flip, changes, ...blur, solarize: turned, ...(orientation > 1 ? {orientation} : {})}
}

/** Bytes of all views of one image: two large, then the small ones. */
export const viewBytes = ({globalSize, localSize, localCount}: CropSettings): number =>
  3 * (2 * globalSize ** 2 + localCount * localSize ** 2)

/**
 * Draws all views of one image: two large, then the small ones. `position` is the place of this sample in the endless
 * stream of training.
 */
export const planViews = (seed: number, position: number, width: number, height: number, settings: CropSettings): ViewPlan[] =>
  Array.from({length: 2 + settings.localCount}, (_, v) =>
    planView(rng(seed, 'view', position, v), width, height, v === 0 ? 'global1' : v === 1 ? 'global2' : 'local', settings)
  )
