/**
 * The kinds of things that are drawn. Every kind is a family: proportions, counts and details are drawn anew for each
 * picture, while what makes the kind (a handle, spokes, a gable) stays. Colours are no part of a kind; they come from
 * the scene.
 */
import type {Chance} from './random.js'
import {noise} from './noise.js'
import {
  around,
  ball,
  block,
  disc,
  ellipsoid,
  leaned,
  melt,
  nearest,
  norm,
  ring,
  stick,
  turned,
  union,
  within,
  without,
  type Field,
  type Solid
} from './sdf.js'

/** How a thing may lie in a scene. */
export type Stance =
  | 'upright' // on the ground, any side to the viewer, seldom leaning
  | 'tumbled' // as upright, but often fallen over
  | 'facing' // its flat side (z) towards the viewer, within about 50°, turned in its plane at will
  | 'swimming' // as facing, but turned in its plane only a little

export type Kind = {
  readonly stance: Stance
  /** The turns about y, in radians, at which the kind can be told; any where absent. */
  readonly yaw?: readonly [from: number, to: number]
  readonly make: (chance: Chance) => Solid
}

const {abs, cos, sin, PI, min, max} = Math

function bottle({range, likely}: Chance): Solid {
  const [body, neck, shoulder] = [range(0.28, 0.46), range(0.08, 0.14), range(-0.1, 0.4)]
  const lip = neck + range(0.01, 0.05)
  const distance = turned([
    [-1, body * 0.85],
    [-0.92, body],
    [shoulder - 0.3, body * range(0.9, 1.1)],
    [shoulder + range(0.1, 0.35), neck],
    [0.86, neck],
    [0.9, lip],
    [1, lip]
  ])
  const [low, high] = [range(-0.75, -0.55), shoulder - range(0.3, 0.4)]
  const [label, cap] = [likely(0.75), likely(0.7)]
  return {distance, reach: 1.12, part: (_x, y) => (cap && y > 0.78 ? 1 : label && y > low && y < high ? 2 : 0)}
}

function box({range, likely}: Chance): Solid {
  const [a, b, c] = [range(0.45, 0.75), range(0.4, 0.7), range(0.45, 0.75)]
  const reach = norm(a, b, c) + 0.02
  if (likely(0.5)) {
    // a crate: thinner walls between beams along its twelve edges
    const [beam, inset] = [range(0.06, 0.11), range(0.04, 0.08)]
    const walls = block(a - inset, b - inset, c - inset)
    const beams = union(
      block(a, beam, beam, 0.01, 0, b - beam, c - beam),
      block(beam, b, beam, 0.01, a - beam, 0, c - beam),
      block(beam, beam, c, 0.01, a - beam, b - beam, 0)
    )
    const folded: Field = (x, y, z) => beams(abs(x), abs(y), abs(z))
    const slats = range(0.14, 0.25)
    const distance = union(walls, folded)
    return {distance, reach, part: (x, y, z) => (folded(x, y, z) < walls(x, y, z) ? 1 : Math.floor(y / slats) & 1 ? 0 : 2)}
  }
  // a parcel: rounded edges, a band around both ways
  const band = range(0.06, 0.12)
  return {
    distance: block(a, b, c, range(0.02, 0.1)),
    reach,
    part: (x, _y, z) => (min(abs(x), abs(z)) < band ? 1 : 0)
  }
}

