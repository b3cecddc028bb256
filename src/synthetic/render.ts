/**
 * The renderer: a scene to pixels. One ray a pixel finds floor, wall or solid (by sphere tracing: Hart, "Sphere
 * tracing", 1996), one more finds the shadow; where neighbours differ, more rays smooth the edge. Linear light
 * throughout; sRGB and the film's flaws come last.
 */
import {lattice} from './noise.js'
import type {Colour, Ground, Placed, Scene, Vector} from './scene.js'
import {norm} from './sdf.js'
import type {Spot} from './textures.js'

const {abs, max, min, sqrt} = Math

/** What a ray met: distance along it, and which thing (or floor, wall, nothing). */
type Hit = {t: number; thing: Placed | undefined; ground: Ground | undefined; open: number}

const UNKNOWN = -1

/**
 * Nearest point at which a ray meets a solid between `from` and `limit`, or Infinity. World units; (dx, dy, dz) has
 * length 1.
 *
 * With `spread` above 0 the ray is a cone of that half width per unit of length, and the answer is the point up to
 * which the whole cone is free.
 */
function trace(
  {solid, at, turn, scale}: Placed,
  ox: number,
  oy: number,
  oz: number,
  dx: number,
  dy: number,
  dz: number,
  from: number,
  limit: number,
  spread: number
): number {
  const rx = (ox - at[0]) / scale
  const ry = (oy - at[1]) / scale
  const rz = (oz - at[2]) / scale
  const middle = -(rx * dx + ry * dy + rz * dz)
  const ball = solid.reach + max(0, middle) * spread
  const inside = ball * ball - (rx * rx + ry * ry + rz * rz - middle * middle)
  if (inside <= 0) return Infinity
  const half = sqrt(inside)
  const end = min(middle + half, limit / scale)
  let t = max(middle - half, from / scale)
  if (t >= end) return Infinity
  const ax = turn[0][0]
  const bx = turn[0][1]
  const cx = turn[0][2]
  const ay = turn[1][0]
  const by = turn[1][1]
  const cy = turn[1][2]
  const az = turn[2][0]
  const bz = turn[2][1]
  const cz = turn[2][2]
  const x = ax * rx + ay * ry + az * rz
  const y = bx * rx + by * ry + bz * rz
  const z = cx * rx + cy * ry + cz * rz
  const u = ax * dx + ay * dy + az * dz
  const v = bx * dx + by * dy + bz * dz
  const w = cx * dx + cy * dy + cz * dz
  for (let i = 0; i < 48 && t < end; i++) {
    const d = solid.distance(x + t * u, y + t * v, z + t * w) - t * spread
    if (d < 0.005) return t * scale
    t += max(d, 0.01)
  }
  return Infinity
}

/** How much light passes a solid on the way to the lamp: 1 all, 0 none; nearly touching rays give half-shade. */
function shade({solid, at, turn, scale}: Placed, ox: number, oy: number, oz: number, towards: Vector, softness: number): number {
  const [dx, dy, dz] = towards
  const rx = (ox - at[0]) / scale
  const ry = (oy - at[1]) / scale
  const rz = (oz - at[2]) / scale
  const middle = -(rx * dx + ry * dy + rz * dz)
  const inside = (solid.reach * 1.1) ** 2 - (rx * rx + ry * ry + rz * rz - middle * middle)
  if (inside <= 0) return 1
  const half = sqrt(inside)
  const end = middle + half
  let t = max(middle - half, 0.04)
  const ax = turn[0][0]
  const bx = turn[0][1]
  const cx = turn[0][2]
  const ay = turn[1][0]
  const by = turn[1][1]
  const cy = turn[1][2]
  const az = turn[2][0]
  const bz = turn[2][1]
  const cz = turn[2][2]
  const x = ax * rx + ay * ry + az * rz
  const y = bx * rx + by * ry + bz * rz
  const z = cx * rx + cy * ry + cz * rz
  const u = ax * dx + ay * dy + az * dz
  const v = bx * dx + by * dy + bz * dz
  const w = cx * dx + cy * dy + cz * dz
  let open = 1
  for (let i = 0; i < 12 && t < end; i++) {
    const d = solid.distance(x + t * u, y + t * v, z + t * w)
    if (d < 0.008 || open < 0.04) return 0
    open = min(open, (softness * d) / t)
    t += max(d, 0.09)
  }
  return open
}

/**
 * Light that arrives at a point with normal n, reflected by a body colour; writes linear RGB into `out`.
 *
 * `known` is how much of the lamp reaches the point, where a ray beside it has found that already, else UNKNOWN; the
 * answer is the same for the next ray.
 */
