/** An input that names one image inside another file: `photos.tgz/cat/1`, `photos.parquet/17`. */
import {containerOf, isParquetName} from './container-names.js'
import {problemRef, refOf, type ImageRef} from './image-ref.js'

/** The image as a list of its own; `open` is the same name from the root of the file system or the present folder. */
export async function* memberAlone(given: string, open: string): AsyncGenerator<ImageRef[]> {
  const container = containerOf(open)!
  const key = open.slice(container.length + 1)
  if (!isParquetName(container)) yield [refOf(given, open)]
  else if (/^\d+$/.test(key)) yield [{...refOf(given, container), row: Number(key)}]
  else yield [problemRef(given, open, `rows of ${container} are named by their numbers, not by ${key}`)]
}
