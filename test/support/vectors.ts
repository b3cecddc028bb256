/** Embedding files for tests: their metadata, rows in clusters, and writing them. */
import {batchOf, createEmbeddings, openEmbeddings, type EmbeddingMeta, type Row} from '../../src/files/embeddings/embeddings.js'
import {rng} from '../../src/tensor/random.js'

/** Metadata of vectors of `dim` numbers, with what a test wants changed. */
export const testMeta = (dim: number, change: Partial<EmbeddingMeta> = {}): EmbeddingMeta => ({
  fingerprint: 'a'.repeat(64),
  preprocessing: {resize: 256, crop: 224},
  pooling: 'cls',
  layers: 1,
  normalized: false,
  dim,
  toolVersion: '0.1.0',
  ...change
})

/** Rows number `from` to `from + n` of an endless set in `classes` clusters; ids are `folder/number.jpg`. */
export function clusteredRows(n: number, from: number, {dim, classes, folder}: {dim: number; classes: number; folder: string}): Row[] {
  return Array.from({length: n}, (_, j) => {
    const random = rng(5, 'row', from + j)
    const center = rng(5, 'centre', (from + j) % classes)
    return {
      id: `${folder}/${from + j}.jpg`,
      vector: Float32Array.from({length: dim}, () => center.normal() + 0.4 * random.normal()),
      fields: {label: `c${(from + j) % classes}`, odd: [from + j]}
    }
  })
}

/** Writes rows to a new embedding file, `batch` at a time. */
export async function writeEmbeddings(path: string, rows: readonly Row[], meta: EmbeddingMeta, batch = 64): Promise<string> {
  const output = await createEmbeddings(path, {meta, force: true})
  for (let at = 0; at < rows.length; at += batch) await output.write(batchOf(rows.slice(at, at + batch)))
  await output.commit()
  return path
}

/** Writes the rows of an embedding file to a new one, in the format that its name ends in. */
export async function copyEmbeddings(from: string, to: string): Promise<void> {
  const {meta, rows} = await openEmbeddings(from)
  const output = await createEmbeddings(to, {meta})
  for await (const batch of rows) await output.write(batch)
  await output.commit()
}
