/**
 * Files that torch.save wrote before PyTorch 1.6, and writes since with `_use_new_zipfile_serialization=False`: a
 * sequence of pickles (magic number, version, sizes of the machine, the object, the keys of its storages), then the
 * storages one after another, each as the number of its elements (64 bits) and their bytes.
 */
import {UserError} from '../../config/errors.js'
import type {FileReader} from '../../system/file-reader.js'
import {MAX_PICKLE, PickleEnds, unpickleFirst, type PickleOptions, type PyValue} from './pickle.js'
import {itemSize} from './tensor-entry.js'
import {findTorchGlobal, Malformed, torchStorage, type StorageBytes, type TorchStorage} from './torch-objects.js'

/** The pickle of PyTorch's magic number, 0x1950a86a20f9469cfc6c, in protocol 2. */
const MAGIC = Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex')

export const isPickleSequence = (head: Uint8Array): boolean => MAGIC.equals(head.subarray(0, MAGIC.length))

/**
 * Reads the pickles; no numbers yet. Throws `UserError` as `unpickle`, and where storages and their lengths do not
 * agree with the file; `Malformed` where they are described in an unusual way.
 */
export async function readPickleSequence(
  file: FileReader,
  tolerant: boolean
): Promise<{tree: PyValue; storages: Map<string, StorageBytes>}> {
  const {path} = file
  const known = new Map<string, TorchStorage>()
  let at = MAGIC.length
  const next = async (persistent: PickleOptions['persistent']): Promise<PyValue> => {
    const {value, length} = await unpickleAt(file, at, {path, tolerant, find: findTorchGlobal, persistent})
    at += length
    return value
  }
  const none = (): never => {
    throw new Malformed('a storage stands where none is expected')
  }
  const version = await next(none)
  if (version !== 1001) throw new Malformed(`its version is ${String(version)}, not 1001`)
  const machine = await next(none)
  if (machine instanceof Map && machine.get('little_endian') === false)
    throw new UserError(`${path} was saved on a big-endian machine.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Load and save it again on a common one.'
    })
  const tree = await next(id => {
    const storage = torchStorage(path, id)
    known.set(storage.key, storage)
    return storage
  })
  const keys = await next(none)
  if (!Array.isArray(keys)) throw new Malformed('the keys of its storages are no list')
  const storages = new Map<string, StorageBytes>()
  for (const key of keys) {
    const storage = typeof key === 'string' ? known.get(key) : undefined
    if (!storage || storages.has(storage.key)) throw new Malformed('the keys of its storages are not those of its tensors')
    const head = await file.read(at, 8)
    const count = Number(Buffer.from(head.buffer).readBigInt64LE())
    const [start, size] = [at + 8, count * itemSize[storage.dtype ?? 'U8']]
    if (!(count >= 0) || !(start + size <= file.size))
      throw new UserError(`${path} ends after ${file.size} bytes, in the middle of storage ${storage.key}; it is truncated.`, {
        code: 'TRUNCATED',
        hint: 'Fetch or save it again.'
      })
    storages.set(storage.key, {size, read: (offset, length) => file.read(start + offset, length)})
    at = start + size
  }
  return {tree, storages}
}

/** The pickle that begins at a byte of the file: how long it is, only running it tells. */
async function unpickleAt(file: FileReader, at: number, options: PickleOptions): Promise<ReturnType<typeof unpickleFirst>> {
  for (let length = 1 << 16; ; length *= 8) {
    const available = Math.min(length, MAX_PICKLE, file.size - at)
    try {
      return unpickleFirst(await file.read(at, available), options)
    } catch (error) {
      if (!(error instanceof PickleEnds) || available < length || available === MAX_PICKLE) throw error
    }
  }
}
