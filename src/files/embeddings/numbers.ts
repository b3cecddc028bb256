/** Floating-point numbers of other widths and byte orders as float32. */

/** IEEE 754 binary16 to a number. */
export function float16(bits: number): number {
  const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023]
  const size =
    exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return bits & 0x8000 ? -size : size
}

/** A kind of number in a file. */
export type Dtype = {readonly bytes: number; readonly read: (view: DataView, at: number) => number; readonly isFloat32?: boolean}

const scratch = new DataView(new ArrayBuffer(4))

/** The kinds that are read, by width and name; `little`: the byte order. */
export const dtype = (kind: 'f2' | 'f4' | 'f8' | 'bf2', little = true): Dtype => {
  switch (kind) {
    case 'f2':
      return {bytes: 2, read: (view, at) => float16(view.getUint16(at, little))}
    case 'f4':
      return {bytes: 4, read: (view, at) => view.getFloat32(at, little), isFloat32: little}
    case 'f8':
      return {bytes: 8, read: (view, at) => view.getFloat64(at, little)}
    case 'bf2':
      return {
        bytes: 2,
        read: (view, at) => {
          scratch.setUint32(0, view.getUint16(at, little) << 16)
          return scratch.getFloat32(0)
        }
      }
  }
}

/** Bytes of one kind of number as float32. */
export function numbersToFloat32(bytes: Uint8Array, {bytes: width, read, isFloat32}: Dtype): Float32Array {
  if (isFloat32) return new Float32Array(Uint8Array.from(bytes).buffer)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Float32Array.from({length: bytes.length / width}, (_, i) => read(view, i * width))
}
