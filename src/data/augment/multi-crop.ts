/**
 * Makes the random crops of self-distillation: every view of an image by its plan (`crop-params.ts`), all from one
 * decoded image.
 *
 * Bytes come out; mean and deviation are applied where they are used. The native code (`native.ts`) gives the same
 * bytes and is several times as fast: which of the two runs makes no difference to a run.
 */
import {adjustBrightness, adjustContrast, adjustHue, adjustSaturation, gaussianBlur, solarize, toGrey} from './color.js'
import {planViews, SOLARIZE_FROM, viewBytes, type ColourChange, type CropSettings, type ViewPlan} from './crop-params.js'
import {turnUpright} from '../image/orientation.js'
import {resample, type Raster} from '../image/resample.js'

export type {CropSettings} from './crop-params.js'

/** Makes one change, in place. */
export function changeColours(pixels: Uint8Array, change: ColourChange): void {
  if (change.kind === 'brightness') adjustBrightness(pixels, change.factor)
  else if (change.kind === 'contrast') adjustContrast(pixels, change.factor)
  else if (change.kind === 'saturation') adjustSaturation(pixels, change.factor)
  else if (change.kind === 'hue') adjustHue(pixels, change.turn)
  else toGrey(pixels)
}

/** Makes a view by its plan, all but its orientation, into `out` of [size, size, 3]. */
export function makeView(image: Raster, {size, box, flip, changes, blur, solarize: turned}: ViewPlan, out: Uint8Array): void {
  resample(image, {width: size, height: size}, {view: box, flip, out})
  for (const change of changes) changeColours(out, change)
  if (blur !== undefined) gaussianBlur(out, size, blur)
  if (turned) solarize(out, SOLARIZE_FROM)
}

/** Makes many views by their plans, one after the other into `out`; what `native.ts` offers. */
export type ViewMaker = {views(image: Raster, plans: readonly ViewPlan[], out: Uint8Array): void}

/**
 * All views of one image, one after the other: global 1 and 2 [G, G, 3], then the local ones [S, S, 3].
 *
 * The result is a pure function of the image, the settings, the seed and `position`. `native` makes it faster and
 * changes nothing of it.
 */
export function multiCrop(
  seed: number,
  position: number,
  image: Raster,
  settings: CropSettings,
  {out = new Uint8Array(viewBytes(settings)), native}: {readonly out?: Uint8Array; readonly native?: ViewMaker | undefined} = {}
): Uint8Array {
  const plans = planViews(seed, position, image.width, image.height, settings)
  native?.views(image, plans, out)
  let at = 0
  for (const plan of plans) {
    const view = out.subarray(at, at + 3 * plan.size ** 2)
    if (!native) makeView(image, plan, view)
    if (plan.orientation !== undefined) view.set(turnUpright({width: plan.size, height: plan.size, data: view}, plan.orientation).data)
    at += view.length
  }
  return out
}
