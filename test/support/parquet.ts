/** Parquet files as other programs write them, made of Arrow columns. */
import {tableToIPC, Table, vectorFromArray, Binary, Field, Struct, Utf8, type Vector} from 'apache-arrow'
import {Compression, Table as WasmTable, WriterPropertiesBuilder, writeParquet} from 'parquet-wasm'

export type ParquetOptions = {
  readonly rowsPerGroup?: number
  readonly metadata?: Readonly<Record<string, string>>
  readonly packed?: boolean
}

/** The bytes of a Parquet file with these columns. */
export function parquetOf(
  columns: Readonly<Record<string, Vector>>,
  {rowsPerGroup = 4, metadata = {}, packed = true}: ParquetOptions = {}
): Uint8Array {
  const table = WasmTable.fromIPCStream(tableToIPC(new Table(columns), 'stream'))
  const properties = new WriterPropertiesBuilder()
    .setMaxRowGroupSize(rowsPerGroup)
    .setCompression(packed ? Compression.SNAPPY : Compression.UNCOMPRESSED)
    .setKeyValueMetadata(new Map(Object.entries(metadata)))
    .build()
  return writeParquet(table, properties)
}

/** A column of images as Hugging Face datasets writes them. */
export const imageColumn = (images: readonly ({bytes: Uint8Array | null; path: string | null} | null)[]): Vector =>
  vectorFromArray(images as never[], new Struct([new Field('bytes', new Binary(), true), new Field('path', new Utf8(), true)]) as never)

export const bytesColumn = (images: readonly (Uint8Array | null)[]): Vector => vectorFromArray(images as never[], new Binary() as never)

/** The record of Hugging Face datasets that names the classes of a column. */
export const classLabels = (column: string, names: readonly string[]): Record<string, string> => ({
  huggingface: JSON.stringify({info: {features: {[column]: {names, _type: 'ClassLabel'}, image: {_type: 'Image'}}}})
})
