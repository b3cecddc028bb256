/**
 * Whether an AVIF claims a picture wider or higher than any decoder makes: libvips would complain of it on stderr,
 * past this program, before it refuses it.
 *
 * Format: ISO/IEC 14496-12 (boxes) and 23008-12, section 6.5.3 (`ispe`, the size of an item), which lies in meta, iprp
 * and ipco.
 */

/** The longest side that libvips holds, in all of its versions. */
const MAX_SIDE = 10_000_000

/** The boxes that hold the sizes, outermost first; bytes of a version and flags stand before those in `meta`. */
const WAY = ['meta', 'iprp', 'ipco'] as const

type Box = {readonly kind: string; readonly from: number; readonly to: number}

/** The boxes between two bytes. */
function* boxes(view: DataView, from: number, to: number): Generator<Box> {
  for (let at = from; at + 8 <= to;) {
    const short = view.getUint32(at)
    const wide = short === 1 && at + 16 <= to
    const length = wide ? Number(view.getBigUint64(at + 8)) : short === 0 ? to - at : short
    const head = wide ? 16 : 8
    if (length < head || at + length > to) return
    const kind = String.fromCharCode(...[4, 5, 6, 7].map(i => view.getUint8(at + i)))
    yield {kind, from: at + head, to: at + length}
    at += length
  }
}

/** What is wrong with the sizes of an AVIF, as a clause; undefined where nothing is. */
export function avifProblem(bytes: Uint8Array): string | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  let [from, to] = [0, bytes.length]
  for (const name of WAY) {
    const found = [...boxes(view, from, to)].find(({kind}) => kind === name)
    if (!found) return undefined // the decoder says what is missing
    ;[from, to] = [found.from + (name === 'meta' ? 4 : 0), found.to]
  }
  for (const box of boxes(view, from, to)) {
    if (box.kind !== 'ispe' || box.to - box.from < 12) continue
    const [width, height] = [view.getUint32(box.from + 4), view.getUint32(box.from + 8)]
    if (Math.max(width, height) > MAX_SIDE) return `it is an AVIF that is damaged (it claims ${width} × ${height} pixels)`
  }
  return undefined
}
