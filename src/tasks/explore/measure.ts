/** What is measured of the points before the page is written: neighbours, places, clusters and lists. */
import {labelIn} from '../../data/sources/image-ref.js'
import {nearestToCentroids} from '../../curate/hierarchical-kmeans.js'
import {kmeans} from '../../curate/kmeans.js'
import {contradictedLabels, neighbourTable, outlierScores, type NeighbourTable} from '../../curate/neighbour-measures.js'
import {exactUpTo} from '../../curate/neighbours.js'
import {memoryRows} from '../../curate/rows.js'
import {umap} from '../../curate/umap.js'
import {pca, project} from '../../model/pca.js'
import {rowAt, type Vectors} from '../../search/exact.js'
import type {Point} from './points.js'

export type MapOptions = {
  readonly seed: number
  /** Neighbours by which points are placed and judged. */
  readonly neighbours: number
  /** Clusters; undefined: about the root of half the number of points, 60 at most. */
  readonly clusters?: number
  /** Cosine from which on two images count as near-duplicates. */
  readonly threshold: number
  readonly signal: AbortSignal
}

export type MeasureEvent = {readonly kind: 'work'; readonly label: string; readonly done: number; readonly total: number}

export type Measured = {
  readonly table: NeighbourTable
  /** From 0 to 1, [N, 2]. */
  readonly places: Float32Array
  readonly cluster: Int32Array
  readonly clusters: number
  readonly representatives: readonly number[]
  readonly outlier: Float32Array
  readonly labels: readonly string[]
  readonly label: Int32Array
  readonly duplicates: readonly (readonly [row: number, other: number, similarity: number])[]
  readonly contradicted: readonly (readonly [row: number, label: number, share: number])[]
}

/** Runs work that holds the thread part by part, so that signals come through. */
async function* inParts<E, R>(
  work: Generator<E, R>,
  toEvent: (event: E) => MeasureEvent,
  signal: AbortSignal
): AsyncGenerator<MeasureEvent, R> {
  for (;;) {
    const {done, value} = work.next()
    if (done) return value
    yield toEvent(value)
    await new Promise(resolve => setImmediate(resolve))
    signal.throwIfAborted()
  }
}

/** The labels of points by number, in the order of their names; −1 for a point without one. */
function numbered(points: readonly Point[]): {labels: string[]; label: Int32Array} {
  const names = points.map(({fields}) => labelIn(fields))
  const labels = [...new Set(names.filter(name => name !== undefined))].sort()
  const number = new Map(labels.map((name, i) => [name, i]))
  return {labels, label: Int32Array.from(names, name => (name === undefined ? -1 : number.get(name)!))}
}

/** Rows from which components are computed, at most. */
const FITTED = 4096

/** Where the layout begins: the first two principal components, [N, 2]. */
function startPlaces(vectors: Vectors): Float32Array {
  const {dim: D, count: N} = vectors
  if (N < 2 || D < 2) return new Float32Array(2 * N)
  const fitted = new Float32Array(Math.min(N, FITTED) * D)
  for (let i = 0; i < fitted.length / D; i++) fitted.set(rowAt(vectors, Math.floor((i * N) / (fitted.length / D))), i * D)
  const axes = pca(fitted, D, 2)
  const out = new Float32Array(2 * N)
  for (let i = 0; i < N; i++) out.set(project(rowAt(vectors, i), axes), 2 * i)
  return out
}

/** Places scaled so that both sides run from 0 to 1; the shape is kept, rounded to what a screen can show. */
function fitted(places: Float32Array): Float32Array {
  const range = (axis: number): [number, number] => {
    let [low, high] = [Infinity, -Infinity]
    for (let i = axis; i < places.length; i += 2) [low, high] = [Math.min(low, places[i]!), Math.max(high, places[i]!)]
    return [low, high]
  }
  const [[left, right], [top, bottom]] = [range(0), range(1)]
  const side = Math.max(right - left, bottom - top) || 1
  const [dx, dy] = [(side - (right - left)) / 2 - left, (side - (bottom - top)) / 2 - top]
  return places.map((value, i) => (value + (i % 2 ? dy : dx)) / side)
}

/** Rows that are all but copies of an earlier row among their neighbours; the most alike first. */
function duplicatesOf({k, rows, similarity}: NeighbourTable, threshold: number): [number, number, number][] {
  const found: [number, number, number][] = []
  for (let row = 0; row < (k === 0 ? 0 : rows.length / k); row++)
    for (let n = row * k; n < (row + 1) * k && similarity[n]! >= threshold; n++)
      if (rows[n]! < row) {
        found.push([row, rows[n]!, Number(similarity[n]!.toFixed(4))])
        break
      }
  return found.sort((a, b) => b[2] - a[2] || a[0] - b[0])
}

/** Measures all; yields how far it is. */
export async function* measurePoints(
  {points, vectors}: {readonly points: readonly Point[]; readonly vectors: Vectors},
  {seed, neighbours, clusters, threshold, signal}: MapOptions
): AsyncGenerator<MeasureEvent, Measured> {
  const rows = memoryRows(vectors)
  const N = rows.count
  const method = N <= exactUpTo ? 'exact' : 'graph'
  const table = yield* inParts(
    neighbourTable(rows, {k: neighbours, method}),
    ({rows: done, of}) => ({kind: 'work', label: 'neighbours', done, total: of}),
    signal
  )
  const start = startPlaces(vectors)
  const raw = yield* inParts(umap(table, start, {seed}), ({done, of}) => ({kind: 'work', label: 'layout', done, total: of}), signal)
  const k = Math.min(N, clusters ?? Math.max(1, Math.min(60, Math.round(Math.sqrt(N / 2)))))
  const grouped = yield* inParts(
    kmeans(rows, {k, seed}),
    ({round, of}) => ({kind: 'work', label: 'clusters', done: round, total: of}),
    signal
  )
  const {labels, label} = numbered(points)
  return {
    table,
    places: fitted(raw),
    cluster: grouped.assignments,
    clusters: grouped.k,
    representatives: Array.from(nearestToCentroids(rows, grouped, 1)),
    outlier: table.k === 0 ? new Float32Array(N) : outlierScores(table, Math.min(10, table.k)),
    labels,
    label,
    duplicates: duplicatesOf(table, threshold),
    contradicted: contradictedLabels(table, label).map(({row, label: other, share}) => [row, other, Number(share.toFixed(3))])
  }
}
