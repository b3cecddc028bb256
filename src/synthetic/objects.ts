/**
 * The kinds of things that are drawn. Every kind is a family: proportions, counts and details are drawn anew for each
 * picture, while what makes the kind (a handle, spokes, a gable) stays. Colours are no part of a kind; they come from
 * the scene.
 */
import type {Chance} from './random.js'
import {noise} from './noise.js'
import {bottle, box, chair, hoop, house, mug, wheel} from './made-objects.js'
import {fish, flower, mushroom, star, tree} from './natural-objects.js'
import {capsule, cuboid, ellipsoid, revolve, sphere, type Field, type Solid} from './sdf.js'

/** How a thing may lie in a scene. */
export type Stance =
  | 'upright' // on the ground, any side to the viewer, seldom leaning
  | 'tumbled' // as upright, but often fallen over
  | 'facing' // its flat side (z) towards the viewer, within about 50°, turned in its plane at will
  | 'swimming' // as facing, but turned in its plane only a little

export type Kind = {
  readonly stance: Stance
  /** The turns about y, in radians, at which the kind can be recognized; any where absent. */
  readonly yaw?: readonly [from: number, to: number]
  readonly make: (chance: Chance) => Solid
}

const {sin, PI} = Math

/** The kinds by name. */
export const THINGS: Readonly<Record<string, Kind>> = {
  bottle: {stance: 'tumbled', make: bottle},
  box: {stance: 'upright', make: box},
  chair: {stance: 'upright', make: chair},
  fish: {stance: 'swimming', make: fish},
  flower: {stance: 'facing', make: flower},
  house: {stance: 'upright', make: house},
  mug: {stance: 'tumbled', yaw: [-3.7, 0.8], make: mug} /* the handle is not behind the mug */,
  mushroom: {stance: 'upright', make: mushroom},
  ring: {stance: 'facing', make: hoop},
  star: {stance: 'facing', make: star},
  tree: {stance: 'upright', make: tree},
  wheel: {stance: 'facing', make: wheel}
}

/** Something of no kind, that lies about in every scene: a pebble, an egg, a cone, a post, a slab. */
export function clutter({range, int, likely, pick}: Chance): Solid {
  const seed = int(0, 1e6)
  const shape = pick<() => Field>([
    () => ellipsoid(range(0.5, 0.95), range(0.35, 0.9), range(0.5, 0.95)),
    () =>
      revolve([
        [-0.8, range(0.35, 0.6)],
        [0.8, range(0.02, 0.12)]
      ]),
    () => capsule([0, -0.75, 0], [range(-0.3, 0.3), 0.75, 0], range(0.1, 0.3)),
    () => cuboid([range(0.2, 0.8), range(0.1, 0.3), range(0.2, 0.6)], 0.04),
    () => {
      const body = sphere(0.75)
      const grain = range(1.5, 3)
      return (x, y, z) => (body(x, y, z) - 0.35 * (noise(x * grain, y * grain, z * grain, seed) - 0.5)) * 0.75
    }
  ])()
  const bands = likely(0.3) ? range(2, 6) : 0
  return {distance: shape, reach: 1.15, part: (_x, y) => (bands > 0 && sin(y * bands * PI) > 0 ? 1 : 0)}
}
