/** How surfaces look: the light that a solid, a floor or a wall sends back, in linear RGB. */
import {shade} from './raytrace.js'
import type {Colour} from './palette.js'
import type {Ground, Placed, Scene, Vector} from './scene.js'
import {norm} from './sdf.js'
import type {Spot} from './textures.js'

const {max, min} = Math

/** Stands for "no ray beside this one has found how much of the lamp is open here". */
export const UNKNOWN = -1

/** A point of a surface with its normal, and the direction of the ray that met it; both of length 1. */
type SurfacePoint = {readonly p: Vector; readonly normal: Vector; readonly view: Vector}

/** Colour of the body, strength and sharpness of the highlight, and how much of the sky reaches the point (0 to 1). */
type Material = {readonly body: Colour; readonly gloss: number; readonly shine: number; readonly closed: number}

const spot: Spot = {height: 0, mix: 0, seam: 0}

/**
 * Light that arrives at a point and is reflected by its material; writes linear RGB into `out`.
 *
 * `known` is how much of the lamp reaches the point, where a ray beside it has found that already, else UNKNOWN; the
 * answer is the same for the next ray.
 */
function lit(
  scene: Scene,
  {p: [px, py, pz], normal: [nx, ny, nz], view}: SurfacePoint,
  {body, gloss, shine, closed}: Material,
  known: number,
  out: Float64Array
): number {
  const {towards, colour, softness} = scene.light
  const facing = nx * towards[0] + ny * towards[1] + nz * towards[2]
  let open = facing > 0 ? (known === UNKNOWN ? 1 : known) : 0
  if (open > 0 && known === UNKNOWN)
    for (const thing of scene.things)
      if ((open = min(open, shade(thing, [px + nx * 0.02, py + ny * 0.02, pz + nz * 0.02], towards, softness))) <= 0) break
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

/** Light from a point of a solid, as `lit` gives it. */
export function lightThing(
  scene: Scene,
  {solid, at, turn, scale, paint}: Placed,
  p: Vector,
  view: Vector,
  known: number,
  out: Float64Array
): number {
  const rx = (p[0] - at[0]) / scale
  const ry = (p[1] - at[1]) / scale
  const rz = (p[2] - at[2]) / scale
  const [[ax, bx, cx], [ay, by, cy], [az, bz, cz]] = turn
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
  const grounded = scene.floor ? min(1, 0.5 + p[1] * 1.5) : 1
  const body: Colour = [part[0] * tint, part[1] * tint, part[2] * tint]
  return lit(scene, {p, normal, view}, {body, gloss: paint.gloss, shine: paint.shine, closed: closed * grounded}, known, out)
}

/** Light from a point of the floor or the wall, as `lit` gives it. */
export function lightGround(scene: Scene, ground: Ground, p: Vector, view: Vector, known: number, out: Float64Array): number {
  const upright = ground === scene.wall
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
  const material = {body: [mixed(0), mixed(1), mixed(2)] as const, gloss: 0, shine: 1, closed: 1 - 0.4 * seam}
  return lit(scene, {p, normal, view}, material, known, out)
}
