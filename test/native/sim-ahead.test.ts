/** Work on items of which the next is begun before the one before it is waited for, where a device works ahead. */
import assert from 'node:assert/strict'
import {join} from 'node:path'
import {after, test} from 'node:test'
import type {ImageRef} from '../../src/data/sources/source.js'
import {startEngine} from '../../src/engine/start.js'
import type {DepthContext} from '../../src/tasks/eval/depth/context.js'
import {scoreDepthSet, type Predictor} from '../../src/tasks/eval/depth/score.js'
import {oneAhead} from '../../src/tasks/embed/one-ahead.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {folder} from '../support/program.js'
import {onSim} from '../support/sim.js'

const onCpu = (): Promise<unknown> => startEngine({engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: () => undefined})
after(onCpu)

/** Numbers from 0, and whether who reads them has let them go. */
function numbers(count: number): AsyncGenerator<number> & {closed: boolean} {
  const state = {closed: false}
  const made = (async function* () {
    try {
      for (let i = 0; i < count; i++) yield i
    } finally {
      state.closed = true
    }
  })()
  return Object.defineProperty(made, 'closed', {get: () => state.closed}) as AsyncGenerator<number> & {closed: boolean}
}

/** What happens to three items, where the work of the first ends when the second is begun, if that ever comes. */
async function events(): Promise<string[]> {
  const seen: string[] = []
  let second = (): void => undefined
  const secondBegun = new Promise<void>(done => (second = done))
  const begin = async (i: number): Promise<number> => {
    seen.push(`begin ${i}`)
    if (i === 1) second()
    if (i === 0) await Promise.race([secondBegun, new Promise(done => setTimeout(done, 200))])
    return i
  }
  for await (const i of oneAhead(numbers(3), begin)) seen.push(`end ${i}`)
  return seen
}

test('a device gets the next item before the one before it is awaited; a processor works on them one by one', async () => {
  await onSim()
  assert.deepEqual((await events()).slice(0, 3), ['begin 0', 'begin 1', 'end 0'])
  await onCpu()
  assert.deepEqual(await events(), ['begin 0', 'end 0', 'begin 1', 'end 1', 'begin 2', 'end 2'])
})

test('a result is not held back for an item that does not come, failures come in order, and the items are let go', async () => {
  await onSim()
  const never = new Promise<IteratorResult<number>>(() => undefined)
  let asked = 0
  const slow = {next: () => (asked++ === 0 ? Promise.resolve({done: false as const, value: 7}) : never)}
  const first = await oneAhead(slow, i => Promise.resolve(i)).next()
  assert.deepEqual(first, {done: false, value: 7})

  const items = numbers(4)
  const seen: number[] = []
  const failing = async (): Promise<void> => {
    for await (const i of oneAhead(items, i => (i === 1 ? Promise.reject(new Error('of item 1')) : Promise.resolve(i)))) seen.push(i)
  }
  await assert.rejects(failing, /of item 1/)
  assert.deepEqual([seen, items.closed], [[0], true])

  const stop = new AbortController()
  const begun: number[] = []
  const left = numbers(9)
  for await (const i of oneAhead(left, i => (begun.push(i), Promise.resolve(i)), stop.signal)) if (i === 1) stop.abort()
  assert.ok(begun.length <= 3 && left.closed, begun.join())
})

test('an evaluation of depth begins an image before the depth of the one before it is there, and keeps their order', async () => {
  await onSim()
  const root = folder()
  await drawnRooms(root, 'val', 3)
  const pairs = ['00', '01', '02'].map(name => {
    const place = (kind: string): ImageRef => ({id: name, path: join(root, kind, 'val', `${name}.png`), fields: {}})
    return {image: place('images'), map: place('depth')}
  })
  let begun = 0
  let second = (): void => undefined
  const secondBegun = new Promise<void>(done => (second = done))
  const predictor: Predictor = {
    features: 'model',
    async predict({truth, pair}) {
      if (begun++ === 1) second()
      if (pair.image.id === '00') await secondBegun // for ever, where images are looked at one at a time
      return truth.map(depth => depth * (1 + Number(pair.image.id) / 10))
    }
  }
  const data = {patch: 14, range: {min: 0.001, max: 10}, crop: 'none'}
  const context = {data, options: {}, onRejected: assert.fail} as unknown as DepthContext
  const scoring = scoreDepthSet(context, {name: 'val', kind: 'val', inputs: [root], pairs}, [predictor])
  let next = await scoring.next()
  while (!next.done) next = await scoring.next()
  const [outcome] = next.value.filter(({variant}) => variant?.alignment === 'none')
  assert.deepEqual(outcome!.ids, ['00', '01', '02'])
  Array.from(outcome!.items).forEach(({abs_rel}, i) => assert.ok(Math.abs(abs_rel - i / 10) < 1e-5, `${i}: ${abs_rel}`))
})
