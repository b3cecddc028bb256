/** Heads in files: what goes in comes out, and what does not fit is named. */
import assert from 'node:assert/strict'
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {openHead, saveHead} from '../../../src/files/checkpoint/head-file.js'
import {writeSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import {scratch} from '../../support/scratch.js'

const head = {
  task: 'classify' as const,
  tensors: new Map([
    ['weight', {shape: [2, 3], data: Float32Array.from([1, 2, 3, 4, 5, 6])}],
    ['bias', {shape: [2], data: Float32Array.from([0.5, -0.5])}]
  ]),
  spec: {kind: 'linear', classes: ['ä', 'b']},
  trainedOn: {fingerprint: 'f'.repeat(64), images: 10}
}

test('a head comes back as it went', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'h.safetensors')
  await saveHead(path, head)
  const {tensors, spec, trainedOn} = await openHead(path, {task: 'classify', backbone: 'f'.repeat(64)})
  assert.deepEqual(spec, head.spec)
  assert.deepEqual(trainedOn, head.trainedOn)
  assert.deepEqual([...tensors.get('weight')!.data], [1, 2, 3, 4, 5, 6])
  assert.deepEqual(tensors.get('bias')!.shape, [2])
  await assert.rejects(saveHead(path, head), /exists/)
  await saveHead(path, head, {force: true})
})

test('another task, another backbone, no head: a sentence each', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'h.safetensors')
  await saveHead(path, head)
  await assert.rejects(openHead(path, {task: 'depth'}), /is a head for classify, but one for depth is needed/)
  await assert.rejects(
    openHead(path, {task: 'classify', backbone: 'a'.repeat(64)}),
    /another backbone: ffffffffffff… there, aaaaaaaaaaaa… here/
  )
  const other = join(folder, 'weights.safetensors')
  await writeSafetensors(other, [{name: 'x', dtype: 'F32', shape: [1], read: async () => new Uint8Array(4)}], {})
  await assert.rejects(openHead(other, {task: 'classify'}), /holds no trained head/)
  const broken = join(folder, 'broken.safetensors')
  await writeFile(broken, 'nothing')
  await assert.rejects(openHead(broken, {task: 'classify'}))
})
