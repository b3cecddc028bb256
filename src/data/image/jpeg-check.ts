/** What the decoder of JPEG passes over: an end that is missing, and bytes between the parts of the header. */
import {RefusedImage} from './read-bytes.js'

const SOS = 0xda
const END_OF_IMAGE = Buffer.from([0xff, 0xd9])
/** Markers without a length behind them: TEM, RST0 to RST7, SOI and EOI. */
const isBare = (marker: number): boolean => marker === 0x01 || (marker >= 0xd0 && marker <= 0xd9)

/** Where the next marker begins: 0xff and a byte that is neither 0 nor 0xff. */
function nextMarker(bytes: Buffer, from: number): number {
  let at = bytes.indexOf(0xff, from)
  while (at >= 0 && (bytes[at + 1] === 0 || bytes[at + 1] === 0xff)) at = bytes.indexOf(0xff, at + 1)
  return at
}

/**
 * The bytes to be decoded. Raises RefusedImage where the mark of the end is missing: out of a file that was fetched in
 * part and filled up with zeros, the decoder makes a picture whose rest is of one colour.
 *
 * What stands between the parts of the header and belongs to none, as some cameras write it, is taken out: the decoder
 * warns of it as of damage, and does not say what else it finds.
 */
export function checkedJpeg(file: Uint8Array): Uint8Array {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.length)
  const parts = [bytes.subarray(0, 2)]
  let [at, gap] = [2, false]
  for (;;) {
    const mark = nextMarker(bytes, at)
    if (mark < 0 || mark + 4 > bytes.length) return file // the decoder says what is wrong
    gap ||= mark > at
    const marker = bytes[mark + 1]!
    if (marker === SOS) {
      if (!bytes.includes(END_OF_IMAGE, mark))
        throw new RefusedImage('it is a JPEG that is cut off or damaged (the mark of its end is missing)')
      return gap ? Buffer.concat([...parts, bytes.subarray(mark)]) : file
    }
    at = mark + (isBare(marker) ? 2 : 2 + bytes.readUInt16BE(mark + 2))
    parts.push(bytes.subarray(mark, at))
  }
}
