/** Values of fixed width in an Arrow buffer: numbers, booleans, dates, decimals. */
import {float16} from '../numbers.js'
import type {ArrowType} from './schema.js'

/** Types whose values all have one width. */
export type FixedType = Exclude<ArrowType, {readonly kind: 'text' | 'bytes' | 'list' | 'fixed-list' | 'struct' | 'null'}>

/** How a value of fixed width is read at a byte, and as what it goes into a row. */
export function fixedReader(type: FixedType, data: Buffer): {width: number; value: (i: number) => unknown; number?: (i: number) => number} {
  if (type.kind === 'bool') return {width: 1 / 8, value: i => ((data[i >> 3]! >> (i & 7)) & 1) === 1}
  if (type.kind === 'fixed-bytes') return {width: type.width, value: i => data.toString('base64', i * type.width, (i + 1) * type.width)}
  if (type.kind === 'float') {
    const number =
      type.bits === 16
        ? (i: number) => float16(data.readUInt16LE(2 * i))
        : type.bits === 32
          ? (i: number) => data.readFloatLE(4 * i)
          : (i: number) => data.readDoubleLE(8 * i)
    return {width: type.bits / 8, value: number, number}
  }
  if (type.kind === 'decimal') {
    const bytes = type.bits / 8
    return {width: bytes, value: i => decimalText(data, i * bytes, bytes, type.scale)}
  }
  const signed = type.kind !== 'int' || type.signed
  const bytes = type.bits / 8
  const whole = (i: number): number | bigint =>
    bytes === 8
      ? signed
        ? data.readBigInt64LE(8 * i)
        : data.readBigUInt64LE(8 * i)
      : signed
        ? data.readIntLE(bytes * i, bytes)
        : data.readUIntLE(bytes * i, bytes)
  if (type.kind === 'date' || type.kind === 'timestamp') {
    const milliseconds = type.unit * 1000
    return {width: bytes, value: i => Number(whole(i)) * milliseconds}
  }
  return {width: bytes, value: i => plainInteger(whole(i)), number: i => Number(whole(i))}
}

/** An integer as JSON can say it: a text where a JavaScript number would round it. */
const plainInteger = (value: number | bigint): number | string => (Number.isSafeInteger(Number(value)) ? Number(value) : String(value))

function decimalText(data: Buffer, at: number, bytes: number, scale: number): string {
  let value = 0n
  for (let i = bytes - 1; i >= 0; i--) value = (value << 8n) | BigInt(data[at + i]!)
  value = BigInt.asIntN(8 * bytes, value)
  if (scale <= 0 || scale > 100) return String(value)
  const digits = String(value < 0n ? -value : value).padStart(scale + 1, '0')
  return `${value < 0n ? '-' : ''}${digits.slice(0, -scale)}.${digits.slice(-scale)}`
}
