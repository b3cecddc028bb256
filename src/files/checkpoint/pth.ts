/**
 * Files of `torch.save`, read without Python and written so that `torch.load(…, weights_only=True)` opens them.
 *
 * Such a file is a zip archive: `data.pkl` is a pickle of containers and tensors, `data/<key>` the raw bytes of one
 * storage each. The pickle goes through `pickle.ts` with the list below: tensors, storages, plain containers, nothing
 * else. A tensor is a view (offset, shape, strides) of a storage; its bytes are read from their place in the file when
 * asked for, so two tensors may share a storage and no storage is ever held whole besides the tensor made from it.
 */
import {openAtomic, type AtomicOptions} from '../../system/atomic.js'
import {UserError} from '../../config/errors.js'
import {openReader, type FileReader} from '../../system/file-reader.js'
import {MAX_PICKLE, PyGlobal, PyObject, PyOpaque, PyTuple, unpickle, type PyValue} from './pickle.js'
import type {TensorSource} from './safetensors.js'
import {elements, itemSize, tensorEntry, type DType, type TensorEntry} from './tensor-entry.js'
import {readZip, ZipWriter, type ZipRecord} from './zip.js'

/** The raw numbers that tensors are views of. `dtype` is absent where the tensor brings it (UntypedStorage). */
class Storage extends PyObject {
  constructor(
    readonly key: string,
    readonly dtype: DType | undefined,
    /** Elements, or bytes where `dtype` is absent. */
    readonly length: number
  ) {
    super()
  }
}