function chair({range, int, likely}: Chance): Solid {
  const [w, d, leg, height] = [range(0.36, 0.5), range(0.34, 0.46), range(0.035, 0.065), range(0, 0.15)]
  const seat = -0.15 + height
  const thick = range(0.04, 0.08)
  const splay = range(0, 0.1)
  const legs = stick(w - leg, seat, d - leg, w - leg + splay, -1, d - leg + splay, leg, leg * 0.75)
  const back = 1 - range(0, 0.25)
  const post = stick(w - leg, seat, -d + leg, w - leg, back, -d + leg - range(0, 0.15), leg)
  const slats = int(0, 3)
  const rests =
    slats === 0
      ? [block(w - leg, (back - seat) * 0.3, leg * 0.7, 0.02, 0, back - (back - seat) * 0.3, -d + leg - 0.06)]
      : Array.from({length: slats}, (_, i) => block(w - leg, 0.06, leg * 0.6, 0.02, 0, back - 0.08 - i * 0.24, -d + leg - 0.06))
  const arms = likely(0.3)
    ? [
        stick(w - leg, seat + 0.32, -d, w - leg, seat + 0.32, d * 0.8, leg),
        stick(w - leg, seat, d * 0.75, w - leg, seat + 0.32, d * 0.75, leg)
      ]
    : []
  const cushion = block(w, thick, d, 0.03, 0, seat, 0)
  const mirrored = union(post, ...arms)
  const frame: Field = (x, y, z) => min(legs(abs(x), y, abs(z)), mirrored(abs(x), y, z))
  const rest = union(...(rests as [Field]))
  return {distance: union(frame, cushion, rest), part: nearest(frame, cushion, rest), reach: 1.3}
}

function fish({range, int, likely}: Chance): Solid {
  const [long, high, thick] = [range(0.62, 0.74), range(0.24, 0.46), range(0.14, 0.22)]
  const body = ellipsoid(long, high, thick, -0.12)
  const [tail, fork] = [range(0.28, 0.45), range(0.05, 0.25)]
  // the tail: a thin wedge that opens away from the body, with a notch
  const wedge: Field = (x, y, z) => {
    const along = x - 0.42
    const outline = max(abs(y) - max(0.05, along * (tail / 0.5)) - 0.02, x - 0.95 + fork * max(0, 1 - abs(y) / tail), -along)
    return max(outline * 0.7, abs(z) - 0.035) - 0.012
  }
  const [crest, base] = [range(0.12, 0.3), range(0.25, 0.42)]
  const dorsal: Field = (x, y, z) => max((norm((x + 0.05) / base, (y - high * 0.8) / crest) - 1) * crest, abs(z) - 0.03, -y)
  const belly = leaned(ellipsoid(0.2, 0.09, 0.03), range(0.5, 1), -0.05, -high * 0.95)
  const fins = union(wedge, dorsal, belly)
  const stripes = likely(0.5) ? int(4, 9) : 0
  const eye = {x: -0.12 - long * 0.68, y: high * 0.18}
  const bend = range(-0.25, 0.25)
  const bent =
    (field: Field): Field =>
    (x, y, z) =>
      field(x, y, z - bend * (x + 0.1) * (x + 0.1))
  const whole = bent(melt(0.06, body, fins))
  return {
    distance: (x, y, z) => whole(x, y, z) * 0.85,
    reach: 1.1,
    part: bent((x, y, z) => {
      if (norm(x - eye.x, y - eye.y) < 0.07) return 3
      if (fins(x, y, z) < body(x, y, z)) return 1
      return stripes > 0 && sin(x * stripes * 2.5) > 0.35 ? 2 : 0
    })
  }
}

function flower({range, int, likely}: Chance): Solid {
  const petals = int(5, 11)
  const [length, heart, lift] = [range(0.3, 0.4), range(0.16, 0.3), range(-0.1, 0.3)]
  const width = min((PI * 0.62) / petals, 0.42) * range(0.8, 1.15)
  const petal = ellipsoid(length, width, 0.05)
  const [leanCos, leanSin] = [cos(lift), sin(lift)]
  const crown = around(petals, (x, y, z) => {
    const [u, w] = [x - heart - length * 0.8, z]
    return petal(u * leanCos + w * leanSin, y, w * leanCos - u * leanSin)
  })
  const double = likely(0.4) ? union(crown, leanedBehind(crown, PI / petals)) : crown
  const slope = abs(leanSin) * (heart + 1.8 * length)
  const corolla = within(disc(heart + 1.85 * length, 0.14 + slope, 0), double)
  const centre = ellipsoid(heart, heart, heart * range(0.35, 0.7), 0, 0, 0.03)
  const leaves = likely(0.5)
    ? [leaned(ellipsoid(0.34, 0.12, 0.03, 0.4, 0, -0.2), range(3.6, 5.6)), stick(0, 0, -0.12, 0, -1, -0.3, 0.045)]
    : []
  const green: Field = leaves.length > 0 ? union(...(leaves as [Field])) : () => Infinity
  const outer = likely(0.4)
  return {
    distance: union(corolla, centre, green),
    reach: 1.08,
    part: (x, y, z) => {
      const [a, b, c] = [double(x, y, z), centre(x, y, z), green(x, y, z)]
      if (c < a && c < b) return 3
      return b < a ? 1 : outer && norm(x, y) > heart + length * 1.1 ? 2 : 0
    }
  }
}

