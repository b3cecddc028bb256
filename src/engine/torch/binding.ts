/**
 * The typed side of the native addon: operators of libtorch by name, tensors by number.
 *
 * Nothing here knows of TensorFlow.js. A `Handle` stays alive until `release`; a temporary made inside a kernel is let
 * go by `scoped`. The operators' argument order and defaults are those of ATen's own schemas.
 */
import {createRequire} from 'node:module'
import {leaveBy} from '../../system/leave.js'

/** A tensor inside libtorch. */
export type Handle = number

export type Memory = {
  /** Bytes of living tensors. */
  readonly held: number
  /** The most bytes alive at once since the start or the last `resetPeak`. */
  readonly peak: number
  /** Bytes taken from the system: held, and kept for reuse. */
  readonly reserved: number
  readonly tensors: number
  /** Bytes of the device that this process may still take, and all it has; a CPU does not tell. */
  readonly free?: number
  readonly total?: number
}

export type Argument = number | boolean | string | null | undefined | readonly (number | boolean | null)[]

type Addon = {
  resolve(name: string, overload: string): number
  schema(operator: number): string
  call(operator: number, ...args: Argument[]): unknown
  fromBytes(bytes: ArrayBufferView, type: number, shape: readonly number[]): Handle
  /** `beside`: the copy runs while the device goes on with what it has to compute. */
  fromParts(parts: readonly ArrayBufferView[], beside: boolean): Handle
  toBytes(tensor: Handle, type: number): ArrayBuffer
  /** Begins a copy to the host; → its number. */
  beginReading(tensor: Handle, type: number): number
  /** What was read; null where the copy has not ended. */
  endReading(reading: number): ArrayBuffer | null
  release(tensor: Handle): void
  shape(tensor: Handle): number[]
  type(tensor: Handle): number
  memory(): Memory
  resetPeak(): void
  setDevice(device: string): void
  setThreads(count: number): void
  setTf32(on: boolean): void
  seed(value: number): void
  describe(): {version: string; threads: number; cpu: string; cudaDevices: number; device: string; tf32: boolean}
  synchronize(): void
  leave(status: number): void
}

/** Numbers of ATen's scalar types. */
export const scalarType = {uint8: 0, int32: 3, int64: 4, float16: 5, float32: 6, float64: 7, bool: 11, bfloat16: 15} as const

let addon: Addon | undefined
let copiesRefused = false

/**
 * While a pass is recorded for later (`graphs.ts`), nothing may go to the device or come from it: a replay would copy
 * from memory of the host that is long used for something else.
 */
export const refuseCopies = (on: boolean): void => void (copiesRefused = on)

/** A function of the addon that copies between host and device. */
const copying =
  <A extends unknown[], R>(name: string, copy: (...args: A) => R) =>
  (...args: A): R => {
    if (copiesRefused) throw new Error(`${name}: a copy between host and device cannot be recorded`)
    return copy(...args)
  }

/**
 * Loads the compiled addon; a process keeps the first one, since handles belong to it. Throws the loader's error where
 * the file or a library is missing.
 */
export function loadAddon(path: string): Addon {
  // OpenMP's threads spin at every barrier for about a millisecond by default. Where decoding or another program
  // shares the cores, that waits for threads that are not running: a training step was measured to take seven times as
  // long. Some ten microseconds cost an idle machine nothing (bench/RESULTS.md, "On a shared machine").
  if (process.env['OMP_WAIT_POLICY'] === undefined) process.env['GOMP_SPINCOUNT'] ??= '2000'
  if (!addon) {
    const native = createRequire(import.meta.url)(path) as Addon
    addon = {
      ...native,
      fromBytes: copying('fromBytes', native.fromBytes),
      fromParts: copying('fromParts', native.fromParts),
      toBytes: copying('toBytes', native.toBytes),
      beginReading: copying('beginReading', native.beginReading)
    }
    leaveBy(addon.leave)
  }
  return addon
}

/** The loaded addon; a defect of ours if asked for before `loadAddon`. */
export function torch(): Addon {
  if (!addon) throw new Error('the torch engine was used before it was started')
  return addon
}

const resolved = new Map<string, number>()

function operator(name: string): number {
  let id = resolved.get(name)
  if (id === undefined) {
    const dot = name.indexOf('.')
    const [base, overload] = dot < 0 ? [name, ''] : [name.slice(0, dot), name.slice(dot + 1)]
    id = torch().resolve(base.includes('::') ? base : `aten::${base}`, overload)
    resolved.set(name, id)
  }
  return id
}

/** Handles made by kernels that are still running; see `scoped`. */
let scope: Handle[] | undefined

/** Calls an operator that returns one tensor. */
export function op(name: string, ...args: Argument[]): Handle {
  const result = torch().call(operator(name), ...args) as Handle
  scope?.push(result)
  return result
}

/** Calls an operator that returns several tensors, or a list of tensors. */
export function ops(name: string, ...args: Argument[]): Handle[] {
  const result = torch().call(operator(name), ...args) as Handle[]
  if (scope) for (const handle of result.flat()) if (typeof handle === 'number') scope.push(handle)
  return result
}

/** Calls an operator that works in place, or whose result is not a tensor; nothing is kept. */
export function run(name: string, ...args: Argument[]): unknown {
  const result = torch().call(operator(name), ...args)
  return result
}

/** Calls an in-place operator `name_` on its first argument and lets the returned alias go. */
export function inPlace(name: string, ...args: Argument[]): void {
  const alias = torch().call(operator(name), ...args)
  if (typeof alias === 'number' && alias > 0) torch().release(alias)
}

/** Runs `body` and releases every handle made inside but those it returns. Scopes nest. */
export function scoped<T extends Handle | readonly Handle[]>(body: () => T): T {
  const outer = scope
  scope = []
  try {
    const result = body()
    const kept = new Set<Handle>(typeof result === 'number' ? [result] : result)
    for (const handle of scope) if (!kept.has(handle)) torch().release(handle)
    if (outer) outer.push(...kept)
    return result
  } catch (error) {
    for (const handle of scope) torch().release(handle)
    throw error
  } finally {
    scope = outer
  }
}
