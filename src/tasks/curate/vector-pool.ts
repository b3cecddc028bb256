/** A pool of embeddings: each row is an image, whose vector was made before. */
import type {Readable} from 'node:stream'
import {selectRows} from '../../curate/rows.js'
import type {Measures} from '../../data/loader/measure-images.js'
import {ImageTable} from '../../data/sources/image-table.js'
import type {ImageRef} from '../../data/sources/source.js'
import {openAll, openEmbeddings, type Embeddings, type Fields} from '../../files/embeddings/embeddings.js'
import {npyMatrix} from '../../files/embeddings/npy.js'
import {fileRows, MatrixBuilder} from '../../files/search-index/matrix-file.js'
import {comparable, measuresOf} from './feature-meta.js'
import type {FeatureMaker} from './features.js'
import type {Pool, PoolOptions, PoolVectors, RefusedRow} from './pool.js'
import {assertNoneMissing, noRows, REPEATED_ID, RowGate, type PoolLists} from './pool-inputs.js'

type VectorPoolOptions = PoolOptions & {readonly stdin: Readable}

/** The image that a row of embeddings stands for. */
function refOfRow(id: string, {path, ...fields}: Fields): ImageRef {
  return {id, path: typeof path === 'string' ? path : id, fields}
}

type ReadRows = {
  readonly table: ImageTable
  readonly refused: readonly RefusedRow[]
  readonly inputs: number
  /** Numbers of the rows in the input that are in the pool. */
  readonly chosen: readonly number[]
  readonly measures: readonly Measures[] | undefined
}

/** Reads all rows; `keep` receives the vectors of those that take part. Closes the source. */
async function readRows(
  {meta, rows, close}: Embeddings,
  gate: RowGate,
  keep: (vector: Float32Array) => void,
  signal?: AbortSignal
): Promise<ReadRows> {
  const {dim} = meta
  const table = new ImageTable()
  const refused: RefusedRow[] = []
  const chosen: number[] = []
  const measured: Measures[] = []
  let inputs = 0
  let at = 0
  try {
    for await (const {ids, vectors, fields} of rows) {
      signal?.throwIfAborted()
      for (const [i, id] of ids.entries()) {
        const admission = gate.admit(id)
        if (admission === 'unlisted') continue
        inputs++
        const row = refOfRow(id, fields[i]!)
        const ref = {...row, fields: gate.fields(row)}
        if (admission === 'repeated') {
          refused.push({ref, stage: 'read', reason: REPEATED_ID, unreadable: false})
          continue
        }
        table.push(ref)
        const measures = measuresOf(fields[i]!)
        if (measures) measured.push(measures)
        chosen.push(at + i)
        keep(vectors.subarray(i * dim, (i + 1) * dim))
      }
      at += ids.length
    }
  } finally {
    await close()
  }
  return {table, refused, inputs, chosen, measures: measured.length === table.length ? measured : undefined}
}

/** 1 for rows that `since` lists. Throws `UserError` (exit 2) where it lists ids that are not in the pool. */
function fixedRows(table: ImageTable, {inputs, since: list}: PoolOptions, {since}: PoolLists): Uint8Array | undefined {
  if (!since) return undefined
  const ids = new Set(Array.from({length: table.length}, (_, row) => table.at(row)!.id))
  assertNoneMissing(
    list,
    [...since.keys()].filter(id => !ids.has(id)),
    inputs
  )
  return Uint8Array.from({length: table.length}, (_, row) => (since.has(table.at(row)!.id) ? 1 : 0))
}

/**
 * Opens a pool of embeddings. An array of NumPy's is read where it lies, however large; rows of other formats go to
 * memory or to a temporary file. Throws `UserError`: no row (exit 3), ids that are not there (exit 2).
 */
export async function openVectorPool(options: VectorPoolOptions, maker: FeatureMaker, lists: PoolLists): Promise<Pool> {
  const {inputs, stdin, signal} = options
  const isArray = inputs.length === 1 && inputs[0] !== '-' && inputs[0]!.toLowerCase().endsWith('.npy')
  const array = isArray ? await npyMatrix(inputs[0]!).catch(() => undefined) : undefined
  const source = array ? await openEmbeddings(inputs[0]!) : await openAll(inputs, {stdin, ignoreLength: true})
  const {meta} = source
  const builder = new MatrixBuilder(meta.dim, maker.options.memory / 2)
  const gate = new RowGate(lists.only)
  const keep = array ? () => undefined : (vector: Float32Array) => builder.append(comparable(vector.slice(), meta))
  const {table, refused, inputs: inputRows, chosen, measures} = await readRows(source, gate, keep, signal)
  assertNoneMissing(options.only, gate.missing(), inputs)
  if (table.length === 0) throw noRows(inputs)
  const fixed = fixedRows(table, options, lists)
  const rows = array
    ? fileRows(inputs[0]!, array.at, array.count, array.dim, {made: block => void comparable(block, meta)})
    : builder.finish()
  const isWhole = !array || chosen.length === array.count
  const features: PoolVectors = {kind: 'given', meta, rows, source: isWhole ? rows : selectRows(rows, Int32Array.from(chosen))}
  return {
    name: inputs.join(', '),
    images: false,
    count: table.length,
    inputs: inputRows,
    refused,
    fixed,
    measures,
    ref: row => table.at(row)!,
    async *prepare() {},
    features: () => features,
    close: () => rows.close()
  }
}
