/** The hint for a path that is not there: the name beside it that is most like it, or none. */
import assert from 'node:assert/strict'
import {mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {missingPathHint} from '../../src/config/missing-path.js'
import {realBinary, run} from '../support/program.js'

const folder = mkdtempSync(join(tmpdir(), 'dinov2-missing-'))
after(() => rmSync(folder, {recursive: true, force: true}))
mkdirSync(join(folder, 'train'))
mkdirSync(join(folder, 'model'))
for (const name of ['train/a.png', 'list.jsonl', 'vectors.npy', 'photos.index', 'my.yaml']) writeFileSync(join(folder, name), '')
const general = 'Check the spelling and the folder you are in.'

test('a name that is nearly there is suggested, with its folder', () => {
  assert.equal(missingPathHint(join(folder, 'trian')), `Did you mean ${join(folder, 'train')}?`)
  assert.equal(missingPathHint(join(folder, 'lists.jsonl')), `Did you mean ${join(folder, 'list.jsonl')}?`)
})

test('where nothing is like it, or the folder is not there either, the advice is general', () => {
  assert.equal(missingPathHint(join(folder, 'photographs')), general)
  assert.equal(missingPathHint(join(folder, 'nowhere', 'train')), general)
  assert.equal(missingPathHint('a\0b'), general)
})

test('a link that leads nowhere is not suggested for itself', () => {
  symlinkSync(join(folder, 'gone'), join(folder, 'photographs'))
  assert.equal(missingPathHint(join(folder, 'photographs')), general)
})

test('names that would have been taken as well are suggested as they are', () => {
  assert.equal(missingPathHint('strater', {names: ['starter']}), 'Did you mean starter?')
  assert.equal(missingPathHint('nothing', {names: ['starter'], otherwise: 'See --help.'}), 'See --help.')
})

/** Commands with a path that is nearly there, of each kind that commands read; `%` stands for the folder. */
const mistyped: readonly (readonly [kind: string, args: string, meant: string])[] = [
  ['images', 'curate filter %/trian', '%/train'],
  ['a model', 'embed %/train --model %/modle --engine wasm -o %/x.npy', '%/model'],
  ['a released model', 'embed %/train --model dinov2_vits41 --engine wasm -o %/x.npy', 'dinov2_vits14'],
  ['embeddings', 'index %/vectros.npy -o %/x.index', '%/vectors.npy'],
  ['an index', 'search %/photos.indx %/vectors.npy', '%/photos.index'],
  ['a run', 'report %/modle -o %/x.html', '%/model'],
  ['a settings file', 'pretrain %/train --config %/my.yml -o %/run', '%/my.yaml']
]
for (const [kind, args, meant] of mistyped)
  test(`${kind} whose name is mistyped`, async () => {
    const {status, stderr} = await run(realBinary, args.replaceAll('%', folder).split(' '))
    assert.ok(status === 2 || status === 3, stderr)
    assert.ok(stderr.includes(`Did you mean ${meant.replace('%', folder)}?`), stderr)
  })

test('a folder that is there but is no run is not suggested for itself', async () => {
  const {status, stderr} = await run(realBinary, ['report', join(folder, 'train'), '-o', join(folder, 'x.html')])
  assert.equal(status, 3)
  assert.match(stderr, /train holds no metrics\.jsonl.*\n\s*Name the folder that pretrain or distill wrote/)
})
