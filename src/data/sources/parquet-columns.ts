/**
 * Which columns of a Parquet file are images, ids and fields, and what the rows of a batch come to.
 *
 * An image is a struct of `bytes` and `path` (as Hugging Face datasets writes them), a column of bytes, or, where no
 * column holds any, a path. It runs in the thread that decodes the file.
 */
import {DataType, type Field, type Schema, type Table, type Vector} from 'apache-arrow'
import {isObject, jsonObjectOr, type JsonObject} from '../../system/json.js'
import {PATH_NAMES} from './list-format.js'

/** A row of the file: its image or the path of one, its own name, and what rides along. */
export type ParquetRow = {
  readonly image?: Uint8Array
  readonly path?: string
  readonly id?: string
  readonly fields: Readonly<Record<string, unknown>>
}

/** What the columns are for, by their names. */
export type ParquetColumns = {
  readonly image: string
  readonly kind: 'struct' | 'bytes' | 'path'
  readonly id?: string
  /** Columns that ride along, by the names of their fields. */
  readonly fields: readonly {readonly column: string; readonly name: string; readonly labels?: readonly string[]}[]
  /** Columns of bytes, which do not ride along. */
  readonly left: readonly string[]
}

/** Names of fields that the program gives itself; columns of such names get `parquet_` in front. */
const OWN_FIELDS = new Set(['path', 'path_base64', 'range', 'row', 'folder', 'reason'])
const USUAL_NAMES = ['image', 'img', 'jpg', 'png', 'picture', 'photo']

/** The type of values that a dictionary may stand for. */
const valueType = (type: DataType): DataType => (DataType.isDictionary(type) ? (type.dictionary as DataType) : type)
const isBytes = (column: DataType): boolean => {
  const type = valueType(column)
  return DataType.isBinary(type) || DataType.isLargeBinary(type) || DataType.isBinaryView(type)
}
const isText = (column: DataType): boolean => {
  const type = valueType(column)
  return DataType.isUtf8(type) || DataType.isLargeUtf8(type) || DataType.isUtf8View(type)
}
const isImageStruct = ({type}: Field): boolean =>
  DataType.isStruct(type) && type.children.some(child => child.name === 'bytes' && isBytes(child.type as DataType))
const holdsBytes = (type: DataType): boolean =>
  isBytes(type) || (type.children as Field[] | null | undefined)?.some(child => holdsBytes(child.type as DataType)) === true

/** The features that Hugging Face datasets records beside the data. */
function featuresOf(metadata: ReadonlyMap<string, string>): JsonObject {
  const info = jsonObjectOr(metadata.get('huggingface'))?.['info']
  const features = isObject(info) ? info['features'] : undefined
  return isObject(features) ? features : {}
}

function labelNames(feature: unknown): readonly string[] | undefined {
  if (!isObject(feature) || feature['_type'] !== 'ClassLabel') return undefined
  const {names} = feature
  return Array.isArray(names) && names.every(name => typeof name === 'string') ? names : undefined
}

/** Columns that may hold the images, the likeliest kind alone. */
function candidates(schema: Schema): {kind: ParquetColumns['kind']; names: string[]} {
  const named = (test: (field: Field) => boolean): string[] => schema.fields.filter(test).map(({name}) => name)
  const structs = named(isImageStruct)
  if (structs.length > 0) return {kind: 'struct', names: structs}
  const bytes = named(({type}) => isBytes(type))
  if (bytes.length > 0) return {kind: 'bytes', names: bytes}
  const texts = new Set(named(({type}) => isText(type)))
  const path = PATH_NAMES.find(name => texts.has(name))
  return {kind: 'path', names: path === undefined ? [] : [path]}
}

