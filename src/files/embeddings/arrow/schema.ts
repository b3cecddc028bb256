/**
 * Arrow's schemas: which columns a stream has, of which types, and what its metadata say. Read from the message, and
 * written for ours.
 *
 * Source: format/Schema.fbs and format/Message.fbs of Apache Arrow; the numbers of fields and of types are theirs.
 */
import {writeFlat, type FlatFields, type FlatTable, type FlatValue} from './flatbuffer.js'

/**
 * How the ends of texts, bytes and lists are kept: as 32-bit or 64-bit offsets, or as views that name place and
 * length.
 */
export type OffsetKind = 'offsets32' | 'offsets64' | 'view'

export type ArrowType =
  | {readonly kind: 'null'}
  | {readonly kind: 'bool'}
  | {readonly kind: 'int'; readonly bits: number; readonly signed: boolean}
  | {readonly kind: 'float'; readonly bits: number}
  | {readonly kind: 'text' | 'bytes'; readonly offsets: OffsetKind}
  | {readonly kind: 'fixed-bytes'; readonly width: number}
  | {readonly kind: 'decimal'; readonly bits: number; readonly scale: number}
  /** Counts of `unit` seconds since 1970 (date, timestamp) or without a beginning (time, duration). */
  | {readonly kind: 'date' | 'timestamp' | 'time' | 'duration'; readonly bits: number; readonly unit: number}
  | {readonly kind: 'list'; readonly offsets: OffsetKind; readonly wide: boolean; readonly item: ArrowField; readonly map: boolean}
  | {readonly kind: 'fixed-list'; readonly size: number; readonly item: ArrowField}
  | {readonly kind: 'struct'; readonly children: readonly ArrowField[]}

export type ArrowField = {
  readonly name: string
  readonly type: ArrowType
  /** The values are numbers into a dictionary that came before. */
  readonly dictionary?: {readonly id: number; readonly index: ArrowType}
}

export type ArrowSchema = {
  readonly fields: readonly ArrowField[]
  readonly metadata: ReadonlyMap<string, string>
}

/** Kinds of messages. */
export const SCHEMA = 1
export const DICTIONARY_BATCH = 2
export const RECORD_BATCH = 3

const typeNames: readonly string[] =
  'none null int float binary utf8 bool decimal date time timestamp interval list struct union fixed-size-binary fixed-size-list map duration large-binary large-utf8 large-list run-end-encoded binary-view utf8-view list-view large-list-view'.split(
    ' '
  )

/** A type of Arrow that is not read; the readers name its column. */
export class UnreadType extends Error {}

/** Columns may lie in columns this deep. */
const MAX_DEPTH = 16
const seconds = [1, 1e-3, 1e-6, 1e-9]

function oneOf(value: number, allowed: readonly number[], what: string): number {
  if (!allowed.includes(value)) throw new RangeError(`it names a type of ${value} ${what}`)
  return value
}

const unitOf = (unit: number): number => {
  const found = seconds[unit]
  if (found === undefined) throw new RangeError('it names a unit of time that there is not')
  return found
}

function intType(type: FlatTable | undefined): ArrowType {
  return type
    ? {kind: 'int', bits: oneOf(type.int32(0), [8, 16, 32, 64], 'bits'), signed: type.byte(1) !== 0}
    : {kind: 'int', bits: 32, signed: true}
}

/** The one child that a list has. */
function onlyChild(children: readonly ArrowField[]): ArrowField {
  if (children.length !== 1) throw new RangeError('it has a list without one kind of items')
  return children[0]!
}

