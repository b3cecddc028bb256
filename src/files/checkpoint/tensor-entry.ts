/**
 * One tensor in a file, known by name, type and shape, whose numbers are read only when asked for.
 *
 * Every reader of checkpoints yields these, so that naming, splitting and converting never hold more than one tensor
 * in memory.
 */
import {UserError} from '../../config/errors.js'

/** Element types, by the names of the safetensors format. */
export type DType = 'F64' | 'F32' | 'F16' | 'BF16' | 'I64' | 'I32' | 'I16' | 'I8' | 'U8' | 'BOOL'

/** Bytes of one element. */
export const itemSize: Readonly<Record<DType, number>> = {F64: 8, F32: 4, F16: 2, BF16: 2, I64: 8, I32: 4, I16: 2, I8: 1, U8: 1, BOOL: 1}

export const isDType = (name: unknown): name is DType => typeof name === 'string' && Object.hasOwn(itemSize, name)

export type TensorEntry = {
  readonly name: string
  readonly shape: readonly number[]
  readonly dtype: DType
  /** Bytes of the contiguous tensor: product of the shape times the size of an element. */
  readonly byteLength: number
  /** The elements in row-major order, little-endian; the caller owns the bytes. */
  read(): Promise<Uint8Array>
  /** The elements as float32, whatever their type; the caller owns them. */
  readFloat32(): Promise<Float32Array>
}

/** Elements of a tensor of this shape; 1 for a scalar. */
export const elements = (shape: readonly number[]): number => shape.reduce((product, length) => product * length, 1)

/** Completes a reader of raw bytes to an entry. */
export function tensorEntry(name: string, dtype: DType, shape: readonly number[], read: () => Promise<Uint8Array>): TensorEntry {
  return {
    name,
    dtype,
    shape,
    byteLength: elements(shape) * itemSize[dtype],
    read,
    readFloat32: async () => toFloat32(await read(), dtype)
  }
}

/** The same tensor under another name. */
export const renamed = (entry: TensorEntry, name: string): TensorEntry => (entry.name === name ? entry : {...entry, name})

/**
 * Tensors one after another along their first axis, as one; parts are read when the whole is. Shapes must agree beyond
 * the first axis.
 */
export function concatenated(name: string, parts: readonly TensorEntry[]): TensorEntry {
  const [first] = parts
  if (!first) throw new Error(`Expected at least one part for ${name}`)
  const rest = first.shape.slice(1)
  for (const part of parts)
    if (
      part.dtype !== first.dtype ||
      part.shape.length !== first.shape.length ||
      part.shape.slice(1).some((length, i) => length !== rest[i])
    )
      throw new UserError(
        `${name} should be made of ${parts.map(({name}) => name).join(', ')}, but their types or shapes differ: ` +
          `${parts.map(({dtype, shape}) => `${dtype} [${shape.join(', ')}]`).join(', ')}.`,
        {code: 'BAD_CHECKPOINT'}
      )
  const shape = [parts.reduce((sum, part) => sum + part.shape[0]!, 0), ...rest]
  return tensorEntry(name, first.dtype, shape, async () => {
    const whole = new Uint8Array(elements(shape) * itemSize[first.dtype])
    let at = 0
    for (const part of parts) {
      whole.set(await part.read(), at)
      at += part.byteLength
    }
    return whole
  })
}

/**
 * Raw little-endian elements as float32; F32 bytes that are aligned are seen, not copied. Integers beyond 2²⁴ are
 * rounded.
 */
