/** Small tensors that stay on a device: a GPU waits less for what it has already. */
import {backend} from '../backend.js'
import {op, run, scalarType, torch} from '../binding.js'
import type {Handle} from '../binding.js'
import {define, track} from './define.js'
import {onCpu} from './device.js'
import type {ConstantValues} from '../../../tensor/ops/constant.js'

const MOST = 256
const MAX_BYTES = 2 ** 18

/** Handles by type, shape and values; the one that was used last stands last. */
const kept = new Map<string, Handle>()

/** Constants that something reads later without asking for them again; see `keepConstants`. */
let asked: Handle[] | undefined

/** From here on a handle of each constant that is asked for is kept, until `keptConstants` gives them away. */
export const keepConstants = (): void => void (asked = [])

export function keptConstants(): readonly Handle[] {
  const handles = asked ?? []
  asked = undefined
  return handles
}

/** Lets all constants go, e.g. where the device changes. */
export function forgetConstants(): void {
  for (const handle of kept.values()) torch().release(handle)
  kept.clear()
}

const typeOf = (values: ConstantValues): number => (values instanceof Int32Array ? scalarType.int32 : scalarType.float32)

/** A new tensor of these values on the device; arrays that wait go along with it. */
function uploaded(values: ConstantValues, shape: readonly number[]): Handle {
  const [bytes] = backend().upload([new Uint8Array(values.buffer, values.byteOffset, values.byteLength)])
  const typed = run('view.dtype', bytes, typeOf(values)) as Handle
  const whole = run('view', typed, shape) as Handle
  for (const handle of [bytes!, typed]) torch().release(handle)
  return whole
}

/** A tensor of these values on the device, under the care of the current scope; it is not to be changed in place. */
export function constantHandle(values: ConstantValues, shape: readonly number[]): Handle {
  if (onCpu() || values.byteLength > MAX_BYTES) return track(torch().fromBytes(values, typeOf(values), shape))
  const key = `${typeOf(values)}/${shape.join()}/${Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString('latin1')}`
  const handle = kept.get(key) ?? uploaded(values, shape)
  kept.delete(key)
  kept.set(key, handle)
  asked?.push(run('alias', handle) as Handle)
  if (kept.size > MOST) {
    const [oldest, old] = kept.entries().next().value!
    kept.delete(oldest)
    torch().release(old)
  }
  return op('alias', handle)
}

define('Dinov2Constant', (_, attrs) => {
  const {values, shape} = attrs as unknown as {values: ConstantValues; shape: readonly number[]}
  return [constantHandle(values, shape), values instanceof Int32Array ? 'int32' : 'float32']
})
