/** Answers kept between processes: what was kept is read, and what cannot be read or written is no failure. */
import assert from 'node:assert/strict'
import {mkdtempSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {dirname, join} from 'node:path'
import {after, test} from 'node:test'
import {keepAnswers, keptFile, readKeptAnswers} from '../../src/system/kept-answers.js'

const folder = mkdtempSync(join(tmpdir(), 'kept-'))
const before = process.env['XDG_CACHE_HOME']
process.env['XDG_CACHE_HOME'] = join(folder, 'cache')
after(() => {
  if (before === undefined) delete process.env['XDG_CACHE_HOME']
  else process.env['XDG_CACHE_HOME'] = before
  rmSync(folder, {recursive: true})
})

test('what was kept last is read, and nothing half written stays', () => {
  assert.deepEqual(readKeptAnswers('one.json'), {})
  keepAnswers('one.json', {a: 1})
  keepAnswers('one.json', {b: [2, 3]})
  assert.deepEqual(readKeptAnswers('one.json'), {b: [2, 3]})
  assert.deepEqual(readdirSync(dirname(keptFile('one.json'))), ['one.json'])
})

test('a damaged file holds nothing, and the next answer replaces it', () => {
  for (const text of ['', '{"a":', '[1]', 'null']) {
    writeFileSync(keptFile('one.json'), text)
    assert.deepEqual(readKeptAnswers('one.json'), {}, text)
  }
  keepAnswers('one.json', {c: true})
  assert.deepEqual(readKeptAnswers('one.json'), {c: true})
})

test('a cache folder that cannot be made keeps nothing, without a failure', () => {
  writeFileSync(join(folder, 'file'), '')
  process.env['XDG_CACHE_HOME'] = join(folder, 'file')
  keepAnswers('one.json', {a: 1})
  assert.deepEqual(readKeptAnswers('one.json'), {})
})
