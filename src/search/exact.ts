/**
 * Exact nearest neighbours: every query against every row, the best k kept.
 *
 * The plain form, and the oracle for the graph. Sums are taken in float64, so that a row's similarity does not depend
 * on where it stands; equal similarities are ordered by id, so that the answer does not depend on the order of rows
 * either.
 *
 * In shape comments: Q queries, N rows, D numbers a vector.
 */

/** cosine: of the angle (vectors are normalized on the way in); ip: inner product; l2: Euclidean distance. */
export type Metric = 'cosine' | 'ip' | 'l2'

/**
 * Rows of equal length in blocks, so that no single array outgrows what the runtime allows. All blocks but the last
 * have `blockRows` rows.
 */
export type Vectors = {readonly dim: number; readonly count: number; readonly blockRows: number; readonly blocks: readonly Float32Array[]}

/**
 * Neighbours of one query, best first. `scores` are similarities for cosine and ip, squared distances (negative) for
 * l2: larger is nearer.
 */
export type Neighbours = {readonly rows: Int32Array; readonly scores: Float64Array}

/** Rows in a block: about 64 MB. */
const blockRowsFor = (dim: number): number => Math.max(1, Math.floor((16 << 20) / Math.max(1, dim)))

/** Collects rows into blocks. */
export class VectorBuilder {
  readonly #blocks: Float32Array[] = []
  readonly #blockRows: number
  #count = 0

  constructor(readonly dim: number) {
    this.#blockRows = blockRowsFor(dim)
  }

  get count(): number {
    return this.#count
  }

