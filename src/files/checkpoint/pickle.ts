/**
 * Reads Python pickles without Python and without trust.
 *
 * A pickle is a program for a small stack machine; what makes it dangerous are the opcodes that look up a name in any
 * module and call it. Here a name is looked up in a list that the caller gives, and a call is a function of ours that
 * builds plain data. A name that is not on the list ends the reading at once with a sentence that names it, whether or
 * not it would have been called. In tolerant mode unknown names become inert objects that hold nothing and do nothing;
 * names that can harm are refused even then, because a file that mentions them is not a checkpoint.
 *
 * Work and memory grow with the bytes of the pickle: nothing recurses, and what may copy (`set(list)`) draws on a
 * budget.
 */
import {UserError} from '../../config/errors.js'

/** A Python tuple; lists are plain arrays. */
export class PyTuple {
  constructor(readonly items: readonly PyValue[]) {}
}

/** A name that a pickle mentions and the list knows; `call` is there when it may be called. */
export class PyGlobal {
  constructor(
    readonly name: string,
    readonly call?: (args: readonly PyValue[], spend: (items: number) => void) => PyValue
  ) {}
}

/** Something harmless, or met by tolerant reading, that is passed over: it is not built and holds nothing. */
export class PyOpaque {
  constructor(readonly name: string) {}
}

/** Base of what callers build in their `call` and `persistent` functions. */
export abstract class PyObject {}

export type PyValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | PyTuple
  | PyGlobal
  | PyOpaque
  | PyObject
  | PyValue[]
  | Map<PyValue, PyValue>
  | Set<PyValue>

export type PickleOptions = {
  /** Names the pickle in messages. */
  readonly path: string
  /** What a name `module.attribute` means; undefined: not on the list. Objects of a `PyOpaque` stay inert. */
  readonly find: (name: string) => PyGlobal | PyOpaque | undefined
  /** What a persistent id stands for. */
  readonly persistent: (id: PyValue) => PyValue
  readonly tolerant?: boolean
}

/** Longest pickle that is read, in bytes; that of the largest released model has about 100 kB. */
export const MAX_PICKLE = 256 << 20
const BUDGET = 10_000_000

/**
 * Modules that no checkpoint has reason to mention, by their first name. In `builtins` only what the list knows is
 * harmless.
 */
const HARMFUL = new Set(
  (
    'os posix nt subprocess sys shutil socket importlib imp runpy ctypes pty code codeop pdb bdb timeit marshal pickle _pickle shelve operator _operator ' +
    'builtins __builtin__ webbrowser urllib http requests asyncio multiprocessing threading signal commands platform ' +
    'tempfile inspect types linecache cProfile profile doctest sysconfig site venv ensurepip pip pydoc distutils setuptools gc'
  ).split(' ')
)

const MARK = Symbol('mark')

/** The bytes end before the pickle does: it is damaged, or only its beginning was read. */
export class PickleEnds extends UserError {}

/**
 * Runs the pickle and returns what it builds. Throws `UserError` for what is broken (`BAD_CHECKPOINT`) and for what is
 * refused (`UNSAFE_PICKLE`).
 */
export const unpickle = (bytes: Uint8Array, options: PickleOptions): PyValue => unpickleFirst(bytes, options).value

