/**
 * Event files in the hands of TensorBoard's own reader: every number at its step, and a run that was stopped and
 * resumed drawn once.
 */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {appendFile, readdir} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {promisify} from 'node:util'
import {openEvents} from '../../src/files/run/tensorboard.js'
import {scratch} from '../support/scratch.js'
import {scriptOf, testPython} from '../support/python.js'

const read = async (folder: string): Promise<Record<string, [number, number][]>> => {
  const {stdout} = await promisify(execFile)(testPython(), [scriptOf('open_events.py'), folder])
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as Record<string, [number, number][]>
}

test("TensorBoard's reader sees what was written, and of a resumed run each step once", async t => {
  const folder = join(await scratch(t), 'tensorboard')
  let clock = 1.7e9
  const now = (): number => (clock += 0.25)
  const first = await openEvents(folder, 1, now)
  for (let step = 10; step <= 50; step += 10) await first.write(step, {'loss/total': step / 8, 'schedule/lr': 1e-3})
  await first.write(2 ** 33, {'loss/total': 9}) // steps of more than 32 bits, and one that will be taken again
  await first.close()
  // Killed in the midst of a record.
  const [name] = await readdir(folder)
  await appendFile(join(folder, name!), Buffer.from([24, 0, 0]))
  const second = await openEvents(folder, 31, now) // the checkpoint was of step 30
  for (let step = 40; step <= 60; step += 10) await second.write(step, {'loss/total': step / 4, 'eval/knn_10': 0.5})
  await second.write(2 ** 33 + 1, {'loss/total': 1})
  await second.close()
  assert.deepEqual(await read(folder), {
    'loss/total': [
      [10, 1.25],
      [20, 2.5],
      [30, 3.75],
      [40, 10],
      [50, 12.5],
      [60, 15],
      [2 ** 33 + 1, 1]
    ],
    'schedule/lr': [10, 20, 30].map(step => [step, Math.fround(1e-3)]),
    'eval/knn_10': [40, 50, 60].map(step => [step, 0.5])
  })
})
