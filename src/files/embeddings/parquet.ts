/**
 * Embeddings as Parquet: the same columns as the Arrow stream, in row groups of 2,048 rows, uncompressed (float
 * vectors do not compress).
 *
 * parquet-wasm takes the record batches and writes each row group as it fills, so memory does not grow with the rows;
 * the schema that it stores beside the data keeps the fixed-size list, and the record of how the vectors were made
 * stands in the key-value metadata under `dinov2`, with number and checksums of the rows. Fields of later rows for
 * which there is no column stand as JSON between the last row group and the table of contents. hyparquet-writer was
 * tried: it cannot mark the list as fixed, and it shreds every vector through nested arrays (20,000 rows of 384: 2.9 s
 * and 300 MB against 1.2 s and 120 MB). Parquet keeps its table of contents at the end, so a file that was cut off
 * cannot be continued.
 */
import {UserError} from '../../config/errors.js'
import {GuardedWorker} from '../../system/guarded-worker.js'
import {isObject, jsonObjectOr, type JsonObject} from '../../system/json.js'
import {openPlain} from '../../system/plain-file.js'
import {readAt, type Sink} from './bytes.js'
import {planTable, splitFields, type TableColumns} from './columns.js'
import {ContentCheck} from './content-check.js'
import {withPath} from './spool.js'
import type {EmbeddingWriter, Format, OpenedRows} from './format.js'
import {metaFromJson, metaToJson, recordCheck, unknownProvenance, type EmbeddingMeta} from './provenance.js'
import {withVectorLength, type EmbeddingBatch} from './rows.js'

const rowGroup = 2048
/** A row group is held in memory until it is full, so long rows (patch tokens) make shorter groups: 32 MB at most. */
const rowsPerGroup = (dim: number): number => Math.max(1, Math.min(rowGroup, Math.floor((32 << 20) / (4 * Math.max(1, dim)))))

type WasmBatch = ReturnType<import('parquet-wasm').Table['recordBatches']>[number]

/** The key in the record under which number and checksums of the rows stand. */
const CHECK_KEY = 'check'

// ---- writing ------------------------------------------------------------------------------------------------------

/**
 * Passes bytes on to `sink`; after `close` is called, keeps them, so that the checksum can be set in the table of
 * contents before it goes out.
 */
class TailSink {
  #tail: Uint8Array[] | undefined

  constructor(readonly sink: Sink) {}

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#tail) this.#tail.push(bytes)
    else await this.sink.write(bytes)
  }

  hold(): void {
    this.#tail ??= []
  }

  /**
   * Writes what was kept, with `text` in the place of `placeholder`, which is as long, and `before` in front of the
   * table of contents, where other readers do not look.
   */
  async end(placeholder: string, text: string, before: Uint8Array): Promise<void> {
    const bytes = Buffer.concat(this.#tail ?? [])
    for (let at = bytes.lastIndexOf(placeholder); at >= 0; at = bytes.lastIndexOf(placeholder, at - 1)) {
      bytes.write(text, at, 'latin1')
      if (at === 0) break
    }
    const contents = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8)
    await this.sink.write(Buffer.concat([bytes.subarray(0, contents), before, bytes.subarray(contents)]))
  }
}

/** Ends the block of fields that no column holds; its length stands before it. */
const LATE_MAGIC = 'DINOFLDS'

/**
 * Fields that no column holds as JSON by their row, in a block that is found from its end; nothing where there are
 * none.
 */
function lateBlock(members: readonly string[]): Buffer {
  if (members.length === 0) return Buffer.alloc(0)
  const json = Buffer.from(`{${members.join(',')}}`)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(json.length)
  return Buffer.concat([json, length, Buffer.from(LATE_MAGIC)])
}