  /** Copies rows [n, D] behind those that are there. */
  append(rows: Float32Array): void {
    const D = this.dim
    for (let at = 0; at < rows.length;) {
      const inBlock = this.#count % this.#blockRows
      let block = this.#blocks.at(-1)
      if (inBlock === 0) this.#blocks.push((block = new Float32Array(Math.min(this.#blockRows, 1024) * D)))
      else if (block!.length === inBlock * D) {
        const grown = new Float32Array(Math.min(this.#blockRows * D, block!.length * 2))
        grown.set(block!)
        this.#blocks[this.#blocks.length - 1] = block = grown
      }
      const n = Math.min(block!.length - inBlock * D, rows.length - at)
      block!.set(rows.subarray(at, at + n), inBlock * D)
      at += n
      this.#count += n / D
    }
  }

  /** The rows collected so far; the builder is not used afterwards. */
  finish(): Vectors {
    const blocks = this.#blocks.map((block, i) =>
      block.subarray(0, Math.min(this.#blockRows, this.#count - i * this.#blockRows) * this.dim)
    )
    return {dim: this.dim, count: this.#count, blockRows: this.#blockRows, blocks}
  }
}

/** One block as vectors. */
export const oneBlock = (rows: Float32Array, dim: number): Vectors => ({
  dim,
  count: rows.length / dim,
  blockRows: Math.max(1, rows.length / dim),
  blocks: rows.length === 0 ? [] : [rows]
})

/** Rows [N, D] that lie one after the other as vectors, in blocks that share their memory. */
export function blocksOfRows(rows: Float32Array, dim: number): Vectors {
  const blockRows = blockRowsFor(dim)
  const count = rows.length / dim
  const blocks = Array.from({length: Math.ceil(count / blockRows)}, (_, b) => rows.subarray(b * blockRows * dim, (b + 1) * blockRows * dim))
  return {dim, count, blockRows, blocks}
}

/** A view of row i. */
export function rowAt({dim, blockRows, blocks}: Vectors, i: number): Float32Array {
  const at = (i % blockRows) * dim
  return blocks[Math.floor(i / blockRows)]!.subarray(at, at + dim)
}

/** Brings every row [n, D] to length 1, in place; a row of zeros stays. */
export function normalizeRows(rows: Float32Array, dim: number): Float32Array {
  for (let at = 0; at < rows.length; at += dim) {
    let square = 0
    for (let d = at; d < at + dim; d++) square += rows[d]! * rows[d]!
    const scale = square > 0 ? 1 / Math.sqrt(square) : 0
    for (let d = at; d < at + dim; d++) rows[d] = rows[d]! * scale
  }
  return rows
}

/**
 * The best k of a stream of scores: a heap whose root is the worst that is kept. `before` orders rows of equal score.
 */
export class TopK {
  readonly #rows: Int32Array
  readonly #scores: Float64Array
  readonly #before: (a: number, b: number) => boolean
  #size = 0
  /** What a score must reach to matter. */
  threshold = -Infinity

  constructor(k: number, before: (a: number, b: number) => boolean) {
    this.#rows = new Int32Array(k)
    this.#scores = new Float64Array(k)
    this.#before = before
  }

  /** Is entry (s, r) worse than (t, q)? */
  #isWorse(s: number, r: number, t: number, q: number): boolean {
    return s < t || (s === t && this.#before(q, r))
  }

  add(score: number, row: number): void {
    const [rows, scores] = [this.#rows, this.#scores]
    if (this.#size < rows.length) {
      let i = this.#size++
      while (i > 0) {
        const up = (i - 1) >> 1
        if (!this.#isWorse(score, row, scores[up]!, rows[up]!)) break
        scores[i] = scores[up]!
        rows[i] = rows[up]!
        i = up
      }
      scores[i] = score
      rows[i] = row
    } else if (this.#isWorse(scores[0]!, rows[0]!, score, row)) this.#replaceRoot(score, row, this.#size)
    if (this.#size === rows.length) this.threshold = scores[0]!
  }

  #replaceRoot(score: number, row: number, size: number): void {
    const [rows, scores] = [this.#rows, this.#scores]
    let i = 0
    for (;;) {
      let down = 2 * i + 1
      if (down >= size) break
      if (down + 1 < size && this.#isWorse(scores[down + 1]!, rows[down + 1]!, scores[down]!, rows[down]!)) down++
      if (!this.#isWorse(scores[down]!, rows[down]!, score, row)) break
      scores[i] = scores[down]!
      rows[i] = rows[down]!
      i = down
    }
    scores[i] = score
    rows[i] = row
  }

  /** Best first. */
  finish(): Neighbours {
    const order = Array.from({length: this.#size}, (_, i) => i).sort((a, b) =>
      this.#isWorse(this.#scores[b]!, this.#rows[b]!, this.#scores[a]!, this.#rows[a]!) ? -1 : 1
    )
    return {rows: Int32Array.from(order, i => this.#rows[i]!), scores: Float64Array.from(order, i => this.#scores[i]!)}
  }
}

/**
 * Scores of queries [Q, D] against rows [N, D] → [Q, N]: an engine's matrix product, where there is enough to do. Only
 * for cosine and ip.
 */
export type InnerProductFn = (queries: Float32Array, rows: Float32Array, dim: number) => Float32Array

export type ExactOptions = {
  readonly metric?: Metric
  /** Whether row a comes before row b when both are equally near; by default the earlier row does. */
  readonly before?: (a: number, b: number) => boolean
  /** Rows that are not answers: `skip(query, row)`. */
  readonly skip?: (query: number, row: number) => boolean
  readonly innerProduct?: InnerProductFn
}

/** Queries that pass over a block together: the block is read from memory once for all of them. */
const queriesPerPass = 4

/**
 * The k nearest of `vectors` for each query [Q, D]; fewer when there are fewer rows. For cosine both sides must have
 * been normalized.
 */
export function nearestNeighbours(vectors: Vectors, queries: Float32Array, k: number, options: ExactOptions = {}): Neighbours[] {
  const {metric = 'cosine', before = (a, b) => a < b, skip, innerProduct: products} = options
  const {dim: D, count, blocks, blockRows} = vectors
  const Q = queries.length / D
  const best = Array.from({length: Q}, () => new TopK(Math.min(k, count), before))
  for (const [b, block] of blocks.entries()) {
    const first = b * blockRows
    const pass: Pass = {block, first, queries, D, skip}
    if (products && metric !== 'l2') scoreWithEngine(best, pass, products)
    else scoreReference(best, pass, metric)
  }
  return best.map(list => list.finish())
}

/** A block of rows [N, D], the number of its first row, and the queries [Q, D] that pass over it. */
type Pass = {
  readonly block: Float32Array
  readonly first: number
  readonly queries: Float32Array
  readonly D: number
  readonly skip: ExactOptions['skip']
}

function scoreWithEngine(best: readonly TopK[], {block, first, queries, D, skip}: Pass, products: InnerProductFn): void {
  const Q = best.length
  const rowsAtOnce = 1 << 14
  const some = Math.max(1, Math.floor((1 << 24) / rowsAtOnce)) // scores held at once: 64 MB
  for (let at = 0; at < block.length; at += rowsAtOnce * D) {
    const rows = block.subarray(at, at + rowsAtOnce * D) // [N, D]
    const N = rows.length / D
    for (let q0 = 0; q0 < Q; q0 += some) {
      const n = Math.min(some, Q - q0)
      const scores = products(queries.subarray(q0 * D, (q0 + n) * D), rows, D) // [n, N]
      for (let q = 0; q < n; q++) {
        const list = best[q0 + q]!
        for (let i = 0; i < N; i++) {
          const score = scores[q * N + i]!
          const row = first + at / D + i
          if (score >= list.threshold && !skip?.(q0 + q, row)) list.add(score, row)
        }
      }
    }
  }
}

function scoreReference(best: readonly TopK[], {block, first, queries, D, skip}: Pass, metric: Metric): void {
  const N = block.length / D
  const rowsAtOnce = Math.max(1, Math.floor((1 << 16) / D)) // what stays in the cache while all queries pass
  const wide = Float64Array.from(queries)
  for (let i0 = 0; i0 < N; i0 += rowsAtOnce) {
    const end = Math.min(N, i0 + rowsAtOnce)
    for (let q = 0; q < best.length; q += queriesPerPass) {
      const n = Math.min(queriesPerPass, best.length - q)
      for (let i = i0; i < end; i++) {
        const scores =
          metric === 'l2'
            ? distances(block, i * D, wide, q * D, n, D)
            : n === queriesPerPass
              ? dot4(block, i * D, wide, q * D, D)
              : dots(block, i * D, wide, q * D, n, D)
        for (let j = 0; j < n; j++) {
          const list = best[q + j]!
          if (scores[j]! >= list.threshold && !skip?.(q + j, first + i)) list.add(scores[j]!, first + i)
        }
      }
    }
  }
}

const scores4 = new Float64Array(queriesPerPass)

/** Four inner products in one pass over the row. */
function dot4(rows: Float32Array, r: number, queries: Float64Array, q: number, D: number): Float64Array {
  let [a, b, c, d] = [0, 0, 0, 0]
  const [q1, q2, q3] = [q + D, q + 2 * D, q + 3 * D]
  for (let i = 0; i < D; i++) {
    const x = rows[r + i]!
    a += x * queries[q + i]!
    b += x * queries[q1 + i]!
    c += x * queries[q2 + i]!
    d += x * queries[q3 + i]!
  }
  scores4[0] = a
  scores4[1] = b
  scores4[2] = c
  scores4[3] = d
  return scores4
}

function dots(rows: Float32Array, r: number, queries: Float64Array, q: number, n: number, D: number): Float64Array {
  for (let j = 0; j < n; j++) {
    let sum = 0
    for (let i = 0, at = q + j * D; i < D; i++) sum += rows[r + i]! * queries[at + i]!
    scores4[j] = sum
  }
  return scores4
}

/** Negative squared distances. */
function distances(rows: Float32Array, r: number, queries: Float64Array, q: number, n: number, D: number): Float64Array {
  for (let j = 0; j < n; j++) {
    let sum = 0
    for (let i = 0, at = q + j * D; i < D; i++) {
      const difference = rows[r + i]! - queries[at + i]!
      sum += difference * difference
    }
    scores4[j] = -sum
  }
  return scores4
}
