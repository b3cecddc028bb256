/**
 * Whether the first picture of a GIF is all there: the decoder fills what is missing and does not say so.
 *
 * Follows the LZW codes of the first image block and counts the pixels that they stand for; no pixel is made. Format:
 * GIF89a specification.
 */

/** The bytes of the sub-blocks from `at` on, joined. */
function subBlocks(bytes: Uint8Array, at: number): {data: Uint8Array; next: number} {
  const parts: Uint8Array[] = []
  while (at < bytes.length && bytes[at] !== 0) {
    const length = bytes[at]!
    parts.push(bytes.subarray(at + 1, Math.min(bytes.length, at + 1 + length)))
    at += 1 + length
  }
  return {data: Buffer.concat(parts), next: at + 1}
}

/** How many pixels a run of LZW codes stands for, at most `wanted`; -1 where a code does not exist. */
function countPixels(data: Uint8Array, minimum: number, wanted: number): number {
  const clear = 1 << minimum
  const lengths = new Int32Array(4097) // pixels by code
  let [next, size, previous, pixels, word, bits, at] = [clear + 2, minimum + 1, -1, 0, 0, 0, 0]
  lengths.fill(1, 0, clear)
  while (pixels < wanted) {
    while (bits < size) {
      if (at === data.length) return pixels
      word |= data[at++]! << bits
      bits += 8
    }
    const code = word & ((1 << size) - 1)
    word >>>= size
    bits -= size
    if (code === clear) {
      ;[next, size, previous] = [clear + 2, minimum + 1, -1]
      continue
    }
    if (code === clear + 1) return pixels
    if (previous < 0 ? code >= clear : code > next || (code === next && next > 4095)) return -1
    const known = code < next ? lengths[code]! : lengths[previous]! + 1
    if (previous >= 0 && next < 4096) {
      lengths[next++] = lengths[previous]! + 1
      if (next === 1 << size && size < 12) size++
    }
    pixels += known
    previous = code
  }
  return pixels
}

/** What is wrong with the first picture of a GIF, as a clause; undefined where all its pixels are there. */
export function gifProblem(bytes: Uint8Array): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const packed = bytes[10] ?? 0
  let at = 13 + (packed & 0x80 ? 3 << ((packed & 7) + 1) : 0)
  while (at < bytes.length) {
    const kind = bytes[at]!
    if (kind === 0x21) at = subBlocks(bytes, at + 2).next
    else if (kind === 0x2c) {
      if (at + 11 > bytes.length) break
      const wanted = view.getUint16(at + 5, true) * view.getUint16(at + 7, true)
      const local = bytes[at + 9]!
      const codes = at + 10 + (local & 0x80 ? 3 << ((local & 7) + 1) : 0)
      const minimum = bytes[codes] ?? 0
      if (minimum < 1 || minimum > 11) return 'it is a GIF that is damaged (a code size that does not exist)'
      const pixels = countPixels(subBlocks(bytes, codes + 1).data, minimum, wanted)
      if (pixels < 0) return 'it is a GIF that is damaged (a code that does not exist)'
      return pixels < wanted ? `it is a GIF that is cut off or damaged (${pixels} of ${wanted} pixels are there)` : undefined
    } else if (kind === 0x3b) break
    else at++ // decoders pass over stray bytes between blocks
  }
  return 'it is a GIF without a picture'
}