/** The same crown once more, turned by an angle and set back. */
function leanedBehind(crown: Field, angle: number): Field {
  const field = leaned(crown, angle)
  return (x, y, z) => field(x, y, z + 0.07)
}

function house({range, int, likely}: Chance): Solid {
  const [w, d, wall] = [range(0.4, 0.6), range(0.4, 0.75), range(-0.05, 0.25)]
  const pitch = range(0.6, 1.3)
  const eaves = range(0.05, 0.14)
  const walls = block(w, (wall + 0.8) / 2, d, 0, 0, (wall - 0.8) / 2, 0)
  const slack = 1 / norm(1, pitch)
  const top = wall + pitch * w
  const roof: Field = (x, y, z) => {
    const slope = (y - top + pitch * abs(x)) * slack // above the slope is positive
    return max(abs(slope) - 0.045, abs(x) - w - eaves, abs(z) - d - eaves * 0.7)
  }
  const gable: Field = (x, y, z) => max((y - top + pitch * abs(x)) * slack, wall - 0.05 - y, abs(z) - d, abs(x) - w)
  const chimney = likely(0.6) ? block(0.08, 0.22, 0.08, 0, w * range(0.35, 0.6), wall + pitch * w * 0.7, d * range(-0.6, 0.6)) : roof
  const [columns, rows] = [int(2, 3), wall > 0.08 ? 2 : 1]
  const window: Field = (x, y, z) => {
    const onSide = abs(x) > w - 0.01
    const [u, half] = onSide ? [z, d] : [x, w]
    const column = ((u / half + 1) / 2) * columns
    const row = ((y + 0.78) / (wall + 0.72)) * rows
    const inside = abs((column % 1) - 0.5) < 0.22 && abs((row % 1) - 0.55) < 0.24
    return inside && y < wall ? 1 : 0
  }
  const door = range(-0.3, 0.3) * w
  const solid = union(walls, gable)
  return {
    distance: union(solid, roof, chimney),
    reach: 1.25,
    part: (x, y, z) => {
      const [body, tiles, stack] = [solid(x, y, z), roof(x, y, z), chimney(x, y, z)]
      if (tiles < body && tiles <= stack) return 1
      if (stack < body) return 0
      if (abs(x - door) < 0.1 && y < -0.38 && z > d - 0.02) return 3
      return window(x, y, z) ? 2 : 0
    }
  }
}

function mug({range, likely}: Chance): Solid {
  const [radius, half, wall] = [range(0.48, 0.62), range(0.5, 0.72), range(0.05, 0.09)]
  const taper = range(-0.12, 0.12)
  const outer = turned([
    [-half, (radius - taper) * 0.9],
    [-half + 0.08, radius - taper],
    [half, radius + taper]
  ])
  const inner = turned([
    [-half + wall * 1.5, radius - taper - wall],
    [half + 0.2, radius + taper - wall]
  ])
  const [size, thick] = [half * range(0.45, 0.65), range(0.05, 0.08)]
  const loop = ring(size, thick, thick * range(0.8, 1.5))
  const stretch = range(0.75, 1.05)
  const handle: Field = (x, y, z) => loop((x - radius) / stretch, y, z) * min(1, stretch)
  const distance = without(union(outer, handle), inner)
  const bands = likely(0.5)
  const band = range(-0.2, 0.3)
  return {
    distance,
    reach: 1.35,
    part: (x, y, z) => {
      if (norm(x, z) < radius + taper - wall * 0.4 && y > -half + wall) return y > half - 0.03 ? 0 : 2
      if (handle(x, y, z) < outer(x, y, z)) return 1
      return bands && abs(y - band) < 0.12 ? 1 : 0
    }
  }
}

