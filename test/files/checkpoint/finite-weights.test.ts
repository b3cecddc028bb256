/** Weights that are not finite are named, with the file, before anything is computed. */
import assert from 'node:assert/strict'
import {join} from 'node:path'
import {test} from 'node:test'
import {openBackbone, readBackbone, saveBackbone, type NamedTensor} from '../../../src/files/checkpoint/backbone.js'
import {scratch} from '../../support/scratch.js'
import {saveTiny} from '../../support/tiny-backbone.js'

for (const value of [NaN, Infinity, -Infinity])
  test(`${value} in a tensor of a backbone is refused by the name of the tensor`, async t => {
    const folder = await scratch(t)
    const [whole, broken] = [join(folder, 'whole.safetensors'), join(folder, 'broken.safetensors')]
    await saveTiny(whole)
    const {config, checkpoint} = await openBackbone(whole)
    const read: NamedTensor[] = []
    for await (const one of readBackbone(config, checkpoint)) read.push({...one, data: one.data.slice()})
    await checkpoint.close()
    const {name, data} = read.at(-2)!
    data[data.length - 1] = value
    await saveBackbone(broken, config, read)
    const opened = await openBackbone(broken)
    const reading = async (): Promise<void> => {
      for await (const one of readBackbone(opened.config, opened.checkpoint)) assert.ok(one.data.every(Number.isFinite), one.name)
    }
    await assert.rejects(reading(), (error: Error) => {
      assert.ok(error.message.startsWith(`The tensor ${name} of ${broken} holds ${value}, the first such number at ${data.length - 1} of`))
      return true
    })
    await opened.checkpoint.close()
  })
