/** One drawn picture: its class, number and style, and the seed, decide all of it. */
import {chance} from './random.js'
import {render, REGIONS, type Maps} from './render.js'
import {CLASSES, compose, type Scene} from './scene.js'
import {STYLES, type StyleName} from './style.js'

export {CLASSES, REGIONS}
export type {StyleName}

export type Picture = {readonly kind: string; readonly split: 'train' | 'val'; readonly number: number; readonly style: StyleName}

const sceneOf = ({kind, split, number, style}: Picture, seed: number): Scene =>
  compose(kind, chance(seed, 'samples', split, kind, number), STYLES[style])

/** sRGB bytes [size, size, 3] of a picture; the same for the same arguments, whatever else is drawn. */
export const drawPicture = (picture: Picture, size: number, seed: number): Uint8Array => render(sceneOf(picture, seed), size)

/** The same picture with its truth: depth and regions of every pixel. */
export function drawWithMaps(picture: Picture, size: number, seed: number): Maps & {pixels: Uint8Array} {
  const maps: Maps = {depth: new Float32Array(size * size), regions: new Uint8Array(size * size)}
  return {pixels: render(sceneOf(picture, seed), size, maps), ...maps}
}
