/**
 * A TensorFlow.js backend whose tensors live in libtorch.
 *
 * Each data id stands for one handle of the native addon. Reshapes and transposes are views with a handle of their
 * own, so a handle's shape always equals the shape that TensorFlow.js believes. `disposeData` frees at once; no
 * garbage collector is waited for. To TensorFlow.js every real number is `float32`; inside, a tensor may be bfloat16,
 * and reading it back widens it.
 */
import {createRequire} from 'node:module'
import {simulatedDevice} from '../../system/test-device.js'
import {DataStorage, KernelBackend, engine, env, registerBackend, setBackend} from '../../tensor/tf.js'
import type {BackendValues, DataId, DataType, TensorInfo, TimingInfo} from '../../tensor/tf.js'
import {loadAddon, run, scalarType, torch} from './binding.js'
import type {Handle} from './binding.js'
import {deviceName, forgetDevice, onCpu} from './kernels/device.js'

type Entry = {
  /** 0 where libtorch does not hold the numbers yet, or never will. */
  handle: Handle
  dtype: DataType
  references: number
  /** Strings have no place in libtorch; they stay here. */
  strings?: Uint8Array[]
  /** A single number: operators take it as an argument, and most often nobody asks for its tensor. */
  scalar?: number
  /** Small arrays of the host that go to the device together, when the first of them is asked for. */
  waiting?: Waiting
}

type Waiting = {readonly bytes: Float32Array | Int32Array | Uint8Array; readonly shape: readonly number[]}

/** Arrays of at most so many bytes wait for each other before they go to a device other than the CPU. */
const MAX_WAITING_BYTES = 2 ** 18
/** Where each part of `fromParts` begins: at a multiple of this many bytes. */
const ALIGN = 16

/** The scalar type that values of a TensorFlow.js type are stored with. */
export function storedAs(dtype: DataType): number {
  switch (dtype) {
    case 'float32':
      return scalarType.float32
    case 'int32':
      return scalarType.int32
    case 'bool':
      return scalarType.bool
    default:
      throw new Error(`the torch engine holds no tensors of type ${dtype}; expected float32, int32 or bool`)
  }
}

/** The scalar type with which values come back to the host. */
const readAs = (dtype: DataType): number => (dtype === 'bool' ? scalarType.uint8 : storedAs(dtype))

const valuesOf = (buffer: ArrayBuffer, dtype: DataType): BackendValues =>
  dtype === 'float32' ? new Float32Array(buffer) : dtype === 'int32' ? new Int32Array(buffer) : new Uint8Array(buffer)

class TorchBackend extends KernelBackend {
  private readonly entries: DataStorage<Entry>
  private readonly waiting = new Set<Entry>()

  constructor() {
    super()
    this.entries = new DataStorage(this, engine())
  }

  /** The handle behind a tensor; it stays the backend's. */
  handle(info: {dataId: DataId}): Handle {
    const entry = this.entries.get(info.dataId)
    if (entry.handle === 0) this.settle(entry)
    return entry.handle
  }

  /** The number of a tensor that was made from one; undefined for all others. */
  scalar(info: {dataId: DataId}): number | undefined {
    return this.entries.get(info.dataId).scalar
  }

  /** Gives an entry the tensor that was put off. */
  private settle(entry: Entry): void {
    const {scalar, dtype, waiting} = entry
    if (waiting) this.upload([])
    else if (scalar !== undefined && onCpu())
      entry.handle = torch().fromBytes(dtype === 'int32' ? Int32Array.of(scalar) : Float32Array.of(scalar), storedAs(dtype), [])
    else if (scalar !== undefined) entry.handle = run('full', [], scalar, storedAs(dtype), null, deviceName()) as Handle
  }

  /**
   * Takes `bytes` to the device, and all arrays that wait along with them, in one copy; → a vector of bytes for each,
   * the caller's. `beside`: the copy runs while the device goes on with what it has to compute.
   */
  upload(bytes: readonly Uint8Array[], {beside = false} = {}): Handle[] {
    const entries = [...this.waiting]
    const parts = [...bytes, ...entries.map(({waiting}) => waiting!.bytes)]
    const whole = torch().fromParts(parts, beside)
    let start = 0
    const views = parts.map(({byteLength}) => {
      const view = run('slice.Tensor', whole, 0, start, start + byteLength, 1) as Handle
      start += Math.ceil(byteLength / ALIGN) * ALIGN
      return view
    })
    torch().release(whole)
    entries.forEach((entry, i) => {
      const view = views[bytes.length + i]!
      const typed = run('view.dtype', view, storedAs(entry.dtype)) as Handle
      entry.handle = run('view', typed, entry.waiting!.shape) as Handle
      delete entry.waiting
      torch().release(view)
      torch().release(typed)
    })
    this.waiting.clear()
    return views.slice(0, bytes.length)
  }

  /** Gives a handle to TensorFlow.js, which owns it from now on. */
  adopt(handle: Handle, dtype: DataType): TensorInfo {
    const dataId = {}
    this.entries.set(dataId, {handle, dtype, references: 1})
    return {dataId, shape: torch().shape(handle), dtype}
  }

  override write(values: BackendValues, shape: number[], dtype: DataType): DataId {
    const dataId = {}
    this.put(dataId, values, shape, dtype, 1)
    return dataId
  }

  override move(dataId: DataId, values: BackendValues, shape: number[], dtype: DataType, references: number): void {
    this.put(dataId, values, shape, dtype, references)
  }

