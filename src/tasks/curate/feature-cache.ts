/**
 * Features of images kept from run to run: one file of embeddings in a folder for each kind, and files of the parts
 * that several processes computed (--shard). An image counts as the same while its id and its length in bytes are.
 */
import {readdir, stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {Measures} from '../../data/loader/measure-images.js'
import type {ImageList} from '../../data/sources/image-table.js'
import type {ImageRef} from '../../data/sources/source.js'
import {
  createEmbeddings,
  isPerceptual,
  openAll,
  openEmbeddings,
  provenanceDifferences,
  type EmbeddingBatch,
  type EmbeddingMeta,
  type Embeddings,
  type Shard
} from '../../files/embeddings/embeddings.js'
import {MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {byteLengthOf, measuresOf} from './feature-meta.js'
import {makeFolders} from '../../system/make-folders.js'

const cacheName = (meta: EmbeddingMeta): string => (isPerceptual(meta) ? 'perceptual' : (meta.fingerprint ?? 'unknown').slice(0, 16))

/** The file of these features: of all images, or of those of a shard. */
export const cacheFile = (folder: string, meta: EmbeddingMeta, shard?: Shard): string =>
  join(folder, `${cacheName(meta)}${shard ? `.shard-${shard.index}-of-${shard.count}` : ''}.arrow`)

/** The files of parts of these features. */
async function partFiles(folder: string, meta: EmbeddingMeta): Promise<string[]> {
  const names = await readdir(folder).catch(() => [])
  const begin = `${cacheName(meta)}.shard-`
  return names
    .filter(name => name.startsWith(begin) && name.endsWith('.arrow'))
    .sort()
    .map(name => join(folder, name))
}

const isThere = async (path: string): Promise<boolean> => (await stat(path).catch(() => undefined)) !== undefined

export type FeatureFile = {
  readonly rows: MatrixRows
  readonly count: number
  /** The row of an image; undefined where it is not there, or the image has another length. */
  find(ref: ImageRef): number | undefined
  measures(row: number): Measures
  close(): void
}

/** Opens what a folder keeps of these features: the file of all images, then the parts. */
async function* openKept(folder: string, meta: EmbeddingMeta, shard: Shard | undefined): AsyncGenerator<Embeddings> {
  const whole = cacheFile(folder, meta)
  if (await isThere(whole)) yield openEmbeddings(whole)
  if (shard) {
    const own = cacheFile(folder, meta, shard) // others may still be at work on theirs
    if (await isThere(own)) yield openEmbeddings(own)
    return
  }
  const parts = await partFiles(folder, meta)
  if (parts.length > 0) yield openAll(parts, {ignoreLength: true})
}

/** Throws a `UserError` (exit 2) where kept features were made in another way. */
function assertSameMaking({name, meta: kept}: Embeddings, meta: EmbeddingMeta): void {
  const parts = provenanceDifferences(kept, {...meta, normalized: !isPerceptual(meta)}, {ignoreLength: true})
  if (parts.length > 0)
    throw new UserError(`${name} keeps features that were made in another way (${parts.join(', ')}).`, {
      exit: 2,
      code: 'CACHE_DIFFERS',
      hint: 'Name another folder with --cache, or remove that file.'
    })
}

/**
 * Opens what is kept of these features; undefined where nothing is. Its vectors take `budget` bytes of memory at most.
 * A process that computes a shard reads no shard but its own. Throws `UserError` (exit 2) where a file was made in
 * another way, or a shard is missing, is there twice, or is one of another list.
 */
export async function openFeatureFile(
  folder: string,
  meta: EmbeddingMeta,
  budget: number,
  shard?: Shard
): Promise<FeatureFile | undefined> {
  const builder = new MatrixBuilder(meta.dim, budget)
  const rowOf = new Map<string, {row: number; bytes: number}>()
  const measures: (Measures | undefined)[] = []
  let opened = 0
  for await (const source of openKept(folder, meta, shard))
    try {
      opened++
      assertSameMaking(source, meta)
      for await (const {ids, vectors, fields} of source.rows) {
        for (const [i, id] of ids.entries()) {
          rowOf.set(id, {row: builder.count + i, bytes: Number(fields[i]!['bytes'])})
          if (isPerceptual(meta)) measures.push(measuresOf(fields[i]!))
        }
        builder.append(vectors)
      }
    } finally {
      await source.close()
    }
  const rows = builder.finish()
  if (opened === 0) return void rows.close()
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

/** Writes the file of these features anew, or that of a shard. */
export async function writeFeatureFile(
  folder: string,
  meta: EmbeddingMeta,
  {images, good, rows, measures}: DescribedImages,
  shard?: Shard
): Promise<void> {
  await makeFolders(folder)
  const output = await createEmbeddings(cacheFile(folder, meta, shard), {
    meta: {...meta, normalized: !isPerceptual(meta), ...(shard && {shard})},
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
