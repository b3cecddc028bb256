/**
 * Changed copies of files whose form is kept, so that what lies behind the first checks of a reader is reached:
 * lengths and places in binary files, values in JSON, the header of safetensors with its length made right, lines.
 */
import type {Rng} from '../../src/tensor/random.js'

/** Makes a changed copy of whole bytes; draws come from `random`. */
export type Mutator = (bytes: Buffer, random: Rng) => Buffer

const pick = <T>(random: Rng, list: readonly T[]): T => list[random.int(list.length)]!

/**
 * One to three numbers of 2, 4 or 8 bytes, changed to what lengths, counts and places are most often wrong by: one
 * more or less, doubled, a number from elsewhere in the file, the length of the file, the ends of their range.
 */
export const numbers: Mutator = (bytes, random) => {
  const out = Buffer.from(bytes)
  for (let changes = 1 + random.int(3); changes > 0; changes--) {
    const width = pick(random, [2, 4, 4, 4, 8])
    if (out.length < width) break
    const step = random.int(4) === 0 ? 1 : Math.min(width, 4)
    const place = (): number => random.int(Math.floor((out.length - width) / step) + 1) * step
    const at = place()
    const bits = BigInt(8 * width)
    const little = random.int(4) > 0
    const read = (from: number): bigint => {
      const part = Buffer.from(out.subarray(from, from + width))
      return BigInt(`0x${(little ? part.reverse() : part).toString('hex')}`)
    }
    const value = read(at)
    const other = pick(random, [
      value + 1n,
      value - 1n,
      value * 2n,
      value / 2n,
      -value,
      0n,
      1n,
      -1n,
      (1n << (bits - 1n)) - 1n,
      1n << (bits - 1n),
      BigInt(out.length),
      BigInt(out.length - at),
      read(place()),
      read(place())
    ])
    const hex = Buffer.from(
      BigInt.asUintN(Number(bits), other)
        .toString(16)
        .padStart(2 * width, '0'),
      'hex'
    )
    ;(little ? hex.reverse() : hex).copy(out, at)
  }
  return out
}

/** A piece of one stretch of the file put over another: buffers that share bytes, members with another's record. */
export const moved: Mutator = (bytes, random) => {
  const out = Buffer.from(bytes)
  if (out.length === 0) return out
  const length = 1 + random.int(Math.min(256, out.length))
  const [from, to] = [random.int(out.length - length + 1), random.int(out.length - length + 1)]
  bytes.copy(out, to, from, from + length)
  return out
}

const deep = (levels: number): unknown => {
  let value: unknown = 1
  for (let i = 0; i < levels; i++) value = i % 2 ? [value] : {a: value}
  return value
}
const hostile: readonly (() => unknown)[] = [
  () => null,
  () => true,
  () => -1,
  () => 0,
  () => 0.5,
  () => -0,
  () => 1e308,
  () => 2 ** 53,
  () => 4294967296,
  () => '',
  () => 'x',
  () => 'constructor', // a record that is asked by a foreign name has what every object has
  () => '__proto__',
  () => 'toString',
  () => '\0\u202e\x1b[2J',
  () => '../../x',
  () => '1'.repeat(400),
  () => 'é'.repeat(70_000),
  () => [],
  () => ({}),
  () => [[]],
  () => ['x', 1, null],
  () => Array.from({length: 300}, (_, i) => i),
  () => deep(60),
  () => deep(5000),
  () => ({toString: 1, length: 3}),
  () => Object.fromEntries([['__proto__', {a: 1}]])
]

type Place = {readonly holder: Record<string, unknown>; readonly key: string}

/** All values inside a value, by who holds them. */
function placesIn(value: unknown, found: Place[] = []): Place[] {
  if (typeof value !== 'object' || value === null) return found
  const holder = value as Record<string, unknown>
  for (const key of Object.keys(holder)) {
    found.push({holder, key})
    placesIn(holder[key], found)
  }
  return found
}

const names = ['__proto__', 'constructor', 'toString', '', 'id', 'path', 'shape', 'length']

