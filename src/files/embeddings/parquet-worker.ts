/**
 * Decodes Parquet files of embeddings in a thread of their own. Asked for the next answer, it says first what the file
 * says of itself, then one stretch of rows a request, as bytes of an Arrow stream.
 */
import {serveSessions} from '../../system/guarded-sessions.js'
import {OpenParquet} from '../../system/parquet-file.js'
import type {ParquetAnswer, ParquetJob} from './parquet.js'

serveSessions<ParquetJob, 'next', ParquetAnswer>(({path, batchRows}) => {
  let opened: OpenParquet | undefined
  return {
    async answer() {
      if (opened) {
        const bytes = await opened.next({batchSize: batchRows})
        return bytes ? {kind: 'rows', bytes} : {kind: 'end'}
      }
      opened = await OpenParquet.open(path)
      const figures = opened.file.metadata().fileMetadata()
      const metadata = [...figures.keyValueMetadata()] as [string, string][]
      const schema = opened.file.schema().intoIPCStream()
      return {kind: 'opened', count: figures.numRows(), writer: figures.createdBy() ?? '', metadata, schema}
    },
    close: async () => opened?.close() ?? true
  }
})
