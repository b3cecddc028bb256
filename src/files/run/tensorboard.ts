/**
 * Event files of TensorBoard: numbers by tag and step.
 *
 * A file is a chain of records (length, its checksum, the bytes, their checksum; checksums are CRC-32C, rotated and
 * shifted as TFRecord has it), each an `Event` in protocol buffers (tensorflow/core/util/event.proto): field 1 the
 * time in seconds, 2 the step, 3 the version of the format, 5 a summary of tagged values, 7 a mark of the session. A
 * session that starts at step s tells readers to forget what earlier files say of s and later steps: that is how a
 * resumed run is drawn once.
 */
import {hostname} from 'node:os'
import {join} from 'node:path'
import type {UserError} from '../../config/errors.js'
import {AppendFile} from './append-file.js'
import {makeFolders} from '../../system/make-folders.js'

const table = Uint32Array.from({length: 256}, (_, n) => {
  let c = n
  for (let bit = 0; bit < 8; bit++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1
  return c
})

/** CRC-32C (Castagnoli) of some bytes. */
export function crc32c(bytes: Uint8Array): number {
  let c = 0xffffffff
  for (const byte of bytes) c = table[(c ^ byte) & 0xff]! ^ (c >>> 8)
  return (c ^ 0xffffffff) >>> 0
}

const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes)
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0
}

/** One TFRecord around some bytes. */
export function tfRecord(data: Uint8Array): Buffer {
  const out = Buffer.alloc(data.byteLength + 16)
  out.writeBigUInt64LE(BigInt(data.byteLength), 0)
  out.writeUInt32LE(masked(out.subarray(0, 8)), 8)
  out.set(data, 12)
  out.writeUInt32LE(masked(data), 12 + data.byteLength)
  return out
}

// ---- protocol buffers, as far as events need them ------------------------------------------------------------------

const varint = (value: number): number[] => {
  const bytes: number[] = []
  let rest = BigInt(value)
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0))
    rest >>= 7n
  } while (rest > 0n)
  return bytes
}
const whole = (field: number, value: number): Buffer => Buffer.from([...varint(field << 3), ...varint(value)])
const bytes = (field: number, value: Uint8Array): Buffer =>
  Buffer.concat([Buffer.from([...varint((field << 3) | 2), ...varint(value.byteLength)]), value])
const double = (field: number, value: number): Buffer => {
  const out = Buffer.alloc(9)
  out[0] = (field << 3) | 1
  out.writeDoubleLE(value, 1)
  return out
}
const float = (field: number, value: number): Buffer => {
  const out = Buffer.alloc(5)
  out[0] = (field << 3) | 5
  out.writeFloatLE(value, 1)
  return out
}

const event = (seconds: number, step: number, ...what: Buffer[]): Buffer =>
  tfRecord(Buffer.concat([double(1, seconds), ...(step > 0 ? [whole(2, step)] : []), ...what]))

const version = bytes(3, Buffer.from('brain.Event:2'))
const start = bytes(7, whole(1, 1))

export type EventFile = {
  /** Adds values by tag, e.g. `{'loss/total': 9.8}`, at a step. */
  write(step: number, values: Readonly<Record<string, number>>): Promise<void>
  /** Why something waits to be written, where it does. */
  readonly failure: UserError | undefined
  close(): Promise<void>
}

/**
 * Begins a new file in `folder` (made where it is missing). `first` is the step that comes next: readers forget what
 * older files of the folder say of it and of later ones. Throws `UserError` where it cannot be made.
 */
export async function openEvents(folder: string, first: number, now: () => number = () => Date.now() / 1000): Promise<EventFile> {
  await makeFolders(folder)
  const begun = now()
  // Readers take files in the order of their names.
  const name = `events.out.tfevents.${String(Math.floor(begun)).padStart(10, '0')}.${String(Math.floor((begun % 1) * 1e6)).padStart(6, '0')}.${hostname()}.${process.pid}`
  const file = await AppendFile.open(join(folder, name))
  await file.append(event(begun, 0, version))
  await file.append(event(begun, first, start))
  return {
    get failure() {
      return file.failure
    },
    async write(step, values) {
      const items = Object.entries(values).map(([tag, value]) => bytes(1, Buffer.concat([bytes(1, Buffer.from(tag)), float(2, value)])))
      await file.append(event(now(), step, bytes(5, Buffer.concat(items))))
    },
    async close() {
      await file.close()
    }
  }
}
