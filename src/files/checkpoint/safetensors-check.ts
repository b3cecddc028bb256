/**
 * Checksums in the metadata of a safetensors file that this tool wrote: under `crc32` one CRC-32 of the header, in
 * which zeros stand in the place of all, and one of each tensor in the order of their bytes. Other readers take it for
 * a text like any other.
 */
import {crc32, crcText} from '../../system/crc32.js'

/** The name in the metadata. */
export const CHECK_NAME = 'crc32'
/** How the value begins, so that it is found under a damaged name. */
const MARK = 'crc32:'

/** The value before anything is known, for `tensors` tensors. */
export const emptyCheck = (tensors: number): string => MARK + '0'.repeat(8 * (tensors + 1))

const zeroed = (header: string): string =>
  header.replace(/"crc32:[^"]*"/, found => `"${MARK}${'0'.repeat(found.length - MARK.length - 2)}"`)

/** The header of a file, made with `emptyCheck`, with all checksums in their places. */
export function withChecks(header: string, tensors: readonly number[]): string {
  const own = crc32(Buffer.from(header))
  return header.replace(`"${emptyCheck(tensors.length)}"`, `"${MARK}${[own, ...tensors].map(crcText).join('')}"`)
}

export type TensorChecks = {
  /** Compares the bytes of the tensor at a place in the order of the file. Throws `RangeError` where they differ. */
  compare(place: number, bytes: Uint8Array): void
}

/**
 * The checksums of a file with this header; undefined where it has none. Throws `RangeError`, whose message is a
 * clause, where they are damaged or the header does not match its own.
 */
export function checksOf(header: string, metadata: Readonly<Record<string, string>>, tensors: number): TensorChecks | undefined {
  const value = metadata[CHECK_NAME]
  if (value === undefined) {
    // the name is gone and the mark may be damaged too: the digits are as many as there must be
    const digits = 8 * (tensors + 1)
    const looksAlike = (text: string): boolean => {
      if (text.startsWith(MARK)) return true
      const mark = text.slice(0, -digits)
      if (!/^[0-9a-f]+$/.test(text.slice(mark.length))) return false
      const alike = [...mark].filter((letter, i) => letter === MARK[i]).length
      return text.length === mark.length + digits && (/^(?!sha)[^:]{1,20}:$/.test(mark) || (mark.length === MARK.length && alike >= 3))
    }
    if (Object.values(metadata).some(looksAlike)) throw new RangeError('its checksums have lost their name')
    return undefined
  }
  const digits = value.startsWith(MARK) ? value.slice(MARK.length) : ''
  if (digits.length !== 8 * (tensors + 1)) throw new RangeError('its checksums are damaged')
  const at = (i: number): string => digits.slice(8 * i, 8 * i + 8)
  if (at(0) !== crcText(crc32(Buffer.from(zeroed(header))))) throw new RangeError('its header does not match its checksum')
  return {
    compare(place, bytes) {
      if (at(place + 1) !== crcText(crc32(bytes))) throw new RangeError('its numbers do not match their checksum')
    }
  }
}
