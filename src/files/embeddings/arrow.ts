/**
 * Embeddings as an Apache Arrow IPC stream: `id` (utf8), one column a field, `extra` (JSON), `vector` (fixed-size
 * list of float32).
 *
 * The record of how the vectors were made stands in the schema's metadata under `dinov2`. A batch of rows is one
 * record batch, appended with a checksum of its own, so an interrupted file can be cut behind its last whole batch
 * and continued. Streams and files (Feather) of other programs are read as long as they have a column of number
 * lists; their plain columns become fields. The reader is our own, in `arrow/`, because a damaged length must never
 * be trusted.
 */
import {recoverArrow} from './arrow/recover.js'
import {MAGIC} from './arrow/messages.js'
import type {Format} from './format.js'
import {withPath} from './spool.js'

export const arrow: Format<'arrow'> = {
  name: 'arrow',
  endings: ['.arrow', '.arrows'],
  title: 'Apache Arrow IPC stream (the default on stdout)',
  streams: true,
  binary: true,
  begins: head => (head.length >= 4 && head.readInt32LE(0) === -1) || head.toString('latin1', 0, 6) === MAGIC,
  async open(source) {
    const [{readArrowFile, readArrowStream}, head] = await Promise.all([import('./arrow/read.js'), source.bytes.peek(6)])
    if (Buffer.from(head).toString('latin1') === MAGIC) return withPath(source, path => readArrowFile(path, source.name))
    return readArrowStream(source.bytes, source.name, source.size)
  },
  async write({sink}, meta, begun) {
    const {arrowWriter} = await import('./arrow/write.js')
    return arrowWriter(sink, meta, begun)
  },
  recover: ({partial}) => recoverArrow(partial)
}
