/**
 * What `import … from 'dinov2'` gives. Names and types are declared in dinov2.d.ts, which a test holds against
 * this file; docs/library.md says what is stable.
 */
import {createRequire} from 'node:module'
import {join} from 'node:path'
import type {EmbeddedImage, EmbedImagesOptions, ImageBytes, ImageModel, ModelOptions, Neighbour, VectorIndex} from './dinov2.js'
import {UserError} from '../config/errors.js'
import {listImages, type ImageRef} from '../data/sources/source.js'
import {startEngine, type EngineInfo} from '../engine/start.js'
import {packageFolder} from '../system/paths.js'
import {defaultBatch, embed, loadEmbedder, type Embedder} from './embed/embedder.js'
import {loadIndex} from './search/search.js'

export {UserError}

const opened = new WeakMap<ImageModel, {readonly embedder: Embedder; readonly device: string}>()
let started: Promise<EngineInfo> | undefined

const version = (): string => (createRequire(import.meta.url)(join(packageFolder(), 'package.json')) as {version: string}).version

/** Opens a model. Throws `UserError` where model or engine are not there. */
async function openImageModel(name: string, options: ModelOptions = {}): Promise<ImageModel> {
  const {engine, device, precision, threads, pool = 'cls', normalize = false, size, onNote: note = () => undefined} = options
  started ??= startEngine({engine, device, precision, threads, note})
  const info = await started.catch((error: unknown) => {
    started = undefined
    throw error
  })
  if (engine !== undefined && engine !== 'auto' && engine !== info.engine)
    throw new UserError(`The engine ${info.engine} runs in this process already; ${engine} cannot be started beside it.`, {
      exit: 5,
      code: 'ENGINE_RUNS'
    })
  const transform = size === undefined ? {} : {resize: size, crop: size}
  const embedder = await loadEmbedder(name, {
    pool,
    layers: 1,
    normalize,
    transform,
    precision: info.precision,
    toolVersion: version(),
    note
  })
  const model: ImageModel = {
    dim: embedder.meta.dim,
    fingerprint: embedder.meta.fingerprint!,
    close: () => {
      opened.delete(model)
      embedder[Symbol.dispose]()
    }
  }
  opened.set(model, {embedder, device: info.device})
  return model
}

const isNames = (images: readonly unknown[]): images is readonly string[] => images.every(image => typeof image === 'string')

async function* refsOfBytes(images: Iterable<ImageBytes> | AsyncIterable<ImageBytes>): AsyncGenerator<ImageRef> {
  for await (const {id, bytes} of images) yield {id, path: id, fields: {}, bytes}
}

/** Embeds images. Throws `UserError` where an input is not there, and where the model was closed. */
async function* embeddedImages(
  images: string | readonly string[] | readonly ImageBytes[] | AsyncIterable<ImageBytes>,
  model: ImageModel,
  {batch, workers, onRefused, signal}: EmbedImagesOptions = {}
): AsyncGenerator<EmbeddedImage> {
  const found = opened.get(model)
  if (!found) throw new UserError('The model was closed.', {exit: 1, code: 'MODEL_CLOSED', hint: 'Open it again: openModel(name).'})
  const {embedder, device} = found
  const given = typeof images === 'string' ? [images] : images
  const refs =
    Symbol.asyncIterator in given ? refsOfBytes(given) : isNames(given) ? listImages(given) : refsOfBytes(given as readonly ImageBytes[])
  const rows = embed(refs, embedder, {
    batch: batch ?? defaultBatch(embedder.config, embedder.transform, device),
    workers,
    signal,
    onRejected: ({id, path, reason}) => onRefused?.({id, path, reason})
  })
  for await (const {ids, vectors, fields} of rows) {
    const dim = vectors.length / ids.length
    for (const [i, id] of ids.entries()) yield {id, vector: vectors.slice(i * dim, (i + 1) * dim), fields: fields[i]!}
  }
}

/** Opens an index. Throws `UserError` where it is not there or damaged. */
async function openVectorIndex(path: string): Promise<VectorIndex> {
  const {header, search} = await loadIndex(path)
  return {
    dim: header.dim,
    metric: header.metric,
    async search(queries, k = 10) {
      const wrong = queries.find(({vector}) => vector.length !== header.dim)
      if (wrong)
        throw new UserError(`The vector of ${wrong.id} has ${wrong.vector.length} numbers, but those of ${path} have ${header.dim}.`, {
          exit: 2,
          code: 'MIXED_MODELS'
        })
      const vectors = new Float32Array(queries.length * header.dim) // [Q, D]
      for (const [i, {vector}] of queries.entries()) vectors.set(vector, i * header.dim)
      const hits = await search({ids: queries.map(({id}) => id), vectors, fields: queries.map(() => ({}))}, {k, skipSelf: false})
      return hits.map(row => row.map(({query: _, ...hit}): Neighbour => hit))
    }
  }
}

/** The k nearest rows of an index for each query. */
export const searchIndex = (index: VectorIndex, queries: Parameters<VectorIndex['search']>[0], k?: number): Promise<Neighbour[][]> =>
  index.search(queries, k)

export {embeddedImages as embedImages, openImageModel as openModel, openVectorIndex as openIndex}
