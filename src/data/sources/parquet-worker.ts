/**
 * Decodes the images of one Parquet file in a thread of its own: what makes the WebAssembly decoder trap, or run
 * without end, ends this thread and nothing else.
 */
import {openAsBlob} from 'node:fs'
import {parentPort, workerData} from 'node:worker_threads'
import {tableFromIPC} from 'apache-arrow'
import {ParquetFile} from 'parquet-wasm'
import {columnsOf, parquetRows, type ParquetColumns, type ParquetRow} from './parquet-columns.js'
import type {ParquetImagesAnswer, ParquetImagesJob, ParquetImagesRequest} from './parquet.js'

type WasmBatch = ReturnType<import('parquet-wasm').Table['recordBatches']>[number]

const {path, name, batchRows} = workerData as ParquetImagesJob

/** Rows that lie closer together than this are read at once. */
const MAX_SPAN = 64

type Opened = {readonly file: ParquetFile; readonly columns: ParquetColumns; readonly names: string[]; readonly groups: readonly number[]}
let opened: Opened | undefined
let batches: AsyncIterator<WasmBatch> | undefined

async function open(): Promise<ParquetImagesAnswer> {
  const file = await ParquetFile.fromFile(await openAsBlob(path))
  const metadata = file.metadata()
  const figures = metadata.fileMetadata()
  const {schema} = tableFromIPC(file.schema().intoIPCStream())
  const columns = columnsOf(schema, figures.keyValueMetadata() as Map<string, string>, name)
  if (typeof columns === 'string') return {kind: 'none', why: columns}
  const names = [columns.image, ...(columns.id === undefined ? [] : [columns.id]), ...columns.fields.map(({column}) => column)]
  opened = {file, columns, names, groups: metadata.rowGroups().map(group => group.numRows())}
  return {kind: 'opened', count: figures.numRows(), left: columns.left}
}

async function next({file, columns, names}: Opened): Promise<ParquetImagesAnswer> {
  batches ??= ((await file.stream({batchSize: batchRows, columns: names})) as unknown as AsyncIterable<WasmBatch>)[Symbol.asyncIterator]()
  const batch = await batches.next()
  return batch.done ? {kind: 'end'} : {kind: 'rows', rows: parquetRows(tableFromIPC(batch.value.intoIPCStream()), columns)}
}

/** Rows `from` to `to` (excluded), which lie in one row group. */
async function stretch({file, columns, groups}: Opened, from: number, to: number): Promise<ParquetRow[]> {
  let group = 0
  let begin = 0
  while (group < groups.length && begin + groups[group]! <= from) begin += groups[group++]!
  if (group === groups.length) return []
  const limit = Math.min(to, begin + groups[group]!) - from
  const table = await file.read({rowGroups: [group], columns: [columns.image], offset: from - begin, limit, batchSize: limit})
  const found = parquetRows(tableFromIPC(table.intoIPCStream()), {...columns, id: undefined, fields: []})
  return from + limit < to ? [...found, ...(await stretch(opened!, from + limit, to))] : found
}

/** The images of rows, by their numbers in rising order. */
async function some(rows: readonly number[]): Promise<ParquetImagesAnswer> {
  const found: (ParquetRow | undefined)[] = []
  for (let i = 0; i < rows.length;) {
    let j = i + 1
    while (j < rows.length && rows[j]! - rows[i]! < MAX_SPAN) j++
    const read = await stretch(opened!, rows[i]!, rows[j - 1]! + 1)
    for (let k = i; k < j; k++) found.push(read[rows[k]! - rows[i]!])
    i = j
  }
  return {kind: 'some', rows: found}
}

async function answer(request: ParquetImagesRequest): Promise<ParquetImagesAnswer> {
  try {
    if (request === 'open') return await open()
    return request === 'next' ? await next(opened!) : await some(request.rows)
  } catch (error) {
    return {kind: 'failed', why: error instanceof Error ? error.message : String(error)}
  }
}

parentPort!.postMessage('ready')
parentPort!.on('message', (request: ParquetImagesRequest) => {
  void answer(request).then(reply => {
    const rows = reply.kind === 'rows' || reply.kind === 'some' ? reply.rows : []
    const buffers = rows.flatMap(row => (row?.image ? [row.image.buffer as ArrayBuffer] : []))
    parentPort!.postMessage(reply, buffers)
  })
})
