/** Models of the Hugging Face hub, found in the cache of its own tools. */
import assert from 'node:assert/strict'
import {mkdir, readdir, rename, symlink, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {openBackbone, readBackbone} from '../../../src/files/checkpoint/backbone.js'
import {openCheckpoint} from '../../../src/files/checkpoint/checkpoint.js'
import {hubFolder, hubSnapshot, isHubId} from '../../../src/files/checkpoint/hub-cache.js'
import {saveHuggingFace} from '../../../src/files/checkpoint/hugging-face-folder.js'
import {golden, scratch} from '../../support/scratch.js'

const commit = '0123456789abcdef0123456789abcdef01234567'

/** A cache that holds one model: blobs, links to them in a snapshot, and the name of its commit. */
async function cacheOf(folder: string): Promise<void> {
  const home = join(folder, 'models--someone--tiny')
  const snapshot = join(home, 'snapshots', commit)
  await mkdir(join(home, 'blobs'), {recursive: true})
  await mkdir(join(home, 'refs'))
  await writeFile(join(home, 'refs/main'), commit)
  const {config, checkpoint} = await openBackbone(golden('vit_plain.pth'), {overrides: {heads: 4}})
  await mkdir(join(home, 'snapshots'))
  await saveHuggingFace(snapshot, config, readBackbone(config, checkpoint))
  await checkpoint.close()
  for (const [i, name] of (await readdir(snapshot)).entries()) {
    await rename(join(snapshot, name), join(home, 'blobs', `blob${i}`))
    await symlink(`../../blobs/blob${i}`, join(snapshot, name))
  }
}

test('--model takes an id whose model lies in the cache, by branch and by commit', async t => {
  const folder = await scratch(t)
  await cacheOf(folder)
  const before = process.env['HF_HUB_CACHE']
  process.env['HF_HUB_CACHE'] = folder
  t.after(() => {
    if (before === undefined) delete process.env['HF_HUB_CACHE']
    else process.env['HF_HUB_CACHE'] = before
  })
  for (const id of ['someone/tiny', `someone/tiny@${commit}`]) {
    const {config, checkpoint} = await openBackbone(id)
    t.after(() => checkpoint.close())
    assert.equal(checkpoint.format, 'huggingface')
    assert.deepEqual([config.width, config.depth, config.heads], [64, 4, 4])
  }
  await assert.rejects(openCheckpoint('someone/other'), {
    exit: 3,
    message: /neither as a file nor in the cache/,
    hint: /dinov2 models pull someone\/other`/
  })
  await assert.rejects(openCheckpoint('someone/tiny@v2'), {exit: 3, hint: /models pull someone\/tiny@v2`/})
  await writeFile(join(folder, 'models--someone--tiny/refs/main'), '../../..')
  await assert.rejects(hubSnapshot('someone/tiny'), {code: 'BAD_CACHE', message: /does not name a commit/})
})

test('the cache lies where the hub’s own tools have it', () => {
  assert.equal(hubFolder({HF_HUB_CACHE: '/a', HF_HOME: '/b'}), '/a')
  assert.equal(hubFolder({HF_HOME: '/b'}), '/b/hub')
  assert.equal(hubFolder({XDG_CACHE_HOME: '/c'}), '/c/huggingface/hub')
})

test('only what looks like an id is taken for one', () => {
  for (const name of ['facebook/dinov2-small', 'a/b@main', 'a/b@refs/pr/1']) assert.ok(isHubId(name), name)
  for (const name of ['vits14', 'weights/vits14.pth', './run/final', '/run/final', '../a', 'a/b/c', 'a/b@../c'])
    assert.ok(!isHubId(name), name)
})
