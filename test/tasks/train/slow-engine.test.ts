/** The warning before a long run on WebAssembly. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {derive} from '../../../src/config/derived.js'
import {readLayers} from '../../../src/config/read-layers.js'
import {resolveSettings} from '../../../src/config/settings.js'
import {slowEngineWarning} from '../../../src/tasks/train/slow-engine.js'
import {startEngine} from '../../../src/engine/start.js'
import {memory} from '../../../src/tensor/tf.js'

const job = (steps: number) => {
  const sets = [`train.steps=${steps}`, 'train.batch=16']
  const {settings} = resolveSettings(readLayers(['tiny'], sets, {flags: [], settings: true}).settings)
  return {settings, plan: derive(settings)}
}

test('a long run on WebAssembly is warned of with a measured time and the way to torch, a short one or another engine is not', async () => {
  const engine = await startEngine({engine: 'wasm'})
  const before = memory().numTensors
  const warning = slowEngineWarning([job(4000)], {engine, precision: 'fp32'})
  const found = /a step takes about ([\d.]+) s here, 4,?000 steps about ([\d.]+) (hours|minutes)\. .*: dinov2 engine install torch$/.exec(
    warning ?? ''
  )
  assert.ok(found, warning)
  const [seconds, whole] = [Number(found[1]), Number(found[2]) * (found[3] === 'hours' ? 3600 : 60)]
  assert.ok(Math.abs(whole / (4000 * seconds) - 1) < 0.1, warning)
  const step = (jobs: number): number => {
    const sentence = slowEngineWarning(Array.from({length: jobs}, () => job(4000)), {engine, precision: 'fp32'}, () => 1e10) // prettier-ignore
    return Number(/about ([\d.]+) s here/.exec(sentence ?? '')?.[1])
  }
  assert.ok(Math.abs(step(2) / step(1) - 2) < 0.1, 'two students take twice as long')
  assert.equal(slowEngineWarning([job(1)], {engine, precision: 'fp32'}), undefined)
  assert.equal(slowEngineWarning([job(4000)], {engine: {engine: 'torch'}, precision: 'fp32'}), undefined)
  assert.equal(memory().numTensors, before)
})
