/** Decodes the images of Parquet files in a thread of their own. */
import {tableFromIPC} from 'apache-arrow'
import {serveSessions, type Session} from '../../system/guarded-sessions.js'
import {OpenParquet} from '../../system/parquet-file.js'
import {columnsOf, parquetRows, type ParquetColumns, type ParquetRow} from './parquet-columns.js'
import type {ParquetImagesAnswer, ParquetImagesJob, ParquetImagesRequest} from './parquet.js'

/** Rows that lie closer together than this are read at once. */
const MAX_SPAN = 64

/** The reading of one file. */
class ImageSession implements Session<ParquetImagesRequest, ParquetImagesAnswer> {
  #opened: OpenParquet | undefined
  #columns: ParquetColumns | undefined
  #groups: readonly number[] = []

  constructor(readonly job: ParquetImagesJob) {}

  async answer(request: ParquetImagesRequest): Promise<ParquetImagesAnswer> {
    if (request === 'open') return this.#open()
    return request === 'next' ? this.#next(this.#opened!, this.#columns!) : this.#some(request.rows)
  }

  async close(): Promise<boolean> {
    return this.#opened?.close() ?? true
  }

  async #open(): Promise<ParquetImagesAnswer> {
    this.#opened = await OpenParquet.open(this.job.path)
    const {file} = this.#opened
    const metadata = file.metadata()
    const figures = metadata.fileMetadata()
    const {schema} = tableFromIPC(file.schema().intoIPCStream())
    const columns = columnsOf(schema, figures.keyValueMetadata() as Map<string, string>, this.job.name)
    if (typeof columns === 'string') return {kind: 'none', why: columns}
    this.#columns = columns
    this.#groups = metadata.rowGroups().map(group => group.numRows())
    return {kind: 'opened', count: figures.numRows(), left: columns.left}
  }

  async #next(opened: OpenParquet, columns: ParquetColumns): Promise<ParquetImagesAnswer> {
    const names = [columns.image, ...(columns.id === undefined ? [] : [columns.id]), ...columns.fields.map(({column}) => column)]
    const bytes = await opened.next({batchSize: this.job.batchRows, columns: names})
    return bytes ? {kind: 'rows', rows: parquetRows(tableFromIPC(bytes), columns)} : {kind: 'end'}
  }

  /** Rows `from` to `to` (excluded). */
  async #stretch(from: number, to: number): Promise<ParquetRow[]> {
    const groups = this.#groups
    const columns = this.#columns!
    let group = 0
    let begin = 0
    while (group < groups.length && begin + groups[group]! <= from) begin += groups[group++]!
    if (group === groups.length) return []
    const limit = Math.min(to, begin + groups[group]!) - from
    const options = {rowGroups: [group], columns: [columns.image], offset: from - begin, limit, batchSize: limit}
    const table = await this.#opened!.file.read(options)
    const found = parquetRows(tableFromIPC(table.intoIPCStream()), {...columns, id: undefined, fields: []})
    return from + limit < to ? [...found, ...(await this.#stretch(from + limit, to))] : found
  }

  /** The images of rows, by their numbers in rising order. */
  async #some(rows: readonly number[]): Promise<ParquetImagesAnswer> {
    const found: (ParquetRow | undefined)[] = []
    for (let i = 0; i < rows.length;) {
      let j = i + 1
      while (j < rows.length && rows[j]! - rows[i]! < MAX_SPAN) j++
      const read = await this.#stretch(rows[i]!, rows[j - 1]! + 1)
      for (let k = i; k < j; k++) found.push(read[rows[k]! - rows[i]!])
      i = j
    }
    return {kind: 'some', rows: found}
  }
}

serveSessions<ParquetImagesJob, ParquetImagesRequest, ParquetImagesAnswer>(
  job => new ImageSession(job),
  answer => {
    const rows = answer.kind === 'rows' || answer.kind === 'some' ? answer.rows : []
    return rows.flatMap(row => (row?.image ? [row.image.buffer as ArrayBuffer] : []))
  }
)
