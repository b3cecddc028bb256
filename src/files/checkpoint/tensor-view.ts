/** Tensors of torch.save as views of their storages: offset, shape and strides, held against the bytes of the file. */
import {UserError} from '../../config/errors.js'
import {elements, itemSize, tensorEntry, type TensorEntry} from './tensor-entry.js'
import type {StorageBytes, TorchTensor} from './torch-objects.js'

/** A view that repeats its numbers may be larger than its storage only up to this many elements. */
const MAX_REPEATED = 1 << 26

/** A tensor of a file as an entry whose numbers are read when asked for; `record` holds its storage. */
export function tensorView(
  path: string,
  name: string,
  {storage, dtype, offset, shape, stride}: TorchTensor,
  record: StorageBytes | undefined
): TensorEntry {
  const broken = (what: string): UserError =>
    new UserError(`The tensor ${name} in ${path} is damaged: ${what}.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save the file again.'})
  const size = itemSize[dtype]
  const count = elements(shape)
  const item = storage.dtype ? itemSize[storage.dtype] : 1
  const [first, bytes] = [storage.start * item, storage.length * item]
  if (!record) throw broken(`its numbers (storage ${storage.key}) are missing`)
  if (record.size < first + bytes) throw broken(`its storage should have ${first + bytes} bytes, but ${record.size} are there`)
  // Elements from the first to the last that the view touches.
  const span = count === 0 ? 0 : 1 + shape.reduce((sum, length, i) => sum + (length - 1) * stride[i]!, 0)
  if (!Number.isSafeInteger(count * size) || !Number.isSafeInteger((offset + span) * size) || (offset + span) * size > bytes)
    throw broken(`it reaches to element ${offset + span} of a storage with ${bytes / size}`)
  if (count * size > bytes && count > MAX_REPEATED) throw broken(`it claims ${count} elements of a storage with ${bytes / size}`)
  return tensorEntry(name, dtype, shape, async () => {
    const source = await record.read(first + offset * size, span * size)
    return isContiguous(shape, stride) ? source : gather(source, shape, stride, size)
  })
}

/** Whether the elements lie one after another in row-major order; the strides of axes of length 1 do not matter. */
function isContiguous(shape: readonly number[], stride: readonly number[]): boolean {
  let step = 1
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] === 0) return true
    if (shape[axis] !== 1 && stride[axis] !== step) return false
    step *= shape[axis]!
  }
  return true
}

/** Copies a strided view into row-major order. */
function gather(source: Uint8Array, shape: readonly number[], stride: readonly number[], size: number): Uint8Array {
  const out = new Uint8Array(elements(shape) * size)
  const index = new Array<number>(shape.length).fill(0)
  const last = shape.length - 1
  const [inner, step] = [shape[last]!, stride[last]! * size]
  for (let at = 0, from = 0; at < out.length;) {
    for (let i = 0, read = from; i < inner; i++, read += step) for (let byte = 0; byte < size; byte++) out[at++] = source[read + byte]!
    let axis = last - 1
    for (; axis >= 0; axis--) {
      from += stride[axis]! * size
      if (++index[axis]! < shape[axis]!) break
      from -= index[axis]! * stride[axis]! * size
      index[axis] = 0
    }
    if (axis < 0) break
  }
  return out
}