function mushroom({range, likely, int}: Chance): Solid {
  const [cap, stem, brim] = [range(0.6, 0.9), range(0.15, 0.28), range(-0.05, 0.25)]
  const pointed = range(0.3, 0.75)
  const foot = turned([
    [-0.95, stem * range(1, 1.5)],
    [-0.5, stem],
    [brim + 0.1, stem * 0.85]
  ])
  const dome = ellipsoid(cap, pointed, cap, 0, brim, 0)
  const hollow = ellipsoid(cap * 0.92, pointed * 0.28, cap * 0.92, 0, brim - 0.05, 0)
  const hat: Field = (x, y, z) => max(dome(x, y, z), brim - 0.03 - y, -hollow(x, y, z))
  const spots = likely(0.6) ? range(4, 7) : 0
  const seed = int(0, 1e6)
  return {
    distance: melt(0.05, foot, hat),
    reach: 1.25,
    part: (x, y, z) => {
      if (foot(x, y, z) < hat(x, y, z)) return 1
      if (y < brim + 0.01) return 2
      return spots > 0 && noise(x * spots, y * spots, z * spots, seed) > 0.68 ? 3 : 0
    }
  }
}

function hoop({range, int, likely}: Chance): Solid {
  const [R, thick] = [range(0.62, 0.78), range(0.12, 0.26)]
  const flat = likely(0.35) ? range(0.4, 0.8) : 1
  const bands = likely(0.5) ? int(4, 12) : 0
  return {
    distance: ring(R, thick, thick * flat),
    reach: R + thick + 0.03,
    part: (x, y, z) => (bands > 0 ? (sin(Math.atan2(y, x) * bands) > 0 ? 1 : 0) : z > thick * flat * 0.4 ? 0 : 2)
  }
}

function star({range, int, likely}: Chance): Solid {
  const points = likely(0.6) ? 5 : int(4, 8)
  const [tip, notch] = [0.95, range(0.34, 0.5) + (points > 5 ? 0.12 : 0)]
  const half = PI / points
  // one edge of the outline, from the tip on the x axis to the notch at angle `half`
  const [nx, ny] = [notch * cos(half), notch * sin(half)]
  const size = norm(nx - tip, ny)
  const [ex, ey] = [(nx - tip) / size, ny / size]
  const [thick, swell, round] = [range(0.1, 0.22), range(0, 0.5), range(0.01, 0.05)]
  const arm: Field = (x, y, z) => {
    const u = x - tip
    const v = abs(y)
    const along = min(size, max(0, u * ex + v * ey))
    const away = norm(u - along * ex, v - along * ey)
    const outline = ex * v - ey * u > 0 ? -away : away // left of the edge is inside
    const depth = abs(z) - thick + swell * max(0, 0.3 + outline)
    return (norm(max(outline, 0), max(depth, 0)) + min(max(outline, depth), 0) - round) * (swell > 0 ? 0.8 : 1)
  }
  const rim = likely(0.4)
  const body = around(points, arm)
  return {
    distance: within(disc(1, thick + round + 0.02, 0), body),
    reach: 1.05,
    part: (x, y, z) => (abs(z) < thick * 0.6 ? 1 : rim && norm(x, y) < notch * 0.75 ? 2 : 0)
  }
}

