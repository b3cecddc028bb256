/** Words that are right elsewhere get a hint that says what is right here. */
import assert from 'node:assert/strict'
import {mkdtempSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {assertNoVerb, unknownFlagHint} from '../../src/cli/wrong-words.js'

const commands: Parameters<typeof unknownFlagHint>[3] = {
  bin: 'dinov2',
  commands: [
    {id: 'embed', flags: {resume: {}, batch: {}, secret: {hidden: true}}},
    {id: 'curate:dedup', flags: {neighbours: {}}},
    {id: 'hidden', hidden: true, flags: {neighbours: {}}}
  ]
}

test('a flag of other commands names them', () => {
  assert.equal(unknownFlagHint('--neighbours', {}, 'search', commands), '--neighbours is a flag of curate dedup.')
  assert.equal(unknownFlagHint('--secret', {}, 'search', commands), undefined)
  assert.equal(unknownFlagHint('--nowhere', {}, 'search', commands), undefined)
})

test('a missing --resume says to run anew, and names --add where there is one', () => {
  assert.match(unknownFlagHint('--resume', {add: {}}, 'index', commands)!, /run it anew, or give --add/)
  assert.match(unknownFlagHint('--resume', {}, 'explore', commands)!, /run it anew\.$/)
})

test('a verb behind a command is refused, unless a file has its name', () => {
  assert.throws(
    () => assertNoVerb('curate', ['run', 'photos'], 'dinov2'),
    (error: Error & {hint?: string}) => /no command curate run/.test(error.message) && /dinov2 curate photos/.test(error.hint ?? '')
  )
  assertNoVerb('curate', ['photos', 'run'], 'dinov2')
  for (const rest of [['run'], ['run', '-o', 'kept.jsonl']])
    assert.throws(
      () => assertNoVerb('curate', rest, 'dinov2'),
      (error: Error & {hint?: string}) => /no command curate run/.test(error.message) && /dinov2 curate photos\./.test(error.hint ?? '')
    )
  const folder = mkdtempSync(join(tmpdir(), 'run-'))
  assert.doesNotThrow(() => assertNoVerb('curate', [folder, 'photos'], 'dinov2'))
})
