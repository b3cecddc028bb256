/**
 * The header of safetensors files: which tensors there are, of which sizes, and where; held against the bytes that
 * there are.
 */
import type {FileHandle} from 'node:fs/promises'
import {UserError} from '../../config/errors.js'
import {isObject, parseJson} from '../../system/json.js'
import {crc32, crcText} from '../../system/crc32.js'
import {readAt} from './bytes.js'

/** What is wrong with a file. */
export const damaged = (message: string, cause?: unknown): UserError =>
  new UserError(message, {code: 'EMBEDDINGS_DAMAGED', hint: 'It was cut off or changed; write it again.', cause})

/** A tensor of the file: its kind, its sizes, and where its bytes lie behind the header. */
export type Entry = {readonly dtype: string; readonly shape: readonly number[]; readonly begin: number; readonly end: number}
export type Header = {readonly metadata: Readonly<Record<string, string>>; readonly tensors: ReadonlyMap<string, Entry>}

const widths: Readonly<Record<string, number>> = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U8: 1,
  U16: 2,
  U32: 4,
  U64: 8,
  BOOL: 1
}
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Reads one entry of the header, and holds its sizes against its bytes. */
function entryOf(name: string, found: unknown, file: string): Entry {
  const wrong = (why: string): UserError => damaged(`${file} has a damaged safetensors header: the tensor ${name} ${why}.`)
  if (!isObject(found)) throw wrong('is no object')
  const {dtype: kind, shape, data_offsets: offsets} = found
  if (typeof kind !== 'string') throw wrong('has no dtype')
  if (!Array.isArray(shape) || !shape.every(isSize)) throw wrong(`has the shape ${JSON.stringify(shape) ?? 'nothing'}`)
  const [begin, end] = Array.isArray(offsets) && offsets.length === 2 && offsets.every(isSize) ? (offsets as [number, number]) : [1, 0]
  if (begin > end) throw wrong(`has the offsets ${JSON.stringify(offsets) ?? 'nothing'}`)
  const bytes = shape.reduce<number>((product, size) => product * size, Object.hasOwn(widths, kind) ? widths[kind]! : NaN)
  if (!Number.isNaN(bytes) && bytes !== end - begin)
    throw wrong(`should have ${bytes} bytes for its shape ${JSON.stringify(shape)}, but has ${end - begin}`)
  return {dtype: kind, shape, begin, end}
}

const CHECK = /"header_crc32":"([0-9a-f]{8})"/

/** Sets the checksum of a header in its place; it is taken with zeros there. */
export function setHeaderCheck(header: Buffer): void {
  const text = header.toString('latin1')
  const found = CHECK.exec(text)!
  header.write(crcText(crc32(header)), found.index + '"header_crc32":"'.length, 'latin1')
}

/** Compares a header with its checksum, where it has one. */
function checkHeader(header: Buffer, name: string): void {
  const found = CHECK.exec(header.toString('latin1'))
  if (!found) {
    if (header.includes('_crc32')) throw damaged(`The checksum of the header of ${name} is gone.`)
    return
  }
  const blank = Buffer.from(header)
  blank.write('00000000', found.index + '"header_crc32":"'.length, 'latin1')
  if (found[1] !== crcText(crc32(blank))) throw damaged(`The header of ${name} does not match its checksum.`)
}

export async function readHeader(handle: FileHandle, name: string): Promise<{header: Header; dataAt: number; size: number}> {
  const {size} = await handle.stat()
  const start = await readAt(handle, 0, 8)
  const length = start.length < 8 ? Infinity : Number(start.readBigUInt64LE())
  if (8 + length > size) throw damaged(`${name} is cut off: its header promises more bytes than there are.`)
  let found: unknown
  try {
    const bytes = await readAt(handle, 8, length)
    checkHeader(bytes, name)
    found = parseJson(bytes.toString('utf8'))
    if (!isObject(found)) throw new SyntaxError('it is no object')
  } catch (error) {
    if (error instanceof UserError) throw error
    throw damaged(`${name} has a damaged safetensors header: ${(error as Error).message}.`, error)
  }
  const {__metadata__: metadata = {}, ...tensors} = found as Record<string, unknown>
  if (!isObject(metadata) || Object.values(metadata).some(value => typeof value !== 'string'))
    throw damaged(`${name} has a damaged safetensors header: its metadata are no texts.`)
  const entries = Object.entries(tensors).map(([key, entry]) => [key, entryOf(key, entry, name)] as const)
  return {header: {metadata: metadata as Readonly<Record<string, string>>, tensors: new Map(entries)}, dataAt: 8 + length, size}
}

/** Refuses tensors that overlap, leave gaps, or end where the file does not. */
export function checkExtent({tensors}: Header, dataBytes: number, name: string): void {
  let end = 0
  for (const [key, entry] of [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)) {
    if (entry.begin !== end)
      throw damaged(
        `${name} has a damaged safetensors header: the tensor ${key} begins at ${entry.begin}, where the one before it ends at ${end}.`
      )
    end = entry.end
  }
  if (end !== dataBytes) throw damaged(`${name} should have ${end} bytes behind its header, but it has ${dataBytes}.`)
}
