/**
 * Passes that are recorded once and repeated, on the simulated device: the recording reads and writes its own memory,
 * serves its own shape alone, keeps what it reads, and is left out with a warning where it cannot be made or is wrong.
 */
import assert from 'node:assert/strict'
import {after, afterEach, before, beforeEach, test} from 'node:test'
import {forgetConstants} from '../../src/engine/torch/kernels/constants.js'
import {startEngine} from '../../src/engine/start.js'
import {initVit} from '../../src/model/init.js'
import {castForInference} from '../../src/model/vit.js'
import {embedderOf, type Embedder} from '../../src/tasks/embed/embedder.js'
import {constant} from '../../src/tensor/ops/constant.js'
import {repeatedPass} from '../../src/tensor/ops/recorded.js'
import {add, dispose, mul, tensor, tidy, type Tensor} from '../../src/tensor/tf.js'
import {leaves} from '../../src/tensor/tree.js'
import {counted} from '../support/engine.js'
import {onSim, type Sim} from '../support/sim.js'
import {tiny} from '../support/tiny-backbone.js'

let sim: Sim
const said: string[] = []
const write = process.stderr.write.bind(process.stderr)
const passOf = (body: (x: Tensor) => Tensor): ReturnType<typeof repeatedPass> =>
  repeatedPass('A pass of a test', body, sentence => said.push(sentence))
before(async () => {
  process.env['DINOV2_CUDA_GRAPHS'] = '1'
  sim = (await onSim()).sim
})
beforeEach(() => {
  said.length = 0
  process.stderr.write = (text: string | Uint8Array) => said.push(String(text)) > 0
})
afterEach(() => {
  process.stderr.write = write
  sim.forget('')
})
after(() => {
  forgetConstants()
  assert.equal(counted(), 0)
  assert.equal(sim.counts().bytes, 0)
})

const replays = (): number => sim.counts().calls['replay'] ?? 0
const operand = (first: number, length = 4): Tensor => tensor(Float32Array.from({length}, (_, i) => first + i))
/** The pass's result for numbers from `first` on. */
async function result(pass: {run(x: Tensor): Tensor}, first: number, length?: number): Promise<number[]> {
  const x = operand(first, length)
  const y = pass.run(x)
  x.dispose()
  const found = [...(await y.data())]
  y.dispose()
  return found
}
const doubledAndMore = (): {pass: ReturnType<typeof repeatedPass>; more: Tensor} => {
  const more = tensor([1, 2, 3, 4])
  return {more, pass: passOf(x => tidy(() => add(mul(x, 2), more)))}
}
const expected = (first: number): number[] => [0, 1, 2, 3].map(i => 2 * (first + i) + i + 1)

test('a pass is recorded after three batches of one shape, and further ones cost one launch and two copies', async () => {
  const {pass, more} = doubledAndMore()
  for (let i = 0; i < 4; i++) assert.deepEqual(await result(pass, i), expected(i))
  for (let i = 4; i < 8; i++) {
    sim.reset()
    assert.deepEqual(await result(pass, i), expected(i))
    const {operators, within, calls} = sim.counts()
    assert.deepEqual([operators, within, calls['replay']], [1, 2, 1])
  }
  assert.deepEqual(said, [])
  pass[Symbol.dispose]()
  more.dispose()
})

test('a result stays what it was when the next batch is replayed over it', async () => {
  const {pass, more} = doubledAndMore()
  for (let i = 0; i < 4; i++) await result(pass, i)
  const all = [10, 20, 30].map(first => {
    const x = operand(first)
    const y = pass.run(x)
    x.dispose()
    return y
  })
  for (const [i, y] of all.entries()) assert.deepEqual([...(await y.data())], expected(10 * (i + 1)))
  dispose([...all, more])
  pass[Symbol.dispose]()
})

test('batches of other shapes take the plain way, and a shape that comes to stay is recorded in its place', async () => {
  const pass = passOf(x => mul(x, 3))
  for (let i = 0; i < 5; i++) await result(pass, i)
  sim.reset()
  assert.deepEqual(await result(pass, 1, 2), [3, 6])
  assert.equal(replays(), 0)
  assert.deepEqual(await result(pass, 1, 4), [3, 6, 9, 12])
  assert.equal(replays(), 1)
  for (let i = 0; i < 4; i++) assert.deepEqual(await result(pass, i, 2), [3 * i, 3 * i + 3])
  sim.reset()
  assert.deepEqual(await result(pass, 1, 2), [3, 6])
  assert.equal(replays(), 1)
  sim.reset()
  assert.deepEqual(await result(pass, 1, 4), [3, 6, 9, 12])
  assert.equal(replays(), 0)
  pass[Symbol.dispose]()
})

test('constants that a recording reads are kept for it, also where the device lets them go', async () => {
  const pass = passOf(x => tidy(() => mul(x, constant(Float32Array.of(2, 3, 4, 5), [4]))))
  for (let i = 0; i < 4; i++) await result(pass, i)
  forgetConstants()
  sim.reset()
  assert.deepEqual(await result(pass, 1), [2, 6, 12, 20])
  assert.equal(replays(), 1)
  pass[Symbol.dispose]()
  assert.deepEqual(said, [])
})

