/**
 * Images inside Parquet files, as Hugging Face datasets and webdataset converters write them: a struct of `bytes` and
 * `path`, or a column of bytes. Other columns ride along; labels of the dataset's classes come by name.
 *
 * Rows are decoded some at a time, in a thread that a damaged file cannot take the program down with. Each image
 * brings its bytes along and says its row, by which it is read again.
 */
import {dirname, isAbsolute, resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import {GuardedWorker} from '../../system/guarded-worker.js'
import {problemRef, refOf, type ImageRef, type SourceNote} from './image-ref.js'
import type {ParquetRow} from './parquet-columns.js'

export type ParquetImagesJob = {readonly path: string; readonly name: string; readonly batchRows: number}
export type ParquetImagesRequest = 'open' | 'next' | {readonly rows: readonly number[]}
export type ParquetImagesAnswer =
  | {readonly kind: 'opened'; readonly count: number; readonly left: readonly string[]}
  | {readonly kind: 'none'; readonly why: string}
  | {readonly kind: 'rows'; readonly rows: readonly ParquetRow[]}
  | {readonly kind: 'some'; readonly rows: readonly (ParquetRow | undefined)[]}
  | {readonly kind: 'end'}

/** Images are large: so many are decoded at once. */
const ROWS = 16

/** A damaged file, as an error inside: the reader turns it into a problem that is counted. */
class DamagedParquet extends Error {}

/** One opened Parquet file of images. */
export class ParquetImages {
  private constructor(
    readonly count: number,
    /** Columns of bytes that do not ride along. */
    readonly left: readonly string[],
    readonly worker: GuardedWorker<ParquetImagesRequest, ParquetImagesAnswer>
  ) {}

  /** Opens a file. Throws `UserError` (exit 2) where it has no images, `DamagedParquet` where it cannot be read. */
  static async open(path: string, name: string): Promise<ParquetImages> {
    const job: ParquetImagesJob = {path, name, batchRows: ROWS}
    const worker = await GuardedWorker.start<ParquetImagesRequest, ParquetImagesAnswer>({
      module: new URL('./parquet-worker.js', import.meta.url),
      job,
      path,
      purpose: 'Reading Parquet',
      failure: why => new DamagedParquet(why)
    })
    try {
      const answer = await worker.ask('open')
      if (answer.kind === 'none')
        throw new UserError(`${answer.why}.`, {
          exit: 2,
          code: 'NO_IMAGES',
          hint: 'Images are a column of encoded bytes or a struct of bytes and path; embeddings go to index, search and the evaluations.'
        })
      if (answer.kind !== 'opened') throw new DamagedParquet('its decoder fails')
      if (!Number.isSafeInteger(answer.count) || answer.count < 0) throw new DamagedParquet(`it counts ${answer.count} rows`)
      return new ParquetImages(answer.count, answer.left, worker)
    } catch (error) {
      await worker.close()
      throw error
    }
  }

  /** The next rows, in order; undefined after the last. */
  async next(): Promise<readonly ParquetRow[] | undefined> {
    const answer = await this.worker.ask('next')
    if (answer.kind === 'rows') return answer.rows
    if (answer.kind === 'end') return undefined
    throw new DamagedParquet('its decoder fails')
  }

  /** The images of rows, by number in rising order; undefined for rows that there are not. */
  async rows(numbers: readonly number[]): Promise<readonly (ParquetRow | undefined)[]> {
    const answer = await this.worker.ask({rows: numbers})
    if (answer.kind === 'some') return answer.rows
    throw new DamagedParquet('its decoder fails')
  }

  close(): Promise<void> {
    return this.worker.close()
  }
}

/** Whether a Parquet file holds images or paths of images rather than vectors; false too where it cannot be read. */
export async function holdsImages(path: string): Promise<boolean> {
  try {
    await (await ParquetImages.open(path, path)).close()
    return true
  } catch {
    return false
  }
}

/** The image of one row; `shown` and `open` name the file. */
function refOfRow({image, path, id, fields}: ParquetRow, row: number, shown: string, open: string): ImageRef {
  const name = id ?? `${shown}/${row}`
  if (image) {
    const riding = path === undefined || 'file_name' in fields ? fields : {...fields, file_name: path}
    return {id: name, path: open, fields: riding, bytes: image, row}
  }
  if (path === undefined) return problemRef(name, open, `row ${row} of ${shown} has no image`)
  if (path.includes('\0')) return problemRef(name, open, `row ${row} of ${shown} has a NUL inside its path`)
  const base = dirname(resolve(open))
  return {...refOf(path, isAbsolute(path) ? path : resolve(base, path), fields), base, ...(id === undefined ? {} : {id})}
}

/**
 * Yields the images of a Parquet file, some at a time, in its order. A file that is damaged comes as a problem behind
 * the rows that could be read. Throws `UserError` (exit 2) where it has no column of images.
 */
export async function* readParquetImages(shown: string, open: string, note: (note: SourceNote) => void): AsyncGenerator<ImageRef[]> {
  let images: ParquetImages | undefined
  let row = 0
  let problem: string | undefined
  try {
    images = await ParquetImages.open(open, shown)
    for (const column of images.left)
      note({kind: 'skipped', path: `${shown}, column ${column}`, reason: 'columns of bytes do not ride along'})
    for (let rows = await images.next(); rows; rows = await images.next()) yield rows.map(found => refOfRow(found, row++, shown, open))
    if (row !== images.count) problem = `it counts ${images.count} rows, but has ${row}`
  } catch (error) {
    if (error instanceof UserError) throw error
    problem = (error as Error).message
  } finally {
    await images?.close()
  }
  if (problem !== undefined) yield [problemRef(shown, open, `the Parquet file is damaged after ${row} rows (${problem})`)]
}
