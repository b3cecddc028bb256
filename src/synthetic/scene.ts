/**
 * Scenes: what stands where, in which colours, under which light, seen from where.
 *
 * Everything but the kind itself is drawn independently of it: colours, ground, background, clutter, light, distance,
 * place in the frame. So the kinds differ in shape and texture only, and a comparison of raw pixels finds little. How
 * widely all of that varies is the style's (`style.ts`).
 */
import type {Chance} from './random.js'
import {fractal, noise, step} from './noise.js'
import {norm, type Solid} from './sdf.js'
import {backdrop, GRAINS, plain, type Surface} from './textures.js'
import {clutter, THINGS, type Kind} from './objects.js'
import {anyPalette, distinct, paletteOf, type Colour, type Palette} from './palette.js'
import type {Style} from './style.js'

export type Vector = readonly [x: number, y: number, z: number]

/** A rotation as three rows: local axes in the world. */
export type Turn = readonly [Vector, Vector, Vector]

/** The colours of a solid's parts and how they vary over it. */
export type Paint = {
  readonly parts: readonly [Colour, Colour, Colour, Colour]
  /** Factor on the colour at a place of the solid's own frame. */
  readonly tint: (x: number, y: number, z: number) => number
  readonly gloss: number
  readonly shine: number
}

export type Placed = {readonly solid: Solid; readonly at: Vector; readonly turn: Turn; readonly scale: number; readonly paint: Paint}

/** An even ground or wall with relief; `scale` is plane units per world unit. */
export type Ground = {
  readonly surface: Surface
  readonly colours: readonly [Colour, Colour, Colour]
  readonly scale: number
  readonly angle: number
  readonly relief: number
}

export type Scene = {
  readonly things: readonly Placed[]
  /** The plane y = 0. */
  readonly floor?: Ground
  /** A wall across the view at this z (negative is away from the viewer). */
  readonly wall?: Ground & {readonly z: number}
  /** What is seen where nothing stands; by direction. */
  readonly sky: (x: number, y: number, z: number) => Colour
  readonly light: {readonly towards: Vector; readonly colour: Colour; readonly softness: number}
  readonly ambient: {readonly above: Colour; readonly below: Colour}
  readonly camera: {readonly from: Vector; readonly turn: Turn; readonly zoom: number}
  readonly film: {
    readonly exposure: number
    readonly grain: number
    readonly vignette: number
    readonly haze: number
    readonly blur: number
    readonly seed: number
  }
}

const {abs, cos, sin, PI, max, min} = Math

/** The sixteen classes in the order of the alphabet: twelve things, four textures. */
export const CLASSES: readonly string[] = [...Object.keys(THINGS), ...Object.keys(GRAINS)].sort()

const cross = (a: Vector, b: Vector): Vector => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
const unit = ([x, y, z]: Vector): Vector => {
  const size = norm(x, y, z) || 1
  return [x / size, y / size, z / size]
}
/** First b, then a. */
const after = (a: Turn, b: Turn): Turn =>
  a.map(row => [0, 1, 2].map(k => row[0]! * b[0][k]! + row[1]! * b[1][k]! + row[2]! * b[2][k]!) as unknown as Vector) as unknown as Turn
const aboutX = (t: number): Turn => [
  [1, 0, 0],
  [0, cos(t), -sin(t)],
  [0, sin(t), cos(t)]
]
const aboutY = (t: number): Turn => [
  [cos(t), 0, sin(t)],
  [0, 1, 0],
  [-sin(t), 0, cos(t)]
]
const aboutZ = (t: number): Turn => [
  [cos(t), -sin(t), 0],
  [sin(t), cos(t), 0],
  [0, 0, 1]
]

function ground(chance: Chance, palette: Palette, {surface, scale, relief}: Pick<Ground, 'surface' | 'scale' | 'relief'>): Ground {
  const first = palette.first(chance, [0, 0.6], [0.25, 0.95])
  const spread = chance.range(0.35, 1)
  const other = distinct(chance, palette.second, first, 0.25)
  const second = first.map((c, i) => c + (other[i]! - c) * spread) as unknown as Colour
  const seam = distinct(chance, palette.second, first, 0.3)
  return {surface, colours: [first, second, seam], scale, angle: chance.range(0, 2 * PI), relief}
}

function paint(chance: Chance, palette: Palette, against: Colour): Paint {
  const {range, likely, int, pick} = chance
  const main = distinct(chance, palette.first, against, 0.35)
  const second = distinct(chance, palette.second, main, 0.3)
  const third = likely(0.5) ? distinct(chance, palette.second, main, 0.25) : second
  const seed = int(0, 1e6)
  const [scale, strength] = [range(2, 6), range(0.1, 0.6)]
  const tint = pick<Paint['tint']>([
    () => 1,
    () => 1,
    (x, y, z) => 1 - strength * fractal(x * scale, y * scale, z * scale, 3, seed),
    (x, y, z) => 1 - strength * step(0.5, 0.6, noise(x * scale, y * scale, z * scale, seed)),
    (x, y, z) => 1 - strength * (0.5 + 0.5 * sin(6 * y * scale * 0.5 + 5 * noise(x * 2, y * 2, z * 2, seed)))
  ])
  return {
    parts: [main, second, third, distinct(chance, palette.any, main, 0.4)],
    tint,
    gloss: likely(0.5) ? range(0.1, 0.7) : 0,
    shine: range(8, 60)
  }
}