test('a replay that reads memory which was let go is told so', () => {
  let alive: Tensor | undefined = tidy(() => mul(tensor([5, 6]), 2)) // memory of its own
  const pass = passOf(x => mul(x, alive ?? x))
  const x = operand(1, 2)
  for (let i = 0; i < 4; i++) pass.run(x).dispose()
  alive.dispose()
  alive = undefined
  assert.throws(() => pass.run(x), /a replay reads memory that was let go since it was recorded/)
  pass[Symbol.dispose]()
  x.dispose()
})

test('a pass that copies from the host or to it is not recorded, which is said once, and goes on', async () => {
  for (const [why, body] of [
    ['fromParts: a copy between host and device', (x: Tensor) => tidy(() => mul(x, tensor([1, 2, 3, 4])))],
    ['toBytes: a copy between host and device', (x: Tensor) => tidy(() => (x.dataSync(), mul(x, x)))]
  ] as const) {
    const pass = passOf(body)
    sim.reset()
    for (let i = 0; i < 8; i++) await result(pass, i)
    assert.equal(replays(), 0)
    pass[Symbol.dispose]()
    assert.equal(said.length, 1, said.join(''))
    assert.match(said[0]!, /^A pass of a test of shape \[4\] is not recorded as a graph: /)
    assert.ok(said[0]!.includes(`${why} cannot be recorded`), said[0])
    said.length = 0
  }
})

test('a replay that is not the pass is found out, and left out', async () => {
  const {pass, more} = doubledAndMore()
  sim.forget('graphs') // half of what was recorded is not done
  for (let i = 0; i < 8; i++) assert.deepEqual(await result(pass, i), expected(i))
  assert.equal(said.length, 1)
  assert.match(said[0]!, /is not recorded as a graph: its replay is off by (NaN|[\d.]+) of the largest entry, at most 0\.01 is allowed/)
  pass[Symbol.dispose]()
  const first = operand(1)
  const stale = passOf(() => add(first, more)) // reads another tensor than its operand
  for (let i = 0; i < 5; i++) await result(stale, 1)
  assert.equal(said.length, 1)
  stale[Symbol.dispose]()
  dispose([first, more])
})

test('too little memory for a recording leaves it out', async () => {
  const pass = passOf(x => mul(x, 2))
  for (let i = 0; i < 3; i++) await result(pass, i, 2 ** 16)
  const x = operand(0, 2 ** 16)
  sim.setLimit(sim.counts().bytes + 3 * 2 ** 18)
  const y = pass.run(x)
  sim.setLimit(0)
  assert.equal((await y.data())[1], 2)
  assert.match(said.join(''), /is not recorded as a graph: .*out of memory/)
  dispose([x, y])
  pass[Symbol.dispose]()
})

function tinyEmbedder(precision: 'fp32' | 'bf16', pool: 'cls' | 'cls+mean'): Embedder {
  const master = initVit(tiny, 1, 1)
  const low = castForInference(master, precision)
  const free = (): void => dispose([...low.owned, ...[...leaves(master)].map(([, leaf]) => leaf)])
  const backbone = {config: tiny, params: low.params, fingerprint: 'x', precision, [Symbol.dispose]: free}
  return embedderOf(backbone, {pool, layers: 1, normalize: true, transform: {crop: 56}, toolVersion: '0'}, 'it')
}
const images = (count: number, i: number): {pixels: Uint8Array; height: number; width: number} => ({
  pixels: Uint8Array.from({length: count * 56 * 56 * 3}, (_, j) => (i * 37 + j * j) % 251),
  height: 56,
  width: 56
})

for (const [precision, pool] of [
  ['fp32', 'cls'],
  ['fp32', 'cls+mean'],
  ['bf16', 'cls+mean']
] as const)
  test(`embed replays full batches, in ${precision}, ${pool}, also two at a time; the vectors are those without`, async () => {
    const counts = [2, 2, 2, 2, 2, 2, 2, 1]
    process.env['DINOV2_CUDA_GRAPHS'] = '0'
    await onSim()
    const plain: Float32Array[] = []
    {
      using embedder = tinyEmbedder(precision, pool)
      sim.reset()
      for (const [i, count] of counts.entries()) plain.push(await embedder.vectors(images(count, i), count))
      assert.equal(replays(), 0)
    }
    process.env['DINOV2_CUDA_GRAPHS'] = '1'
    await onSim()
    using embedder = tinyEmbedder(precision, pool)
    sim.reset()
    const found = await Promise.all(counts.map((count, i) => embedder.vectors(images(count, i), count)))
    assert.deepEqual(found, plain)
    assert.equal(replays(), 4, said.join('')) // one of them held against the plain pass
    assert.deepEqual(said, [])
    sim.reset()
    await embedder.vectors(images(2, 9), 2)
    const {toDevice, toHost, operators} = sim.counts()
    assert.deepEqual({toDevice, toHost}, {toDevice: 1, toHost: 1})
    assert.ok(operators <= 5, `${operators} operator calls of a batch that is replayed`)
  })

test('on a processor they change nothing, which is said', async () => {
  const notes: string[] = []
  await startEngine({engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: sentence => notes.push(sentence)})
  assert.deepEqual(notes, ['graphs are for CUDA devices, so DINOV2_CUDA_GRAPHS changes nothing on cpu'])
  const pass = passOf(x => mul(x, 2))
  for (let i = 0; i < 6; i++) assert.deepEqual(await result(pass, i, 1), [2 * i])
  pass[Symbol.dispose]()
  await onSim()
})
