/**
 * Fuzzes readers by hand: `npm run fuzz [-- parser …] [--inputs N] [--seed N] [--from N] [--seeds FILE] [--keep
 * FOLDER]`. Prints what it found; status 1 where a reader ended otherwise than with rows or a sentence, took long, or
 * took changed bytes for whole.
 */
import {mkdir, readFile, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {setImmediate as turn} from 'node:timers/promises'
import {parseArgs} from 'node:util'
import {UserError} from '../../src/config/errors.js'
import {answerAtOnce, putFile, spill} from './files-at-once.js'
import {mutant} from './mutate.js'
import {imageParsers} from './image-parsers.js'
import {modelParsers} from './model-parsers.js'
import {moreParsers} from './more-parsers.js'
import {inFolder, parsers as embeddingParsers, type Parser} from './parsers.js'
import {recordParsers} from './record-parsers.js'
import {tableParsers} from './table-parsers.js'

/** All that is fuzzed. */
export const parsers: readonly Parser[] = [
  ...embeddingParsers,
  ...moreParsers,
  ...modelParsers,
  ...imageParsers,
  ...tableParsers,
  ...recordParsers
]

answerAtOnce()
// Most inputs are refused, and most of the time of an error goes into its stack; a finding is read once more with one.
const STACK = 20
Error.stackTraceLimit = 0

/** One input may take this long: files of a few kilobytes. */
const MAX_MS = 2000

export type Finding = {readonly parser: string; readonly n: number; readonly what: string; readonly bytes: Buffer}
export type FuzzReport = {
  readonly accepted: number
  readonly refused: number
  readonly findings: readonly Finding[]
  /** The number of the first mutant that was not tried. */
  readonly next: number
}

export type FuzzOptions = {
  readonly seed?: number
  /** The first mutant's number, to go on where an earlier run ended. */
  readonly from?: number
  /** Other whole files, or damaged ones, to start from beside those of the parser. */
  readonly seeds?: readonly Buffer[]
  /** Ends after this time, whatever is left to try. */
  readonly milliseconds?: number
}

/** Reads one file whose bytes are `bytes`; `expected` is what the whole one says, absent where it says nothing. */
async function tryBytes(parser: Parser, path: string, bytes: Buffer, expected?: string): Promise<{accepted: boolean; what?: string}> {
  put(parser, path, bytes)
  const begun = performance.now()
  let accepted = true
  let what: string | undefined
  try {
    const found = await parser.read(path)
    if (!parser.editable && expected !== undefined && found !== expected) what = `taken for whole: ${found.slice(0, 200)}`
  } catch (error) {
    accepted = false
    if (!(error instanceof UserError)) what = `a defect: ${await stackOf(parser, path, bytes, error)}`
  }
  const left = Object.keys(Object.prototype)
  if (left.length > 0) {
    what = `every object has ${left.join()} from now on`
    for (const name of left) delete (Object.prototype as Record<string, unknown>)[name]
  }
  const took = performance.now() - begun
  return {accepted, what: what ?? (took > MAX_MS && (await takesLong(parser, path, bytes)) ? `took ${Math.round(took)} ms` : undefined)}
}

async function stackOf(parser: Parser, path: string, bytes: Buffer, first: unknown): Promise<string> {
  put(parser, path, bytes)
  Error.stackTraceLimit = STACK
  const again: unknown = await parser.read(path).then(
    () => first,
    (error: unknown) => error
  )
  Error.stackTraceLimit = 0
  return again instanceof Error ? (again.stack ?? again.message) : String(again)
}

function put(parser: Parser, path: string, bytes: Buffer): void {
  putFile(path, bytes)
  if (parser.onDisk) spill()
}

/** Reads once more: other processes slow this one down; what counts is its own work, or a wait without end. */
async function takesLong(parser: Parser, path: string, bytes: Buffer): Promise<boolean> {
  put(parser, path, bytes)
  const [begun, cpu] = [performance.now(), process.cpuUsage()]
  await parser.read(path).catch(() => undefined)
  const took = performance.now() - begun
  const {user, system} = process.cpuUsage(cpu)
  return took > MAX_MS && ((user + system) / 1000 > MAX_MS || took > 10 * MAX_MS)
}

/** Where the file of a parser lies in `folder`. */
async function placeOf({file, ending = ''}: Parser, folder: string): Promise<string> {
  const path = join(folder, file ?? `changed${ending}`)
  await mkdir(dirname(path), {recursive: true})
  return path
}

/** Reads `inputs` changed copies of each whole file of a parser. */
export async function fuzz(
  parser: Parser,
  inputs: number,
  {seed = 1, from = 0, seeds = [], milliseconds = Infinity}: FuzzOptions = {}
): Promise<FuzzReport> {
  return inFolder(async folder => {
    const findings: Finding[] = []
    let [accepted, refused] = [0, 0]
    const whole = await parser.seeds(folder)
    const path = await placeOf(parser, folder)
    const starts: {first: Buffer; expected?: string}[] = seeds.map(first => ({first}))
    for (const first of whole) {
      put(parser, path, first)
      starts.push({first, expected: await parser.read(path)})
    }
    const end = performance.now() + milliseconds
    let n = from
    for (; n < from + inputs && performance.now() < end; n++) {
      if (n % 64 === 0) await turn() // timers and messages of threads come in between
      for (const {first, expected} of starts) {
        const changed = mutant(first, seed, n, parser.structured)
        const bytes = parser.seal?.(changed) ?? changed
        const tried = await tryBytes(parser, path, bytes, bytes.equals(first) ? undefined : expected)
        if (tried.accepted) accepted++
        else refused++
        if (tried.what !== undefined) findings.push({parser: parser.name, n, what: tried.what, bytes})
      }
    }
    return {accepted, refused, findings, next: n}
  })
}

/** Reads one file as a parser does: undefined where it ends with rows or a sentence in time, else what is wrong. */
export const tryFile = (parser: Parser, bytes: Buffer): Promise<{accepted: boolean; what?: string}> =>
  inFolder(async folder => {
    await parser.seeds(folder) // readers of whole folders need the other files
    return tryBytes(parser, await placeOf(parser, folder), bytes)
  })

async function main(): Promise<void> {
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {
      inputs: {type: 'string'},
      seed: {type: 'string', default: '1'},
      from: {type: 'string', default: '0'},
      seeds: {type: 'string', multiple: true, default: []},
      keep: {type: 'string'}
    }
  })
  const chosen = positionals.length === 0 ? parsers : parsers.filter(({name}) => positionals.includes(name))
  if (chosen.length === 0) throw new Error(`No such parser; there are ${parsers.map(({name}) => name).join(', ')}.`)
  const seeds = await Promise.all(values.seeds.map(path => readFile(path)))
  for (const parser of chosen) {
    const inputs = values.inputs === undefined ? parser.inputs : Number(values.inputs)
    const begun = performance.now()
    const {accepted, refused, findings} = await fuzz(parser, inputs, {seed: Number(values.seed), from: Number(values.from), seeds})
    const seconds = Math.round((performance.now() - begun) / 1000)
    console.log(
      `${parser.name}: ${accepted + refused} inputs, ${accepted} accepted, ${refused} refused, ${findings.length} findings, ${seconds} s`
    )
    for (const {n, what} of findings.slice(0, 10)) console.log(`  mutant ${n}: ${what}`)
    if (values.keep !== undefined)
      for (const {n, bytes} of findings.slice(0, 10)) await writeFile(join(values.keep, `${parser.name}-${n}`), bytes)
    if (findings.length > 0) process.exitCode = 1
  }
}

if (process.argv[1] !== undefined && import.meta.url.endsWith(process.argv[1].split('/').at(-1)!)) await main()
