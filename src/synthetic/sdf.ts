/**
 * Solids as signed distances: negative inside, positive outside, never larger than the true distance to the surface,
 * so that a ray may step by it.
 *
 * Each solid lives in its own frame: y is up, it fits into a ball of radius `reach` around the origin, and units are
 * about half its height. A solid also says which of its parts a surface point belongs to, so that parts can have
 * colours of their own.
 */

/** A field over space, e.g. the distance to a surface. */
export type Field = (x: number, y: number, z: number) => number

export type Solid = {
  readonly distance: Field
  /** Number 0 to 3 of the part that a surface point belongs to. */
  readonly part: Field
  readonly reach: number
}

type Point = readonly [x: number, y: number, z: number]
const ORIGIN: Point = [0, 0, 0]

const {abs, max, min, sqrt} = Math

/**
 * Length of a vector. `Math.hypot` guards against overflow and is ten times slower, which here is most of the time of
 * a picture.
 */
export const norm = (x: number, y: number, z = 0): number => sqrt(x * x + y * y + z * z)

export const sphere =
  (radius: number, cx = 0, cy = 0, cz = 0): Field =>
  (x, y, z) =>
    norm(x - cx, y - cy, z - cz) - radius

/** A cuboid with these half sides around a centre, its edges rounded by r. */
export function cuboid([a, b, c]: Point, r = 0, [cx, cy, cz]: Point = ORIGIN): Field {
  return (x, y, z) => {
    const u = abs(x - cx) - a + r
    const v = abs(y - cy) - b + r
    const w = abs(z - cz) - c + r
    return norm(max(u, 0), max(v, 0), max(w, 0)) + min(max(u, v, w), 0) - r
  }
}

/** An ellipsoid; the estimate is exact at the surface to first order. */
export function ellipsoid(a: number, b: number, c: number, cx = 0, cy = 0, cz = 0): Field {
  const smallest = min(a, b, c)
  const [ia, ib, ic] = [1 / a, 1 / b, 1 / c]
  return (x, y, z) => {
    const u = (x - cx) * ia
    const v = (y - cy) * ib
    const w = (z - cz) * ic
    const size = sqrt(u * u + v * v + w * w)
    if (size > 3) return (size - 1) * smallest // far away the plain bound will do
    const slope = norm(u * ia, v * ib, w * ic)
    return slope < 1e-9 ? -smallest : max((size * (size - 1)) / slope, (size - 1) * smallest)
  }
}

/** A capsule from one point to another, its radius going from r to s. */
export function capsule([ax, ay, az]: Point, [bx, by, bz]: Point, r: number, s = r): Field {
  const dx = bx - ax
  const dy = by - ay
  const dz = bz - az
  const square = dx * dx + dy * dy + dz * dz
  const slack = 1 / norm(1, (s - r) / sqrt(square))
  return (x, y, z) => {
    const t = min(1, max(0, ((x - ax) * dx + (y - ay) * dy + (z - az) * dz) / square))
    return (norm(x - ax - t * dx, y - ay - t * dy, z - az - t * dz) - r - t * (s - r)) * slack
  }
}

/**
 * A ring around the z axis: big radius R, cross-section with half sides a (outwards) and b (along z), rounded by its
 * smaller one.
 */
export function ring(R: number, a: number, b = a): Field {
  const r = min(a, b)
  return (x, y, z) => {
    const u = abs(norm(x, y) - R) - a + r
    const v = abs(z) - b + r
    return norm(max(u, 0), max(v, 0)) + min(max(u, v), 0) - r
  }
}

/** A disc around the z axis with rounded rim. */
export function disc(radius: number, half: number, round: number, cz = 0): Field {
  return (x, y, z) => {
    const u = norm(x, y) - radius + round
    const v = abs(z - cz) - half + round
    return norm(max(u, 0), max(v, 0)) + min(max(u, v), 0) - round
  }
}