class Tensor extends PyObject {
  constructor(
    readonly storage: Storage,
    readonly dtype: DType,
    /** First element, counted in elements of the storage. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[]
  ) {
    super()
  }
}

const storageTypes: Readonly<Record<string, DType>> = {
  DoubleStorage: 'F64',
  FloatStorage: 'F32',
  HalfStorage: 'F16',
  BFloat16Storage: 'BF16',
  LongStorage: 'I64',
  IntStorage: 'I32',
  ShortStorage: 'I16',
  CharStorage: 'I8',
  ByteStorage: 'U8',
  BoolStorage: 'BOOL'
}

const torchTypes: Readonly<Record<string, DType>> = {
  float64: 'F64',
  double: 'F64',
  float32: 'F32',
  float: 'F32',
  float16: 'F16',
  half: 'F16',
  bfloat16: 'BF16',
  int64: 'I64',
  long: 'I64',
  int32: 'I32',
  int: 'I32',
  int16: 'I16',
  short: 'I16',
  int8: 'I8',
  uint8: 'U8',
  bool: 'BOOL'
}

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
  close(): Promise<void>
}

/**
 * Opens a `.pth` file: reads its directory and its pickle, and no numbers yet.
 *
 * Throws `UserError`: not such a file, truncated, in PyTorch's old format (with the line that saves it anew), or
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

async function read(file: FileReader, tolerant: boolean): Promise<PthFile> {
  const {path} = file
  await checkFormat(file)
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
  let tree: PyValue
  try {
    tree = unpickle(bytes, {path, tolerant, find: allowed, persistent: id => storage(path, id)})
  } catch (error) {
    if (!(error instanceof Malformed)) throw error
    throw new UserError(`The checkpoint ${path} is damaged: ${error.message}.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save it again.'})
  }

  if (!(tree instanceof Map))
    throw new UserError(`${path} holds no dictionary of tensors at its top level.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Save model.state_dict(), not the model.'
    })
  const entry = (name: string, tensor: Tensor): TensorEntry => lazy(path, name, tensor, records.get(`${prefix}data/${tensor.storage.key}`))
  const roots = new Map<string, Map<string, TensorEntry>>()
  const gather = (dict: Map<PyValue, PyValue>, strict: boolean, root: string): Map<string, TensorEntry> => {
    const found = new Map<string, TensorEntry>()
    for (const [name, value] of dict) {
      if (typeof name !== 'string') continue
      if (value instanceof Tensor) found.set(name, entry(name, value))
      else if (strict && value instanceof PyOpaque)
        throw new UserError(`${path} is refused: its ${root} holds an object of ${value.name} named ${name}, where a tensor should be.`, {
          code: 'UNSAFE_PICKLE'
        })
    }
    return found
  }
  const direct = gather(tree, false, '')
  if (direct.size && !tolerant) roots.set('', direct)
  for (const [key, value] of tree) {
    if (typeof key !== 'string' || !(value instanceof Map) || (tolerant && key !== 'state_dict')) continue
    const found = gather(value, key === 'state_dict', key)
    if (found.size) roots.set(key, found)
  }
  if (!roots.size)
    throw new UserError(
      tolerant ? `${path} has no dictionary state_dict of tensors.` : `${path} holds no tensors at its top level or one level below.`,
      {
        code: 'BAD_CHECKPOINT',
        hint: 'Save model.state_dict() with torch.save.'
      }
    )
  return {path, roots, close: () => file.close()}
}

const quote = (path: string): string => `'${path.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`

/** Tells what the file is by its first bytes, and says of the old formats how to get out of them. */
async function checkFormat(file: FileReader): Promise<void> {
  const {path, size} = file
  if (size === 0) throw new UserError(`${path} is empty.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save it again.'})
  const head = await file.read(0, Math.min(size, 512))
  if (head[0] === 0x50 && head[1] === 0x4b) return
  const tar = Buffer.from(head.subarray(257, 262)).toString('latin1') === 'ustar'
  if (head[0] === 0x80 || tar)
    throw new UserError(`${path} is in the format that PyTorch wrote before version 1.6, which cannot be read in pieces.`, {
      code: 'OLD_FORMAT',
      hint: `Save it anew: python3 -c "import torch; torch.save(torch.load(${quote(path)}, map_location='cpu', weights_only=True), 'new.pth')"`
    })
  if (head[8] === 0x7b && head[0] !== 0x7b)
    throw new UserError(`${path} looks like a safetensors file.`, {code: 'BAD_CHECKPOINT', hint: 'Give it the ending .safetensors.'})
  throw new UserError(`${path} is not a file of torch.save: it begins with ${printable(head)}.`, {
    code: 'BAD_CHECKPOINT',
    hint: 'A page of a web server in its place? Fetch it again.'
  })
}

const printable = (bytes: Uint8Array): string => JSON.stringify(Buffer.from(bytes.subarray(0, 12)).toString('latin1'))

// ---- the list of what a checkpoint may hold ------------------------------------------------------------------------

const dataOnly = new Set(
  ['int', 'float', 'bool', 'str', 'bytes', 'complex', 'object', 'slice', 'range', 'type']
    .flatMap(name => [`builtins.${name}`, `__builtin__.${name}`])
    .concat('torch.Tensor', 'torch.nn.parameter.Parameter', 'torch._C._nn.Parameter', 'torch.strided', 'torch.per_tensor_affine')
)

/**
 * What training scripts keep beside the weights: learning rates of numpy, arguments, paths, settings, states of random
 * generators. Their objects become inert: nothing of them is built, and none may stand where a tensor should.
 */
const inert = new RegExp(
  `^(?:${[
    String.raw`numpy(?:\._?core)?(?:\.multiarray|\.numeric)?\.(?:scalar|dtype|ndarray|_reconstruct|_frombuffer|bool_?|u?int\d+|float\d+)`,
    String.raw`numpy\.dtypes\.\w+DType`,
    String.raw`numpy\.random\._pickle\.__(?:randomstate|generator|bit_generator)_ctor`,
    String.raw`argparse\.Namespace`,
    String.raw`types\.SimpleNamespace`,
    String.raw`pathlib(?:\._local)?\.(?:Pure)?(?:Posix|Windows)?Path`,
    String.raw`omegaconf\.(?:\w+\.)?\w+`,
    String.raw`typing\.(?:Any|Union|Optional|Dict|List|Tuple)`,
    String.raw`datetime\.(?:datetime|date|time|timedelta|timezone)`,
    String.raw`uuid\.UUID`,
    String.raw`(?:pytorch_lightning|lightning\.pytorch|lightning_fabric|lightning\.fabric)\.utilities\.(?:\w+\.)?AttributeDict`,
    String.raw`yacs\.config\.CfgNode`,
    String.raw`easydict\.EasyDict`
  ].join('|')})$`
)

function allowed(name: string): PyGlobal | PyOpaque | undefined {
  if (inert.test(name)) return new PyOpaque(name)
  const call = calls[name.replace(/^__builtin__\./, 'builtins.')]
  if (call && Object.hasOwn(calls, name.replace(/^__builtin__\./, 'builtins.'))) return new PyGlobal(name, call)
  const torch = /^torch(?:\.cuda|\.storage)?\.(\w+)$/.exec(name)?.[1]
  if (dataOnly.has(name)) return new PyGlobal(name)
  if (torch !== undefined && (Object.hasOwn(storageTypes, torch) || torch === 'UntypedStorage' || Object.hasOwn(torchTypes, torch)))
    return new PyGlobal(name)
  return undefined
}

type Call = NonNullable<PyGlobal['call']>

/** A pickle that is well formed, but says of a tensor or container what cannot be. */
class Malformed extends Error {}

const malformed = (what: string): Malformed => new Malformed(what)

/** Items of what Python would iterate over. */
function iterate(value: PyValue | undefined, spend: (items: number) => void): PyValue[] {
  if (value === undefined) return []
  const items =
    value instanceof PyTuple
      ? value.items
      : Array.isArray(value)
        ? value
        : value instanceof Set || value instanceof Map
          ? [...value.keys()]
          : undefined
  if (!items) throw malformed('a container is made of something that is none')
  spend(items.length)
  return [...items]
}

const dictionary: Call = ([source], spend) => {
  if (source instanceof Map) {
    spend(source.size)
    return new Map(source)
  }
  const pairs = iterate(source, spend).map(pair => iterate(pair, spend))
  return new Map(pairs.map(([key, value]) => [key ?? null, value ?? null]))
}

const rebuild = (
  storage: PyValue | undefined,
  offset: PyValue | undefined,
  shape: PyValue | undefined,
  stride: PyValue | undefined,
  dtype?: DType
): Tensor => {
  if (!(storage instanceof Storage)) throw malformed('a tensor has no storage')
  const type = dtype ?? storage.dtype
  if (!type) throw malformed('a tensor of an untyped storage does not say its type')
  const counts = (value: PyValue | undefined): number[] => {
    const items = value instanceof PyTuple ? value.items : undefined
    if (!items?.every(item => typeof item === 'number' && Number.isSafeInteger(item) && item >= 0))
      throw malformed('a shape is not a tuple of counts')
    return items as number[]
  }
  if (typeof offset !== 'number' || !Number.isSafeInteger(offset) || offset < 0) throw malformed('a tensor does not say where it begins')
  const [lengths, strides] = [counts(shape), counts(stride)]
  if (lengths.length !== strides.length || lengths.length > 64) throw malformed('the shape and strides of a tensor disagree')
  return new Tensor(storage, type, offset, lengths, strides)
}

const parameter: Call = ([data]) => {
  if (!(data instanceof Tensor)) throw malformed('a parameter is not a tensor')
  return data
}

const calls: Readonly<Record<string, Call>> = {
  'collections.OrderedDict': dictionary,
  'collections.defaultdict': ([, source], spend) => dictionary(source === undefined ? [] : [source], spend),
  'collections.Counter': dictionary,
  'builtins.dict': dictionary,
  'builtins.set': ([source], spend) => new Set(iterate(source, spend)),
  'builtins.frozenset': ([source], spend) => new Set(iterate(source, spend)),
  'builtins.list': ([source], spend) => iterate(source, spend),
  'builtins.tuple': ([source], spend) => new PyTuple(iterate(source, spend)),
  'torch.Size': ([source], spend) => new PyTuple(iterate(source, spend)),
  'torch.device': ([type]) => (typeof type === 'string' ? type : null),
  // Bytes under protocol 2 are a latin-1 string and this call.
  '_codecs.encode': ([text, encoding], spend) => {
    if (typeof text !== 'string' || encoding !== 'latin1') throw malformed('bytes are encoded in an unusual way')
    spend(text.length)
    return new Uint8Array(Buffer.from(text, 'latin1'))
  },
  'torch._utils._rebuild_tensor': ([storage, offset, shape, stride]) => rebuild(storage, offset, shape, stride),
  'torch._utils._rebuild_tensor_v2': ([storage, offset, shape, stride]) => rebuild(storage, offset, shape, stride),
  'torch._utils._rebuild_tensor_v3': ([storage, offset, shape, stride, , , dtype]) => {
    const name = dtype instanceof PyGlobal ? dtype.name.replace(/^torch\./, '') : ''
    if (!Object.hasOwn(torchTypes, name)) throw malformed('a tensor does not say its type')
    return rebuild(storage, offset, shape, stride, torchTypes[name])
  },
  'torch._utils._rebuild_parameter': parameter,
  'torch._utils._rebuild_parameter_with_state': parameter,
  'torch._tensor._rebuild_from_type_v2': ([make, , args], spend) => {
    if (
      !(make instanceof PyGlobal) ||
      !/^torch\._utils\._rebuild_(tensor|parameter)/.test(make.name) ||
      !make.call ||
      !(args instanceof PyTuple)
    )
      throw malformed('a tensor is made in an unusual way')
    return make.call(args.items, spend)
  }
}

/** The persistent id of torch.save: ('storage', type, key, device, length). */
function storage(path: string, id: PyValue): Storage {
  const [kind, type, key, device, length] = id instanceof PyTuple ? id.items : []
  if (kind !== 'storage' || !(type instanceof PyGlobal) || typeof key !== 'string' || typeof length !== 'number' || !(length >= 0))
    throw malformed('a storage is described in an unusual way')
  if (device === 'meta') throw new UserError(`${path} holds tensors without numbers (device meta).`, {code: 'BAD_CHECKPOINT'})
  const name = type.name.split('.').at(-1)!
  return new Storage(
    key,
    name === 'UntypedStorage' ? undefined : (storageTypes[name] ?? fail(`the storage type ${type.name} is unknown`)),
    length
  )
}

const fail = (what: string): never => {
  throw malformed(what)
}

// ---- tensors as views ----------------------------------------------------------------------------------------------

/** A view that repeats its numbers may be larger than its storage only up to this many elements. */
const MAX_REPEATED = 1 << 26

function lazy(path: string, name: string, {storage, dtype, offset, shape, stride}: Tensor, record: ZipRecord | undefined): TensorEntry {
  const broken = (what: string): UserError =>
    new UserError(`The tensor ${name} in ${path} is damaged: ${what}.`, {code: 'BAD_CHECKPOINT', hint: 'Fetch or save the file again.'})
  const size = itemSize[dtype]
  const count = elements(shape)
  const bytes = storage.length * (storage.dtype ? itemSize[storage.dtype] : 1)
  if (!record) throw broken(`its numbers (record data/${storage.key}) are missing`)
  if (record.size < bytes) throw broken(`its storage should have ${bytes} bytes, but ${record.size} are there`)
  // Elements from the first to the last that the view touches.
  const span = count === 0 ? 0 : 1 + shape.reduce((sum, length, i) => sum + (length - 1) * stride[i]!, 0)
  if (!Number.isSafeInteger(count * size) || !Number.isSafeInteger((offset + span) * size) || (offset + span) * size > bytes)
    throw broken(`it reaches to element ${offset + span} of a storage with ${bytes / size}`)
  if (count * size > bytes && count > MAX_REPEATED) throw broken(`it claims ${count} elements of a storage with ${bytes / size}`)
  return tensorEntry(name, dtype, shape, async () => {
    const source = await record.read(offset * size, span * size)
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

// ---- writing -------------------------------------------------------------------------------------------------------

const typeNames = Object.fromEntries(Object.entries(storageTypes).map(([name, dtype]) => [dtype, name])) as Record<DType, string>

export type WritePthOptions = AtomicOptions & {
  /** Wraps the dictionary of tensors in another one under this key, such as `teacher`. */
  readonly root?: string
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
  {root, zip64Above, ...options}: WritePthOptions = {}
): Promise<void> {
  const all = [...tensors]
  const output = await openAtomic(path, options)
  try {
    const zip = new ZipWriter(output, {zip64Above})
    const add = (name: string, content: Uint8Array): Promise<void> => zip.add(`archive/${name}`, content.byteLength, [content])
    await add('data.pkl', stateDictPickle(all, root))
    await add('byteorder', Buffer.from('little'))
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