function typeOf(name: string | undefined, type: FlatTable | undefined, children: readonly ArrowField[]): ArrowType {
  const list = (offsets: OffsetKind, wide = false, map = false): ArrowType => ({
    kind: 'list',
    offsets,
    wide,
    map,
    item: onlyChild(children)
  })
  const size = (field: number): number => {
    const found = type?.int32(field) ?? 0
    if (found < 0) throw new RangeError('it has a negative length')
    return found
  }
  switch (name) {
    case 'null':
    case 'bool':
      return {kind: name} as ArrowType
    case 'int':
      return intType(type)
    case 'float':
      return {kind: 'float', bits: [16, 32, 64][oneOf(type?.int16(0) ?? 0, [0, 1, 2], 'as its precision')]!}
    case 'utf8':
      return {kind: 'text', offsets: 'offsets32'}
    case 'large-utf8':
      return {kind: 'text', offsets: 'offsets64'}
    case 'utf8-view':
      return {kind: 'text', offsets: 'view'}
    case 'binary':
      return {kind: 'bytes', offsets: 'offsets32'}
    case 'large-binary':
      return {kind: 'bytes', offsets: 'offsets64'}
    case 'binary-view':
      return {kind: 'bytes', offsets: 'view'}
    case 'fixed-size-binary':
      return {kind: 'fixed-bytes', width: size(0)}
    case 'decimal':
      return {kind: 'decimal', bits: oneOf(type?.int32(2, 128) ?? 128, [32, 64, 128, 256], 'bits'), scale: type?.int32(1) ?? 0}
    case 'date':
      return (type?.int16(0, 1) ?? 1) === 0 ? {kind: 'date', bits: 32, unit: 86_400} : {kind: 'date', bits: 64, unit: 1e-3}
    case 'time':
      return {kind: 'time', bits: oneOf(type?.int32(1, 32) ?? 32, [32, 64], 'bits'), unit: unitOf(type?.int16(0, 1) ?? 1)}
    case 'timestamp':
      return {kind: 'timestamp', bits: 64, unit: unitOf(type?.int16(0) ?? 0)}
    case 'duration':
      return {kind: 'duration', bits: 64, unit: unitOf(type?.int16(0, 1) ?? 1)}
    case 'list':
      return list('offsets32')
    case 'large-list':
      return list('offsets64')
    case 'map':
      return list('offsets32', false, true)
    case 'list-view':
      return list('view')
    case 'large-list-view':
      return list('view', true)
    case 'fixed-size-list':
      return {kind: 'fixed-list', size: size(0), item: onlyChild(children)}
    case 'struct':
      return {kind: 'struct', children}
    default:
      throw new UnreadType(name ?? 'unknown')
  }
}

function fieldOf(field: FlatTable, depth: number): ArrowField {
  if (depth > MAX_DEPTH) throw new RangeError('its columns lie too deep in each other')
  const name = field.string(0) ?? ''
  try {
    const type = typeOf(
      typeNames[field.byte(2)],
      field.table(3),
      field.tables(5).map(child => fieldOf(child, depth + 1))
    )
    const dictionary = field.table(4)
    return {name, type, ...(dictionary && {dictionary: {id: dictionary.int64(0), index: intType(dictionary.table(1))}})}
  } catch (error) {
    throw error instanceof UnreadType && depth === 0
      ? new UnreadType(`The column ${name} is of the type ${error.message}, which is not read`)
      : error
  }
}

/** The metadata of a schema or of a message. */
export const keyValues = (pairs: readonly FlatTable[]): Map<string, string> =>
  new Map(pairs.map(pair => [pair.string(0) ?? '', pair.string(1) ?? '']))

/**
 * Reads a schema. Throws `RangeError` where it is damaged and `UnreadType` for a column of a type that is not read.
 */
export function readSchema(schema: FlatTable): ArrowSchema {
  if (schema.int16(0) !== 0) throw new UnreadType('Its numbers are big-endian, which is not read')
  return {fields: schema.tables(1).map(field => fieldOf(field, 0)), metadata: keyValues(schema.tables(2))}
}

// ---- writing ------------------------------------------------------------------------------------------------------

const METADATA_V5 = 4

/** A message of one kind; `header` are its own fields, and `bodyLength` bytes follow it. */
export function writeMessage(
  kind: number,
  header: FlatFields,
  bodyLength: number,
  metadata: ReadonlyMap<string, string> = new Map()
): Buffer {
  return writeFlat([
    {int16: METADATA_V5},
    {byte: kind},
    {table: header},
    {int64: bodyLength},
    metadata.size > 0 ? {tables: pairsOf(metadata)} : undefined
  ])
}

const pairsOf = (metadata: ReadonlyMap<string, string>): FlatFields[] =>
  [...metadata].map(([key, value]): FlatFields => [{string: key}, {string: value}])

/** A column of ours: the number of its type, the fields of the type, and the items of a list. */
const column = (name: string, nullable: boolean, number: number, type: FlatFields, children: readonly FlatFields[] = []): FlatFields => {
  const values: (FlatValue | undefined)[] = [{string: name}, {byte: nullable ? 1 : 0}, {byte: number}, {table: type}, undefined]
  return [...values, {tables: children}]
}

export const textColumn = (name: string, nullable: boolean): FlatFields => column(name, nullable, typeNames.indexOf('utf8'), [])
export const boolColumn = (name: string): FlatFields => column(name, true, typeNames.indexOf('bool'), [])
export const float64Column = (name: string): FlatFields => column(name, true, typeNames.indexOf('float'), [{int16: 2}])
export const vectorColumn = (name: string, dim: number): FlatFields =>
  column(
    name,
    false,
    typeNames.indexOf('fixed-size-list'),
    [{int32: dim}],
    [column('item', false, typeNames.indexOf('float'), [{int16: 1}])]
  )

/** The fields of a schema of these columns. */
export const schemaFields = (columns: readonly FlatFields[], metadata: ReadonlyMap<string, string>): FlatFields => [
  {int16: 0},
  {tables: columns},
  {tables: pairsOf(metadata)}
]