function tree({range, int, likely}: Chance): Solid {
  const seed = int(0, 1e6)
  const [width, lean] = [range(0.07, 0.13), range(-0.12, 0.12)]
  const trunk = stick(0, -1, 0, lean, 0.3, 0, width * 1.3, width * 0.7)
  let crown: Field
  if (likely(0.45)) {
    // a conifer: skirts one above the other
    const tiers = int(3, 5)
    const [spread, from] = [range(0.42, 0.62), range(-0.6, -0.35)]
    const skirts = Array.from({length: tiers}, (_, i) => {
      const y = from + ((1 - from) * i) / (tiers + 0.4)
      const height = ((1 - from) / tiers) * 1.5
      const radius = spread * (1 - (i / tiers) * 0.75)
      return turned([
        [y, radius],
        [Math.min(1, y + height), 0.02]
      ])
    })
    crown = union(...(skirts as [Field]))
  } else {
    const puffs = Array.from({length: int(4, 7)}, () =>
      ball(range(0.24, 0.42), lean + range(-0.42, 0.42), range(0.1, 0.65), range(-0.42, 0.42))
    )
    crown = melt(0.2, ball(range(0.4, 0.5), lean, 0.42, 0), ...puffs)
  }
  const [grain, rough] = [range(6, 11), range(0.05, 0.12)]
  const leaves: Field = (x, y, z) => {
    const distance = crown(x, y, z)
    return distance > rough * 2 ? distance - rough : (distance - rough * (noise(x * grain, y * grain, z * grain, seed) * 2 - 1)) * 0.7
  }
  return {
    distance: union(trunk, leaves),
    reach: 1.3,
    part: (x, y, z) => (trunk(x, y, z) < leaves(x, y, z) ? 1 : noise(x * 13, y * 13, z * 13, seed + 1) > 0.62 ? 2 : 0)
  }
}

function wheel({range, int, likely}: Chance): Solid {
  const [tyre, wide] = [range(0.08, 0.16), range(0.1, 0.2)]
  const rim = ring(0.92 - tyre, tyre, wide)
  const inner = ring(0.92 - tyre * 2 - 0.03, 0.04, wide * 0.7)
  const spokes = int(4, 12)
  const spread = range(0.03, 0.07) * (spokes > 8 ? 0.7 : 1)
  const spoke = around(spokes, block(0.4, spread, range(0.03, 0.06), 0.01, 0.42, 0, 0))
  const hub = disc(range(0.12, 0.24), wide * range(0.7, 1.2), 0.03)
  const bolts = likely(0.4)
  const [outside, middle] = [union(rim, inner), union(spoke, hub)]
  const open = 0.92 - tyre * 2 - 0.08 // within this radius there is neither tyre nor rim
  const whole: Field = (x, y, z) => {
    const gap = open - norm(x, y)
    return min(middle(x, y, z), gap > 0.1 ? gap : outside(x, y, z))
  }
  return {
    distance: within(disc(0.94, max(wide * 1.25, 0.1), 0), whole),
    reach: 1.02,
    part: (x, y, z) => {
      if (rim(x, y, z) < 0.005) return 1
      if (bolts && norm(x, y) < 0.06) return 3
      return hub(x, y, z) < 0.005 ? 2 : 0
    }
  }
}

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
      turned([
        [-0.8, range(0.35, 0.6)],
        [0.8, range(0.02, 0.12)]
      ]),
    () => stick(0, -0.75, 0, range(-0.3, 0.3), 0.75, 0, range(0.1, 0.3)),
    () => block(range(0.2, 0.8), range(0.1, 0.3), range(0.2, 0.6), 0.04),
    () => {
      const body = ball(0.75)
      const grain = range(1.5, 3)
      return (x, y, z) => (body(x, y, z) - 0.35 * (noise(x * grain, y * grain, z * grain, seed) - 0.5)) * 0.75
    }
  ])()
  const bands = likely(0.3) ? range(2, 6) : 0
  return {distance: shape, reach: 1.15, part: (_x, y) => (bands > 0 && sin(y * bands * PI) > 0 ? 1 : 0)}
}
