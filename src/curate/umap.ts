/**
 * UMAP (McInnes, Healy and Melville 2018): places in the plane for rows whose nearest neighbours are known, so that
 * neighbours stay together.
 *
 * umap-js, the library for it, keeps its graph in maps of strings: 20,000 rows took it two minutes and 1.3 GB, where
 * the loops below, over typed arrays, take seconds. The curve of likeness by distance is 1 / (1 + d²), that of t-SNE
 * (a = b = 1 in the paper's formula), which needs no powers. The same neighbours, start and seed give the same bytes.
 *
 * In shape comments: N rows, k neighbours, E edges.
 */
import {rng, type Rng} from '../tensor/random.js'
import type {NeighbourTable} from './neighbour-measures.js'

export type UmapOptions = {
  readonly seed: number
  /** Rounds; by default 500 up to 2,000 rows and 200 above. */
  readonly epochs?: number
}

export type UmapEvent = {readonly kind: 'epoch'; readonly done: number; readonly of: number}

/** Points that push each other apart for every pair that is drawn together. */
const NEGATIVE = 5
/** No step is longer. */
const CLIP = 4

/** Weights of the neighbours of each row, [N, k] (section 3.1): exp(−(d − ρ)/σ); σ is such that they sum to log₂ k. */
function membership({k, similarity}: Pick<NeighbourTable, 'k' | 'similarity'>): Float32Array {
  const weights = new Float32Array(similarity.length)
  const target = Math.log2(k + 1)
  for (let at = 0; at < similarity.length; at += k) {
    const distance = (n: number): number => Math.max(0, 1 - similarity[at + n]!)
    const nearest = distance(0)
    let mean = 0
    for (let n = 0; n < k; n++) mean += distance(n) / k
    let [low, high, sigma] = [0, Infinity, 1]
    for (let round = 0; round < 64; round++) {
      let sum = 1 // the row itself
      for (let n = 0; n < k; n++) sum += Math.exp(-Math.max(0, distance(n) - nearest) / sigma)
      if (Math.abs(sum - target) < 1e-5) break
      if (sum > target) high = sigma
      else low = sigma
      sigma = high === Infinity ? sigma * 2 : (low + high) / 2
    }
    sigma = Math.max(sigma, 1e-3 * mean, 1e-12)
    for (let n = 0; n < k; n++) weights[at + n] = Math.exp(-Math.max(0, distance(n) - nearest) / sigma)
  }
  return weights
}

type Edges = {readonly head: Int32Array; readonly tail: Int32Array; /** Rounds from one use to the next. */ readonly every: Float32Array}

/** Edges both ways with the probability that at least one of them exists, p + q − p·q; the weakest are left out. */
function edgesOf({k, rows}: NeighbourTable, weights: Float32Array, epochs: number): Edges {
  const head: number[] = []
  const tail: number[] = []
  const strength: number[] = []
  let most = 0
  const N = rows.length / k
  for (let i = 0; i < N; i++)
    for (let n = i * k; n < (i + 1) * k; n++) {
      const j = rows[n]!
      let back = 0
      for (let m = j * k; m < (j + 1) * k; m++) if (rows[m] === i) back = weights[m]!
      if (back > 0 && j < i) continue // met before, from the other end
      const p = weights[n]! + back - weights[n]! * back
      most = Math.max(most, p)
      head.push(i, j)
      tail.push(j, i)
      strength.push(p, p)
    }
  const kept = strength.flatMap((p, e) => (p >= most / epochs ? [e] : []))
  return {
    head: Int32Array.from(kept, e => head[e]!),
    tail: Int32Array.from(kept, e => tail[e]!),
    every: Float32Array.from(kept, e => most / strength[e]!)
  }
}

const clipped = (x: number): number => (x > CLIP ? CLIP : x < -CLIP ? -CLIP : x)

/** Moves the places once for every edge whose turn it is: its ends together, and its head away from others. */
function runEpoch(places: Float32Array, {head, tail, every}: Edges, next: Float32Array, epoch: number, alpha: number, random: Rng): void {
  const N = places.length / 2
  for (let e = 0; e < head.length; e++) {
    if (next[e]! > epoch) continue
    next[e]! += every[e]!
    const [i, j] = [2 * head[e]!, 2 * tail[e]!]
    const [dx, dy] = [places[i]! - places[j]!, places[i + 1]! - places[j + 1]!]
    const square = dx * dx + dy * dy
    if (square > 0) {
      const pull = -2 / (square + 1)
      const [mx, my] = [clipped(pull * dx) * alpha, clipped(pull * dy) * alpha]
      places[i]! += mx
      places[i + 1]! += my
      places[j]! -= mx
      places[j + 1]! -= my
    }
    for (let n = 0; n < NEGATIVE; n++) {
      const other = 2 * ((random.bits() >>> 1) % N)
      if (other === i) continue
      const [ox, oy] = [places[i]! - places[other]!, places[i + 1]! - places[other + 1]!]
      const far = ox * ox + oy * oy
      const push = far > 0 ? 2 / ((0.001 + far) * (far + 1)) : 0
      places[i]! += (push > 0 ? clipped(push * ox) : CLIP) * alpha
      places[i + 1]! += (push > 0 ? clipped(push * oy) : CLIP) * alpha
    }
  }
}

/**
 * Places [N, 2] for rows, from the places `start` [N, 2], which are scaled to ±10 first. Yields after each round.
 * Distances are 1 less the cosine.
 */
export function* umap(table: NeighbourTable, start: Float32Array, {seed, epochs: asked}: UmapOptions): Generator<UmapEvent, Float32Array> {
  const N = start.length / 2
  const epochs = asked ?? (N <= 2000 ? 500 : 200)
  const random = rng(seed, 'umap')
  const largest = start.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1
  // A little noise parts rows that are copies of each other.
  const places = start.map(x => (10 * x) / largest + random.normal(0, 1e-4))
  if (table.k === 0) return places
  const edges = edgesOf(table, membership(table), epochs)
  const next = edges.every.slice()
  for (let epoch = 1; epoch <= epochs; epoch++) {
    runEpoch(places, edges, next, epoch, 1 - (epoch - 1) / epochs, random)
    yield {kind: 'epoch', done: epoch, of: epochs}
  }
  return places
}