export function toFloat32(bytes: Uint8Array, dtype: DType): Float32Array {
  const count = bytes.byteLength / itemSize[dtype]
  if (dtype === 'F32')
    return bytes.byteOffset % 4 === 0 ? new Float32Array(bytes.buffer, bytes.byteOffset, count) : new Float32Array(bytes.slice().buffer)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const out = new Float32Array(count)
  switch (dtype) {
    case 'F64':
      for (let i = 0; i < count; i++) out[i] = view.getFloat64(8 * i, true)
      return out
    case 'BF16': {
      const bits = new Uint32Array(out.buffer) // a bfloat16 is the upper half of a float32
      for (let i = 0; i < count; i++) bits[i] = view.getUint16(2 * i, true) << 16
      return out
    }
    case 'F16': {
      const values = halves()
      for (let i = 0; i < count; i++) out[i] = values[view.getUint16(2 * i, true)]!
      return out
    }
    case 'I64':
      for (let i = 0; i < count; i++) out[i] = Number(view.getBigInt64(8 * i, true))
      return out
    case 'I32':
      for (let i = 0; i < count; i++) out[i] = view.getInt32(4 * i, true)
      return out
    case 'I16':
      for (let i = 0; i < count; i++) out[i] = view.getInt16(2 * i, true)
      return out
    case 'I8':
      for (let i = 0; i < count; i++) out[i] = view.getInt8(i)
      return out
    case 'U8':
    case 'BOOL':
      for (let i = 0; i < count; i++) out[i] = bytes[i]!
      return out
  }
}

/**
 * The numbers of a tensor, all of them finite. Throws a `UserError` (exit 1) that names file and tensor where one is
 * NaN or infinite: what a model computes from it would be, too.
 */
export async function readFinite(entry: Pick<TensorEntry, 'readFloat32'>, name: string, path: string): Promise<Float32Array> {
  const data = await entry.readFloat32()
  const at = data.findIndex(value => !Number.isFinite(value))
  if (at < 0) return data
  throw new UserError(`The tensor ${name} of ${path} holds ${data[at]}, the first such number at ${at} of ${data.length}.`, {
    code: 'NOT_FINITE',
    hint: 'The training that wrote it diverged, or the file was damaged; take an earlier checkpoint.'
  })
}

let halfValues: Float32Array | undefined

/** The value of each of the 65,536 half-precision numbers: looking up is some times faster than computing. */
const halves = (): Float32Array => (halfValues ??= Float32Array.from({length: 2 ** 16}, (_, bits) => fromHalf(bits)))

/** IEEE 754 binary16: 1 sign, 5 exponent and 10 fraction bits. */
function fromHalf(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 0x1f
  const fraction = bits & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 0x1f) return fraction ? NaN : sign * Infinity
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

/** The bytes of float32 numbers, without a copy. All machines this project runs on are little-endian. */
export const float32Bytes = (data: Float32Array): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

/** The largest number of half precision. */
export const FLOAT16_MAX = 65504

/**
 * The bytes of numbers in half precision (IEEE 754 binary16), each rounded to the nearest, of two equally near to the
 * even one. Numbers beyond 65,504 become infinite.
 */
export function float16Bytes(data: Float32Array): Uint8Array {
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length)
  const out = new Uint16Array(data.length)
  for (let i = 0; i < data.length; i++) {
    const value = bits[i]!
    const sign = (value >>> 16) & 0x8000
    const size = value & 0x7fffffff
    if (size > 0x7f800000) out[i] = sign | 0x7e00
    else if (size >= 0x477ff000) out[i] = sign | 0x7c00
    else {
      // Below 2^-14 a step is 2^-24 whatever the number; above, the lower 13 bits of the fraction are rounded off.
      const small = size < 0x38800000
      const scaled = small ? Math.abs(data[i]!) * 2 ** 24 : (size - 0x38000000) / 2 ** 13
      const below = Math.floor(scaled)
      const rest = scaled - below
      out[i] = sign | (below + (rest > 0.5 || (rest === 0.5 && below % 2 === 1) ? 1 : 0))
    }
  }
  return new Uint8Array(out.buffer)
}

/**
 * A tensor that lies in memory, as an entry. Throws an `Error` when data and shape disagree, which is a defect of the
 * caller.
 */
export function float32Entry(name: string, shape: readonly number[], data: Float32Array): TensorEntry {
  if (data.length !== elements(shape))
    throw new Error(`Expected ${elements(shape)} numbers for ${name} [${shape.join(', ')}] but received ${data.length}`)
  return tensorEntry(name, 'F32', shape, async () => float32Bytes(data))
}
