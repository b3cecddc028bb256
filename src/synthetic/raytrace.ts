/**
 * Rays and solids: where a ray meets a solid, and how much light passes one. Sphere tracing (Hart, "Sphere tracing",
 * 1996): the signed distance says how far a ray may step.
 */
import type {Placed, Vector} from './scene.js'

const {max, min, sqrt} = Math

/** A ray in the frame of a solid: origin (x, y, z), direction (u, v, w), and the stretch inside the ball around it. */
type LocalRay = {x: number; y: number; z: number; u: number; v: number; w: number; middle: number; half: number}

/** One object for all rays: a picture follows some 100,000, and none outlives the call that filled it. */
const local: LocalRay = {x: 0, y: 0, z: 0, u: 0, v: 0, w: 0, middle: 0, half: 0}

/**
 * Fills `local` with a ray in the frame of a solid; false where it misses the ball around the solid. The ball's radius
 * is that of the solid times `slack`, and grows by `spread` per unit of length for a ray that is a cone.
 */
function enter({solid, at, turn, scale}: Placed, [ox, oy, oz]: Vector, [dx, dy, dz]: Vector, slack: number, spread: number): boolean {
  const rx = (ox - at[0]) / scale
  const ry = (oy - at[1]) / scale
  const rz = (oz - at[2]) / scale
  const middle = -(rx * dx + ry * dy + rz * dz)
  const radius = solid.reach * slack + max(0, middle) * spread
  const inside = radius * radius - (rx * rx + ry * ry + rz * rz - middle * middle)
  if (inside <= 0) return false
  const [[ax, bx, cx], [ay, by, cy], [az, bz, cz]] = turn
  local.x = ax * rx + ay * ry + az * rz
  local.y = bx * rx + by * ry + bz * rz
  local.z = cx * rx + cy * ry + cz * rz
  local.u = ax * dx + ay * dy + az * dz
  local.v = bx * dx + by * dy + bz * dz
  local.w = cx * dx + cy * dy + cz * dz
  local.middle = middle
  local.half = sqrt(inside)
  return true
}

/**
 * Nearest point at which a ray meets a solid between `from` and `limit`, or Infinity. World units; the direction has
 * length 1.
 *
 * With `spread` above 0 the ray is a cone of that half width per unit of length, and the answer is the point up to
 * which the whole cone is free.
 */
export function trace(placed: Placed, origin: Vector, direction: Vector, from: number, limit: number, spread = 0): number {
  if (!enter(placed, origin, direction, 1, spread)) return Infinity
  const {solid, scale} = placed
  const {x, y, z, u, v, w, middle, half} = local
  const end = min(middle + half, limit / scale)
  let t = max(middle - half, from / scale)
  for (let i = 0; i < 48 && t < end; i++) {
    const d = solid.distance(x + t * u, y + t * v, z + t * w) - t * spread
    if (d < 0.005) return t * scale
    t += max(d, 0.01)
  }
  return Infinity
}

/** How much light passes a solid on the way to the lamp: 1 all, 0 none; nearly touching rays give half-shade. */
export function shade(placed: Placed, origin: Vector, towards: Vector, softness: number): number {
  if (!enter(placed, origin, towards, 1.1, 0)) return 1
  const {solid} = placed
  const {x, y, z, u, v, w, middle, half} = local
  const end = middle + half
  let t = max(middle - half, 0.04)
  let open = 1
  for (let i = 0; i < 12 && t < end; i++) {
    const d = solid.distance(x + t * u, y + t * v, z + t * w)
    if (d < 0.008 || open < 0.04) return 0
    open = min(open, (softness * d) / t)
    t += max(d, 0.09)
  }
  return open
}
