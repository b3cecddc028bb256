/**
 * Surfaces: what an even ground looks like, as relief and tint over the plane.
 *
 * `GRAINS` are the four kinds of textures that a picture may show; `backdrop` makes the plain and soft ones that lie
 * under and behind everything else, and that say nothing of the kind shown.
 */
import type {Chance} from './random.js'
import {cell, fractal, lattice, noise, step} from './noise.js'

/**
 * One place of a surface: height in plane units, and two mixing weights in [0, 1]: from colour 0 to colour 1, then to
 * colour 2.
 */
export type Spot = {height: number; mix: number; seam: number}

/** Writes the spot at (u, v) into `out`. */
export type Surface = (u: number, v: number, out: Spot) => void

const {abs, floor, max, min, sin, PI} = Math

/** Courses of blocks, each shifted against the one below; joints lie deeper and have their own colour. */
function bricks({range, int, likely}: Chance): Surface {
  const [long, joint, shift, worn, seed] = [
    range(1.8, 3.2),
    range(0.04, 0.1),
    likely(0.75) ? 0.5 : range(0.25, 0.4),
    range(0.02, 0.09),
    int(0, 1e6)
  ]
  const depth = range(0.05, 0.12)
  return (u, v, out) => {
    const row = floor(v)
    const along = u / long + (((row % 2) + 2) % 2) * shift
    const column = floor(along)
    const wobble = worn * (noise(u * 2.1, v * 2.1, 0, seed) - 0.5)
    const edge = min(v - row, row + 1 - v, (along - column) * long, (column + 1 - along) * long) + wobble
    const body = step(joint * 0.6, joint * 1.6, edge)
    const grain = fractal(u * 5, v * 5, 0, 2, seed + 7)
    out.height = depth * body + 0.03 * grain
    out.mix = 0.75 * lattice(column, row, 0, seed) + 0.25 * grain
    out.seam = 1 - body
  }
}

/** Rounded stones side by side. */
function cobbles({range, int}: Chance): Surface {
  const [jitter, gap, dome, seed] = [range(0.6, 0.95), range(0.05, 0.14), range(0.12, 0.3), int(0, 1e6)]
  return (u, v, out) => {
    const [du, dv] = [noise(u * 1.7, v * 1.7, 0, seed) - 0.5, noise(u * 1.7, v * 1.7, 5, seed) - 0.5]
    const {id, border} = cell(u + 0.25 * du, v + 0.25 * dv, jitter, seed)
    const body = step(gap * 0.4, gap * 1.3, border)
    out.height = body * (0.08 + dome * min(1, border * 1.6) * (2 - min(1, border * 1.6)))
    out.mix = 0.7 * id + 0.3 * noise(u * 6, v * 6, 0, seed + 3)
    out.seam = 1 - body
  }
}

/** Boards side by side, with the grain of wood running along them and knots here and there. */
function planks({range, int}: Chance): Surface {
  const [wide, joint, rings, knots, seed] = [range(1.2, 2.2), range(0.03, 0.07), range(2.5, 6), range(0, 0.6), int(0, 1e6)]
  const long = range(6, 12)
  return (u, v, out) => {
    const board = floor(v / wide)
    const ends = u / long + lattice(board, 9, 0, seed)
    const name = lattice(board, floor(ends), 1, seed)
    const along = u + name * 50
    const edge = min(v - board * wide, (board + 1) * wide - v, (ends - floor(ends)) * long, (floor(ends) + 1 - ends) * long)
    const bow = 1.6 * noise(along * 0.35, v * 0.5, name * 9, seed) + knots * noise(along * 0.9, v * 1.4, 3, seed)
    const year = sin((v + bow) * rings * PI + name * 20)
    const fibre = noise(along * 1.2, v * 16, 0, seed + 5)
    const body = step(joint * 0.3, joint, edge)
    out.height = 0.05 * body + 0.012 * year + 0.02 * fibre
    out.mix = 0.35 * (year * 0.5 + 0.5) + 0.3 * fibre + 0.35 * name
    out.seam = 1 - body
  }
}

/** Broad threads that pass over and under each other, every second time or two by two. */
function weave({range, int, likely}: Chance): Surface {
  const [half, steep, seed, twill] = [range(0.36, 0.46), range(0.4, 0.9), int(0, 1e6), likely(0.35)]
  const cut = range(0, 0.3)
  const fibres = range(8, 16)
  return (u, v, out) => {
    const i = floor(u)
    const j = floor(v)
    const x = u - i - 0.5
    const y = v - j - 0.5
    const over = twill ? (((i + j) % 4) + 4) % 4 < 2 : ((i + j) & 1) === 0
    // the upper thread hides the lower one; beside both there is a hole
    const lower = abs(over ? y : x) > half
    const hole = lower && abs(over ? x : y) > half
    const flat = over !== lower // whether the thread that is seen runs along u
    const across = flat ? y : x
    const along = flat ? x : y
    const hump = Math.sqrt(max(0, 1 - (across / half) ** 2))
    const arch = twill ? 0.6 : Math.cos(along * PI)
    const strand = lattice(flat ? j : i, flat ? 1 : 0, 2, seed)
    out.height = hole ? 0 : lower ? 0.05 + 0.15 * hump : 0.2 + 0.3 * hump + steep * 0.35 * arch
    out.mix = (flat ? cut : 1 - cut) * 0.75 + 0.12 * strand + 0.13 * noise(along * 2 + i + j, across * fibres, strand * 9, seed)
    out.seam = hole ? 1 : lower ? 0.25 : 0
  }
}

/** The kinds of textures by name. */
export const GRAINS: Readonly<Record<string, (chance: Chance) => Surface>> = {bricks, cobbles, planks, weave}

/** A surface of one colour, without relief. */
export const plain: Surface = (_u, _v, out) => {
  out.height = 0
  out.mix = 0.15
  out.seam = 0
}

/** A quiet surface of no kind: plain, mottled, speckled, blotched or softly banded. */
export function backdrop({range, int, pick}: Chance): Surface {
  const [seed, scale, strength] = [int(0, 1e6), range(0.5, 3), range(0.2, 1)]
  const [cos, sine] = (angle => [Math.cos(angle), sin(angle)])(range(0, PI)) as [number, number]
  return pick<Surface>([
    plain,
    (u, v, out) => {
      const grain = fractal(u * scale, v * scale, 0, 3, seed)
      out.height = 0.08 * grain
      out.mix = strength * step(0.25, 0.75, grain)
      out.seam = 0
    },
    (u, v, out) => {
      const speck = noise(u * 9, v * 9, 0, seed)
      out.height = 0.05 * speck
      out.mix = strength * step(0.5, 0.9, speck)
      out.seam = strength * step(0.7, 0.9, noise(u * 7, v * 7, 3, seed))
    },
    (u, v, out) => {
      out.height = 0
      out.mix = strength * step(0.48, 0.56, fractal(u * scale * 0.7, v * scale * 0.7, 0, 3, seed))
      out.seam = 0.8 * step(0.6, 0.68, noise(u * scale, v * scale, 7, seed))
    },
    (u, v, out) => {
      const across = (u * cos + v * sine) * scale + 0.6 * noise(u * 0.8, v * 0.8, 0, seed)
      out.height = 0
      out.mix = strength * (0.5 + 0.5 * sin(across * 3))
      out.seam = 0
    }
  ])
}
