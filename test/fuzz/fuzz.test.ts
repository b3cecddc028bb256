/** Every reader meets changed files with rows or a sentence: no crash, no hang, nothing damaged taken for whole. */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {describe, test} from 'node:test'
import {projectFolder} from '../support/scratch.js'
import {fuzz, parsers, tryFile} from './fuzz.js'

/** For all parsers together 30 s at most; `npm run fuzz` takes the time that it needs. */
const MILLISECONDS = 200

describe('changed files', () => {
  for (const parser of parsers)
    test(`${parser.name}: ${parser.inputs} mutants, or as many as there is time for`, async () => {
      const {findings, accepted, refused} = await fuzz(parser, parser.inputs, {milliseconds: MILLISECONDS})
      assert.deepEqual(
        findings.slice(0, 3).map(({n, what}) => `mutant ${n}: ${what}`),
        []
      )
      const tried = accepted + refused
      assert.ok(tried > 0)
      assert.ok(parser.lenient || tried < 20 || refused > tried / 4, `only ${refused} of ${tried} were refused`)
    })
})

type Entry = {readonly parser: string; readonly was: string; readonly refused?: boolean; readonly base64: string}

test('what once was taken for whole, crashed or never ended is met with rows or a sentence', async () => {
  const lines = readFileSync(join(projectFolder(), 'test', 'fuzz', 'corpus.jsonl'), 'utf8')
    .trim()
    .split('\n')
  const problems: string[] = []
  for (const [i, line] of lines.entries()) {
    const {parser: name, was, refused = false, base64} = JSON.parse(line) as Entry
    const {accepted, what} = await tryFile(
      parsers.find(parser => parser.name === name)!,
      Buffer.from(base64, 'base64')
    )
    if (what !== undefined || (refused && accepted)) problems.push(`line ${i + 1}, ${name} (${was}): ${what ?? 'accepted'}`)
  }
  assert.deepEqual(problems, [])
})
