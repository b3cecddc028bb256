/** Weights as the page loads them: the safetensors files that `explore` writes beside it. */
import {tensor, type Tensor} from '../tensor/tf.js'

export type Weight = {readonly shape: number[]; readonly data: Float32Array}

type Entry = {readonly dtype: string; readonly shape: number[]; readonly data_offsets: readonly [from: number, to: number]}

/** The number that 16 bits of half precision stand for. */
function halfNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction ? NaN : sign * Infinity
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

let halves: Float32Array | undefined

/** Half precision → float32, by a table of all 65,536 numbers. */
function widen(bits: Uint16Array): Float32Array {
  halves ??= Float32Array.from({length: 1 << 16}, (_, i) => halfNumber(i))
  const table = halves
  return Float32Array.from(bits, value => table[value]!)
}

/** The numbers of a file by name. Throws an Error for a file that is cut off or holds other types. */
export async function readWeights(bytes: ArrayBuffer): Promise<Map<string, Weight>> {
  const view = new DataView(bytes)
  const length = bytes.byteLength < 8 ? Infinity : Number(view.getBigUint64(0, true))
  if (8 + length > bytes.byteLength) throw new Error('The weights of the model are cut off.')
  const header = (await new Response(new Uint8Array(bytes, 8, length)).json()) as Record<string, Entry>
  const out = new Map<string, Weight>()
  for (const [name, {dtype, shape, data_offsets}] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const part = bytes.slice(8 + length + data_offsets[0], 8 + length + data_offsets[1])
    const size = shape.reduce((a, b) => a * b, 1)
    if (part.byteLength !== size * (dtype === 'F16' ? 2 : 4)) throw new Error(`The weights of ${name} are cut off.`)
    out.set(name, {shape, data: dtype === 'F16' ? widen(new Uint16Array(part)) : new Float32Array(part)})
  }
  return out
}

/** The same as tensors of the running backend, which the caller owns. */
export const tensorsOf = (weights: ReadonlyMap<string, Weight>): [string, Tensor][] =>
  [...weights].map(([name, {shape, data}]) => [name, tensor(data, shape)])