/** A solid of revolution about y whose radius passes through the points [y, radius] (rising y), joined smoothly. */
export function revolve(profile: readonly (readonly [y: number, radius: number])[]): Field {
  const bottom = profile[0]![0]
  const top = profile.at(-1)![0]
  const cells = 64
  const radii = new Float64Array(cells + 2)
  let steepest = 0
  for (let i = 0, segment = 0; i <= cells + 1; i++) {
    const y = bottom + ((top - bottom) * i) / cells
    while (segment < profile.length - 2 && y > profile[segment + 1]![0]) segment++
    const [[y0, r0], [y1, r1]] = [profile[segment]!, profile[segment + 1]!]
    const t = min(1, max(0, (y - y0) / (y1 - y0)))
    radii[i] = r0 + (r1 - r0) * t * t * (3 - 2 * t)
    if (i > 0) steepest = max(steepest, (abs(radii[i]! - radii[i - 1]!) * cells) / (top - bottom))
  }
  const slack = 1 / norm(1, min(steepest, 2.5))
  const middle = (bottom + top) / 2
  return (x, y, z) => {
    const place = min(cells, max(0, ((y - bottom) / (top - bottom)) * cells))
    const i = Math.floor(place)
    const radius = radii[i]! + (place - i) * (radii[i + 1]! - radii[i]!)
    const u = (norm(x, z) - radius) * slack
    const v = abs(y - middle) - (top - bottom) / 2
    return u > 0 && v > 0 ? norm(u, v) : max(u, v)
  }
}

/** All of several fields together. */
export function union(first: Field, ...others: readonly Field[]): Field {
  if (others.length === 0) return first
  const [second, ...rest] = others as [Field, ...Field[]]
  const two: Field = (x, y, z) => min(first(x, y, z), second(x, y, z))
  return union(two, ...rest)
}

/** All together, the seams filled over a width k (polynomial smooth minimum). */
export function smoothUnion(k: number, first: Field, ...others: readonly Field[]): Field {
  if (others.length === 0) return first
  const [second, ...rest] = others as [Field, ...Field[]]
  const two: Field = (x, y, z) => {
    const a = first(x, y, z)
    const b = second(x, y, z)
    const near = max(k - abs(a - b), 0)
    return min(a, b) - (near * near) / (4 * k)
  }
  return smoothUnion(k, two, ...rest)
}

/** The first without the second. */
export const without =
  (whole: Field, hole: Field): Field =>
  (x, y, z) =>
    max(whole(x, y, z), -hole(x, y, z))

/** A field turned about z by an angle in radians, then moved. */
export function leaned(field: Field, angle: number, cx = 0, cy = 0, cz = 0): Field {
  const cos = Math.cos(angle)
  const sin = Math.sin(angle)
  return (x, y, z) => field(cos * (x - cx) + sin * (y - cy), cos * (y - cy) - sin * (x - cx), z - cz)
}

/** Repeats what lies around the x axis n times around z, evenly. */
export function around(n: number, field: Field): Field {
  const sector = (2 * Math.PI) / n
  const turns = Array.from({length: n}, (_, i) => ({cos: Math.cos(i * sector), sin: Math.sin(i * sector)}))
  return (x, y, z) => {
    const {cos, sin} = turns[(Math.round(Math.atan2(y, x) / sector) + n) % n]!
    return field(cos * x + sin * y, cos * y - sin * x, z)
  }
}

/** The number of the field that a point lies nearest to: the part of a union. */
export const nearestOf =
  (...fields: readonly Field[]): Field =>
  (x, y, z) => {
    let best = Infinity
    let part = 0
    for (let i = 0; i < fields.length; i++) {
      const distance = fields[i]!(x, y, z)
      if (distance >= best) continue
      best = distance
      part = i
    }
    return part
  }

/**
 * A field that is costly to know, known only near its simple hull: further away the distance to the hull stands in.
 */
export const within =
  (hull: Field, field: Field): Field =>
  (x, y, z) => {
    const away = hull(x, y, z)
    return away > 0.06 ? away : field(x, y, z)
  }
