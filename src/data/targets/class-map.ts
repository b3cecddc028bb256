/**
 * What the numbers in masks mean: which stored ids are classes, their names and colours, and which are left out.
 *
 * Inside the program a class is a number from 0 on (its place among the ids in ascending order), and a pixel that does
 * not count is `IGNORED`; masks that are written hold ids as the masks that were read.
 */

/** The class number of a pixel that does not count. */
export const IGNORED = 0xffff

export type Classes = {
  /** By class number. */
  readonly names: readonly string[]
  /** The id in mask files, by class number. */
  readonly ids: readonly number[]
  /** Ids whose pixels do not count. */
  readonly ignored: readonly number[]
  /** Three bytes a class. */
  readonly palette: Uint8Array
}

/** One line of a file of classes. */
export type ClassLine = {readonly id: number; readonly name: string; readonly colour?: readonly [number, number, number]}

/** Names that say that the pixels are of no class. */
const NO_CLASS = /^(un-?label+ed|un-?annotated|void|ignored?)$/i

/**
 * A line's id and name where digits and a separator (space, comma, colon or semicolon) stand in front, else
 * its name.
 */
function numberInFront(line: string): {readonly id?: number; readonly name: string} {
  const digits = /^\d+/.exec(line)?.[0]
  if (digits === undefined) return {name: line}
  const rest = line.slice(digits.length)
  const name = rest
    .trimStart()
    .replace(/^[,:;]/, '')
    .trim()
  return name === '' || !/^[\s,:;]/.test(rest) ? {name: line} : {id: Number(digits), name}
}

/**
 * Reads a file of classes: a line each, the id and the name (`3 road`, `3,road`), or the name alone, ids then counting
 * from `first`; a colour `#rrggbb` may follow. Empty lines and lines that begin with `#` say nothing. Throws a
 * RangeError naming the line that is wrong.
 */
export function parseClasses(text: string, first = 0): ClassLine[] {
  const lines: ClassLine[] = []
  const seen = new Set<number>()
  for (const [number, raw] of text.split(/\r?\n/).entries()) {
    let line = raw.trim()
    if (line === '' || line.startsWith('#')) continue
    const hex = /[\s,;]#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(line)
    if (hex) line = line.slice(0, hex.index).trim()
    const {id = first + lines.length, name} = numberInFront(line)
    if (id > 65534) throw new RangeError(`line ${number + 1}: the id ${id} is above 65534`)
    if (seen.has(id))
      throw new RangeError(`line ${number + 1}: the id ${id} was there before; either every line begins with its id, or none does`)
    seen.add(id)
    lines.push({id, name, ...(hex ? {colour: [1, 2, 3].map(i => parseInt(hex[i]!, 16)) as [number, number, number]} : {})})
  }
  if (lines.length === 0) throw new RangeError('it names no class')
  return lines
}

/**
 * Colours that differ much from one to the next, for any number of classes: hues by the golden angle, in three
 * lightnesses.
 */
export function defaultPalette(count: number): Uint8Array {
  const out = new Uint8Array(3 * count)
  for (let i = 0; i < count; i++) {
    const hue = (i * 0.61803398875) % 1
    const [saturation, value] = [[0.75, 0.95], [0.9, 0.65], [0.45, 1]][i % 3] as [number, number] // prettier-ignore
    for (const [c, offset] of [5, 3, 1].entries()) {
      const k = (offset + hue * 6) % 6
      out[3 * i + c] = Math.round(255 * (value - value * saturation * Math.max(0, Math.min(k, 4 - k, 1))))
    }
  }
  return out
}

/**
 * The classes of a file of them. Lines named unlabelled, void or ignore join the ids left out. `palette`: that of a
 * mask file, by id.
 */
export function classesOf(lines: readonly ClassLine[], ignore: readonly number[], palette?: Uint8Array): Classes {
  const ignored = new Set([...ignore, ...lines.filter(({name}) => NO_CLASS.test(name)).map(({id}) => id)])
  const kept = lines.filter(({id}) => !ignored.has(id)).sort((a, b) => a.id - b.id)
  const defaults = defaultPalette(kept.length)
  const colours = new Uint8Array(3 * kept.length)
  for (const [k, {id, colour}] of kept.entries()) {
    const stored = palette?.subarray(3 * id, 3 * id + 3)
    colours.set(colour ?? (stored?.length === 3 ? stored : defaults.subarray(3 * k, 3 * k + 3)), 3 * k)
  }
  return {
    names: kept.map(({name}) => name),
    ids: kept.map(({id}) => id),
    ignored: [...ignored].sort((a, b) => a - b),
    palette: colours
  }
}

/** Class numbers by stored id: −1 left out, −2 unknown. */
export function numbersById({ids, ignored}: Classes): Int32Array {
  const numbers = new Int32Array(65536).fill(-2)
  for (const id of ignored) numbers[id] = -1
  for (const [number, id] of ids.entries()) numbers[id] = number
  return numbers
}

/** Stored ids → class numbers, or the clause that refuses the mask: an unknown id, or nothing that counts. */
export function numbersOf(stored: Uint8Array | Uint16Array, byId: Int32Array, known: Classes): {numbers: Uint16Array} | {reason: string} {
  const numbers = new Uint16Array(stored.length)
  let counted = 0
  for (let i = 0; i < stored.length; i++) {
    const number = byId[stored[i]!]!
    if (number === -2) {
      const id = stored[i]!
      let pixels = 0
      for (const other of stored) if (other === id) pixels++
      return {
        reason: `its mask holds the id ${id} (${pixels} pixels), which is no class; classes are ${ranges(known.ids)}, left out ${ranges(known.ignored)}`
      }
    }
    if (number === -1) numbers[i] = IGNORED
    else {
      numbers[i] = number
      counted++
    }
  }
  return counted === 0 ? {reason: 'no pixel of its mask counts'} : {numbers}
}

/** Whole numbers in ascending order, runs as `0–10`. */
export function ranges(sorted: readonly number[]): string {
  if (sorted.length === 0) return 'none'
  const parts: string[] = []
  for (let i = 0; i < sorted.length; i++) {
    const start = i
    while (sorted[i + 1] === sorted[i]! + 1) i++
    parts.push(i > start ? `${sorted[start]}–${sorted[i]}` : String(sorted[i]))
  }
  return parts.join(', ')
}