/** Writes batches to `sink`; the table of contents comes with `finish`. */
function parquetWriter(sink: Sink, meta: EmbeddingMeta): EmbeddingWriter {
  let table: TableColumns | undefined
  const late: string[] = []
  let input: WritableStreamDefaultWriter<WasmBatch> | undefined
  let pumped: Promise<void> | undefined
  const check = new ContentCheck()
  const text = (): string => `${check.toString()} record=${recordCheck(meta)}`
  const placeholder = text()
  const output = new TailSink(sink)

  const begin = async (first: EmbeddingBatch['fields']): Promise<void> => {
    table = planTable(first)
    const {Compression, EnabledStatistics, transformParquetStream, WriterPropertiesBuilder} = await import('parquet-wasm')
    const properties = new WriterPropertiesBuilder()
      .setCompression(Compression.UNCOMPRESSED)
      .setDictionaryEnabled(false)
      .setStatisticsEnabled(EnabledStatistics.None)
      .setMaxRowGroupSize(rowsPerGroup(meta.dim))
      .setCreatedBy(`dinov2 ${meta.toolVersion ?? ''}`.trim())
      // one key: more come in any order
      .setKeyValueMetadata(new Map([['dinov2', `${metaToJson(meta).slice(0, -1)},"${CHECK_KEY}":"${placeholder}"}`]]))
      .build()
    const {readable, writable} = new TransformStream<WasmBatch, WasmBatch>()
    input = writable.getWriter()
    // The stream of bytes only appears once a first batch gave the writer its schema, so it is pumped beside the
    // writing.
    pumped = (async () => {
      const bytes = (await transformParquetStream(readable, properties)) as unknown as AsyncIterable<Uint8Array>
      for await (const chunk of bytes) await output.write(chunk)
    })()
    pumped.catch(error => input!.abort(error).catch(() => {})) // so that a failed sink does not leave `write` waiting
  }
  const send = async (batch: EmbeddingBatch): Promise<void> => {
    const [{Table}, {encodeStream}] = await Promise.all([import('parquet-wasm'), import('./arrow/write.js')])
    const encoded = Table.fromIPCStream(encodeStream(meta, table!, [batch]))
    const [first] = encoded.recordBatches()
    encoded.free()
    await input!.write(first!)
  }
  return {
    async write(batch) {
      if (!table) await begin(batch.fields)
      if (!table!.hasExtra)
        for (const [i, fields] of batch.fields.entries()) {
          const {extra} = splitFields(table!.columns, fields)
          if (extra !== null) late.push(`"${check.rows + i}":${extra}`)
        }
      check.add(batch)
      await Promise.race([send(batch), pumped!.then(() => {})])
    },
    async finish() {
      if (!table) {
        await begin([])
        await send({ids: [], vectors: new Float32Array(0), fields: []})
      }
      output.hold()
      await input!.close()
      await pumped
      await output.end(placeholder, text(), lateBlock(late))
    }
  }
}

// ---- reading ------------------------------------------------------------------------------------------------------

/** What the decoding thread is given, and what it answers. */
export type ParquetJob = {readonly path: string; readonly batchRows: number}
export type ParquetAnswer =
  | {
      readonly kind: 'opened'
      readonly count: number
      readonly writer: string
      readonly metadata: readonly (readonly [string, string])[]
      readonly schema: Uint8Array
    }
  | {readonly kind: 'rows'; readonly bytes: Uint8Array}
  | {readonly kind: 'end'}

const damaged = (name: string, why: string, cause?: unknown): UserError =>
  new UserError(`${name} is not a whole Parquet file: ${why}.`, {
    code: 'EMBEDDINGS_DAMAGED',
    hint: 'It was cut off or changed; write it again.',
    cause
  })

/** The decoder of the file at `path`, in a thread of its own. */
function startDecoder(path: string, name: string): Promise<GuardedWorker<'next', ParquetAnswer>> {
  const job: ParquetJob = {path, batchRows: 256}
  const module = new URL('./parquet-worker.js', import.meta.url)
  const failure = (why: string, cause?: unknown): UserError => damaged(name, why, cause)
  return GuardedWorker.start({module, job, path, purpose: 'Reading Parquet', failure})
}

/** The table of contents of a file with a record, as far as this is looked for. */
const MAX_CONTENTS = 16 << 20

/** Parts of a record as it is written; files of other programs may have one of them by chance. */
const RECORD_PARTS = [`"${CHECK_KEY}":"rows=`, ' names=', ' vectors=', ' record=', '"toolVersion":"', '"fingerprint":"']
const holdsParts = (contents: Buffer): boolean => RECORD_PARTS.filter(part => contents.includes(part)).length > 1

/**
 * What stands at the end of a file, whatever the decoder makes of it: whether the table of contents holds the bytes of
 * our record or fields stand before it, and those fields, which no column holds, by their row.
 */