/** A turn that fits the kind; the viewer stands towards +z and looks down by `down` radians. */
function pose({range, likely}: Chance, {stance, yaw: [from, to] = [-PI, PI]}: Kind, down: number): Turn {
  if (stance === 'facing' || stance === 'swimming') {
    const roll = stance === 'facing' ? range(-PI, PI) : range(-0.4, 0.4)
    const side = range(-0.85, 0.85) + (stance === 'swimming' && likely(0.5) ? PI : 0)
    return after(aboutX(range(-0.5, 0.5) - down * 0.5), after(aboutY(side), aboutZ(roll)))
  }
  const yaw = aboutY(range(from, to))
  if (stance === 'tumbled' && likely(0.25)) return after(yaw, aboutZ(PI / 2 + range(-0.3, 0.3)))
  return likely(0.2) ? after(aboutZ(range(-0.35, 0.35)), yaw) : yaw
}

/**
 * How far the lowest point of a turned solid lies below its origin, in units of the solid. Points spread under it walk
 * to the surface nearest to them; the lowest that arrives counts, so that thin legs are found too.
 */
function depth({distance, reach}: Solid, [ax, ay, az]: Turn): number {
  const side = 13
  const e = 0.002
  let lowest = Infinity
  for (let i = 0; i < side * side; i++) {
    const [x, z] = [((2 * (i % side)) / (side - 1) - 1) * reach, ((2 * Math.floor(i / side)) / (side - 1) - 1) * reach]
    let [u, v, w] = [0, 1, 2].map(k => ax[k]! * x - ay[k]! * reach + az[k]! * z) as [number, number, number]
    for (let k = 0; k < 12; k++) {
      const d = distance(u, v, w)
      if (abs(d) < 0.004) {
        lowest = min(lowest, ay[0] * u + ay[1] * v + ay[2] * w)
        break
      }
      const [gu, gv, gw] = [distance(u + e, v, w) - d, distance(u, v + e, w) - d, distance(u, v, w + e) - d]
      const step = d / (norm(gu, gv, gw) || 1)
      u -= gu * step
      v -= gv * step
      w -= gw * step
    }
  }
  return lowest === Infinity ? reach : -lowest
}

function skyline(chance: Chance, {any}: Palette): Scene['sky'] {
  const {range, likely, int} = chance
  const [low, high, third] = [any(chance, [0, 0.5], [0.5, 1]), any(chance, [0, 0.8], [0.3, 1]), any(chance, [0, 0.6], [0.1, 0.8])]
  const seed = int(0, 1e6)
  const clouds = likely(0.5) ? range(0.4, 1) : 0
  const hills = likely(0.5) ? range(0.1, 0.5) : 0
  const blots = likely(0.3) ? range(2, 5) : 0
  const mixed = (a: Colour, b: Colour, t: number): Colour => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t]
  return (x, y, z) => {
    const around = Math.atan2(x, -z)
    if (hills > 0 && y < hills * fractal(around * 2 + 20, 0.5, 0, 3, seed))
      return mixed(third, low, 0.25 + 0.2 * noise(around * 20, y * 20, 0, seed))
    let seen = mixed(low, high, step(-0.1, 0.9, y))
    if (clouds > 0) seen = mixed(seen, [0.9, 0.9, 0.92], clouds * step(0.45, 0.75, fractal(around * 2.5, y * 6, 1, 3, seed + 9)))
    if (blots > 0) seen = mixed(seen, third, 0.7 * step(0.55, 0.75, noise(around * blots, y * blots, 2, seed + 5)))
    return seen
  }
}

