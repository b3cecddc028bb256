/** One drawn picture: its class and number, and the seed, are all that decides it. */
import {chance} from './chance.js'
import {render} from './render.js'
import {CLASSES, compose} from './scene.js'

export {CLASSES}

export type Picture = {readonly kind: string; readonly split: 'train' | 'val'; readonly number: number}

/** sRGB bytes [size, size, 3] of a picture; the same for the same arguments, whatever else is drawn. */
export function drawPicture({kind, split, number}: Picture, size: number, seed: number): Uint8Array {
  return render(compose(kind, chance(seed, 'samples', split, kind, number)), size)
}
