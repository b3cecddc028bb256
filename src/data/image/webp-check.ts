/**
 * Whether the pixels of a WebP were filled up with zeros: the decoder takes them for pixels, and there is no checksum.
 * Format: the WebP container specification.
 */

/** So many zeros at the end of the data of a picture are no code of it. */
const ZEROS = 64

/** What is wrong with the first picture of a WebP, as a clause; undefined where nothing is seen. */
export function webpProblem(bytes: Uint8Array): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  for (let at = 12; at + 8 <= bytes.length;) {
    const kind = String.fromCharCode(...bytes.subarray(at, at + 4))
    const size = view.getUint32(at + 4, true)
    if (kind === 'VP8 ' || kind === 'VP8L') {
      const end = bytes.subarray(at + 8, at + 8 + size).subarray(-ZEROS)
      return end.length === ZEROS && end.every(byte => byte === 0)
        ? 'it is a WebP that is cut off or damaged (its pixels end in zeros)'
        : undefined
    }
    at += kind === 'ANMF' ? 8 + 16 : 8 + size + (size & 1) // the first picture of an animation lies within its frame
  }
  return undefined
}
