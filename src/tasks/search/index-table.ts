/** The rows of an index while it is being made or changed: their lines, and where their vectors are. */
import {openIndex, type IndexFile, type RowLine} from '../../files/search-index/vector-index.js'
import {rowAt, VectorBuilder, type Metric, type Vectors} from '../../search/exact.js'
import {Graph} from '../../search/hnsw.js'
import {unknownIdsError} from './index-options.js'

/** A line for each row, `null` where one was taken out, and the row of each id. */
export type IndexTable = {readonly lines: RowLine[]; readonly rowOf: Map<string, number>}

/** Where the vectors are: rows before `begun` in an old index (`old` or `graph`), the others in `fresh`. */
export type RowStorage = {
  readonly begun: number
  readonly old: Vectors | undefined
  readonly graph: Graph | undefined
  readonly fresh: Vectors
  readonly dim: number
}

/** The rows of an index that is there; none without one. */
export function openTable(opened: IndexFile | undefined): IndexTable {
  const lines: RowLine[] = opened ? [...opened.rows] : []
  const rowOf = new Map<string, number>()
  for (const [row, line] of lines.entries()) if (line) rowOf.set(line.id, row)
  return {lines, rowOf}
}

/** The vectors of an index that is there. */
export async function storedVectors(opened: IndexFile | undefined, metric: Metric): Promise<Pick<RowStorage, 'old' | 'graph'>> {
  if (!opened) return {old: undefined, graph: undefined}
  const {dim, kind} = opened.header
  if (kind === 'hnsw') return {old: undefined, graph: await opened.withGraph(path => Graph.load(path, dim, metric))}
  const builder = new VectorBuilder(dim)
  for await (const rows of opened.vectors()) builder.append(rows)
  return {old: builder.finish(), graph: undefined}
}

/** Opens the index that is to be changed. */
export const openBase = (base: string | undefined): Promise<IndexFile | undefined> =>
  base === undefined ? Promise.resolve(undefined) : openIndex(base)

/** Takes rows out; how many. Throws `UserError` (exit 2) naming ids that are not there. */
export async function removeRows({lines, rowOf}: IndexTable, ids: AsyncIterable<string> | undefined, name: string): Promise<number> {
  const absent: string[] = []
  let removed = 0
  for await (const id of ids ?? []) {
    const row = rowOf.get(id)
    if (row === undefined) {
      absent.push(id)
      continue
    }
    lines[row] = null
    rowOf.delete(id)
    removed++
  }
  if (absent.length > 0) throw unknownIdsError(name, absent)
  return removed
}

export const vectorOf = ({begun, old, graph, fresh}: RowStorage, row: number): Float32Array =>
  row >= begun ? rowAt(fresh, row - begun) : old ? rowAt(old, row) : graph!.vector(row)

/** The rows that were not taken out, in order. */
export const presentRows = ({lines}: IndexTable): number[] => lines.flatMap((line, row) => (line ? [row] : []))

/** Vectors of chosen rows, in that order. */
export function gatherVectors(stored: RowStorage, rows: readonly number[]): Vectors {
  const builder = new VectorBuilder(stored.dim)
  for (const row of rows) builder.append(vectorOf(stored, row))
  return builder.finish()
}
