/**
 * What the nearest neighbours of each row say of it: how far it lies from all others, and whether its label is theirs.
 *
 * In shape comments: N rows, D numbers a row, k neighbours.
 */
import {nearestRows, type PairEvent} from './neighbours.js'
import type {Arithmetic} from './matmul-backend.js'
import {rowsPerBlock, type RowSource} from './rows.js'
import {Graph, defaultGraph} from '../search/hnsw.js'

/** The k nearest other rows of every row, best first. */
export type NeighbourTable = {
  readonly k: number
  readonly rows: Int32Array /* [N, k] */
  /** Cosines where rows have length 1. */
  readonly similarity: Float32Array /* [N, k] */
}

export type TableOptions = {
  readonly k: number
  /** Every row with every other (the default), or by a graph, which misses a few. */
  readonly method?: 'exact' | 'graph'
  readonly arithmetic?: Arithmetic
}

/** Finds the neighbours of all rows; yields how far it is. There are fewer than k where there are fewer other rows. */
export function* neighbourTable(
  source: RowSource,
  {k: asked, method = 'exact', arithmetic}: TableOptions
): Generator<PairEvent, NeighbourTable> {
  const {dim: D, count: N} = source
  const k = Math.max(0, Math.min(asked, N - 1))
  const rows = new Int32Array(N * k)
  const similarity = new Float32Array(N * k)
  if (k === 0) return {k, rows, similarity}
  const put = (row: number, found: {readonly rows: ArrayLike<number>; readonly scores: ArrayLike<number>}): void => {
    for (let i = 0, n = 0; n < k && i < found.rows.length; i++) {
      if (found.rows[i] === row) continue
      rows[row * k + n] = found.rows[i]!
      similarity[row * k + n++] = found.scores[i]!
    }
  }
  const size = method === 'graph' ? 1024 : Math.min(2048, rowsPerBlock(D, 4096))
  let graph: Graph | undefined
  if (method === 'graph') {
    graph = Graph.create(D, 'cosine', N, defaultGraph)
    for (let from = 0; from < N; from += size) {
      const block = source.block(from, Math.min(size, N - from))
      for (let i = 0; i < block.length / D; i++) graph.add(block.subarray(i * D, (i + 1) * D), from + i)
      yield {kind: 'compared', rows: Math.floor((from + block.length / D) / 2), of: N}
    }
  }
  for (let from = 0; from < N; from += size) {
    const n = Math.min(size, N - from)
    const block = Float32Array.from(source.block(from, n))
    if (graph) for (let i = 0; i < n; i++) put(from + i, graph.nearest(block.subarray(i * D, (i + 1) * D), k + 1, Math.max(128, k + 1)))
    else
      for (const [i, found] of nearestRows(source, block, k, {arithmetic, skip: (q, row) => row === from + q}).entries())
        put(from + i, found)
    yield {kind: 'compared', rows: graph ? Math.floor((N + from + n) / 2) : from + n, of: N}
  }
  return {k, rows, similarity}
}

/**
 * How far each row lies from its neighbours: 1 less the mean cosine with the first `k` of them, [N]; 0 for a row amid
 * its likes (Ramaswamy et al. 2000 and many after: the distance to the k-th neighbour, here the mean of k).
 */
export function outlierScores({k: all, rows, similarity}: NeighbourTable, k: number = all): Float32Array {
  const used = Math.min(k, all)
  const N = all === 0 ? 0 : rows.length / all
  return Float32Array.from({length: N}, (_, row) => {
    let sum = 0
    for (let n = 0; n < used; n++) sum += similarity[row * all + n]!
    return 1 - sum / used
  })
}

/** How the neighbours of a row vote on its label. */
export type LabelVote = {
  /** The label that most of the votes are for; of equals the row's own, then the one of the smaller number. */
  readonly label: number
  /** Its share of the votes, from 0 to 1. */
  readonly share: number
  /** The share of the row's own label. */
  readonly own: number
}

/**
 * The votes on each row's label: neighbours that have a label vote with weight exp(cosine / 0.07), as in kNN
 * classification (docs/spec.md §5.2). `label` gives the number of each row's label, −1 where it has none; undefined
 * for such rows and for those whose neighbours have none.
 */
export function labelVotes({k, rows, similarity}: NeighbourTable, label: ArrayLike<number>, temperature = 0.07): (LabelVote | undefined)[] {
  return Array.from({length: label.length}, (_, row) => {
    const mine = label[row]!
    if (mine < 0) return undefined
    const votes = new Map<number, number>()
    let total = 0
    for (let n = row * k; n < (row + 1) * k; n++) {
      const other = label[rows[n]!]!
      if (other < 0) continue
      const weight = Math.exp((similarity[n]! - 1) / temperature)
      votes.set(other, (votes.get(other) ?? 0) + weight)
      total += weight
    }
    if (!(total > 0)) return undefined
    const [best] = [...votes].sort(([a, x], [b, y]) => y - x || Number(b === mine) - Number(a === mine) || a - b)
    return {label: best![0], share: best![1] / total, own: (votes.get(mine) ?? 0) / total}
  })
}

/** A row whose neighbours have another label. */
export type Contradiction = LabelVote & {readonly row: number}

/** Rows of whose votes at least `share` are for one other label, the surest first. */
export function contradictedLabels(
  table: NeighbourTable,
  label: ArrayLike<number>,
  {share: least = 0.6, temperature}: {readonly share?: number; readonly temperature?: number} = {}
): Contradiction[] {
  return labelVotes(table, label, temperature)
    .flatMap((vote, row) => (vote && vote.label !== label[row] && vote.share >= least ? [{row, ...vote}] : []))
    .sort((a, b) => b.share - a.share || a.own - b.own || a.row - b.row)
}
