/** The header of NumPy's array files. Format: NEP 1, versions 1.0 to 3.0. */
import {UserError} from '../../config/errors.js'
import {dtype, type Dtype} from './numbers.js'

export const NPY_MAGIC = '\x93NUMPY'

/** Bytes of the header that this program writes. */
export const NPY_HEADER_BYTES = 128

/** The header of an array [rows, dim] of little-endian float32. */
export function npyHeader(rows: number, dim: number): Buffer {
  const head = Buffer.alloc(NPY_HEADER_BYTES, 0x20)
  head.write(`${NPY_MAGIC}\x01\x00`, 'latin1')
  head.writeUInt16LE(NPY_HEADER_BYTES - 10, 8)
  head.write(`{'descr': '<f4', 'fortran_order': False, 'shape': (${rows}, ${dim}), }`, 10, 'latin1')
  head[NPY_HEADER_BYTES - 1] = 10
  return head
}

/** What a header says of its array, a matrix of floating-point numbers. */
export type NpyArray = {
  readonly dataAt: number
  readonly count: number
  readonly dim: number
  readonly dtype: Dtype
  /** Columns lie one behind the other (Fortran order) instead of rows. */
  readonly byColumns: boolean
}

const damaged = (name: string, why: string): UserError =>
  new UserError(`${name} has a damaged header of a NumPy array: ${why}.`, {
    code: 'EMBEDDINGS_DAMAGED',
    hint: 'Write it again with np.save.'
  })

/**
 * Where the data begin, read from the first 12 bytes. Throws `UserError` where they are too few or hold no such
 * number.
 */
export function npyDataAt(start: Buffer, name: string): number {
  if (start.length < 12 || start.toString('latin1', 0, 6) !== NPY_MAGIC) throw damaged(name, 'it is cut off')
  const version = start[6]!
  if (version < 1 || version > 3) throw damaged(name, `its version is ${version}; 1 to 3 are read`)
  const at = version === 1 ? 10 + start.readUInt16LE(8) : 12 + start.readUInt32LE(8)
  if (at > 1 << 20) throw damaged(name, `it claims ${at} bytes`)
  return at
}

/**
 * Reads a whole header (`head`: its bytes up to the data).
 *
 * Throws `UserError` where the array is no matrix of floating-point numbers, or its sizes are no numbers that a file
 * can have.
 */
export function parseNpyHeader(head: Buffer, name: string): NpyArray {
  const dataAt = npyDataAt(head, name)
  if (head.length < dataAt) throw damaged(name, 'it is cut off')
  const text = head.toString('latin1', 10, dataAt)
  for (const part of ['descr', 'fortran_order', 'shape'])
    if (text.split(`'${part}'`).length > 2) throw damaged(name, `it says ${part} twice`)
  const descr = /'descr':\s*'([^']{1,20})'/.exec(text)?.[1]
  const order = /'fortran_order':\s*(True|False)/.exec(text)?.[1]
  const shape = /'shape':\s*\(([^)]{0,200})\)/.exec(text)?.[1]
  if (shape === undefined || order === undefined) throw damaged(name, 'it says no shape or no order')
  const sizes = shape
    .split(',')
    .map(size => size.trim())
    .filter((size, i, all) => size !== '' || i < all.length - 1)
  const wrong = sizes.find(size => !/^\d{1,16}$/.test(size) || !Number.isSafeInteger(Number(size)))
  if (wrong !== undefined) throw damaged(name, `its shape (${shape.trim()}) has ${wrong || 'an empty size'}, which is no length`)
  const found = /^([<>=|])(f[248])$/.exec(descr ?? '')
  if (!found || found[1] === '|' || sizes.length !== 2) {
    throw new UserError(
      `${name} holds an array of ${descr ?? 'an unknown or structured type'}, shape (${shape.trim()}); expected [rows, dim] of float16, float32 or float64.`,
      {
        code: 'NO_VECTORS',
        hint: "In Python: np.save(path, x.reshape(len(x), -1).astype('<f4'))."
      }
    )
  }
  const [count, dim] = sizes.map(Number) as [number, number]
  if (dim === 0)
    throw new UserError(`The vectors of ${name} have no numbers: its shape is (${shape.trim()}).`, {
      code: 'NO_VECTORS',
      hint: 'Did the embedding fail?'
    })
  const kind = dtype(found[2] as 'f2' | 'f4' | 'f8', found[1] !== '>')
  if (!Number.isSafeInteger(count * dim * kind.bytes)) throw damaged(name, `its shape (${shape.trim()}) is larger than a file can be`)
  return {dataAt, count, dim, dtype: kind, byColumns: order === 'True'}
}