/** As `unpickle`, with the number of bytes that the pickle takes: others may follow it. */
export function unpickleFirst(
  bytes: Uint8Array,
  {path, find, persistent, tolerant = false}: PickleOptions
): {value: PyValue; length: number} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = new TextDecoder('utf-8', {fatal: false, ignoreBOM: true})
  const latin = (piece: Uint8Array): string => Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength).toString('latin1')
  const stack: (PyValue | typeof MARK)[] = []
  const memo = new Map<number, PyValue>()
  let at = 0
  let budget = BUDGET

  const broken = (what: string): UserError =>
    new UserError(`The pickle in ${path} is damaged at byte ${at}: ${what}.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Fetch or save the file again.'
    })
  const ended = (what: string): UserError =>
    new PickleEnds(`The pickle in ${path} is damaged at byte ${at}: it ends in the middle of a ${what}.`, {
      code: 'BAD_CHECKPOINT',
      hint: 'Fetch or save the file again.'
    })
  const refused = (what: string): UserError =>
    new UserError(`${path} is refused: its pickle ${what}. Nothing in it was executed.`, {
      code: 'UNSAFE_PICKLE',
      hint: tolerant
        ? 'A checkpoint has no need of that; get the file from its first source, or as safetensors.'
        : `Get the model as safetensors. If the model lies under state_dict, read that alone: dinov2 export ${path} --state-dict-only --to safetensors -o weights.safetensors`
    })
  const spend = (items: number): void => {
    if ((budget -= items) < 0) throw refused('copies its own lists beyond any measure')
  }
  const take = (length: number): number => {
    if (length < 0 || at + length > bytes.byteLength) throw ended('value')
    at += length
    return at - length
  }
  const piece = (length: number): Uint8Array => bytes.subarray(take(length), at)
  const long = (): number => {
    const length = Number(view.getBigUint64(take(8), true))
    if (length > bytes.byteLength) throw ended('value')
    return length
  }
  const line = (): string => {
    const end = bytes.indexOf(10, at)
    if (end < 0) throw ended('name')
    return text.decode(piece(end + 1 - at).subarray(0, -1))
  }
  const integer = (length: number): number | bigint => {
    if (length > 1024) throw broken(`it holds an integer of ${length} bytes`)
    let value = 0n
    for (const [i, byte] of piece(length).entries()) value |= BigInt(byte) << BigInt(8 * i)
    value = BigInt.asIntN(8 * length, value)
    return Number.isSafeInteger(Number(value)) ? Number(value) : value
  }
  const pop = (): PyValue => {
    const value = stack.pop()
    if (value === undefined || value === MARK) throw broken('it takes more from its stack than it put there')
    return value
  }
  const top = (): PyValue => {
    const value = stack.at(-1)
    if (value === undefined || value === MARK) throw broken('it looks for a value on an empty stack')
    return value
  }
  const popMark = (): PyValue[] => {
    const mark = stack.lastIndexOf(MARK)
    if (mark < 0) throw broken('it closes a list that it did not open')
    const items = stack.splice(mark)
    items.shift()
    return items as PyValue[]
  }
  const remember = (index: number): void => void memo.set(index, top())
  const recall = (index: number): void => {
    const value = memo.get(index)
    if (value === undefined) throw broken(`it recalls value ${index}, which it did not store`)
    stack.push(value)
  }
  const lookUp = (module: string, attribute: string): PyGlobal | PyOpaque => {
    const name = `${module}.${attribute}`
    const known = find(name)
    if (known) return known
    if (!tolerant || HARMFUL.has(module.split('.')[0]!))
      throw refused(`mentions ${name}, which is not on the list of what a checkpoint may hold`)
    return new PyOpaque(name)
  }
  const nameOf = (value: PyValue): string =>
    value instanceof PyGlobal || value instanceof PyOpaque ? value.name : `a value of type ${typeof value}`
  const call = (callee: PyValue, args: PyValue, how: string): PyValue => {
    if (callee instanceof PyOpaque) return new PyOpaque(callee.name)
    if (!(callee instanceof PyGlobal) || !callee.call) throw refused(`${how} ${nameOf(callee)}`)
    if (!(args instanceof PyTuple)) throw broken(`${callee.name} is called with arguments that are not a tuple`)
    return callee.call(args.items, spend)
  }
  const extend = (items: readonly PyValue[]): void => {
    const list = top()
    if (list instanceof PyOpaque) return
    if (!Array.isArray(list)) throw broken('it appends to something that is not a list')
    for (const item of items) list.push(item)
  }
  const assign = (items: readonly PyValue[]): void => {
    const dict = top()
    if (dict instanceof PyOpaque) return
    if (!(dict instanceof Map)) throw broken('it sets keys of something that is not a dictionary')
    if (items.length % 2) throw broken('a dictionary has a key without value')
    for (let i = 0; i < items.length; i += 2) dict.set(items[i]!, items[i + 1]!)
  }

  if (bytes.byteLength > MAX_PICKLE) throw refused(`has ${bytes.byteLength} bytes, more than the ${MAX_PICKLE} allowed`)
  if (bytes[0] !== 0x80) throw broken('it does not begin with its protocol; torch.save writes protocols 2 to 5')
  for (;;) {
    const opcode = bytes[take(1)]!
    switch (opcode) {
      case 0x80: {
        const protocol = bytes[take(1)]!
        if (protocol < 2 || protocol > 5) throw broken(`its protocol is ${protocol}; 2 to 5 are read`)
        break
      }
      case 0x95: // FRAME: how much a reader should buffer
        long()
        break
      case 0x2e: {
        // STOP
        const value = pop()
        if (stack.length) throw broken('it stops with values left over')
        return {value, length: at}
      }
      case 0x28: // MARK
        stack.push(MARK)
        break
      case 0x30: // POP
        if (stack.pop() === undefined) throw broken('it takes more from its stack than it put there')
        break
      case 0x31: // POP_MARK
        popMark()
        break
      case 0x32: // DUP
        stack.push(top())
        break
      case 0x4e: // NONE
        stack.push(null)
        break
      case 0x88:
        stack.push(true)
        break
      case 0x89:
        stack.push(false)
        break
      case 0x4a: // BININT
        stack.push(view.getInt32(take(4), true))
        break
      case 0x4b: // BININT1
        stack.push(bytes[take(1)]!)
        break
      case 0x4d: // BININT2
        stack.push(view.getUint16(take(2), true))
        break
      case 0x8a: // LONG1
        stack.push(integer(bytes[take(1)]!))
        break
      case 0x8b: // LONG4
        stack.push(integer(view.getUint32(take(4), true)))
        break
      case 0x47: // BINFLOAT
        stack.push(view.getFloat64(take(8), false))
        break
      case 0x58: // BINUNICODE
        stack.push(text.decode(piece(view.getUint32(take(4), true))))
        break
      case 0x8c: // SHORT_BINUNICODE
        stack.push(text.decode(piece(bytes[take(1)]!)))
        break
      case 0x8d: // BINUNICODE8
        stack.push(text.decode(piece(long())))
        break
      case 0x54: // BINSTRING: of Python 2
        stack.push(latin(piece(view.getUint32(take(4), true))))
        break
      case 0x55: // SHORT_BINSTRING
        stack.push(latin(piece(bytes[take(1)]!)))
        break
      case 0x42: // BINBYTES
        stack.push(piece(view.getUint32(take(4), true)))
        break
      case 0x43: // SHORT_BINBYTES
        stack.push(piece(bytes[take(1)]!))
        break
      case 0x8e: // BINBYTES8
      case 0x96: // BYTEARRAY8
        stack.push(piece(long()))
        break
      case 0x5d: // EMPTY_LIST
        stack.push([])
        break
      case 0x6c: // LIST
        stack.push(popMark())
        break
      case 0x61: // APPEND
        extend([pop()])
        break
      case 0x65: // APPENDS
        extend(popMark())
        break
      case 0x29: // EMPTY_TUPLE
        stack.push(new PyTuple([]))
        break
      case 0x74: // TUPLE
        stack.push(new PyTuple(popMark()))
        break
      case 0x85:
      case 0x86:
      case 0x87: {
        // TUPLE1, TUPLE2, TUPLE3
        const items: PyValue[] = []
        for (let i = 0x85; i <= opcode; i++) items.unshift(pop())
        stack.push(new PyTuple(items))
        break
      }
      case 0x7d: // EMPTY_DICT
        stack.push(new Map())
        break
      case 0x64: {
        // DICT
        const items = popMark()
        stack.push(new Map())
        assign(items)
        break
      }
      case 0x73: {
        // SETITEM
        const value = pop()
        assign([pop(), value])
        break
      }
      case 0x75: // SETITEMS
        assign(popMark())
        break
      case 0x8f: // EMPTY_SET
        stack.push(new Set())
        break
      case 0x90: {
        // ADDITEMS
        const items = popMark()
        const set = top()
        if (!(set instanceof Set)) throw broken('it adds to something that is not a set')
        for (const item of items) set.add(item)
        break
      }
      case 0x91: // FROZENSET
        stack.push(new Set(popMark()))
        break
      case 0x71: // BINPUT
        remember(bytes[take(1)]!)
        break
      case 0x72: // LONG_BINPUT
        remember(view.getUint32(take(4), true))
        break
      case 0x94: // MEMOIZE
        remember(memo.size)
        break
      case 0x68: // BINGET
        recall(bytes[take(1)]!)
        break
      case 0x6a: // LONG_BINGET
        recall(view.getUint32(take(4), true))
        break
      case 0x63: {
        // GLOBAL
        const module = line()
        stack.push(lookUp(module, line()))
        break
      }
      case 0x93: {
        // STACK_GLOBAL
        const attribute = pop()
        const module = pop()
        if (typeof module !== 'string' || typeof attribute !== 'string') throw broken('it looks up a name that is not a string')
        stack.push(lookUp(module, attribute))
        break
      }
      case 0x52: {
        // REDUCE
        const args = pop()
        stack.push(call(pop(), args, 'calls'))
        break
      }
      case 0x62: {
        // BUILD: attributes of an object. Those of a dictionary (`_metadata` of a state dict) are of no use here.
        pop()
        const object = top()
        if (!(object instanceof Map || object instanceof PyOpaque)) throw refused(`sets the state of ${nameOf(object)}`)
        break
      }
      case 0x81: {
        // NEWOBJ
        const args = pop()
        stack.push(call(pop(), args, 'makes an object of'))
        break
      }
      case 0x92: {
        // NEWOBJ_EX
        const named = pop()
        const args = pop()
        const callee = pop()
        if (!(callee instanceof PyOpaque) && !(named instanceof Map && named.size === 0))
          throw refused(`makes an object of ${nameOf(callee)}`)
        stack.push(call(callee, args, 'makes an object of'))
        break
      }
      case 0x69: {
        // INST
        const module = line()
        const callee = lookUp(module, line())
        stack.push(call(callee, new PyTuple(popMark()), 'makes an object of'))
        break
      }
      case 0x6f: {
        // OBJ
        const [callee, ...args] = popMark()
        if (callee === undefined) throw broken('it makes an object of nothing')
        stack.push(call(callee, new PyTuple(args), 'makes an object of'))
        break
      }
      case 0x51: // BINPERSID
        stack.push(persistent(pop()))
        break
      case 0x82:
      case 0x83:
      case 0x84:
        throw refused('uses a name by its number in the extension registry')
      default:
        throw broken(`the opcode 0x${opcode.toString(16).padStart(2, '0')} is none that torch.save writes`)
    }
  }
}
