/**
 * Embedding files: one kind of rows, six formats (`formats.ts`), written and read as streams.
 *
 * Reading knows a format by its first bytes, from a file or from a pipe, and takes files of other programs too. An
 * output that can be continued grows as `OUT.partial`; when the run is interrupted, `resume` goes on behind the last
 * whole row.
 */
export * from './append.js'
export * from './formats.js'
export * from './open.js'
export * from './output.js'
export * from './provenance.js'
export {partialOf, type EmbeddingOutput} from './resumable.js'
export * from './rows.js'
export {shardName, type Shard} from './shards.js'