function lit(
  scene: Scene,
  [px, py, pz]: Vector,
  [nx, ny, nz]: Vector,
  view: Vector,
  body: Colour,
  gloss: number,
  shine: number,
  closed: number,
  known: number,
  out: Float64Array
): number {
  const {towards, colour, softness} = scene.light
  const facing = nx * towards[0] + ny * towards[1] + nz * towards[2]
  let open = facing > 0 ? (known === UNKNOWN ? 1 : known) : 0
  if (open > 0 && known === UNKNOWN)
    for (const thing of scene.things)
      if ((open = min(open, shade(thing, px + nx * 0.02, py + ny * 0.02, pz + nz * 0.02, towards, softness))) <= 0) break
  const direct = max(0, facing) * open
  // Blinn's highlight: half way between lamp and eye
  let highlight = 0
  if (gloss > 0 && direct > 0) {
    const hx = towards[0] - view[0]
    const hy = towards[1] - view[1]
    const hz = towards[2] - view[2]
    highlight = gloss * open * max(0, (nx * hx + ny * hy + nz * hz) / norm(hx, hy, hz)) ** shine
  }
  const up = 0.5 + 0.5 * ny
  const {above, below} = scene.ambient
  for (let c = 0; c < 3; c++) {
    const ambient = (below[c]! + up * (above[c]! - below[c]!)) * closed
    out[c] = body[c]! * (ambient + direct * colour[c]!) + highlight * colour[c]!
  }
  return facing > 0 ? open : UNKNOWN
}

/** What each pixel of a picture shows, by number: the names of the ids in `Maps`. */
export const REGIONS = ['background', 'floor', 'wall', 'thing'] as const

/**
 * Truth beside a picture [size, size]: depth along the axis of the camera in world units (0 where nothing is met), and
 * the number of the region.
 */
export type Maps = {readonly depth: Float32Array; readonly regions: Uint8Array}

