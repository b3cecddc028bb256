/** Colours of a scene: of any hue, or of the hues of a class, within what the style allows. */
import type {Chance} from './random.js'
import {norm} from './sdf.js'
import type {Style} from './style.js'

/** Red, green and blue, linear light, 0 to 1. */
export type Colour = readonly [red: number, green: number, blue: number]

type Bounds = readonly [least: number, most: number]

/** Draws a colour; `vivid` and `bright` bound saturation and value, but the bounds of a style come first. */
export type DrawColour = (chance: Chance, vivid?: Bounds, bright?: Bounds) => Colour

/** How a thing or a ground is coloured: its first and its second colour, and what else is on it. */
export type Palette = {readonly first: DrawColour; readonly second: DrawColour; readonly any: DrawColour}

const {max, min, sqrt} = Math

/** Colours of any hue, from 0 to 6, or within 0.35 of `hue`. */
function coloursOf({palettes}: Style, hue?: number): DrawColour {
  const allowed = hue === undefined ? palettes?.dull : palettes?.vivid
  return ({range}, vivid = [0.05, 0.9], bright = [0.15, 0.95]) => {
    const drawn = hue === undefined ? range(0, 6) : (hue + range(-0.35, 0.35) + 6) % 6
    const [saturation, value] = [range(...(allowed ?? vivid)), range(...bright) ** 1.8]
    const channel = (shift: number): number => {
      const k = (drawn + shift) % 6
      return value * (1 - saturation * max(0, min(k, 4 - k, 1)))
    }
    return [channel(5), channel(3), channel(1)]
  }
}

/** Colours of any hue for all parts. */
export function anyPalette(style: Style): Palette {
  const any = coloursOf(style)
  return {first: any, second: any, any}
}

/** The colours of class number `order`: two hues, shared with other classes; any where a style has no palettes. */
export function paletteOf(style: Style, order: number): Palette {
  if (!style.palettes) return anyPalette(style)
  const hue = ((order % style.palettes.count) * 6) / style.palettes.count
  return {first: coloursOf(style, hue), second: coloursOf(style, (hue + 2.2) % 6), any: coloursOf(style)}
}

const distance = (a: Colour, b: Colour): number => norm(sqrt(a[0]) - sqrt(b[0]), sqrt(a[1]) - sqrt(b[1]), sqrt(a[2]) - sqrt(b[2]))

/** A colour that differs from another one by at least `gap`, as far as a few tries find one. */
export function distinct(chance: Chance, draw: DrawColour, from: Colour, gap: number): Colour {
  let best = draw(chance)
  for (let i = 0; i < 8 && distance(best, from) < gap; i++) best = draw(chance)
  return best
}
