/**
 * Features of images kept from run to run: one file of embeddings in a folder for each kind. An image counts as the
 * same while its id and its length in bytes are.
 */
import {stat, mkdir} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {Measures} from '../../data/loader/measure-images.js'
import type {ImageList} from '../../data/sources/image-table.js'
import type {ImageRef} from '../../data/sources/source.js'
import {
  createEmbeddings,
  openEmbeddings,
  provenanceDifferences,
  type EmbeddingBatch,
  type EmbeddingMeta
} from '../../files/embeddings/embeddings.js'
import {MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {byteLengthOf, isPerceptual, measuresOf} from './feature-meta.js'

const cacheFile = (folder: string, meta: EmbeddingMeta): string =>
  join(folder, `${isPerceptual(meta) ? 'perceptual' : (meta.fingerprint ?? 'unknown').slice(0, 16)}.arrow`)

export type FeatureFile = {
  readonly rows: MatrixRows
  readonly count: number
  /** The row of an image; undefined where it is not there, or the image has another length. */
  find(ref: ImageRef): number | undefined
  measures(row: number): Measures
  close(): void
}

/**
 * Opens the file of these features; undefined where there is none. Its vectors take `budget` bytes of memory at most.
 * Throws `UserError` (exit 2) where the file was made in another way.
 */
export async function openFeatureFile(folder: string, meta: EmbeddingMeta, budget: number): Promise<FeatureFile | undefined> {
  const path = cacheFile(folder, meta)
  if (!(await stat(path).catch(() => undefined))) return undefined
  const source = await openEmbeddings(path)
  const parts = provenanceDifferences(source.meta, {...meta, normalized: !isPerceptual(meta)}, {ignoreLength: true})
  if (parts.length > 0) {
    await source.close()
    throw new UserError(`${path} keeps features that were made in another way (${parts.join(', ')}).`, {
      exit: 2,
      code: 'CACHE_DIFFERS',
      hint: 'Name another folder with --cache, or remove that file.'
    })
  }
  const builder = new MatrixBuilder(meta.dim, budget)
  const rowOf = new Map<string, {row: number; bytes: number}>()
  const measures: (Measures | undefined)[] = []
  for await (const {ids, vectors, fields} of source.rows) {
    for (const [i, id] of ids.entries()) {
      rowOf.set(id, {row: builder.count + i, bytes: Number(fields[i]!['bytes'])})
      if (isPerceptual(meta)) measures.push(measuresOf(fields[i]!))
    }
    builder.append(vectors)
  }
  const rows = builder.finish()
  return {
    rows,
    count: rows.count,
    find(ref) {
      const kept = rowOf.get(ref.id)
      if (!kept || (isPerceptual(meta) && !measures[kept.row])) return undefined
      return kept.bytes === byteLengthOf(ref) ? kept.row : undefined
    },
    measures: row => measures[row]!,
    close: () => rows.close()
  }
}

/** Features of `images`: row i is of image number `good[i]`. */
type DescribedImages = {
  readonly images: ImageList
  readonly good: Int32Array
  readonly rows: MatrixRows
  readonly measures: readonly Measures[] | undefined
}

/** Writes the file of these features anew. */
export async function writeFeatureFile(
  folder: string,
  meta: EmbeddingMeta,
  {images, good, rows, measures}: DescribedImages
): Promise<void> {
  await mkdir(folder, {recursive: true})
  const output = await createEmbeddings(cacheFile(folder, meta), {
    meta: {...meta, normalized: !isPerceptual(meta)},
    force: true
  })
  for (let at = 0; at < good.length; at += 256) {
    const refs = Array.from(good.subarray(at, at + 256), i => images.at(i)!)
    const batch: EmbeddingBatch = {
      ids: refs.map(({id}) => id),
      vectors: Float32Array.from(rows.block(at, refs.length)),
      fields: refs.map((ref, i) => ({bytes: byteLengthOf(ref), ...measures?.[at + i]}))
    }
    await output.write(batch)
  }
  await output.commit()
}
