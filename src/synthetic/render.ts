/**
 * The renderer: a scene to pixels. One ray a pixel finds floor, wall or solid, one more finds the shadow; where
 * neighbours differ, more rays smooth the edge. Linear light throughout; sRGB and the film's flaws come last.
 */
import {develop, edges} from './film.js'
import {trace} from './raytrace.js'
import type {Ground, Placed, Scene, Vector} from './scene.js'
import {norm} from './sdf.js'
import {lightGround, lightThing, UNKNOWN} from './shading.js'

const {max, min, sqrt} = Math

/** What a ray met: distance along it, and which thing (or floor, wall, nothing), and how much of the lamp is open. */
type Hit = {t: number; thing: Placed | undefined; ground: Ground | undefined; open: number}

/** What each pixel of a picture shows, by number: the names of the ids in `Maps`. */
export const REGIONS = ['background', 'floor', 'wall', 'thing'] as const

/**
 * Truth beside a picture [size, size]: depth along the axis of the camera in world units (0 where nothing is met), and
 * the number of the region.
 */
export type Maps = {readonly depth: Float32Array; readonly regions: Uint8Array}

/** A direction of length 1 through the picture at (x, y) in [-1, 1]. */
function through({turn: [right, upright, ahead], zoom}: Scene['camera'], x: number, y: number): Vector {
  const dx = right[0] * x + upright[0] * y + ahead[0] * zoom
  const dy = right[1] * x + upright[1] * y + ahead[1] * zoom
  const dz = right[2] * x + upright[2] * y + ahead[2] * zoom
  const length = norm(dx, dy, dz)
  return [dx / length, dy / length, dz / length]
}

/** Where the rays of each block of about 4 × 4 pixels may start, for each thing: [blocks · blocks]. */
type Starts = {readonly blocks: number; readonly ofThing: readonly Float64Array[]}

/**
 * Sends a broad cone through each block of pixels: where it meets nothing, none of its rays will; else they
 * start at its tip.
 */
function coneStarts({camera, things}: Scene, size: number): Starts {
  const blocks = Math.ceil(size / 4)
  const spread = (1.45 / blocks + 1.5 / size) / camera.zoom
  const ofThing = things.map(thing => {
    const found = new Float64Array(blocks * blocks)
    for (let i = 0; i < found.length; i++) {
      const x = (2 * ((i % blocks) + 0.5)) / blocks - 1
      const y = 1 - (2 * (Math.floor(i / blocks) + 0.5)) / blocks
      found[i] = 0.97 * trace(thing, camera.from, through(camera, x, y), 0, Infinity, spread)
    }
    return found
  })
  return {blocks, ofThing}
}

/** Finds what a ray through the picture at (x, y) meets first, and writes it into `hit`. */
function meet(
  {camera: {from}, things, floor, wall}: Scene,
  {blocks, ofThing}: Starts,
  direction: Vector,
  [x, y]: readonly [number, number],
  hit: Hit
): void {
  const [, oy, oz] = from
  const [, dy, dz] = direction
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
  const row = min(blocks - 1, max(0, Math.floor((1 - y) * 0.5 * blocks)))
  const block = row * blocks + min(blocks - 1, max(0, Math.floor((x + 1) * 0.5 * blocks)))
  for (let i = 0; i < things.length; i++) {
    const start = ofThing[i]![block]!
    if (start >= hit.t) continue
    const t = trace(things[i]!, from, direction, start, hit.t)
    if (t < hit.t) {
      hit.t = t
      hit.thing = things[i]
    }
  }
}

/**
 * → a function that follows one ray through the picture at (x, y) in [-1, 1] and writes linear RGB into `colour` and
 * what it met into `hit`. `open` is what a ray `beside` it found on the same surface.
 */
function viewer(
  scene: Scene,
  size: number
): {colour: Float64Array; hit: Hit; look: (x: number, y: number, beside?: Placed | Ground, open?: number) => void} {
  const {camera, sky, film} = scene
  const [ox, oy, oz] = camera.from
  const starts = coneStarts(scene, size)
  const colour = new Float64Array(3)
  const hit: Hit = {t: Infinity, thing: undefined, ground: undefined, open: UNKNOWN}
  const look = (x: number, y: number, beside?: Placed | Ground, open = UNKNOWN): void => {
    const direction = through(camera, x, y)
    const [dx, dy, dz] = direction
    meet(scene, starts, direction, [x, y], hit)
    const p: Vector = [ox + hit.t * dx, oy + hit.t * dy, oz + hit.t * dz]
    const known = beside === (hit.thing ?? hit.ground) ? open : UNKNOWN
    if (hit.thing) hit.open = lightThing(scene, hit.thing, p, direction, known, colour)
    else if (hit.ground) hit.open = lightGround(scene, hit.ground, p, direction, known, colour)
    else return void colour.set(sky(dx, dy, dz))
    const mist = 1 - Math.exp(-film.haze * hit.t)
    if (mist > 0.01) {
      const air = sky(dx, 0.05, dz)
      for (let c = 0; c < 3; c++) colour[c]! += mist * (air[c]! - colour[c]!)
    }
  }
  return {colour, hit, look}
}

/** Draws a scene as `size` × `size` pixels; sRGB bytes [size, size, 3]. */
export function render(scene: Scene, size: number, maps?: Maps): Uint8Array {
  const {camera, wall, film} = scene
  const {colour, hit, look} = viewer(scene, size)
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
