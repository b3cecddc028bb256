/**
 * A Parquet file as the WebAssembly decoder reads it. It traps on some damaged files and comes to no end on others, so
 * this is for threads that may be ended (`guarded-worker.ts`).
 */
import {openAsBlob} from 'node:fs'
import {ParquetFile, wasmMemory} from 'parquet-wasm'

type WasmBatch = ReturnType<import('parquet-wasm').Table['recordBatches']>[number]
type StreamOptions = {readonly batchSize: number; readonly columns?: string[]}

/** The decoder's memory never becomes smaller: above this another decoder reads the next file. */
const MAX_MEMORY = 256 << 20

export class OpenParquet {
  #batches: AsyncIterator<WasmBatch> | undefined

  private constructor(readonly file: ParquetFile) {}

  static async open(path: string): Promise<OpenParquet> {
    return new OpenParquet(await ParquetFile.fromFile(await openAsBlob(path)))
  }

  /** The next rows as bytes of an Arrow stream; undefined after the last. `options` count the first time. */
  async next(options: StreamOptions): Promise<Uint8Array | undefined> {
    this.#batches ??= ((await this.file.stream(options)) as unknown as AsyncIterable<WasmBatch>)[Symbol.asyncIterator]()
    const batch = await this.#batches.next()
    return batch.done === true ? undefined : batch.value.intoIPCStream()
  }

  /** Gives back what the decoder holds of the file; false where it has taken much memory. */
  async close(): Promise<boolean> {
    await this.#batches?.return?.()
    this.file.free()
    return (wasmMemory() as {readonly buffer: ArrayBuffer}).buffer.byteLength <= MAX_MEMORY
  }
}
