/** The kinds of things that grow or swim, and a star, as families of solids: see objects.ts. */
import type {Chance} from './random.js'
import {noise} from './noise.js'
import {around, capsule, disc, ellipsoid, leaned, norm, revolve, smoothUnion, sphere, union, within, type Field, type Solid} from './sdf.js'

const {abs, cos, sin, PI, min, max} = Math

export function fish({range, int, likely}: Chance): Solid {
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
  const whole = bent(smoothUnion(0.06, body, fins))
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

export function flower({range, int, likely}: Chance): Solid {
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
    ? [leaned(ellipsoid(0.34, 0.12, 0.03, 0.4, 0, -0.2), range(3.6, 5.6)), capsule([0, 0, -0.12], [0, -1, -0.3], 0.045)]
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

export function mushroom({range, likely, int}: Chance): Solid {
  const [cap, stem, brim] = [range(0.6, 0.9), range(0.15, 0.28), range(-0.05, 0.25)]
  const pointed = range(0.3, 0.75)
  const foot = revolve([
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
    distance: smoothUnion(0.05, foot, hat),
    reach: 1.25,
    part: (x, y, z) => {
      if (foot(x, y, z) < hat(x, y, z)) return 1
      if (y < brim + 0.01) return 2
      return spots > 0 && noise(x * spots, y * spots, z * spots, seed) > 0.68 ? 3 : 0
    }
  }
}

export function star({range, int, likely}: Chance): Solid {
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

export function tree({range, int, likely}: Chance): Solid {
  const seed = int(0, 1e6)
  const [width, lean] = [range(0.07, 0.13), range(-0.12, 0.12)]
  const trunk = capsule([0, -1, 0], [lean, 0.3, 0], width * 1.3, width * 0.7)
  let crown: Field
  if (likely(0.45)) {
    // a conifer: skirts one above the other
    const tiers = int(3, 5)
    const [spread, from] = [range(0.42, 0.62), range(-0.6, -0.35)]
    const skirts = Array.from({length: tiers}, (_, i) => {
      const y = from + ((1 - from) * i) / (tiers + 0.4)
      const height = ((1 - from) / tiers) * 1.5
      const radius = spread * (1 - (i / tiers) * 0.75)
      return revolve([
        [y, radius],
        [Math.min(1, y + height), 0.02]
      ])
    })
    crown = union(...(skirts as [Field]))
  } else {
    const puffs = Array.from({length: int(4, 7)}, () =>
      sphere(range(0.24, 0.42), lean + range(-0.42, 0.42), range(0.1, 0.65), range(-0.42, 0.42))
    )
    crown = smoothUnion(0.2, sphere(range(0.4, 0.5), lean, 0.42, 0), ...puffs)
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