/** Draws a scene as `size` × `size` pixels; sRGB bytes [size, size, 3]. */
export function render(scene: Scene, size: number, maps?: Maps): Uint8Array {
  const {camera, things, floor, wall, sky, film} = scene
  const [right, upright, ahead] = camera.turn
  const [ox, oy, oz] = camera.from
  const spot: Spot = {height: 0, mix: 0, seam: 0}
  const colour = new Float64Array(3)
  const hit: Hit = {t: Infinity, thing: undefined, ground: undefined, open: UNKNOWN}

  // First broad cones, a block of about 4 x 4 pixels each: where such a cone meets nothing, none of its rays will, and
  // else they start at its tip.
  const blocks = Math.ceil(size / 4)
  const spread = (1.45 / blocks + 1.5 / size) / camera.zoom
  const starts = things.map(thing => {
    const found = new Float64Array(blocks * blocks)
    for (let i = 0; i < found.length; i++) {
      const x = (2 * ((i % blocks) + 0.5)) / blocks - 1
      const y = 1 - (2 * (Math.floor(i / blocks) + 0.5)) / blocks
      const dx = right[0] * x + upright[0] * y + ahead[0] * camera.zoom
      const dy = right[1] * x + upright[1] * y + ahead[1] * camera.zoom
      const dz = right[2] * x + upright[2] * y + ahead[2] * camera.zoom
      const length = norm(dx, dy, dz)
      found[i] = 0.97 * trace(thing, ox, oy, oz, dx / length, dy / length, dz / length, 0, Infinity, spread)
    }
    return found
  })

  /**
   * Follows one ray through the picture at (x, y) in [-1, 1]; writes linear RGB into `colour`. `open` is what a ray
   * `beside` it found on the same surface.
   */
  function look(x: number, y: number, beside?: Placed | Ground, open = UNKNOWN): void {
    let dx = right[0] * x + upright[0] * y + ahead[0] * camera.zoom
    let dy = right[1] * x + upright[1] * y + ahead[1] * camera.zoom
    let dz = right[2] * x + upright[2] * y + ahead[2] * camera.zoom
    const size = norm(dx, dy, dz)
    dx /= size
    dy /= size
    dz /= size
    hit.t = 40
    hit.thing = hit.ground = undefined
    if (floor && dy < 0 && -oy / dy < hit.t) {
      hit.t = -oy / dy
      hit.ground = floor
    }
    if (wall && dz < 0 && (wall.z - oz) / dz < hit.t) {
      hit.t = (wall.z - oz) / dz
      hit.ground = wall
    }
    const block =
      min(blocks - 1, max(0, Math.floor((1 - y) * 0.5 * blocks))) * blocks + min(blocks - 1, max(0, Math.floor((x + 1) * 0.5 * blocks)))
    for (let i = 0; i < things.length; i++) {
      const start = starts[i]![block]!
      if (start >= hit.t) continue
      const t = trace(things[i]!, ox, oy, oz, dx, dy, dz, start, hit.t, 0)
      if (t < hit.t) {
        hit.t = t
        hit.thing = things[i]
      }
    }
    const p: Vector = [ox + hit.t * dx, oy + hit.t * dy, oz + hit.t * dz]
    const known = beside === (hit.thing ?? hit.ground) ? open : UNKNOWN
    if (hit.thing) hit.open = lightThing(hit.thing, p, [dx, dy, dz], known)
    else if (hit.ground) hit.open = lightGround(hit.ground, hit.ground === wall, p, [dx, dy, dz], known)
    else return void colour.set(sky(dx, dy, dz))
    const mist = 1 - Math.exp(-film.haze * hit.t)
    if (mist > 0.01) {
      const air = sky(dx, 0.05, dz)
      for (let c = 0; c < 3; c++) colour[c]! += mist * (air[c]! - colour[c]!)
    }
  }

  function lightThing({solid, at, turn, scale, paint}: Placed, p: Vector, view: Vector, known: number): number {
    const rx = (p[0] - at[0]) / scale
    const ry = (p[1] - at[1]) / scale
    const rz = (p[2] - at[2]) / scale
    const ax = turn[0][0]
    const bx = turn[0][1]
    const cx = turn[0][2]
    const ay = turn[1][0]
    const by = turn[1][1]
    const cy = turn[1][2]
    const az = turn[2][0]
    const bz = turn[2][1]
    const cz = turn[2][2]
    const x = ax * rx + ay * ry + az * rz
    const y = bx * rx + by * ry + bz * rz
    const z = cx * rx + cy * ry + cz * rz
    const e = 0.004
    const a = solid.distance(x + e, y - e, z - e)
    const b = solid.distance(x - e, y - e, z + e)
    const c = solid.distance(x - e, y + e, z - e)
    const d = solid.distance(x + e, y + e, z + e)
    const [u, v, w] = [a - b - c + d, c + d - a - b, b + d - a - c] // the gradient, from four corners of a tetrahedron
    const length = norm(u, v, w) || 1
    const normal: Vector = [(ax * u + bx * v + cx * w) / length, (ay * u + by * v + cy * w) / length, (az * u + bz * v + cz * w) / length]
    // places near other surface receive less of the sky
    const reach = 0.18
    const closed = min(
      1,
      0.35 + (0.65 * max(0, solid.distance(x + (reach * u) / length, y + (reach * v) / length, z + (reach * w) / length))) / reach
    )
    const part = paint.parts[solid.part(x, y, z)]!
    const tint = paint.tint(x, y, z)
    const grounded = floor ? min(1, 0.5 + p[1] * 1.5) : 1
    const body: Colour = [part[0] * tint, part[1] * tint, part[2] * tint]
    return lit(scene, p, normal, view, body, paint.gloss, paint.shine, closed * grounded, known, colour)
  }

  function lightGround(ground: Ground, upright: boolean, p: Vector, view: Vector, known: number): number {
    const c = Math.cos(ground.angle)
    const s = Math.sin(ground.angle)
    const across = upright ? p[1] : p[2]
    const u = (p[0] * c + across * s) * ground.scale
    const v = (across * c - p[0] * s) * ground.scale
    ground.surface(u, v, spot)
    const {height, mix, seam} = spot
    let su = 0
    let sv = 0
    if (height !== 0) {
      // at height 0 all surfaces are even: plain ones, and the bottoms of joints
      const e = 0.03
      ground.surface(u + e, v, spot)
      su = ((height - spot.height) / e) * ground.relief
      ground.surface(u, v + e, spot)
      sv = ((height - spot.height) / e) * ground.relief
    }
    const [tx, ty] = [su * c - sv * s, su * s + sv * c] // back from the turned plane
    const length = norm(tx, ty, 1)
    const normal: Vector = upright ? [tx / length, ty / length, 1 / length] : [tx / length, 1 / length, ty / length]
    const [base, other, joint] = ground.colours
    const mixed = (i: number): number => {
      const body = base[i]! + mix * (other[i]! - base[i]!)
      return body + seam * (joint[i]! - body)
    }
    return lit(scene, p, normal, view, [mixed(0), mixed(1), mixed(2)], 0, 1, 1 - 0.4 * seam, known, colour)
  }

  const light = new Float64Array(size * size * 3)
  const solid = new Uint8Array(size * size)
  const surfaces: (Placed | Ground | undefined)[] = []
  const opens = new Float32Array(size * size)
  const at = (i: number): number => ((i + 0.5) / size) * 2 - 1
  for (let row = 0; row < size; row++)
    for (let column = 0; column < size; column++) {
      look(at(column), -at(row))
      light.set(colour, (row * size + column) * 3)
      solid[row * size + column] = hit.thing ? 1 : 0
      surfaces.push(hit.thing ?? hit.ground)
      opens[row * size + column] = hit.open
      if (maps) {
        const [x, y] = [at(column), -at(row)]
        maps.depth[row * size + column] = hit.thing || hit.ground ? (hit.t * camera.zoom) / sqrt(x * x + y * y + camera.zoom ** 2) : 0
        maps.regions[row * size + column] = hit.thing ? 3 : hit.ground === undefined ? 0 : hit.ground === wall ? 2 : 1
      }
    }
  for (const i of edges(light, solid, size)) {
    for (const [du, dv] of CORNERS) {
      look(at((i % size) + du), -at(Math.floor(i / size) + dv), surfaces[i], opens[i])
      for (let c = 0; c < 3; c++) light[3 * i + c]! += min(colour[c]!, 1.5)
    }
    for (let c = 0; c < 3; c++) light[3 * i + c]! /= 1 + CORNERS.length
  }
  return develop(light, size, film)
}

