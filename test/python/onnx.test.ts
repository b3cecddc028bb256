/** ONNX exports in the hands of Python users: onnx's checker passes them, and onnxruntime computes what we compute. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {join} from 'node:path'
import {test} from 'node:test'
import {promisify} from 'node:util'
import {exportModel} from '../../src/tasks/export.js'
import {loadBackbone} from '../../src/tasks/embed/load-backbone.js'
import {onPlain} from '../support/engine.js'
import {architectures, saveDpt, saveHeads, writeExpected} from '../support/onnx-models.js'
import {scriptOf, testPython} from '../support/python.js'
import {scratch} from '../support/scratch.js'
import {saveTiny} from '../support/tiny-backbone.js'

type Answer = {
  readonly opset: number
  readonly operators: readonly string[]
  readonly outputs: Readonly<Record<string, {readonly worst: number; readonly cosine: number}>>
  readonly missing: readonly string[]
}

test('onnx and onnxruntime take exports of every architecture, with heads, in both precisions', async t => {
  const folder = await scratch(t)
  await onPlain()
  const pairs: string[] = []
  const cases: string[] = []
  const add = async (name: string, model: string, side: number, heads: readonly string[], options: object): Promise<void> => {
    const at = join(folder, `case ${cases.length}`)
    const isHalf = 'fp16' in options
    await exportModel({model, to: 'onnx', output: at, size: side, heads, toolVersion: '0', ...options})
    await writeExpected(`${at}.safetensors`, model, {side, heads, isNormalized: !('normalize' in options)})
    pairs.push(`${join(at, 'onnx', isHalf ? 'model_fp16.onnx' : 'model.onnx')}=${at}.safetensors`)
    cases.push(name)
  }
  for (const [name, {config, side}] of Object.entries(architectures)) {
    const model = join(folder, `${name}.safetensors`)
    await saveTiny(model, 1, config)
    const backbone = await loadBackbone(model)
    // One of the segmentation heads slides windows that are no multiple of the patch.
    const windows = name === 'plain' ? {size: side, crop: 40, stride: 24} : {}
    const heads = /plain|registers and SwiGLU/.test(name) ? await saveHeads(folder, backbone, windows) : []
    backbone[Symbol.dispose]()
    await add(name, model, side, [], {})
    await add(`${name}, half precision`, model, side, heads, {fp16: true})
    if (config.depth > 3) await add(`${name} with DPT`, model, side, [await saveDpt(folder, config)], {})
    if (heads.length === 0) continue
    await add(`${name} with three heads`, model, side, heads, {normalize: true})
    await add(`${name}, two files`, model, side, [], {externalAbove: 1000})
  }
  const {stdout} = await promisify(execFile)(testPython(), [scriptOf('open_onnx.py'), ...pairs], {maxBuffer: 1 << 26})
  const answers = JSON.parse(stdout.trim().split('\n').at(-1)!) as Answer[]
  assert.equal(answers.length, cases.length)
  for (const [i, {opset, operators, outputs, missing}] of answers.entries()) {
    const name = cases[i]!
    assert.equal(opset, 17)
    assert.deepEqual(missing, [], name)
    const hasHeads = Object.keys(outputs).length > 3
    if (name.includes('with')) assert.equal(Object.keys(outputs).length, name.includes('three') ? 6 : 4, name)
    assert.equal(operators.includes('Resize'), hasHeads, `${name}: positions are not resampled in the graph`)
    for (const [output, {worst, cosine}] of Object.entries(outputs))
      if (name.includes('half')) assert.ok(cosine > 0.999, `${name}, ${output}: cosine ${cosine}`)
      else assert.ok(worst <= 1e-4, `${name}, ${output}: ${worst}`)
  }
})
