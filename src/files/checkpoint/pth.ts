/**
 * Files of `torch.save`, read without Python and written so that `torch.load(…, weights_only=True)` opens them.
 *
 * Such a file is a zip archive: `data.pkl` is a pickle of containers and tensors, `data/<key>` the raw bytes of one
 * storage each; before version 1.6 it was a sequence of pickles and storages (`pth-sequence.ts`). The pickle goes
 * through `pickle.ts` with the list of `torch-objects.ts`: tensors, storages, plain containers, nothing else. A tensor
 * is a view (offset, shape, strides) of a storage; its bytes are read from their place in the file when asked for, so
 * two tensors may share a storage and no storage is ever held whole besides the tensor made from it.
 */
import {openAtomic, type AtomicOptions} from '../../system/atomic.js'
import {UserError} from '../../config/errors.js'
import {openReader, type FileReader} from '../../system/file-reader.js'
import {jsonObjectOr} from '../../system/json.js'
import {MAX_PICKLE, PyOpaque, unpickle, type PyValue} from './pickle.js'
import {isPickleSequence, readPickleSequence} from './pth-sequence.js'
import type {TensorSource} from './safetensors.js'
import {elements, itemSize, type DType, type TensorEntry} from './tensor-entry.js'
import {tensorView} from './tensor-view.js'
import {findTorchGlobal, Malformed, storageTypes, TorchTensor, torchStorage, type StorageBytes} from './torch-objects.js'
import {readZip} from './zip.js'
import {ZipWriter} from './zip-write.js'

export type PthOptions = {
  /**
   * For mmcv files: only `state_dict` is read, and unknown names elsewhere become inert objects instead of ending the
   * reading. In `state_dict` itself nothing unknown is accepted.
   */
  readonly tolerant?: boolean
}

export type PthFile = {
  readonly path: string
  /** Dictionaries of tensors by their key at the top level; '' holds the tensors that lie there directly. */
  readonly roots: Map<string, Map<string, TensorEntry>>
  /** What `writePth` recorded beside the tensors; files of other programs have none. */
  readonly metadata: Readonly<Record<string, string>>
  close(): Promise<void>
}

/**
 * Opens a `.pth` file: reads its directory and its pickle, and no numbers yet.
 *
 * Throws `UserError`: not such a file, truncated, a tar archive of PyTorch 0.1 (with the line that saves it anew), or
 * refused because its pickle mentions a name that is not on the list.
 */
export async function openPth(path: string, {tolerant = false}: PthOptions = {}): Promise<PthFile> {
  const file = await openReader(path)
  try {
    return await read(file, tolerant)
  } catch (error) {
    await file.close()
    throw error
  }
}

/** The pickle of a file, run, and its storages by key. */
type Contents = {readonly tree: PyValue; readonly storages: ReadonlyMap<string, StorageBytes>; readonly metadata?: Record<string, string>}

async function read(file: FileReader, tolerant: boolean): Promise<PthFile> {
  const {path} = file
  const format = await checkFormat(file)
  let contents: Contents
  try {
    contents = format === 'zip' ? await readArchive(file, tolerant) : await readPickleSequence(file, tolerant)
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    throw new UserError(`The checkpoint ${path} is damaged: ${error.message}.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save it again.'})
  }
  return {path, roots: gatherRoots(path, contents, tolerant), metadata: contents.metadata ?? {}, close: () => file.close()}
}

async function readArchive(file: FileReader, tolerant: boolean): Promise<Contents> {
  const {path} = file
  const records = await readZip(file)
  const pickles = [...records.keys()].filter(name => /^[^/]+\/data\.pkl$/.test(name))
  const prefix = pickles[0]?.slice(0, -'data.pkl'.length)
  if (pickles.length !== 1 || prefix === undefined)
    throw new UserError(`${path} is a zip archive, but not one of torch.save: it has ${pickles.length} records named */data.pkl.`, {
      code: 'BAD_CHECKPOINT'
    })
  if (records.has(`${prefix}constants.pkl`))
    throw new UserError(`${path} is a TorchScript program, not a checkpoint.`, {
      code: 'BAD_CHECKPOINT',
      hint: `In Python: torch.save(torch.jit.load(${quote(path)}).state_dict(), 'weights.pth')`
    })
  const order = records.get(`${prefix}byteorder`)
  if (order && Buffer.from(await order.read(0, order.size)).toString() !== 'little')
    throw new UserError(`${path} was saved on a big-endian machine.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Load and save it again on a common one.'
    })
  const pickle = records.get(pickles[0]!)!
  if (pickle.size > MAX_PICKLE) throw new UserError(`${path} is refused: its pickle has ${pickle.size} bytes.`, {code: 'UNSAFE_PICKLE'})
  const bytes = await pickle.read(0, pickle.size)
  const tree = unpickle(bytes, {path, tolerant, find: findTorchGlobal, persistent: id => torchStorage(path, id)})
  const data = `${prefix}data/`
  const metadata = await recordedMetadata(records.get(prefix + METADATA))
  return {
    tree,
    metadata,
    storages: new Map([...records].filter(([name]) => name.startsWith(data)).map(([name, record]) => [name.slice(data.length), record]))
  }
}

