/**
 * Decodes one Parquet file in a thread of its own: what makes the WebAssembly decoder trap, or run without end, ends
 * this thread and nothing else.
 *
 * Asked by any message, it answers first with what the file says of itself, then with one stretch of rows a message,
 * as bytes of an Arrow stream.
 */
import {openAsBlob} from 'node:fs'
import {parentPort, workerData} from 'node:worker_threads'
import {ParquetFile} from 'parquet-wasm'
import type {ParquetAnswer, ParquetJob} from './parquet.js'

type WasmBatch = ReturnType<import('parquet-wasm').Table['recordBatches']>[number]

const {path, batchRows} = workerData as ParquetJob

async function* answers(): AsyncGenerator<ParquetAnswer> {
  const file = await ParquetFile.fromFile(await openAsBlob(path))
  const figures = file.metadata().fileMetadata()
  const metadata = [...figures.keyValueMetadata()] as [string, string][]
  yield {kind: 'opened', count: figures.numRows(), writer: figures.createdBy() ?? '', metadata, schema: file.schema().intoIPCStream()}
  const batches = (await file.stream({batchSize: batchRows})) as unknown as AsyncIterable<WasmBatch>
  for await (const batch of batches) yield {kind: 'rows', bytes: batch.intoIPCStream()}
  yield {kind: 'end'}
}

const all = answers()
parentPort!.postMessage({kind: 'ready'} satisfies ParquetAnswer)
parentPort!.on('message', () => {
  all.next().then(
    ({value}) => parentPort!.postMessage(value),
    (error: unknown) => parentPort!.postMessage({kind: 'failed', why: error instanceof Error ? error.message : String(error)})
  )
})
