/**
 * What a pickle of torch.save may hold: tensors, storages, plain containers, and by name what training scripts keep
 * beside the weights. All else is refused by `pickle.ts`.
 */
import {UserError} from '../../config/errors.js'
import {PyGlobal, PyObject, PyOpaque, PyTuple, type PyValue} from './pickle.js'
import type {DType} from './tensor-entry.js'

/** The raw numbers that tensors are views of. `dtype` is absent where the tensor brings it (UntypedStorage). */
export class TorchStorage extends PyObject {
  constructor(
    readonly key: string,
    readonly dtype: DType | undefined,
    /** Elements, or bytes where `dtype` is absent. */
    readonly length: number,
    /** First element in the record of this key; above 0 in files of old versions, where a storage may be a part. */
    readonly start = 0
  ) {
    super()
  }
}

/** The raw bytes of one storage, wherever they lie in the file. */
export type StorageBytes = {
  readonly size: number
  /** `length` bytes from `offset`. */
  read(offset: number, length: number): Promise<Uint8Array>
}

export class TorchTensor extends PyObject {
  constructor(
    readonly storage: TorchStorage,
    readonly dtype: DType,
    /** First element, counted in elements of the storage. */
    readonly offset: number,
    readonly shape: readonly number[],
    readonly stride: readonly number[]
  ) {
    super()
  }
}

export const storageTypes: Readonly<Record<string, DType>> = {
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

// ---- the list of what a checkpoint may hold ------------------------------------------------------------------------

const dataOnly = new Set(
  ['int', 'float', 'bool', 'str', 'bytes', 'complex', 'object', 'slice', 'range', 'type']
    .flatMap(name => [`builtins.${name}`, `__builtin__.${name}`])
    .concat('__builtin__.long', '__builtin__.unicode') // int and str of Python 3, as protocol 2 names them
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

/** What a name stands for in a checkpoint; undefined: it is not on the list. */
export function findTorchGlobal(name: string): PyGlobal | PyOpaque | undefined {
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
export class Malformed extends Error {}

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
): TorchTensor => {
  if (!(storage instanceof TorchStorage)) throw malformed('a tensor has no storage')
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
  return new TorchTensor(storage, type, offset, lengths, strides)
}

const parameter: Call = ([data]) => {
  if (!(data instanceof TorchTensor)) throw malformed('a parameter is not a tensor')
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

/**
 * The persistent id of torch.save: ('storage', type, key, device, length). Files of old versions add which part of the
 * storage is meant, (key, offset, length), or None.
 */
export function torchStorage(path: string, id: PyValue): TorchStorage {
  const [kind, type, key, device, length, part = null] = id instanceof PyTuple ? id.items : []
  if (kind !== 'storage' || !(type instanceof PyGlobal) || typeof key !== 'string' || typeof length !== 'number' || !(length >= 0))
    throw malformed('a storage is described in an unusual way')
  if (device === 'meta') throw new UserError(`${path} holds tensors without numbers (device meta).`, {code: 'BAD_CHECKPOINT'})
  const name = type.name.split('.').at(-1)!
  const dtype = name === 'UntypedStorage' ? undefined : (storageTypes[name] ?? fail(`the storage type ${type.name} is unknown`))
  if (part === null) return new TorchStorage(key, dtype, length)
  const [, start, size] = part instanceof PyTuple ? part.items : []
  if (typeof start !== 'number' || typeof size !== 'number' || !(start >= 0) || !(size >= 0) || !(start + size <= length))
    throw malformed('a part of a storage is described in an unusual way')
  return new TorchStorage(key, dtype, size, start)
}

const fail = (what: string): never => {
  throw malformed(what)
}
