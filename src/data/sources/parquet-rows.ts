/** Lists that name rows of Parquet files (`{"path": "train.parquet", "row": 17}`), as `curate` writes them. */
import type {ImageRef} from './image-ref.js'
import {ParquetImages} from './parquet.js'

/** Rows that are read at once: their images are held. */
const AT_ONCE = 32
/** Files that are open at once. */
const OPEN = 4

/** Gives the images of a list that are rows of Parquet files their bytes; all others pass as they are. */
export async function* withParquetRows(chunks: AsyncIterable<ImageRef[]>): AsyncGenerator<ImageRef[]> {
  const files = new Map<string, ParquetImages>()
  try {
    for await (const chunk of chunks) {
      if (!chunk.some(needsRow)) {
        yield chunk
        continue
      }
      for (let i = 0; i < chunk.length; i += AT_ONCE) yield await readRows(chunk.slice(i, i + AT_ONCE), files)
    }
  } finally {
    for (const file of files.values()) await file.close()
  }
}

const needsRow = ({row, bytes}: ImageRef): boolean => row !== undefined && !bytes

async function openFile(path: string, files: Map<string, ParquetImages>): Promise<ParquetImages> {
  const file = files.get(path) ?? (await ParquetImages.open(path, path))
  files.delete(path)
  files.set(path, file)
  if (files.size > OPEN) {
    const [oldest, other] = files.entries().next().value!
    files.delete(oldest)
    await other.close()
  }
  return file
}

async function readRows(refs: readonly ImageRef[], files: Map<string, ParquetImages>): Promise<ImageRef[]> {
  const found = [...refs]
  const paths = new Set(refs.filter(needsRow).map(({path}) => String(path)))
  for (const path of paths) {
    const places = refs.flatMap((ref, i) => (needsRow(ref) && ref.path === path ? [i] : []))
    const numbers = [...new Set(places.map(i => refs[i]!.row!))].sort((a, b) => a - b)
    try {
      const rows = await (await openFile(path, files)).rows(numbers)
      for (const i of places) {
        const {row} = refs[i]!
        const image = rows[numbers.indexOf(row!)]?.image
        found[i] = image ? {...refs[i]!, bytes: image} : {...refs[i]!, problem: `row ${row} of ${path} has no image`}
      }
    } catch (error) {
      await files.get(path)?.close()
      files.delete(path)
      const {code, message} = error as NodeJS.ErrnoException
      const problem = code === 'ENOENT' ? `there is no file ${path}` : `${path} cannot be read (${message.replace(/\.$/, '')})`
      for (const i of places) found[i] = {...refs[i]!, problem}
    }
  }
  return found
}
