/** Errors that mean that there is too little memory, in whatever words they come, as a sentence with numbers. */
import {bytesInWords, memoryLeft} from '../system/free-memory.js'

const codes = new Set(['OUT_OF_MEMORY', 'ERR_WORKER_OUT_OF_MEMORY', 'ERR_MEMORY_ALLOCATION_FAILED', 'ENOMEM'])

/** What V8, WebAssembly, TensorFlow and libtorch say. */
const phrases =
  /array buffer allocation failed|allocation failed|out of memory|not enough memory|can't allocate memory|cannot allocate|could not allocate|std::bad_alloc|\bOOM\b|cannot enlarge memory|maximum memory size exceeded/i

/** Kernels of WebAssembly write to what their allocator did not give them. */
const isFailedAllocation = ({name, message}: Error): boolean => name === 'RuntimeError' && message === 'memory access out of bounds'

/** Lengths that no array can have here, beyond what mistakes of ours give (negative, not a number). */
const length = /^Invalid (?:typed )?array length: (\d{8,})$|^Invalid (?:string|array buffer) length$/

/** What asks for less memory, by the flags that a command has. */
function waysOut(flags: readonly string[]): string {
  const named = [
    ['batch', 'take fewer images at once (--batch)'],
    ['size', 'take smaller images (--size)'],
    ['cache-memory', 'keep fewer features in memory (--cache-memory)'],
    ['memory', 'give it less (--memory)'],
    ['backend', 'keep rows on the disk (--backend lance)']
  ].flatMap(([flag, way]) => (flags.includes(flag!) ? [way!] : []))
  const sentence = [...named, 'end other programs'].join(', or ')
  return `${sentence[0]!.toUpperCase()}${sentence.slice(1)}.`
}

const units: Readonly<Record<string, number>> = {bytes: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30}

/** The sentence for a device with memory of its own, whose error says what was asked for, is free and is held. */
function shortageOfDevice(error: Error): string | undefined {
  const {device, free, held} = error as {device?: unknown; free?: unknown; held?: unknown}
  if (typeof device !== 'string' || typeof free !== 'number' || typeof held !== 'number') return undefined
  const [, amount, unit] = /Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)/.exec(error.message) ?? []
  const asked = amount && unit ? `${bytesInWords(Number(amount) * units[unit]!)} were asked for at once` : 'more was asked for'
  return `There is not enough memory on ${device}: ${asked}, ${bytesInWords(free)} are free there, and ${bytesInWords(held)} are held by this program.`
}

/** What is said of an error that means too little memory; undefined for any other. */
export function memoryShortage(error: Error, flags: readonly string[] = []): {readonly message: string; readonly hint: string} | undefined {
  const {code} = error as {code?: unknown}
  const {message} = error
  const isShort =
    (typeof code === 'string' && codes.has(code)) ||
    phrases.test(message) ||
    (error instanceof RangeError && length.test(message)) ||
    isFailedAllocation(error)
  if (!isShort) return error.cause instanceof Error && error.cause !== error ? memoryShortage(error.cause, flags) : undefined
  const ofDevice = shortageOfDevice(error)
  if (ofDevice) return {message: ofDevice, hint: waysOut(flags)}
  const asked = /(?<!\d)(\d{5,16}) bytes|allocate (\d{5,16})/.exec(message)
  const numbers = /length: (\d+)/.exec(message)?.[1]
  const wanted = asked
    ? `${bytesInWords(Number(asked[1] ?? asked[2]))} were asked for at once`
    : numbers
      ? `an array of ${numbers} numbers was asked for`
      : 'more was asked for'
  return {
    message: `There is not enough memory: ${wanted}, and ${bytesInWords(memoryLeft())} are free to this process.`,
    hint: waysOut(flags)
  }
}
