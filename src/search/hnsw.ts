/**
 * Approximate nearest neighbours by a navigable small-world graph (Malkov and Yashunin 2018), through hnswlib-node;
 * the one file that touches it.
 *
 * The graph is built in one thread from a fixed seed, so the same rows in the same order give the same bytes. Cosine
 * is an inner product of vectors that were normalized on the way in, as in the exact search, so both speak of the same
 * numbers.
 */
import {existsSync} from 'node:fs'
import {createRequire} from 'node:module'
import {join} from 'node:path'
import type hnswlib from 'hnswlib-node'
import {UserError} from '../config/errors.js'
import type {Metric, Neighbours} from './exact.js'

export type GraphShape = {
  /** Links of a node and layer (M); 8 to 48. More: better recall, more memory. */
  readonly m: number
  /** Candidates looked at while a row is added. More: better graph, slower building. */
  readonly efConstruction: number
  /** Where the draws of the layers start. */
  readonly seed: number
}

export const defaultGraph: GraphShape = {m: 16, efConstruction: 200, seed: 100}

const hnswSpace = (metric: Metric): 'ip' | 'l2' => (metric === 'l2' ? 'l2' : 'ip')

/** The library, loaded at first use. Error of status 5 where it, or its compiled binding, is not there. */
export function loadGraphLibrary(from: string = import.meta.url): typeof hnswlib {
  try {
    return createRequire(from)('hnswlib-node') as typeof hnswlib
  } catch (cause) {
    throw new UserError(`Graphs are built and searched by hnswlib-node, which does not load: ${(cause as Error).message.split('\n')[0]}`, {
      exit: 5,
      code: 'NO_GRAPH',
      hint: `Compile it with \`${graphLibraryCommand(from)}\` in the folder of dinov2 (it needs make, g++ and Python), or make an exact index: dinov2 index --kind exact.`,
      cause
    })
  }
}

/**
 * The command that brings the library, to be given in the folder of dinov2: it is compiled where npm left it
 * uncompiled (install scripts were skipped), and installed where npm took it away again (compiling it failed).
 */
export function graphLibraryCommand(from: string = import.meta.url): string {
  const require = createRequire(from)
  const isThere = require.resolve.paths('hnswlib-node')!.some(folder => existsSync(join(folder, 'hnswlib-node')))
  return isThere ? 'npm rebuild hnswlib-node' : 'npm install --no-save --omit=dev hnswlib-node'
}

/** Why graphs cannot be built here; undefined where they can. */
export function whyNoGraph(): string | undefined {
  try {
    loadGraphLibrary()
    return undefined
  } catch (error) {
    if (error instanceof UserError) return error.message
    throw error
  }
}

/** A graph over rows named by number. */
export class Graph {
  readonly #index: hnswlib.HierarchicalNSW
  readonly dim: number
  readonly metric: Metric

  private constructor(index: hnswlib.HierarchicalNSW, dim: number, metric: Metric) {
    this.#index = index
    this.dim = dim
    this.metric = metric
  }

  /** An empty graph with room for `capacity` rows. */
  static create(dim: number, metric: Metric, capacity: number, {m, efConstruction, seed}: GraphShape = defaultGraph): Graph {
    const index = new (loadGraphLibrary().HierarchicalNSW)(hnswSpace(metric), dim)
    index.initIndex({maxElements: Math.max(1, capacity), m, efConstruction, randomSeed: seed})
    return new Graph(index, dim, metric)
  }

  /** Reads a graph that `save` wrote. */
  static load(path: string, dim: number, metric: Metric): Graph {
    const index = new (loadGraphLibrary().HierarchicalNSW)(hnswSpace(metric), dim)
    index.readIndexSync(path)
    return new Graph(index, dim, metric)
  }

  /** Rows that were ever added, removed ones too. */
  get count(): number {
    return this.#index.getCurrentCount()
  }

  /** Makes room for `capacity` rows in all. */
  reserve(capacity: number): void {
    if (capacity > this.#index.getMaxElements()) this.#index.resizeIndex(capacity)
  }

  /** Adds the vector as row `row`. */
  add(vector: Float32Array, row: number): void {
    this.#index.addPoint(Array.from(vector), row)
  }

  /** Takes a row out of all answers; its node stays as a stepping stone. */
  remove(row: number): void {
    this.#index.markDelete(row)
  }

  /** The vector of a row that was not removed. */
  vector(row: number): Float32Array {
    return Float32Array.from(this.#index.getPoint(row))
  }

  /** The k nearest of `query`, found with `ef` candidates (at least k). */
  nearest(query: Float32Array, k: number, ef: number): Neighbours {
    const most = Math.min(k, this.count)
    if (most === 0) return {rows: new Int32Array(0), scores: new Float64Array(0)}
    this.#index.setEf(Math.max(ef, most))
    const {neighbors, distances} = this.#index.searchKnn(Array.from(query), most)
    return {rows: Int32Array.from(neighbors), scores: Float64Array.from(distances, d => (this.metric === 'l2' ? -d : 1 - d))}
  }

  /** Writes the graph to a file of its own. */
  save(path: string): void {
    this.#index.writeIndexSync(path)
  }
}
