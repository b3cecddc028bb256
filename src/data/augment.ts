/**
 * The random crops of self-distillation: two large and several small views of one image.
 *
 * Follows the published training code in distribution: crop and resize (bicubic), flip, colour jitter in random order, grey, blur, and for the
 * second large view solarisation. Everything random comes from one generator, so the crops of an image are a pure function of what named that generator; each view
 * has its own stream, so that views do not shift one another's draws. Bytes come out; mean and deviation are applied where they are used.
 */
import {rng, type Rng} from '../tensor/random.js'
import {adjustBrightness, adjustContrast, adjustHue, adjustSaturation, gaussianBlur, solarize, toGrey} from './colour.js'
import {roundHalfEven} from './geometry.js'
import {resample, type Box, type Raster} from './resample.js'

export type CropSettings = {
  /** Sides of the large and the small square views, in pixels. */
  readonly globalSize: number
  readonly localSize: number
  /** Area of a view as a part of the image's, [least, most]. */
  readonly globalScale: readonly [number, number]
  readonly localScale: readonly [number, number]
  /** How many small views. */
  readonly localCount: number
  /** Width over height of what is cut out, before it is made square; [3/4, 4/3] if absent. */
  readonly ratio?: readonly [number, number]
  /**
   * How often each view is blurred: first large, second large, small. `released` (the default): 0, 0.9, 0.5, under which the released weights were trained,
   * since the code takes the probability for its complement; `paper`: 1, 0.1, 0.5, as it was meant.
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
}

/** Blur probabilities of the first large, the second large and the small views. */
export const BLUR = {released: [0, 0.9, 0.5], paper: [1, 0.1, 0.5]} as const

const JITTER = {brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, probability: 0.8}

/**
 * The part of an image that a random resized crop cuts out, in whole pixels (torchvision's rule).
 *
 * Area evenly in scale × area, aspect evenly in the logarithm, ten tries; if none fits, the largest centred rectangle of an allowed aspect.
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

/** Brightness, contrast, saturation and hue by random amounts, in random order; in place. */
export function colourJitter(
  random: Rng,
  pixels: Uint8Array,
  strength: {brightness: number; contrast: number; saturation: number; hue: number}
): void {
  const order = random.permutation(4)
  const around = (by: number): number => random.uniform(Math.max(0, 1 - by), 1 + by)
  const brightness = around(strength.brightness)
  const contrast = around(strength.contrast)
  const saturation = around(strength.saturation)
  const hue = random.uniform(-strength.hue, strength.hue)
  for (const which of order) {
    if (which === 0 && strength.brightness > 0) adjustBrightness(pixels, brightness)
    if (which === 1 && strength.contrast > 0) adjustContrast(pixels, contrast)
    if (which === 2 && strength.saturation > 0) adjustSaturation(pixels, saturation)
    if (which === 3 && strength.hue > 0) adjustHue(pixels, hue)
  }
}

/** Which view: it decides size, scale, blur and solarisation. */
export type View = 'global1' | 'global2' | 'local'

/** Makes one view of an image into `out` of [size, size, 3]. */
export function makeView(random: Rng, image: Raster, view: View, settings: CropSettings, out: Uint8Array): void {
  const size = view === 'local' ? settings.localSize : settings.globalSize
  const box = randomCropBox(
    random,
    image.width,
    image.height,
    view === 'local' ? settings.localScale : settings.globalScale,
    settings.ratio
  )
  const flip = random.chance(settings.flip ?? 0.5)
  resample(image, {width: size, height: size}, {view: box, flip, out})
  const jitter = settings.jitter ?? JITTER
  if (random.chance(jitter.probability)) colourJitter(random, out, jitter)
  if (random.chance(settings.grey ?? 0.2)) toGrey(out)
  const probability = BLUR[settings.blur ?? 'released'][view === 'global1' ? 0 : view === 'global2' ? 1 : 2]
  if (random.chance(probability)) {
    const [least, most] = settings.blurSigma ?? [0.1, 2]
    gaussianBlur(out, size, random.uniform(least, most))
  }
  if (view === 'global2' && random.chance(settings.solarize ?? 0.2)) solarize(out, 128)
}

/** Bytes of all views of one image: two large, then the small ones. */
export const viewBytes = ({globalSize, localSize, localCount}: CropSettings): number =>
  3 * (2 * globalSize ** 2 + localCount * localSize ** 2)

/**
 * All views of one image, one after the other: global 1 and 2 [G, G, 3], then the local ones [S, S, 3].
 *
 * The result is a pure function of the image, the settings, the seed and `position`, the place of this sample in the endless stream of training.
 */
export function multiCrop(
  seed: number,
  position: number,
  image: Raster,
  settings: CropSettings,
  out: Uint8Array = new Uint8Array(viewBytes(settings))
): Uint8Array {
  const large = 3 * settings.globalSize ** 2
  const small = 3 * settings.localSize ** 2
  for (let v = 0, at = 0; v < 2 + settings.localCount; v++) {
    const bytes = v < 2 ? large : small
    makeView(
      rng(seed, 'view', position, v),
      image,
      v === 0 ? 'global1' : v === 1 ? 'global2' : 'local',
      settings,
      out.subarray(at, at + bytes)
    )
    at += bytes
  }
  return out
}
