/** The small models that come with the program: they are there, small, in half precision, and open by their names. */
import assert from 'node:assert/strict'
import {readFileSync, statSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {test} from 'node:test'
import {openBackbone} from '../../../src/files/checkpoint/backbone.js'
import {modelNames, starterFiles} from '../../../src/files/checkpoint/model-zoo.js'
import {projectFolder} from '../../support/scratch.js'

const sizes: Readonly<Record<string, readonly number[]>> = {starter: [128, 4, 2, 8], 'starter-wide': [256, 4, 4, 8]}

for (const [name, file] of starterFiles) {
  test(`${name} opens by its name, and says how its images are prepared`, async t => {
    const {config, checkpoint} = await openBackbone(name)
    t.after(() => checkpoint.close())
    assert.deepEqual([config.width, config.depth, config.heads, config.patch], sizes[name])
    assert.equal(checkpoint.path, file)
    assert.equal(checkpoint.preprocessing!.crop, 96)
    assert.ok(statSync(file).size < 8e6)
    assert.ok(modelNames.includes(name))
    for (const [parameter, entry] of checkpoint.tensors) {
      assert.equal(entry.dtype, 'F16', parameter)
      assert.ok((await entry.readFloat32()).every(Number.isFinite), parameter)
    }
  })

  test(`the card of ${name} names every source of images and its licence, and goes with the package`, () => {
    const card = readFileSync(join(dirname(file), 'README.md'), 'utf8')
    for (const words of ['Caltech-101', 'CC BY 4.0', 'CC0', 'MIT', 'Apache-2.0', 'seed', 'raw pixels', 'untrained'])
      assert.ok(card.includes(words), words)
    const {files} = JSON.parse(readFileSync(join(projectFolder(), 'package.json'), 'utf8')) as {files: string[]}
    assert.ok(files.includes('models'))
  })
}