/** A record that torch.load passes over: as JSON what tensors do not tell, such as the number of attention heads. */
const METADATA = 'extra/dinov2.json'

async function recordedMetadata(record: StorageBytes | undefined): Promise<Record<string, string>> {
  if (!record || record.size > 1 << 20) return {}
  const found = jsonObjectOr(Buffer.from(await record.read(0, record.size)).toString('utf8')) ?? {}
  return Object.fromEntries(Object.entries(found).filter((entry): entry is [string, string] => typeof entry[1] === 'string'))
}

/** How deep dictionaries of tensors are looked for: `checkpoint → model → teacher → state_dict` has three. */
const MAX_DEPTH = 6

/** Moments and rates of an optimizer may have the names of the weights that they belong to. */
const besideModels = /^(?:optimi[sz]ers?|optim|(?:lr_)?schedulers?|(?:grad_)?scaler|amp)(?:_states?)?$/i

/** The dictionaries of tensors in a checkpoint, by their keys joined with dots. */
function gatherRoots(path: string, {tree, storages}: Contents, tolerant: boolean): PthFile['roots'] {
  if (!(tree instanceof Map))
    throw new UserError(`${path} holds no dictionary of tensors at its top level.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Save model.state_dict(), not the model.'
    })
  const roots: PthFile['roots'] = new Map()
  const seen = new Set<PyValue>([tree])
  const gather = (dict: Map<PyValue, PyValue>, root: string, depth: number): void => {
    const isStrict = /(^|\.)state_dict$/.test(root)
    const found = new Map<string, TensorEntry>()
    for (const [name, value] of dict) {
      if (typeof name !== 'string') continue
      if (value instanceof TorchTensor) found.set(name, tensorView(path, name, value, storages.get(value.storage.key)))
      else if (isStrict && value instanceof PyOpaque)
        throw new UserError(`${path} is refused: its ${root} holds an object of ${value.name} named ${name}, where a tensor should be.`, {
          code: 'UNSAFE_PICKLE'
        })
    }
    if (found.size && !(tolerant && root === '')) roots.set(root, found)
    for (const [key, value] of dict) {
      if (typeof key !== 'string' || !(value instanceof Map) || besideModels.test(key) || depth === MAX_DEPTH || seen.has(value)) continue
      if (tolerant && root === '' && key !== 'state_dict') continue
      seen.add(value)
      gather(value, root === '' ? key : `${root}.${key}`, depth + 1)
    }
  }
  gather(tree, '', 0)
  if (!roots.size)
    throw new UserError(tolerant ? `${path} has no dictionary state_dict of tensors.` : `${path} holds no tensors.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Save model.state_dict() with torch.save.'
    })
  return roots
}

