/** One drawn picture: its class and number, and the seed, are all that decides it. */
import {chance} from './random.js'
import {render, REGIONS, type Maps} from './render.js'
import {CLASSES, compose} from './scene.js'

export {CLASSES, REGIONS}

export type Picture = {readonly kind: string; readonly split: 'train' | 'val'; readonly number: number}

/** sRGB bytes [size, size, 3] of a picture; the same for the same arguments, whatever else is drawn. */
export function drawPicture({kind, split, number}: Picture, size: number, seed: number): Uint8Array {
  return render(compose(kind, chance(seed, 'samples', split, kind, number)), size)
}

/** The same picture with its truth: depth and regions of every pixel. */
export function drawWithMaps({kind, split, number}: Picture, size: number, seed: number): Maps & {pixels: Uint8Array} {
  const maps: Maps = {depth: new Float32Array(size * size), regions: new Uint8Array(size * size)}
  return {pixels: render(compose(kind, chance(seed, 'samples', split, kind, number)), size, maps), ...maps}
}
