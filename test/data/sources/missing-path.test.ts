/** The hint for a path that is not there: the name beside it that is most like it, or none. */
import assert from 'node:assert/strict'
import {mkdirSync, mkdtempSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {missingPathHint} from '../../../src/data/sources/missing-path.js'
import {realBinary, run} from '../../support/program.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-missing-'))
after(() => rmSync(folder, {recursive: true, force: true}))
mkdirSync(join(folder, 'train'))
writeFileSync(join(folder, 'list.jsonl'), '')
const general = 'Check the spelling and the folder you are in.'

test('a name that is nearly there is suggested, with its folder', async () => {
  assert.equal(await missingPathHint(join(folder, 'trian')), `Did you mean ${join(folder, 'train')}?`)
  assert.equal(await missingPathHint(join(folder, 'lists.jsonl')), `Did you mean ${join(folder, 'list.jsonl')}?`)
})

test('where nothing is like it, or the folder is not there either, the advice is general', async () => {
  assert.equal(await missingPathHint(join(folder, 'photographs')), general)
  assert.equal(await missingPathHint(join(folder, 'nowhere', 'train')), general)
  assert.equal(await missingPathHint('a\0b'), general)
})

test('every command that takes images gives it', async () => {
  const {status, stderr} = await run(realBinary, ['curate', 'filter', join(folder, 'trian')])
  assert.equal(status, 3)
  assert.match(stderr, /There is no file or folder: .*trian\.\n.*Did you mean .*train\?/)
})
