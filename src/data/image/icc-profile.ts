/**
 * Whether an embedded colour profile is sRGB itself, so that applying it would change nothing but the last bit.
 *
 * The name does not decide: linear-light profiles call themselves "Linear sRGB", and others mention sRGB in their
 * copyright. The primaries and the tone curves do. Format: ICC.1:2022, sections 7 and 10 (matrix profiles).
 */

/** Primaries of sRGB adapted to D50, as its profiles store them: X, Y, Z of red, green and blue. */
const PRIMARIES: readonly (readonly [tag: string, x: number, y: number, z: number])[] = [
  ['rXYZ', 0.4361, 0.2225, 0.0139],
  ['gXYZ', 0.3851, 0.7169, 0.0971],
  ['bXYZ', 0.1431, 0.0606, 0.7141]
]
const PRIMARY_TOLERANCE = 0.004
/** In linear light. A gamma of 2.2, which many profiles call sRGB, is 0.006 away: up to nine levels of 255. */
const CURVE_TOLERANCE = 0.002
const MAX_TAGS = 256

/** The sRGB curve (IEC 61966-2-1), encoded value to linear light. */
const toLinear = (x: number): number => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)

function tagTable(view: DataView): Map<string, {at: number; size: number}> {
  const tags = new Map<string, {at: number; size: number}>()
  if (view.byteLength < 132) return tags
  const count = Math.min(MAX_TAGS, view.getUint32(128))
  for (let i = 0, p = 132; i < count && p + 12 <= view.byteLength; i++, p += 12) {
    const name = String.fromCharCode(view.getUint8(p), view.getUint8(p + 1), view.getUint8(p + 2), view.getUint8(p + 3))
    const [at, size] = [view.getUint32(p + 4), view.getUint32(p + 8)]
    if (at + size <= view.byteLength) tags.set(name, {at, size})
  }
  return tags
}

const fixed = (view: DataView, at: number): number => view.getInt32(at) / 65536

/** The tone curve of a tag as a function; undefined where it is of a kind that is not known. */
function curveOf(view: DataView, {at, size}: {at: number; size: number}): ((x: number) => number) | undefined {
  if (size < 12) return undefined
  const kind = view.getUint32(at)
  if (kind === 0x63757276) {
    const count = view.getUint32(at + 8)
    if (12 + 2 * count > size) return undefined
    if (count === 0) return x => x
    if (count === 1) return x => x ** (view.getUint16(at + 12) / 256)
    return x => {
      const place = x * (count - 1)
      const i = Math.min(count - 2, Math.floor(place))
      const [low, high] = [view.getUint16(at + 12 + 2 * i), view.getUint16(at + 14 + 2 * i)]
      return (low + (place - i) * (high - low)) / 65535
    }
  }
  if (kind !== 0x70617261) return undefined
  const form = view.getUint16(at + 8)
  const counts = [1, 3, 4, 5, 7]
  if (!(form in counts) || 12 + 4 * counts[form]! > size) return undefined
  const [g = 1, a = 1, b = 0, c = 0, d = 0, e = 0, f = 0] = Array.from({length: counts[form]!}, (_, i) => fixed(view, at + 12 + 4 * i))
  const power = (x: number): number => Math.max(0, a * x + b) ** g
  if (form === 0) return x => x ** g
  if (form === 1) return x => (x >= -b / a ? power(x) : 0)
  if (form === 2) return x => (x >= -b / a ? power(x) + c : c)
  if (form === 3) return x => (x >= d ? power(x) : c * x)
  return x => (x >= d ? power(x) + e : c * x + f)
}

const mentionsSrgb = (profile: Buffer): boolean => profile.includes('sRGB') || profile.includes(Buffer.from('sRGB', 'utf16le').swap16())

/**
 * Whether a profile may be passed over: it names sRGB, and its primaries and curves are those of sRGB. A profile of
 * tables without a matrix (the ICC's own "sRGB v4 preference") is judged by its name.
 */
export function isPlainSrgb(profile: Buffer): boolean {
  if (!mentionsSrgb(profile)) return false
  const view = new DataView(profile.buffer, profile.byteOffset, profile.length)
  const tags = tagTable(view)
  if (!tags.has('rXYZ')) return tags.has('A2B0') && !/linear/i.test(profile.toString('latin1'))
  for (const [tag, ...wanted] of PRIMARIES) {
    const found = tags.get(tag)
    if (!found || found.size < 20) return false
    for (const [i, value] of wanted.entries()) if (Math.abs(fixed(view, found.at + 8 + 4 * i) - value) > PRIMARY_TOLERANCE) return false
  }
  for (const tag of ['rTRC', 'gTRC', 'bTRC']) {
    const found = tags.get(tag)
    const curve = found && curveOf(view, found)
    if (!curve) return false
    for (let x = 0.02; x < 1; x += 0.02) if (!(Math.abs(curve(x) - toLinear(x)) <= CURVE_TOLERANCE)) return false
  }
  return true
}
