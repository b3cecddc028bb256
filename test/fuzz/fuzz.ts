/**
 * Fuzzes readers by hand: `npm run fuzz [-- parser …] [--inputs N] [--seed N]`. Prints what it found; status 1 where
 * a reader ended otherwise than with rows or a sentence, took long, or took changed bytes for whole.
 */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import {UserError} from '../../src/config/errors.js'
import {mutant} from './mutate.js'
import {imageParsers} from './image-parsers.js'
import {moreParsers} from './more-parsers.js'
import {inFolder, parsers as embeddingParsers, type Parser} from './parsers.js'

/** All that is fuzzed. */
export const parsers: readonly Parser[] = [...embeddingParsers, ...moreParsers, ...imageParsers]

/** One input may take this long: files of a few kilobytes. */
const MAX_MS = 2000

export type Finding = {readonly parser: string; readonly n: number; readonly what: string; readonly bytes: Buffer}
export type FuzzReport = {readonly accepted: number; readonly refused: number; readonly findings: readonly Finding[]}

/** Reads `inputs` changed copies of each whole file of a parser. */
export async function fuzz(parser: Parser, inputs: number, seed = 1): Promise<FuzzReport> {
  return inFolder(async folder => {
    const findings: Finding[] = []
    let [accepted, refused] = [0, 0]
    for (const whole of await parser.seeds(folder)) {
      const path = join(folder, `changed${parser.ending ?? ''}`)
      await writeFile(path, whole)
      const expected = await parser.read(path)
      for (let n = 0; n < inputs; n++) {
        const changed = mutant(whole, seed, n)
        const bytes = parser.seal?.(changed) ?? changed
        await writeFile(path, bytes)
        const report = (what: string): void => void findings.push({parser: parser.name, n, what, bytes})
        const begun = performance.now()
        try {
          const found = await parser.read(path)
          accepted++
          if (!parser.editable && found !== expected && !bytes.equals(whole)) report(`taken for whole: ${found.slice(0, 200)}`)
        } catch (error) {
          refused++
          if (!(error instanceof UserError)) report(`a defect: ${(error as Error).stack ?? String(error)}`)
        }
        const took = performance.now() - begun
        if (took > MAX_MS) report(`took ${Math.round(took)} ms`)
      }
    }
    return {accepted, refused, findings}
  })
}

async function main(): Promise<void> {
  const {values, positionals} = parseArgs({
    allowPositionals: true,
    options: {inputs: {type: 'string'}, seed: {type: 'string', default: '1'}}
  })
  const chosen = positionals.length === 0 ? parsers : parsers.filter(({name}) => positionals.includes(name))
  if (chosen.length === 0) throw new Error(`No such parser; there are ${parsers.map(({name}) => name).join(', ')}.`)
  for (const parser of chosen) {
    const inputs = values.inputs === undefined ? parser.inputs : Number(values.inputs)
    const {accepted, refused, findings} = await fuzz(parser, inputs, Number(values.seed))
    console.log(`${parser.name}: ${inputs} inputs, ${accepted} accepted, ${refused} refused, ${findings.length} findings`)
    for (const {n, what} of findings.slice(0, 10)) console.log(`  mutant ${n}: ${what}`)
    if (findings.length > 0) process.exitCode = 1
  }
}

if (process.argv[1] !== undefined && import.meta.url.endsWith(process.argv[1].split('/').at(-1)!)) await main()