/** Finds the columns; a string is a sentence that says why there are no images. */
export function columnsOf(schema: Schema, metadata: ReadonlyMap<string, string>, file: string): ParquetColumns | string {
  const {kind, names} = candidates(schema)
  const image = names.length === 1 ? names[0] : USUAL_NAMES.find(name => names.includes(name))
  const all = schema.fields.map(({name}) => name)
  if (image === undefined)
    return names.length > 1
      ? `${file} has ${names.length} columns that may hold the images (${names.join(', ')}); call the one that counts image`
      : `${file} has no column of images, as bytes or as struct of bytes and path, and none of paths; its columns are ${all.slice(0, 12).join(', ') || 'none'}`
  const repeated = all.find((name, i) => all.indexOf(name) !== i)
  if (repeated !== undefined) return `${file} has two columns that are called ${repeated}; rename one`
  const features = featuresOf(metadata)
  const others = schema.fields.filter(({name}) => name !== image && name !== 'id')
  const idField = schema.fields.find(({name, type}) => name === 'id' && (isText(type) || DataType.isInt(type)))
  const left = others.filter(({type}) => holdsBytes(type)).map(({name}) => name)
  return {
    image,
    kind,
    id: idField?.name,
    fields: others
      .filter(({name}) => !left.includes(name))
      .map(({name}) => ({column: name, name: OWN_FIELDS.has(name) ? `parquet_${name}` : name, labels: labelNames(features[name])})),
    left
  }
}

/** A number of 128 bits and more, in words of 32 bits, with so many decimal places. */
function decimal(words: Uint32Array, scale: number): number {
  let value = 0n
  for (let i = words.length - 1; i >= 0; i--) value = (value << 32n) | BigInt(words[i]!)
  return Number(BigInt.asIntN(32 * words.length, value)) / 10 ** scale
}

/** A value as JSON has them; null where it is missing or no number. */
function plainValue(value: unknown, type: DataType): unknown {
  if (value === null || value === undefined) return null
  if (typeof value === 'bigint') return Number.isSafeInteger(Number(value)) ? Number(value) : String(value)
  if (typeof value === 'number') return Number.isFinite(value) ? value : null
  if (typeof value !== 'object') return value
  if (DataType.isDecimal(type)) return decimal(value as Uint32Array, type.scale)
  if (DataType.isDictionary(type)) return plainValue(value, type.dictionary as DataType)
  const children = (type.children ?? []) as Field[]
  if (DataType.isStruct(type)) {
    const entries = value as Record<string, unknown>
    return Object.fromEntries(children.map(child => [child.name, plainValue(entries[child.name], child.type as DataType)]))
  }
  if (DataType.isMap(type)) {
    const [, item] = (children[0]!.type as DataType).children as Field[]
    return Object.fromEntries(
      [...(value as Iterable<[unknown, unknown]>)].map(([key, one]) => [String(key), plainValue(one, item!.type as DataType)])
    )
  }
  if (children.length === 1) return [...(value as Iterable<unknown>)].map(item => plainValue(item, children[0]!.type as DataType))
  return value instanceof Date ? value.toISOString() : String(value)
}

const labelOf = (value: unknown, labels: readonly string[]): unknown => (typeof value === 'number' ? (labels[value] ?? null) : value)

/** The rows of a decoded batch. */
export function parquetRows(table: Table, columns: ParquetColumns): ParquetRow[] {
  const column = (name: string): Vector => table.getChild(name)!
  const images = column(columns.image)
  const ids = columns.id === undefined ? undefined : column(columns.id)
  const fields = columns.fields.map(field => ({...field, values: column(field.column)}))
  return Array.from({length: table.numRows}, (_, i) => {
    const riding: [name: string, value: unknown][] = []
    for (const {name, values, labels} of fields) {
      const value = plainValue(values.get(i), values.type)
      const shown = labels ? labelOf(value, labels) : value
      if (shown !== null) riding.push([name, shown])
    }
    const id = ids?.get(i) as unknown
    return {
      ...imageOf(images.get(i), columns.kind),
      fields: Object.fromEntries(riding),
      id: id === null || id === undefined ? undefined : String(id)
    }
  })
}

/** The bytes of an image, copied out of the batch, or its path. */
function imageOf(value: unknown, kind: ParquetColumns['kind']): Pick<ParquetRow, 'image' | 'path'> {
  if (value === null || value === undefined) return {}
  if (kind === 'path') return {path: String(value)}
  if (kind === 'bytes') return {image: (value as Uint8Array).slice()}
  const {bytes, path} = value as {bytes: Uint8Array | null; path?: string | null}
  return {image: bytes?.slice(), path: path === null || path === '' ? undefined : path}
}