/**
 * Two more rays beside the one in the middle of a pixel, in pixels: on a slant, so that neither rows nor columns
 * coincide.
 */
const CORNERS = [
  [-0.33, 0.2],
  [0.33, -0.2]
] as const

/**
 * The pixels that differ so much from a neighbour that one ray is not enough for them; the grain of a ground may be
 * rougher than the outline of a solid.
 */
function edges(light: Float64Array, solid: Uint8Array, size: number): number[] {
  const bright = new Float32Array(size * size)
  for (let i = 0; i < bright.length; i++) bright[i] = sqrt(min(1, 0.3 * light[3 * i]! + 0.6 * light[3 * i + 1]! + 0.1 * light[3 * i + 2]!))
  const found: number[] = []
  const differ = (i: number, j: number): boolean => abs(bright[j]! - bright[i]!) > (solid[i]! + solid[j]! > 0 ? 0.12 : 0.2)
  for (let i = 0; i < bright.length; i++) {
    const column = i % size
    if (
      (column > 0 && differ(i, i - 1)) ||
      (column < size - 1 && differ(i, i + 1)) ||
      (i >= size && differ(i, i - size)) ||
      (i < bright.length - size && differ(i, i + size))
    )
      found.push(i)
  }
  return found
}

/** The sRGB curve (IEC 61966-2-1) for 0 to 1 in steps of 1 / 4095. */
const CURVE = Float32Array.from({length: 4096}, (_, i) => (i < 13 ? (12.92 * i) / 4095 : 1.055 * (i / 4095) ** (1 / 2.4) - 0.055))

/** Lens and film: blur, vignette, exposure, a soft shoulder for the brightest, the sRGB curve, and grain. */
function develop(light: Float64Array, size: number, film: Scene['film']): Uint8Array {
  const picture = film.blur > 0 ? blurred(light, size, film.blur) : light
  const pixels = new Uint8Array(light.length)
  for (let i = 0; i < size * size; i++) {
    const x = (2 * ((i % size) + 0.5)) / size - 1
    const y = (2 * (Math.floor(i / size) + 0.5)) / size - 1
    const gain = film.exposure * (1 - film.vignette * (x * x + y * y) * 0.5)
    for (let c = 0; c < 3; c++) {
      const value = picture[3 * i + c]! * gain
      const held = value < 0.7 ? value : 1 - 0.3 * Math.exp((0.7 - value) / 0.3)
      const grain = film.grain > 0 ? film.grain * 3.5 * (lattice(i, c, 0, film.seed) - 0.5) : 0
      pixels[3 * i + c] = Math.round(255 * min(1, max(0, CURVE[Math.round(4095 * min(1, max(0, held)))]! + grain)))
    }
  }
  return pixels
}

/** A 3 × 3 tent whose side weights are `amount` / 2 of the middle's. */
function blurred(light: Float64Array, size: number, amount: number): Float64Array {
  const middle = 1 / (1 + amount)
  const side = amount / (2 * (1 + amount))
  const pass = (from: Float64Array, stride: number, place: (i: number) => number): Float64Array => {
    const to = new Float64Array(from.length)
    for (let i = 0; i < from.length; i++) {
      const k = place(i)
      to[i] = middle * from[i]! + side * (from[k > 0 ? i - stride : i]! + from[k < size - 1 ? i + stride : i]!)
    }
    return to
  }
  const across = pass(light, 3, i => Math.floor(i / 3) % size)
  return pass(across, 3 * size, i => Math.floor(i / (3 * size)))
}
