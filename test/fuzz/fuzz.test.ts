/** Every reader meets changed files with rows or a sentence: no crash, no hang, nothing damaged taken for whole. */
import assert from 'node:assert/strict'
import {describe, test} from 'node:test'
import {fuzz, parsers} from './fuzz.js'

describe('changed files', () => {
  for (const parser of parsers)
    test(`${parser.name}: ${parser.inputs} mutants`, async () => {
      const {findings, refused} = await fuzz(parser, parser.inputs)
      assert.deepEqual(
        findings.slice(0, 3).map(({n, what}) => `mutant ${n}: ${what}`),
        []
      )
      assert.ok(parser.lenient || refused > parser.inputs / 4, `only ${refused} of ${parser.inputs} were refused`)
    })
})
