/**
 * Copies that run beside the computation, on the simulated device, which runs them late: batches go there on a stream
 * of their own from pinned buffers that are used again, results come back while the next batch is computed. Where a
 * wait is left out, the device says so or the bytes are wrong.
 */
import assert from 'node:assert/strict'
import {after, afterEach, before, test} from 'node:test'
import {op, torch, type Handle} from '../../src/engine/torch/binding.js'
import {forgetConstants} from '../../src/engine/torch/kernels/constants.js'
import {initVit} from '../../src/model/init.js'
import {castForInference} from '../../src/model/vit.js'
import {embed, embedderOf, type Embedder} from '../../src/tasks/embed/embedder.js'
import {listImages} from '../../src/data/sources/source.js'
import {dispose} from '../../src/tensor/tf.js'
import {leaves} from '../../src/tensor/tree.js'
import {drawnFolder} from '../support/drawn-images.js'
import {counted} from '../support/engine.js'
import {folder} from '../support/program.js'
import {onSim, type Sim} from '../support/sim.js'
import {tiny} from '../support/tiny-backbone.js'

let sim: Sim
before(async () => {
  sim = (await onSim()).sim
})
afterEach(() => {
  sim.forget('')
  torch().synchronize()
})
after(() => {
  forgetConstants()
  assert.equal(counted(), 0)
  assert.equal(sim.counts().bytes, 0)
})

const SIZE = 4096
const batch = (i: number): Uint8Array => new Uint8Array(SIZE).fill(i + 1)
/** So many batches, copied one behind the other before any is used. */
const copied = (count: number): Handle[] => Array.from({length: count}, (_, i) => torch().fromParts([batch(i)], true))
const release = (handles: readonly Handle[]): void => {
  for (const handle of handles) torch().release(handle)
}
/** The first byte of a batch after the device has computed with it; 0.5 where the batch is not of one number. */
function computed(x: Handle): number {
  const doubled = op('add.Tensor', x, x, 1)
  const bytes = new Uint8Array(torch().toBytes(doubled, 0))
  torch().release(doubled)
  return bytes.every(byte => byte === bytes[0]) ? bytes[0]! / 2 : 0.5
}

test('seven batches through three buffers: each is what it was', () => {
  const batches = copied(7)
  assert.deepEqual(batches.map(computed), [1, 2, 3, 4, 5, 6, 7])
  release(batches)
})

test('the host waits where a buffer comes again whose batch the device has not come to, and not before', () => {
  copied(1).forEach(handle => (computed(handle), torch().release(handle)))
  sim.reset()
  const batches = copied(3)
  assert.deepEqual(sim.counts().trace, ['to the device', 'to the device', 'to the device'])
  release(batches)
  sim.reset()
  const more = copied(5)
  assert.ok(sim.counts().trace.includes('the host waits'))
  release(more)
})

test('a host that does not wait for the end of copies writes over batches', () => {
  sim.forget('host')
  const batches = copied(7)
  sim.forget('')
  const found = batches.map(computed)
  assert.deepEqual(found.slice(4), [5, 6, 7])
  for (const i of [0, 1, 2, 3]) assert.notEqual(found[i], i + 1)
  release(batches)
})

test('a stream that does not wait for a copy is told so', () => {
  sim.forget('streams')
  const [x] = copied(1)
  assert.throws(() => op('add.Tensor', x!, x!, 1), /before the copy into it has ended; the stream does not wait for the copy's event/)
  sim.forget('')
  torch().synchronize()
  assert.equal(computed(x!), 1)
  release([x!])
})

test('an allocator that does not know which stream uses memory is told of', () => {
  sim.forget('allocator')
  const [x] = copied(1)
  assert.throws(() => op('add.Tensor', x!, x!, 1), /stream 0 uses memory of stream \d+, of which the allocator does not know/)
  release([x!])
})

test('a result that is read before the copy has ended is not there', () => {
  const x = torch().fromBytes(Float32Array.of(3, 4), 6, [2])
  const y = op('add.Tensor', x, x, 1)
  sim.reset()
  const reading = torch().beginReading(y, 6)
  assert.equal(torch().endReading(reading), null)
  release([x, y]) // the reading has its own
  let found: ArrayBuffer | null = null
  for (let i = 0; i < 3 && !found; i++) found = torch().endReading(reading)
  assert.deepEqual([...new Float32Array(found!)], [6, 8])
  assert.deepEqual(sim.counts().trace, ['to the host', 'the host finds it done'])
  assert.throws(() => torch().endReading(reading), /there is no such reading/)
})

function tinyEmbedder(): Embedder {
  const master = initVit(tiny, 1, 1)
  const low = castForInference(master, 'fp32')
  const free = (): void => dispose([...low.owned, ...[...leaves(master)].map(([, leaf]) => leaf)])
  const backbone = {config: tiny, params: low.params, fingerprint: 'x', precision: 'fp32' as const, [Symbol.dispose]: free}
  return embedderOf(backbone, {pool: 'cls+mean', layers: 1, normalize: true, transform: {crop: 56}, toolVersion: '0'}, 'it')
}

test('the second batch is under way before the first one is read, and the vectors are those of one at a time', async () => {
  using embedder = tinyEmbedder()
  const images = [0, 1, 2].map(i => ({
    pixels: Uint8Array.from({length: 2 * 56 * 56 * 3}, (_, j) => (i * 37 + j * j) % 251),
    height: 56,
    width: 56
  }))
  const alone: Float32Array[] = []
  for (const one of images) alone.push(await embedder.vectors(one, 2))
  sim.reset()
  const together = await Promise.all(images.map(one => embedder.vectors(one, 2)))
  assert.deepEqual(together, alone)
  const {trace} = sim.counts()
  assert.deepEqual(trace.slice(0, 6), ['to the device', 'to the host', 'to the device', 'to the host', 'to the device', 'to the host'])
  assert.ok(!trace.includes('the host waits'))
})

test('embed begins a batch before it waits for the one before it, keeps the order, and waits for no batch that is late', async () => {
  const root = folder()
  await drawnFolder(root, ['a', 'b'], 4)
  using real = tinyEmbedder()
  let begun = 0
  let second = (): void => undefined
  const secondBegun = new Promise<void>(done => (second = done))
  const embedder: Embedder = {
    ...real,
    async vectors(...args) {
      const number = begun++
      if (number === 1) second()
      const vectors = await real.vectors(...args)
      if (number === 0) await secondBegun // for ever, where batches are computed one at a time
      return vectors
    }
  }
  const ids: string[] = []
  for await (const rows of embed(listImages([root]), embedder, {batch: 3, workers: 1})) ids.push(...rows.ids)
  const expected: string[] = []
  for await (const {id} of listImages([root])) expected.push(id)
  assert.deepEqual(ids, expected)
  assert.equal(begun, 3)
})
