/** Another set of images beside the pool, seeds or a benchmark, with vectors that may be compared with the pool's. */
import type {Readable} from 'node:stream'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {ImageTable} from '../../data/sources/image-table.js'
import {listImages, noImages} from '../../data/sources/source.js'
import {assertSameProvenance, isPerceptual, openAll} from '../../files/embeddings/embeddings.js'
import {MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {comparable} from './feature-meta.js'
import type {FeatureEvent, FeatureKind, FeatureMaker, PoolFeatures} from './features.js'
import type {PoolOptions} from './pool.js'
import {inspectInputs, noRows} from './pool-inputs.js'

export type OtherSet = {
  readonly name: string
  readonly ids: readonly string[]
  readonly vectors: Float32Array /* [n, D] */
}

export type OtherSetOptions = Pick<PoolOptions, 'stdin' | 'nul' | 'onRejected' | 'onSkipped' | 'signal'> & {
  /** Name of the pool, for errors. */
  readonly pool: string
}

const allVectors = (rows: MatrixRows): Float32Array => rows.gather(Int32Array.from({length: rows.count}, (_, i) => i))

async function readOtherSet(
  name: string,
  inputs: readonly string[],
  {meta}: PoolFeatures,
  {pool, stdin}: {readonly pool: string; readonly stdin: Readable}
): Promise<OtherSet> {
  const source = await openAll(inputs, {stdin, ignoreLength: true})
  const builder = new MatrixBuilder(meta.dim, Infinity)
  const ids: string[] = []
  try {
    assertSameProvenance({name: pool, meta}, source, {ignoreLength: true})
    for await (const batch of source.rows) {
      builder.append(comparable(batch.vectors, meta))
      ids.push(...batch.ids)
    }
  } finally {
    await source.close()
  }
  if (ids.length === 0) throw noRows(inputs)
  return {name, ids, vectors: allVectors(builder.finish())}
}

/** The features by which images are compared with a pool. Throws `UserError` (exit 2) where none fit the pool's. */
async function featuresFor(
  name: string,
  {kind, meta}: PoolFeatures,
  maker: FeatureMaker,
  {pool}: Pick<OtherSetOptions, 'pool'>
): Promise<FeatureKind> {
  if (kind !== 'given') return kind
  const chosen = isPerceptual(meta) ? 'perceptual' : 'model'
  const own = await maker.meta(chosen) // throws where a model is needed and none was named
  assertSameProvenance({name: pool, meta}, {name, meta: own}, {ignoreLength: true})
  return chosen
}

/**
 * Loads another set: embeddings, or images whose features are computed as the pool's were.
 * Throws `UserError`: nothing there (exit 3), made in another way than the pool's vectors (exit 2).
 */
export async function* openOtherSet(
  name: string,
  inputs: readonly string[],
  features: PoolFeatures,
  maker: FeatureMaker,
  options: OtherSetOptions
): AsyncGenerator<FeatureEvent, OtherSet> {
  const {embeddings, stdin} = await inspectInputs(inputs, options.stdin ?? process.stdin)
  if (embeddings) return readOtherSet(name, inputs, features, {...options, stdin})
  const kind = await featuresFor(name, features, maker, options)
  const table = new ImageTable()
  const {nul, onSkipped, onRejected, signal} = options
  for await (const ref of listImages(inputs, {stdin, nul, onSkipped})) table.push(ref)
  if (table.length === 0) throw noImages(inputs)
  const {
    features: {rows},
    good
  } = yield* maker.describe(table, kind, bad => onRejected?.(bad))
  if (good.length === 0 && !signal?.aborted)
    throw new UserError(`None of the ${counted(table.length, 'image')} of ${name} can be read.`, {
      exit: 4,
      code: 'ALL_BAD',
      hint: 'Give --bad FILE to see why.'
    })
  const ids = Array.from(good, i => table.at(i)!.id)
  const vectors = allVectors(rows)
  rows.close()
  return {name, ids, vectors}
}
