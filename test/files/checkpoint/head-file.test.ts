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
  spec: {kind: 'linear', pool: 'cls', layers: 1, normalize: false, start: 0, length: 3, classes: ['ä', 'b']},
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

test('what a head says of itself is held against what can be, part by part', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'h.safetensors')
  const depth = {dense: {layers: [2], cls: true, norm: false}, bins: {min: 0.001, max: 10, count: 4, spacing: 'uniform'}}
  const segment = {
    kind: 'linear',
    layers: [2],
    size: 64,
    crop: null,
    stride: null,
    scales: [1],
    flip: false,
    classes: [{id: 0, name: 'a', colour: [0, 0, 255]}],
    ignored: []
  }
  const specs = {classify: head.spec, depth, segment}
  const impossible = {
    classify: {kind: 'x', pool: 'patch', layers: -1, normalize: 0, transform: {resize: 0}, start: 0.5, length: 0, classes: [1]},
    depth: {dense: {layers: [], cls: true, norm: false}, bins: {...depth.bins, max: 0}, size: 1.5},
    segment: {
      kind: 'x',
      layers: [-1],
      size: 0,
      crop: 'x',
      stride: 0,
      scales: [],
      flip: 1,
      classes: [{id: 0, name: 'a', colour: [0, 0]}],
      ignored: 0
    }
  }
  for (const task of ['classify', 'depth', 'segment'] as const) {
    await saveHead(path, {...head, task, spec: specs[task]}, {force: true})
    assert.deepEqual((await openHead(path, {task})).spec, specs[task])
    for (const [part, value] of Object.entries(impossible[task])) {
      await saveHead(path, {...head, task, spec: {...specs[task], [part]: value}}, {force: true})
      await assert.rejects(openHead(path, {task}), new RegExp(`damaged head: it says .* for ${part}, which cannot be`), part)
    }
  }
  const tensors = new Map([['weight', {shape: [1], data: Float32Array.of(NaN)}]])
  await assert.rejects(saveHead(join(folder, 'nan.safetensors'), {...head, tensors}), {exit: 6, code: 'NOT_FINITE'})
  await writeSafetensors(
    path,
    [{name: 'weight', dtype: 'F32', shape: [1], read: () => new Uint8Array(Float32Array.of(NaN).buffer)}],
    {task: 'classify', spec: JSON.stringify(head.spec), trained_on: JSON.stringify(head.trainedOn)},
    {force: true}
  )
  await assert.rejects(openHead(path, {task: 'classify'}), /its weight holds a number that is not finite/)
})