/** Changes one to three values of a parsed text in place; texts that are JSON themselves are changed inside. */
function changeValue(value: unknown, random: Rng): unknown {
  const root = {root: value}
  for (let changes = 1 + random.int(3); changes > 0; changes--) {
    const {holder, key} = pick(random, placesIn(root))
    const before = holder[key]
    if (typeof before === 'string' && /^[[{]/.test(before) && random.int(3) > 0) {
      holder[key] = jsonText(before, random)
      continue
    }
    switch (random.int(6)) {
      case 0:
        if (Array.isArray(holder)) holder.splice(Number(key), 1)
        else delete holder[key]
        break
      case 1: // under another name
        if (!Array.isArray(holder)) delete holder[key]
        Object.defineProperty(holder, pick(random, names), {value: before, enumerable: true, writable: true, configurable: true})
        break
      case 2: // what stands elsewhere in it
        holder[key] = structuredClone(pick(random, placesIn(root)).holder[key])
        break
      case 3:
        if (typeof before === 'number') holder[key] = pick(random, [before + 1, before - 1, -before, before * 2, before / 3, before * 1e6])
        else if (Array.isArray(before)) holder[key] = [...(before as unknown[]), ...(before as unknown[])]
        else holder[key] = [before]
        break
      default:
        holder[key] = pick(random, hostile)()
    }
  }
  return root.root
}

/** A text of JSON with changed values; as it is where it is none. */
function jsonText(text: string, random: Rng): string {
  try {
    return JSON.stringify(changeValue(JSON.parse(text), random)) ?? 'null'
  } catch {
    return text
  }
}

/** Values of a file of JSON, or of one of its lines. */
export const json: Mutator = (bytes, random) => {
  const text = bytes.toString('utf8')
  const whole = jsonText(text, random)
  if (whole !== text) return Buffer.from(whole)
  const all = text.split('\n')
  const at = random.int(all.length)
  all[at] = jsonText(all[at]!, random)
  return Buffer.from(all.join('\n'))
}

/** Lines left out, doubled, exchanged, joined, very long, or ended in another way. */
export const lines: Mutator = (bytes, random) => {
  const all = bytes.toString('latin1').split('\n')
  const [at, to] = [random.int(all.length), random.int(all.length)]
  switch (random.int(7)) {
    case 0:
      all.splice(at, 1)
      break
    case 1:
      all.splice(at, 0, all[to]!)
      break
    case 2:
      ;[all[at], all[to]] = [all[to]!, all[at]!]
      break
    case 3:
      all[at] += all[to]!.repeat(1 + random.int(500))
      break
    case 4:
      all[at] = `${all[at]!}${pick(random, ['\r', '\0', '"', ',', '\t', '\u00ff', '\u00ef\u00bb\u00bf', '#', '{', ':', '&a *a', '- '])}`
      break
    case 5:
      all[at] = ' '.repeat(random.int(2000)) + all[at]!
      break
    default:
      all[at] = pick(random, ['"', '{', '[', '*', '&', '!', '\u0080', '\u00fe\u00ff', '%']) + all[at]!
  }
  return Buffer.from(all.join('\n'), 'latin1')
}

/**
 * The header of a safetensors file with changed values, behind the length that it then has. One that has lost its
 * checksum altogether is another program's file, which nothing tells from a whole one: it is not made.
 */
export const safetensorsHeader: Mutator = (bytes, random) => {
  if (bytes.length < 8) return bytes
  const length = Number(bytes.readBigUInt64LE(0))
  if (8 + length > bytes.length) return bytes
  const before = bytes.toString('utf8', 8, 8 + length)
  const header = Buffer.from(jsonText(before, random))
  if (['crc32', 'dinov2'].some(mark => before.includes(mark) && !header.includes(mark))) return numbers(bytes, random)
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([prefix, header, bytes.subarray(8 + length)])
}

/** The header of an array of NumPy's: its numbers, names and brackets, at the length that it had. */
export const npyHeader: Mutator = (bytes, random) => {
  if (bytes.length < 12) return bytes
  const length = bytes.readUInt16LE(8)
  let text = bytes.toString('latin1', 10, 10 + length)
  const words = [...text.matchAll(/\d+|'[^']*'|True|False|[(),]/g)]
  for (let changes = 1 + random.int(2); changes > 0 && words.length > 0; changes--) {
    const {0: word, index} = pick(random, words)
    if (text.slice(index, index + word.length) !== word) continue
    const other = pick(random, ['0', '1', '-1', '7', '24', '384', '4294967296', '1e3', "'<f4'", "'>f4'", "'|u1'", "'<f8'", "'<i4'", "'<f2'", "'O'", "'<constructor'", "'|__proto__'", 'True', 'False', '(', ')', ',', '']) // prettier-ignore
    text = text.slice(0, index) + other + text.slice(index + word.length)
  }
  return Buffer.concat([bytes.subarray(0, 10), Buffer.from(text.trimEnd().padEnd(length - 1) + '\n', 'latin1').subarray(0, length), bytes.subarray(10 + length)]) // prettier-ignore
}

/** Operations of pickles put in, left out, doubled or exchanged: mostly what the reader knows. */
export const opcodes: Mutator = (bytes, random) => {
  const known = Buffer.from('(.012FIJKLMNRTUVX]abcdeghijlopqrstu}BCG)\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95Q', 'latin1') // prettier-ignore
  let out = Buffer.from(bytes)
  for (let changes = 1 + random.int(3); changes > 0 && out.length > 0; changes--) {
    const at = random.int(out.length)
    const code = known[random.int(known.length)]!
    if (random.int(2)) out[at] = code
    else out = Buffer.concat([out.subarray(0, at), Buffer.from([code]), out.subarray(at + random.int(2))])
  }
  return out
}
