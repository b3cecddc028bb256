/** The small model that comes with the program: it is there, small, in half precision, and opens by its name. */
import assert from 'node:assert/strict'
import {readFileSync, statSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {test} from 'node:test'
import {openBackbone} from '../../../src/files/checkpoint/backbone.js'
import {STARTER, starterFile} from '../../../src/files/checkpoint/model-zoo.js'
import {projectFolder} from '../../support/scratch.js'

test('the starter model opens by its name, and says how its images are prepared', async t => {
  const {config, checkpoint} = await openBackbone(STARTER)
  t.after(() => checkpoint.close())
  assert.deepEqual([config.width, config.depth, config.heads, config.patch], [128, 4, 2, 8])
  assert.equal(checkpoint.path, starterFile)
  assert.equal(checkpoint.preprocessing!.crop, 96)
  assert.ok(statSync(starterFile).size < 8e6)
  for (const [name, entry] of checkpoint.tensors) {
    assert.equal(entry.dtype, 'F16', name)
    assert.ok((await entry.readFloat32()).every(Number.isFinite), name)
  }
})

test('the card of the starter names every source of images and its licence, and goes with the package', () => {
  const card = readFileSync(join(dirname(starterFile), 'README.md'), 'utf8')
  for (const words of ['Caltech-101', 'CC BY 4.0', 'CC0', 'MIT', 'Apache-2.0', 'seed', 'raw pixels', 'untrained'])
    assert.ok(card.includes(words), words)
  const {files} = JSON.parse(readFileSync(join(projectFolder(), 'package.json'), 'utf8')) as {files: string[]}
  assert.ok(files.includes('models'))
})