  private put(dataId: DataId, values: BackendValues, shape: number[], dtype: DataType, references: number): void {
    if (dtype === 'string') {
      this.entries.set(dataId, {handle: 0, dtype, references, strings: values as Uint8Array[]})
      return
    }
    const bytes =
      dtype === 'float32'
        ? values instanceof Float32Array
          ? values
          : Float32Array.from(values as unknown as ArrayLike<number>)
        : dtype === 'int32'
          ? values instanceof Int32Array
            ? values
            : Int32Array.from(values as unknown as ArrayLike<number>)
          : Uint8Array.from(values as unknown as ArrayLike<number>, value => (value ? 1 : 0))
    const entry: Entry = {handle: 0, dtype, references}
    this.entries.set(dataId, entry)
    if (shape.length === 0 && dtype !== 'bool') entry.scalar = bytes[0]!
    else if (onCpu() || bytes.byteLength > MAX_WAITING_BYTES) entry.handle = torch().fromBytes(bytes, storedAs(dtype), shape)
    else this.waiting.add(Object.assign(entry, {waiting: {bytes: bytes.slice(), shape: [...shape]}}))
  }

  override readSync(dataId: DataId): BackendValues {
    const {handle, dtype, strings, scalar, waiting} = this.entries.get(dataId)
    if (strings) return strings
    if (scalar !== undefined) return dtype === 'int32' ? Int32Array.of(scalar) : Float32Array.of(scalar)
    if (waiting) return waiting.bytes.slice()
    return valuesOf(torch().toBytes(handle, readAs(dtype)), dtype)
  }

  /** On a device other than the CPU the copy begins at once, and the host goes on until the device has come to it. */
  override read(dataId: DataId): Promise<BackendValues> {
    const {handle, dtype} = this.entries.get(dataId)
    if (onCpu() || handle === 0) return Promise.resolve(this.readSync(dataId))
    const reading = torch().beginReading(handle, readAs(dtype))
    return new Promise((resolve, reject) => {
      const look = (): void => {
        try {
          const buffer = torch().endReading(reading)
          if (buffer) resolve(valuesOf(buffer, dtype))
          else setImmediate(look)
        } catch (error) {
          reject(error as Error)
        }
      }
      setImmediate(look)
    })
  }

  override disposeData(dataId: DataId, force = false): boolean {
    if (!this.entries.has(dataId)) return true
    const entry = this.entries.get(dataId)
    entry.references--
    if (!force && entry.references > 0) return false
    if (entry.handle) torch().release(entry.handle)
    this.waiting.delete(entry)
    this.entries.delete(dataId)
    return true
  }

  override refCount(dataId: DataId): number {
    return this.entries.has(dataId) ? this.entries.get(dataId).references : 0
  }

  override incRef(dataId: DataId): void {
    this.entries.get(dataId).references++
  }

  override numDataIds(): number {
    return this.entries.numDataIds()
  }

  override memory(): {unreliable: boolean; held: number; peak: number; reserved: number; free?: number | undefined} {
    const {held, peak, reserved, free} = torch().memory()
    return {held, peak, reserved, free, unreliable: false}
  }

  override timerAvailable(): boolean {
    return true
  }

  override async time(body: () => void): Promise<TimingInfo> {
    torch().synchronize()
    const start = process.hrtime.bigint()
    body()
    torch().synchronize()
    return Promise.resolve({kernelMs: Number(process.hrtime.bigint() - start) / 1e6, wallMs: 0})
  }

  override floatPrecision(): 16 | 32 {
    return 32
  }

  override epsilon(): number {
    return 1e-7
  }

  override dispose(): void {
    // The addon lives as long as the process; tensors are let go one by one.
  }
}

let current: TorchBackend | undefined

/** The running backend; a defect of ours if asked for before `startTorch`. */
export function backend(): TorchBackend {
  if (!current) throw new Error('the torch engine was used before it was started')
  return current
}

export type TorchStart = {
  /** Path of the compiled addon. */
  readonly addon: string
  /** `cpu`, `cuda`, `cuda:1`, `mps`. */
  readonly device?: string
  /** Threads of the CPU kernels; the number of cores by default. */
  readonly threads?: number
  /** Whether a GPU may round the operands of float32 products to 10 bits. */
  readonly tf32?: boolean
}

/**
 * Loads the addon, registers the backend and its kernels, and makes it TensorFlow.js's current one.
 * Throws what the addon throws where the device is absent.
 */
export async function startTorch({
  addon,
  device = 'cpu',
  threads,
  tf32 = false
}: TorchStart): Promise<ReturnType<ReturnType<typeof torch>['describe']>> {
  const native = loadAddon(addon)
  const simulated = device === 'sim' && simulatedDevice()
  if (simulated) createRequire(import.meta.url)(simulated)
  if (threads) native.setThreads(threads)
  const before = current && deviceName()
  native.setTf32(tf32)
  native.setDevice(device)
  forgetDevice()
  if (before !== undefined && before !== deviceName()) (await import('./kernels/constants.js')).forgetConstants()
  if (!current) {
    current = new TorchBackend()
    await import('./kernels/index.js')
    registerBackend('torch', () => current!, 10)
  }
  env().set('CHECK_COMPUTATION_FOR_ERRORS', false)
  if (!(await setBackend('torch'))) throw new Error('TensorFlow.js refused the torch backend')
  return native.describe()
}