const quote = (path: string): string => `'${path.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

/** Tells what the file is by its first bytes, and says of the oldest format how to get out of it. */
async function checkFormat(file: FileReader): Promise<'zip' | 'sequence'> {
  const {path, size} = file
  if (size === 0) throw new UserError(`${path} is empty.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save it again.'})
  const head = await file.read(0, Math.min(size, 512))
  if (head[0] === 0x50 && head[1] === 0x4b) return 'zip'
  if (isPickleSequence(head)) return 'sequence'
  if (head[0] === 0x80)
    throw new UserError(`${path} is a pickle, but not one of torch.save.`, {
      code: 'BAD_CHECKPOINT',
      hint: `Save it anew: python3 -c "import pickle, torch; torch.save(pickle.load(open(${quote(path)}, 'rb')), 'new.pth')"; this executes what is in it.`
    })
  if (Buffer.from(head.subarray(257, 262)).toString('latin1') === 'ustar')
    throw new UserError(`${path} is a tar archive, as PyTorch wrote before version 0.2.`, {
      code: 'OLD_FORMAT',
      hint: `Save it anew: python3 -c "import torch; torch.save(torch.load(${quote(path)}, map_location='cpu', weights_only=True), 'new.pth')"`
    })
  if (head[8] === 0x7b && head[0] !== 0x7b)
    throw new UserError(`${path} looks like a safetensors file.`, {code: 'BAD_CHECKPOINT', hint: 'Give it the ending .safetensors.'})
  if (Buffer.from(head.subarray(0, 8)).toString('latin1') === 'DINOV2IX')
    throw new UserError(`${path} is a search index, not a model.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Name the model that its rows were made with.'
    })
  throw new UserError(`${path} is not a file of torch.save: it begins with ${printable(head)}.`, {
    code: 'BAD_CHECKPOINT',
    hint: 'A page of a web server in its place? Fetch it again.'
  })
}

const printable = (bytes: Uint8Array): string => JSON.stringify(Buffer.from(bytes.subarray(0, 12)).toString('latin1'))

// ---- writing -------------------------------------------------------------------------------------------------------

const typeNames = Object.fromEntries(Object.entries(storageTypes).map(([name, dtype]) => [dtype, name])) as Record<DType, string>

export type WritePthOptions = AtomicOptions & {
  /** Wraps the dictionary of tensors in another one under this key, such as `teacher`. */
  readonly root?: string
  /** What is recorded beside the tensors, for this program. */
  readonly metadata?: Readonly<Record<string, string>>
  /** Only to test files beyond 4 GiB: see `ZipWriter`. */
  readonly zip64Above?: number
}

/**
 * Writes tensors, in the order given and one at a time, as `torch.save` of a dictionary would. Throws as `openAtomic`,
 * and what `read` throws.
 */
export async function writePth(
  path: string,
  tensors: Iterable<TensorSource>,
  {root, metadata, zip64Above, ...options}: WritePthOptions = {}
): Promise<void> {
  const all = [...tensors]
  const output = await openAtomic(path, options)
  try {
    const zip = new ZipWriter(output, {zip64Above})
    const add = (name: string, content: Uint8Array): Promise<void> => zip.add(`archive/${name}`, content.byteLength, [content])
    await add('data.pkl', stateDictPickle(all, root))
    await add('byteorder', Buffer.from('little'))
    if (metadata) await add(METADATA, Buffer.from(JSON.stringify(metadata)))
    for (const [key, {dtype, shape, read}] of all.entries())
      await zip.add(`archive/data/${key}`, elements(shape) * itemSize[dtype], once(read))
    await add('version', Buffer.from('3\n'))
    await zip.finish()
    await output.commit()
  } catch (error) {
    await output.abort()
    throw error
  }
}

async function* once(read: TensorSource['read']): AsyncGenerator<Uint8Array> {
  yield await read()
}

/** The pickle (protocol 2) of a dictionary of contiguous tensors, the n-th being the whole of storage n. */
function stateDictPickle(tensors: readonly TensorSource[], root: string | undefined): Buffer {
  const out: Buffer[] = [Buffer.from([0x80, 2])]
  const op = (...codes: (string | Buffer)[]): void =>
    void out.push(...codes.map(code => (typeof code === 'string' ? Buffer.from(code) : code)))
  const text = (value: string): Buffer => {
    const bytes = Buffer.from(value)
    const head = Buffer.alloc(5)
    head[0] = 0x58 // BINUNICODE
    head.writeUInt32LE(bytes.length, 1)
    return Buffer.concat([head, bytes])
  }
  const whole = (value: number): Buffer => {
    if (value < 0x80000000) {
      const bytes = Buffer.alloc(5)
      bytes[0] = 0x4a // BININT
      bytes.writeInt32LE(value, 1)
      return bytes
    }
    const bytes = Buffer.alloc(10)
    bytes[0] = 0x8a // LONG1 of 8 bytes
    bytes[1] = 8
    bytes.writeBigInt64LE(BigInt(value), 2)
    return bytes
  }
  const tuple = (values: readonly number[]): Buffer => Buffer.concat([Buffer.from('('), ...values.map(whole), Buffer.from('t')])

  if (root !== undefined) op('}', text(root))
  op('}', '(')
  for (const [key, {name, dtype, shape}] of tensors.entries()) {
    const stride = shape.map((_, axis) => elements(shape.slice(axis + 1)))
    op(text(name), 'ctorch._utils\n_rebuild_tensor_v2\n', '(')
    op('(', text('storage'), `ctorch\n${typeNames[dtype]}\n`, text(String(key)), text('cpu'), whole(elements(shape)), 'tQ')
    op(whole(0), tuple(shape), tuple(stride), Buffer.from([0x89]), 'ccollections\nOrderedDict\n)R', 'tR')
  }
  op('u')
  if (root !== undefined) op('s')
  op('.')
  return Buffer.concat(out)
}