async function tailOf(path: string, name: string): Promise<{readonly holdsRecord: boolean; readonly late: JsonObject}> {
  const handle = await openPlain(path)
  try {
    const {size} = await handle.stat()
    const end = await readAt(handle, Math.max(0, size - 8), Math.min(8, size))
    const length = Math.min(end.length === 8 ? end.readUInt32LE(0) : 0, MAX_CONTENTS, Math.max(0, size - 8))
    const holdsRecord = holdsParts(await readAt(handle, size - 8 - length, length))
    const at = size - 8 - length - 12
    const mark = at > 0 ? await readAt(handle, at, 12) : Buffer.alloc(0)
    if (mark.toString('latin1', 4) !== LATE_MAGIC) return {holdsRecord, late: {}}
    const bytes = Math.min(mark.readUInt32LE(0), at)
    const late = jsonObjectOr((await readAt(handle, at - bytes, bytes)).toString('utf8'))
    if (!late || !Object.values(late).every(isObject)) throw damaged(name, 'its fields that fit no column are not JSON')
    return {holdsRecord: true, late}
  } finally {
    await handle.close()
  }
}

/** Reads the file at `path`, some rows at a time. Throws `UserError` when it is damaged or has no vectors. */
async function readParquet(path: string, name: string): Promise<OpenedRows> {
  const {readBatches, readLayout} = await import('./arrow/read.js')
  const decoder = await startDecoder(path, name)
  try {
    const opened = await decoder.ask('next')
    if (opened.kind !== 'opened') throw damaged(name, 'its decoder fails')
    const metadata = new Map(opened.metadata)
    const record = metadata.get('dinov2')
    const {count} = opened
    const {holdsRecord, late} = await tailOf(path, name)
    if (record === undefined && (opened.writer.startsWith('dinov2 ') || holdsRecord))
      throw damaged(name, 'its record of how its vectors were made is gone')
    if (!Number.isSafeInteger(count) || count < 0) throw damaged(name, `it counts ${count} rows`)
    const layout = await readLayout(opened.schema, name, metadata)
    const meta = record === undefined ? undefined : metaFromJson(record, name)
    const said = (meta as {readonly [CHECK_KEY]?: unknown} | undefined)?.[CHECK_KEY]
    if (meta && said === undefined) throw damaged(name, 'its record has no checksum of its rows')
    const rows = async function* (): AsyncGenerator<EmbeddingBatch> {
      const check = new ContentCheck()
      const assertChecked = (): void => {
        if (meta && said !== `${check.toString()} record=${recordCheck(meta)}`) throw damaged(name, 'its rows do not match their checksum')
      }
      try {
        if (count === 0) assertChecked()
        for (let answer = await decoder.ask('next'); answer.kind === 'rows'; answer = await decoder.ask('next')) {
          for await (const read of readBatches(answer.bytes, layout, name, check.rows)) {
            const before = check.rows
            const batch = {...read, fields: read.fields.map((row, i) => ({...row, ...(late[before + i] as object | undefined)}))}
            check.add(batch)
            if (check.rows > count) throw damaged(name, `it counts ${count} rows, but has more`)
            // The last batch is only given once the checksum has been compared.
            if (check.rows === count) assertChecked()
            yield batch
          }
        }
        if (check.rows !== count) throw damaged(name, `it counts ${count} rows, but has ${check.rows}`)
      } finally {
        await decoder.close()
      }
    }
    const {dim, rows: all} = await withVectorLength(rows(), layout.dim, name)
    if (meta && meta.dim !== dim) throw damaged(name, `its record says ${meta.dim} numbers a row, but it has ${dim}`)
    return {meta: meta ?? unknownProvenance(dim), count, rows: all, close: () => decoder.close()}
  } catch (error) {
    await decoder.close()
    throw error
  }
}

export const parquet: Format<'parquet'> = {
  name: 'parquet',
  endings: ['.parquet', '.pq'],
  title: 'Parquet, fixed-size list of float32',
  streams: true,
  binary: true,
  begins: head => head.toString('latin1', 0, 4) === 'PAR1',
  open: source => withPath(source, path => readParquet(path, source.name)),
  write: async ({sink}, meta) => parquetWriter(sink, meta)
}
