/**
 * A TensorFlow.js backend whose tensors live in libtorch.
 *
 * Each data id stands for one handle of the native addon. Reshapes and transposes are views with a handle of their
 * own, so a handle's shape always equals the shape that TensorFlow.js believes. `disposeData` frees at once; no
 * garbage collector is waited for. To TensorFlow.js every real number is `float32`; inside, a tensor may be bfloat16,
 * and reading it back widens it.
 */
import {DataStorage, KernelBackend, engine, env, registerBackend, setBackend} from '../../tensor/tf.js'
import type {BackendValues, DataId, DataType, TensorInfo, TimingInfo} from '../../tensor/tf.js'
import {loadAddon, scalarType, torch} from './binding.js'
import type {Handle} from './binding.js'
import {forgetDevice} from './kernels/device.js'

type Entry = {
  handle: Handle
  dtype: DataType
  references: number
  /** Strings have no place in libtorch; they stay here. */
  strings?: Uint8Array[]
}

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

class TorchBackend extends KernelBackend {
  private readonly entries: DataStorage<Entry>

  constructor() {
    super()
    this.entries = new DataStorage(this, engine())
  }

  /** The handle behind a tensor; it stays the backend's. */
  handle(info: {dataId: DataId}): Handle {
    return this.entries.get(info.dataId).handle
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
    this.entries.set(dataId, {handle: torch().fromBytes(bytes, storedAs(dtype), shape), dtype, references})
  }

  override readSync(dataId: DataId): BackendValues {
    const {handle, dtype, strings} = this.entries.get(dataId)
    if (strings) return strings
    const buffer = torch().toBytes(handle, dtype === 'bool' ? scalarType.uint8 : storedAs(dtype))
    return dtype === 'float32' ? new Float32Array(buffer) : dtype === 'int32' ? new Int32Array(buffer) : new Uint8Array(buffer)
  }

  override read(dataId: DataId): Promise<BackendValues> {
    return Promise.resolve(this.readSync(dataId))
  }

  override disposeData(dataId: DataId, force = false): boolean {
    if (!this.entries.has(dataId)) return true
    const entry = this.entries.get(dataId)
    entry.references--
    if (!force && entry.references > 0) return false
    if (entry.handle) torch().release(entry.handle)
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

  override memory(): {unreliable: boolean; held: number; peak: number; reserved: number} {
    const {held, peak, reserved} = torch().memory()
    return {held, peak, reserved, unreliable: false}
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
}

/**
 * Loads the addon, registers the backend and its kernels, and makes it TensorFlow.js's current one.
 * Throws what the addon throws where the device is absent.
 */
export async function startTorch({addon, device = 'cpu', threads}: TorchStart): Promise<ReturnType<ReturnType<typeof torch>['describe']>> {
  const native = loadAddon(addon)
  if (threads) native.setThreads(threads)
  native.setDevice(device)
  forgetDevice()
  if (!current) {
    current = new TorchBackend()
    await import('./kernels/index.js')
    registerBackend('torch', () => current!, 10)
  }
  env().set('CHECK_COMPUTATION_FOR_ERRORS', false)
  if (!(await setBackend('torch'))) throw new Error('TensorFlow.js refused the torch backend')
  return native.describe()
}
