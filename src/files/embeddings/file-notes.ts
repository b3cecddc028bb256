/** What is said on stderr of a file of embeddings that is read as it is, although its user may not mean it so. */
import {noteOnStderr} from '../../system/compile.js'
import type {EmbeddingBatch} from './rows.js'

/** Notes that were given, each once for a file: a command may open one several times. */
const said = new Set<string>()
const MOST = 100

function noteOnce(kind: string, file: string, sentence: string): void {
  const key = `${kind} ${file}`
  if (said.has(key) || said.size >= MOST) return
  said.add(key)
  noteOnStderr(`${file} ${sentence}`)
}

/** Says that the rows of `file` are numbered, by which lists join; `columns` are those that could name them. */
export function noteNumbered(file: string, columns: readonly string[]): void {
  const rename = `; where one of these names the images, rename it to id: ${columns.slice(0, 6).join(', ')}${columns.length > 6 ? ', …' : ''}`
  noteOnce('numbered', file, `has no column id, so its rows are numbered from 0${columns.length === 0 ? '' : rename}`)
}

/**
 * The same rows; says at their end how many vectors are all zeros, which have no direction. Searches count cosine
 * similarities to them as 0, and where copies are looked for, equal rows are copies.
 */
export async function* notingZeros(rows: AsyncGenerator<EmbeddingBatch>, file: string): AsyncGenerator<EmbeddingBatch> {
  let zeros = 0
  let first = ''
  for await (const batch of rows) {
    const {ids, vectors} = batch
    const D = vectors.length / ids.length
    for (let row = 0; row < ids.length; row++) {
      if (!isZero(vectors, row * D, D)) continue
      if (zeros === 0) first = ids[row]!
      zeros++
    }
    yield batch
  }
  if (zeros > 0)
    noteOnce(
      'zeros',
      file,
      `holds ${zeros === 1 ? 'a vector of zeros' : `${zeros} vectors of zeros`} (${zeros === 1 ? 'that' : 'the first is that'} of ${first}), which have no direction: ` +
        'a cosine similarity to one counts as 0, and several are taken for copies of each other. Leave them out, or make them again'
    )
}

function isZero(vectors: Float32Array, from: number, length: number): boolean {
  for (let d = from; d < from + length; d++) if (vectors[d] !== 0) return false
  return length > 0
}
