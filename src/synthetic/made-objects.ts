/** The kinds of things that people make, as families of solids: see objects.ts. */
import type {Chance} from './random.js'
import {around, capsule, cuboid, disc, nearestOf, norm, revolve, ring, union, within, without, type Field, type Solid} from './sdf.js'

const {abs, sin, min, max} = Math

export function bottle({range, likely}: Chance): Solid {
  const [body, neck, shoulder] = [range(0.28, 0.46), range(0.08, 0.14), range(-0.1, 0.4)]
  const lip = neck + range(0.01, 0.05)
  const distance = revolve([
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

export function box({range, likely}: Chance): Solid {
  const [a, b, c] = [range(0.45, 0.75), range(0.4, 0.7), range(0.45, 0.75)]
  const reach = norm(a, b, c) + 0.02
  if (likely(0.5)) {
    // a crate: thinner walls between beams along its twelve edges
    const [beam, inset] = [range(0.06, 0.11), range(0.04, 0.08)]
    const walls = cuboid([a - inset, b - inset, c - inset])
    const beams = union(
      cuboid([a, beam, beam], 0.01, [0, b - beam, c - beam]),
      cuboid([beam, b, beam], 0.01, [a - beam, 0, c - beam]),
      cuboid([beam, beam, c], 0.01, [a - beam, b - beam, 0])
    )
    const folded: Field = (x, y, z) => beams(abs(x), abs(y), abs(z))
    const slats = range(0.14, 0.25)
    const distance = union(walls, folded)
    return {distance, reach, part: (x, y, z) => (folded(x, y, z) < walls(x, y, z) ? 1 : Math.floor(y / slats) & 1 ? 0 : 2)}
  }
  // a parcel: rounded edges, a band around both ways
  const band = range(0.06, 0.12)
  return {
    distance: cuboid([a, b, c], range(0.02, 0.1)),
    reach,
    part: (x, _y, z) => (min(abs(x), abs(z)) < band ? 1 : 0)
  }
}

export function chair({range, int, likely}: Chance): Solid {
  const [w, d, leg, height] = [range(0.36, 0.5), range(0.34, 0.46), range(0.035, 0.065), range(0, 0.15)]
  const seat = -0.15 + height
  const thick = range(0.04, 0.08)
  const splay = range(0, 0.1)
  const legs = capsule([w - leg, seat, d - leg], [w - leg + splay, -1, d - leg + splay], leg, leg * 0.75)
  const back = 1 - range(0, 0.25)
  const post = capsule([w - leg, seat, -d + leg], [w - leg, back, -d + leg - range(0, 0.15)], leg)
  const slats = int(0, 3)
  const rests =
    slats === 0
      ? [cuboid([w - leg, (back - seat) * 0.3, leg * 0.7], 0.02, [0, back - (back - seat) * 0.3, -d + leg - 0.06])]
      : Array.from({length: slats}, (_, i) => cuboid([w - leg, 0.06, leg * 0.6], 0.02, [0, back - 0.08 - i * 0.24, -d + leg - 0.06]))
  const arms = likely(0.3)
    ? [
        capsule([w - leg, seat + 0.32, -d], [w - leg, seat + 0.32, d * 0.8], leg),
        capsule([w - leg, seat, d * 0.75], [w - leg, seat + 0.32, d * 0.75], leg)
      ]
    : []
  const cushion = cuboid([w, thick, d], 0.03, [0, seat, 0])
  const mirrored = union(post, ...arms)
  const frame: Field = (x, y, z) => min(legs(abs(x), y, abs(z)), mirrored(abs(x), y, z))
  const rest = union(...(rests as [Field]))
  return {distance: union(frame, cushion, rest), part: nearestOf(frame, cushion, rest), reach: 1.3}
}

export function house({range, int, likely}: Chance): Solid {
  const [w, d, wall] = [range(0.4, 0.6), range(0.4, 0.75), range(-0.05, 0.25)]
  const pitch = range(0.6, 1.3)
  const eaves = range(0.05, 0.14)
  const walls = cuboid([w, (wall + 0.8) / 2, d], 0, [0, (wall - 0.8) / 2, 0])
  const slack = 1 / norm(1, pitch)
  const top = wall + pitch * w
  const roof: Field = (x, y, z) => {
    const slope = (y - top + pitch * abs(x)) * slack // above the slope is positive
    return max(abs(slope) - 0.045, abs(x) - w - eaves, abs(z) - d - eaves * 0.7)
  }
  const gable: Field = (x, y, z) => max((y - top + pitch * abs(x)) * slack, wall - 0.05 - y, abs(z) - d, abs(x) - w)
  const chimney = likely(0.6) ? cuboid([0.08, 0.22, 0.08], 0, [w * range(0.35, 0.6), wall + pitch * w * 0.7, d * range(-0.6, 0.6)]) : roof
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

export function mug({range, likely}: Chance): Solid {
  const [radius, half, wall] = [range(0.48, 0.62), range(0.5, 0.72), range(0.05, 0.09)]
  const taper = range(-0.12, 0.12)
  const outer = revolve([
    [-half, (radius - taper) * 0.9],
    [-half + 0.08, radius - taper],
    [half, radius + taper]
  ])
  const inner = revolve([
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

export function hoop({range, int, likely}: Chance): Solid {
  const [R, thick] = [range(0.62, 0.78), range(0.12, 0.26)]
  const flat = likely(0.35) ? range(0.4, 0.8) : 1
  const bands = likely(0.5) ? int(4, 12) : 0
  return {
    distance: ring(R, thick, thick * flat),
    reach: R + thick + 0.03,
    part: (x, y, z) => (bands > 0 ? (sin(Math.atan2(y, x) * bands) > 0 ? 1 : 0) : z > thick * flat * 0.4 ? 0 : 2)
  }
}

export function wheel({range, int, likely}: Chance): Solid {
  const [tyre, wide] = [range(0.08, 0.16), range(0.1, 0.2)]
  const rim = ring(0.92 - tyre, tyre, wide)
  const inner = ring(0.92 - tyre * 2 - 0.03, 0.04, wide * 0.7)
  const spokes = int(4, 12)
  const spread = range(0.03, 0.07) * (spokes > 8 ? 0.7 : 1)
  const spoke = around(spokes, cuboid([0.4, spread, range(0.03, 0.06)], 0.01, [0.42, 0, 0]))
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