/** Composes a scene that shows one class in a style, with chance as its only other input. */
export function compose(kind: string, chance: Chance, style: Style): Scene {
  const {range, likely, int} = chance
  const thing = THINGS[kind]
  const [own, any] = [paletteOf(style, CLASSES.indexOf(kind)), anyPalette(style)]
  const grain = GRAINS[kind]
  const setting = grain ? 'flat' : chance.pick(['outdoors', 'outdoors', 'room', 'room', 'floating'] as const)
  const zoom = range(1.3, 2.4)
  const roll = range(-0.15, 0.15)
  const flat = likely(0.6)
  const down =
    setting === 'flat' ? (flat ? range(0.9, 1.5) : range(0.5, 0.9)) : setting === 'floating' ? range(-0.5, 0.6) : range(0.12, 0.85)

  const quiet = (): Surface => (style.plainGrounds ? plain : backdrop(chance))
  const floorSurface = grain ? grain(chance) : quiet()
  const floor =
    setting === 'floating'
      ? undefined
      : ground(chance, grain ? own : any, {
          surface: floorSurface,
          scale: grain ? range(1.4, 3.6) : range(0.8, 2.5),
          relief: grain ? range(0.7, 1.4) : 1
        })
  const wall =
    setting === 'room' ? {...ground(chance, any, {surface: quiet(), scale: range(0.5, 2), relief: 1}), z: -range(1.3, 3.5)} : undefined

  // The middle of the view: the thing itself, moved about in the frame.
  const things: Placed[] = []
  const back = wall?.colours[0] ?? floor?.colours[0] ?? [0.5, 0.5, 0.5]
  let centre: Vector = [0, 0, 0]
  let reach = 1
  if (thing) {
    const solid = thing.make(chance)
    const turn = pose(chance, thing, down)
    const height = floor ? depth(solid, turn) - 0.01 : 0
    centre = [0, height, 0]
    reach = solid.reach
    things.push({solid, at: centre, turn, scale: 1, paint: paint(chance, own, back)})
  }
  const fill = range(...style.fill) // part of the frame's height that the thing takes
  const distance = (reach * zoom) / fill
  const aim: Vector = [centre[0] + range(-0.3, 0.3) * reach, centre[1] * 0.9 + range(-0.25, 0.25) * reach, centre[2]]
  const forward: Vector = [0, -sin(down), -cos(down)]
  const from: Vector = [
    aim[0] - forward[0] * distance,
    max(aim[1] - forward[1] * distance, floor ? 0.15 : -9),
    aim[2] - forward[2] * distance
  ]
  const ahead = unit([aim[0] - from[0], aim[1] - from[1], aim[2] - from[2]])
  const right = unit(cross(ahead, [0, 1, 0]))
  const upright = cross(right, ahead)
  const [c, s] = [cos(roll), sin(roll)]
  const turn: Turn = [
    [right[0] * c + upright[0] * s, right[1] * c + upright[1] * s, right[2] * c + upright[2] * s],
    [upright[0] * c - right[0] * s, upright[1] * c - right[1] * s, upright[2] * c - right[2] * s],
    ahead
  ]

  // Clutter: beside and behind, sometimes in front; small things only.
  const pieces = !style.clutter || likely(0.2) ? 0 : int(1, 5)
  for (let i = 0; i < pieces; i++) {
    const solid = clutter(chance)
    const angle = range(0, 2 * PI)
    const away = grain ? range(0, 1.2) : range(1, 1.7)
    const scale = range(0.12, 0.42) * (grain ? 0.7 : 1)
    const twist = after(aboutY(range(-PI, PI)), after(aboutX(range(-PI, PI)), aboutZ(range(-PI, PI))))
    const [x, z] = [away * cos(angle) * reach, away * sin(angle) * reach * (sin(angle) > 0 ? 0.8 : 1)]
    if (wall && z < wall.z + scale) continue
    const y = floor ? depth(solid, twist) * scale - 0.02 : range(-1, 1)
    things.push({solid, at: [x, y, z], turn: twist, scale, paint: paint(chance, any, back)})
  }

  return {things, floor, wall, ...illumination(chance, style), camera: {from, turn, zoom}, film: exposure(chance, style)}
}

/** Sky, lamp and the light from all around. */
function illumination(chance: Chance, style: Style): Pick<Scene, 'sky' | 'light' | 'ambient'> {
  const {range} = chance
  const height = range(0.35, 1.3)
  const side = range(-PI, PI)
  const warmth = range(-style.warmth, style.warmth)
  const strength = range(0.7, 1.25)
  const above = range(0.3, 0.65)
  return {
    sky: skyline(chance, anyPalette(style)),
    light: {
      // never quite from behind the scene, or all would be in shade
      towards: unit([sin(side) * cos(height), sin(height), max(-0.4, cos(side)) * cos(height) + 0.15]),
      colour: [strength * (1 + warmth), strength, strength * (1 - warmth)],
      softness: range(4, 20)
    },
    ambient: {above: [above * (1 - warmth), above, above * (1 + warmth)], below: [above * 0.4, above * 0.38, above * 0.35]}
  }
}

/** What the lens and the film do to the picture. */
const exposure = ({range, likely, int}: Chance, style: Style): Scene['film'] => ({
  exposure: style.exposure(range(0, 1)),
  grain: likely(0.7) ? range(0, 0.03) : 0,
  vignette: range(0, 0.35),
  haze: likely(0.3) ? range(0.02, 0.12) : 0,
  blur: likely(0.3) ? range(0, 0.5) : 0,
  seed: int(0, 2 ** 30)
})
