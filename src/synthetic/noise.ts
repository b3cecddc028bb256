/**
 * Smooth noise and random cells, from which surfaces get their grain. Pure functions of place and seed: no tables, no
 * state.
 */

/** A number in [0, 1) that belongs to a point of the whole-number lattice. */
export function lattice(x: number, y: number, z: number, seed: number): number {
  let h = Math.imul(x, 0x27d4eb2d) ^ Math.imul(y, 0x165667b1) ^ Math.imul(z, 0x9e3779b1) ^ Math.imul(seed, 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d)
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39)
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32
}

const ease = (t: number): number => t * t * (3 - 2 * t)

/** Noise in [0, 1): lattice values joined smoothly; about one hill per unit. */
export function noise(x: number, y: number, z: number, seed: number): number {
  const i = Math.floor(x)
  const j = Math.floor(y)
  const k = Math.floor(z)
  const u = ease(x - i)
  const v = ease(y - j)
  const w = ease(z - k)
  const near = layer(i, j, k, u, v, seed)
  return w === 0 ? near : near + w * (layer(i, j, k + 1, u, v, seed) - near)
}

/** The noise in one plane of the lattice. */
function layer(i: number, j: number, k: number, u: number, v: number, seed: number): number {
  const a = lattice(i, j, k, seed)
  const c = lattice(i, j + 1, k, seed)
  const low = a + u * (lattice(i + 1, j, k, seed) - a)
  return low + v * (c + u * (lattice(i + 1, j + 1, k, seed) - c) - low)
}

/** Noise over several scales, each half as large and half as strong; in [0, 1). */
export function fractal(x: number, y: number, z: number, octaves: number, seed: number): number {
  let sum = 0
  let weight = 1
  let whole = 0
  let scale = 1
  for (let i = 0; i < octaves; i++) {
    sum += weight * noise(x * scale, y * scale, z * scale, seed + i)
    whole += weight
    weight /= 2
    scale *= 2.03 // not quite 2, so that lattice points of the scales do not meet
  }
  return sum / whole
}

/**
 * What is known of a place among random cells: which cell, and how far it is to the border of the nearest other one (0
 * at the border).
 */
export type Cell = {readonly id: number; readonly border: number}

/**
 * Random cells of about one unit (Worley, "A cellular texture basis function", 1996): nearest and second nearest of
 * jittered lattice points.
 */
export function cell(x: number, y: number, jitter: number, seed: number): Cell {
  const i = Math.floor(x)
  const j = Math.floor(y)
  let nearest = Infinity
  let second = Infinity
  let id = 0
  for (let dj = -1; dj <= 1; dj++)
    for (let di = -1; di <= 1; di++) {
      const name = lattice(i + di, j + dj, 0, seed)
      const px = i + di + 0.5 + jitter * (name - 0.5)
      const py = j + dj + 0.5 + jitter * (lattice(i + di, j + dj, 1, seed) - 0.5)
      const distance = Math.sqrt((px - x) * (px - x) + (py - y) * (py - y))
      if (distance < nearest) {
        second = nearest
        nearest = distance
        id = name
      } else if (distance < second) second = distance
    }
  return {id, border: second - nearest}
}

/** 0 below `low`, 1 above `high`, smooth between. */
export const step = (low: number, high: number, x: number): number => ease(Math.min(1, Math.max(0, (x - low) / (high - low))))
