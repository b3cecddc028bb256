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

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Whether a part of the header says of a tensor what it must. */
function isEntry(value: unknown): value is Entry {
  const {dtype, shape, data_offsets: place} = (value ?? {}) as Partial<Entry>
  const sizes = [shape, place].every(list => Array.isArray(list) && list.every(isSize))
  return (dtype === 'F16' || dtype === 'F32') && sizes && place!.length === 2
}

/** The parts of a header. Throws an Error where it is no JSON object. */
async function headerOf(bytes: Uint8Array<ArrayBuffer>): Promise<[name: string, entry: unknown][]> {
  const header: unknown = await new Response(bytes).json().catch(() => undefined)
  if (typeof header !== 'object' || header === null) throw new Error('The weights of the model are damaged.')
  return Object.entries(header)
}

/** The numbers of a file by name. Throws an Error for a file that is cut off or damaged, or holds other types. */
export async function readWeights(bytes: ArrayBuffer): Promise<Map<string, Weight>> {
  const view = new DataView(bytes)
  const length = bytes.byteLength < 8 ? Infinity : Number(view.getBigUint64(0, true))
  if (8 + length > bytes.byteLength) throw new Error('The weights of the model are cut off.')
  const out = new Map<string, Weight>()
  for (const [name, entry] of await headerOf(new Uint8Array(bytes, 8, length))) {
    if (name === '__metadata__') continue
    if (!isEntry(entry)) throw new Error(`The weights of ${name} are damaged.`)
    const {dtype, shape, data_offsets} = entry
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
