/** The points of the map: rows of images, of embeddings or of an index, with their vectors at length 1. */
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import {listImages, noImages, type ImageRef, type SourceNote} from '../../data/sources/source.js'
import type {EngineInfo} from '../../engine/start.js'
import {openAll, type EmbeddingMeta, type Fields} from '../../files/embeddings/embeddings.js'
import {isIndex, openIndex} from '../../files/search-index/vector-index.js'
import {normalizeRows, oneBlock, VectorBuilder, type Vectors} from '../../search/exact.js'
import {inspectInputs} from '../curate/pool-inputs.js'
import {defaultBatch, embed, type Embedder} from '../embed/embedder.js'
import {openTable, presentRows, storedVectors, vectorOf} from '../search/index-table.js'
import {imagePath, PackedImages} from '../../data/sources/packed-images.js'

/** An image of the map: its id, where it lies, and the fields that rode along. */
export type Point = {readonly id: string; readonly path: string; readonly fields: Fields}

export type ReadPoints = {
  readonly points: readonly Point[]
  /** Of length 1 each, [N, D]. */
  readonly vectors: Vectors
  readonly meta: EmbeddingMeta
  /** Where images lie that are no files of their own. */
  readonly packed: PackedImages
}

export type PointOptions = {
  readonly inputs: readonly string[]
  readonly nul?: boolean
  readonly stdin: Readable
  readonly batch?: number
  readonly workers?: number
  readonly maxPixels?: number
  /** Folder that the paths of embeddings start from; absent: the present one. */
  readonly root?: string
  readonly onRejected: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal: AbortSignal
}

export type PointEvent = {readonly kind: 'read'; readonly rows: number}

/** What the inputs are: images, embeddings or an index; and what is left of stdin. */
export async function inspectPoints({
  inputs,
  stdin
}: Pick<PointOptions, 'inputs' | 'stdin'>): Promise<{kind: 'images' | 'embeddings' | 'index'; stdin: Readable}> {
  const indexes: string[] = []
  for (const name of inputs) if (name !== '-' && (await isIndex(name))) indexes.push(name)
  if (indexes.length > 0 && inputs.length > 1)
    throw new UserError(`${indexes[0]!} is an index, and ${inputs.find(name => name !== indexes[0]) ?? indexes[0]!} was named beside it.`, {
      exit: 2,
      code: 'MIXED_INPUTS',
      hint: 'Give one index, or files of embeddings.'
    })
  if (indexes.length > 0) return {kind: 'index', stdin}
  const {embeddings, stdin: rest} = await inspectInputs(inputs, stdin)
  return {kind: embeddings ? 'embeddings' : 'images', stdin: rest}
}

/** Embeds images; those that are refused have no row. */
export async function* pointsOfImages(
  options: PointOptions,
  embedder: Embedder,
  {device}: EngineInfo
): AsyncGenerator<PointEvent, ReadPoints> {
  const {inputs, nul, stdin, onSkipped, onRejected, signal, workers, maxPixels} = options
  const refs = listImages(inputs, {nul, stdin, onSkipped})
  const first = await refs.next()
  if (first.done) throw noImages(inputs)
  const packed = new PackedImages()
  const all = async function* (): AsyncGenerator<ImageRef> {
    packed.keep(first.value)
    yield first.value
    for await (const ref of refs) {
      packed.keep(ref)
      yield ref
    }
  }
  const builder = new VectorBuilder(embedder.meta.dim)
  const points: Point[] = []
  const batch = options.batch ?? defaultBatch(embedder.config, embedder.transform, device)
  for await (const {ids, vectors, fields} of embed(all(), embedder, {batch, workers, maxPixels, onRejected, signal})) {
    builder.append(normalizeRows(vectors, embedder.meta.dim))
    for (const [i, id] of ids.entries()) points.push({id, path: imagePath(id, fields[i]!), fields: fields[i]!})
    yield {kind: 'read', rows: points.length}
  }
  signal.throwIfAborted()
  return {points, vectors: builder.finish(), meta: embedder.meta, packed}
}

async function packedOf(points: readonly Point[], root: string | undefined, signal: AbortSignal): Promise<PackedImages> {
  const packed = new PackedImages()
  await packed.find(
    points.map(({id}) => id),
    root,
    signal
  )
  return packed
}

/** Reads files of embeddings, made in one way. */
export async function* pointsOfEmbeddings({inputs, stdin, signal, root}: PointOptions): AsyncGenerator<PointEvent, ReadPoints> {
  const {meta, rows, close} = await openAll(inputs, {stdin, ignoreLength: true})
  const builder = new VectorBuilder(meta.dim)
  const points: Point[] = []
  try {
    for await (const {ids, vectors, fields} of rows) {
      signal.throwIfAborted()
      builder.append(normalizeRows(vectors.slice(), meta.dim))
      for (const [i, id] of ids.entries()) points.push({id, path: imagePath(id, fields[i]!), fields: fields[i]!})
      yield {kind: 'read', rows: points.length}
    }
  } finally {
    await close()
  }
  return {points, vectors: builder.finish(), meta, packed: await packedOf(points, root, signal)}
}

/** Reads an index in one file. */
export async function* pointsOfIndex({inputs, root, signal}: PointOptions): AsyncGenerator<PointEvent, ReadPoints> {
  const file = await openIndex(inputs[0]!)
  try {
    const {header} = file
    const table = openTable(file)
    const {old, graph} = await storedVectors(file, header.metric)
    const storage = {begun: table.lines.length, old, graph, fresh: oneBlock(new Float32Array(0), header.dim), dim: header.dim}
    const builder = new VectorBuilder(header.dim)
    const points: Point[] = []
    for (const row of presentRows(table)) {
      const {id, fields} = table.lines[row]!
      builder.append(normalizeRows(Float32Array.from(vectorOf(storage, row)), header.dim))
      points.push({id, path: imagePath(id, fields), fields})
    }
    yield {kind: 'read', rows: points.length}
    return {points, vectors: builder.finish(), meta: header.meta, packed: await packedOf(points, root, signal)}
  } finally {
    await file.close()
  }
}
