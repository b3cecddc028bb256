/** Batches keep order and pairing, are the same for any number of workers, run ahead, and name the bad images once. */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {mkdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import {cropBatches, type CropOptions} from '../../../src/data/loader/crop-batches.js'
import {describeLoad, type LoadStats} from '../../../src/data/loader/load-stats.js'
import {pixelBatches, type PixelBatch} from '../../../src/data/loader/pixel-batches.js'
import type {RejectedImage} from '../../../src/data/sources/image-ref.js'
import {ImageCache, makeCache} from '../../../src/data/loader/cache.js'
import {loadPixels} from '../../../src/data/image/decode.js'
import {maskSettings} from '../../../src/data/augment/block-masks.js'
import {shuffledSampler} from '../../../src/data/loader/sampler.js'
import {listImages, type ImageRef} from '../../../src/data/sources/source.js'
import {ImageTable, imageTable} from '../../../src/data/sources/image-table.js'
import {UserError} from '../../../src/config/errors.js'
import {draw, folderFor, jpeg, png} from '../../support/drawn.js'

/** A folder of `count` drawn images, some of them bad, of two sizes if wanted. */
async function album(t: TestContext, count: number, {bad = [] as number[], sizes = 1} = {}): Promise<string> {
  const folder = folderFor(t)
  mkdirSync(join(folder, 'x'))
  for (let i = 0; i < count; i++)
    writeFileSync(
      join(folder, 'x', `${String(i).padStart(3, '0')}.png`),
      bad.includes(i) ? 'not an image' : await png(draw(40 + (sizes > 1 ? 20 * (Math.floor(i / 5) % sizes) : 0), 40, i))
    )
  return folder
}
const transform = {resize: 28, crop: 28}
const collect = async <T>(stream: AsyncIterable<T>): Promise<T[]> => {
  const items: T[] = []
  for await (const item of stream) items.push(item)
  return items
}
async function* delayed<T>(items: AsyncIterable<T>, every: number): AsyncGenerator<T> {
  let i = 0
  for await (const item of items) {
    if (i++ % every === 0) await sleep(1)
    yield item
  }
}

test('pixels: full batches in order, rows beside their images, for any number of workers', async t => {
  const folder = await album(t, 43, {bad: [0, 9, 10, 42]})
  const refs = await collect(listImages([folder]))
  const expected = new Map<string, Uint8Array>()
  for (const ref of refs)
    await loadPixels(ref, transform).then(
      ({data}) => expected.set(ref.id, data),
      () => undefined
    )
  for (const workers of [0, 1, 3]) {
    const bad: RejectedImage[] = []
    const stream = pixelBatches(delayed(listImages([folder]), 7), {transform, batch: 8, workers, prefetch: 2, onRejected: b => bad.push(b)})
    const batches = await collect(stream)
    assert.deepEqual(
      batches.map(({refs}) => refs.length),
      [8, 8, 8, 8, 7]
    )
    assert.deepEqual(
      batches.flatMap(b => b.refs.map(({id}) => id)),
      [...expected.keys()]
    )
    for (const {refs, pixels, height, width} of batches) {
      assert.deepEqual([height, width, pixels.length], [28, 28, refs.length * 28 * 28 * 3])
      refs.forEach(({id}, i) => assert.deepEqual(pixels.subarray(i * 2352, (i + 1) * 2352), expected.get(id)))
    }
    assert.deepEqual(
      bad.map(({id}) => id.slice(-7)),
      ['000.png', '009.png', '010.png', '042.png']
    )
    assert.match(bad[0]!.reason, /it is text/)
    const {images, bad: counted, waitSeconds} = stream.stats()
    assert.deepEqual([images, counted], [39, 4])
    assert.ok(waitSeconds > 0)
  }
})

test('without a crop a batch ends where the size changes, and order stays', async t => {
  const folder = await album(t, 23, {sizes: 2})
  const batches = await collect(pixelBatches(listImages([folder]), {transform: {resize: 28, patch: 14}, batch: 4, workers: 1}))
  assert.deepEqual(
    batches.map(({refs, width}) => [refs.length, width]),
    [
      [4, 28],
      [1, 28],
      [4, 42],
      [1, 42],
      [4, 28],
      [1, 28],
      [4, 42],
      [1, 42],
      [3, 28]
    ]
  )
  const ids = batches.flatMap(b => b.refs.map(({id}) => id))
  assert.deepEqual(ids, [...ids].sort())
})

test('leaving early, an input that fails and an onRejected that throws all end the workers', async t => {
  const folder = await album(t, 30, {bad: [20]})
  for await (const batch of pixelBatches(listImages([folder]), {transform, batch: 4, workers: 2})) {
    assert.equal(batch.refs.length, 4)
    break
  }
  async function* broken(): AsyncGenerator<ImageRef> {
    yield* listImages([folder])
    throw new Error('the list broke off')
  }
  const seen: PixelBatch[] = []
  await assert.rejects(async () => {
    for await (const batch of pixelBatches(broken(), {transform, batch: 8, workers: 1})) seen.push(batch)
  }, /the list broke off/)
  assert.equal(seen.length, 3) // whole batches before it are not lost
  const strict = (): never => {
    throw new UserError('too many', {exit: 4})
  }
  await assert.rejects(collect(pixelBatches(listImages([folder]), {transform, batch: 4, workers: 1, onRejected: strict})), /too many/)
})

test('workers run ahead while this thread is held', async t => {
  const folder = await album(t, 40)
  const stream = pixelBatches(listImages([folder]), {transform, batch: 4, workers: 1, prefetch: 4})
  await stream.next()
  const hold = performance.now()
  while (performance.now() - hold < 800); // an engine call
  const start = performance.now()
  for (let i = 0; i < 3; i++) await stream.next()
  const three = performance.now() - start
  await stream.return()
  assert.ok(three < 400, `three batches took ${three} ms after the thread was free`)
})

const crops = {globalSize: 16, localSize: 8, globalScale: [0.32, 1], localScale: [0.05, 0.32], localCount: 3} as const
const training = (folder: string, refs: CropOptions['refs'], more: Partial<CropOptions> = {}): CropOptions => ({
  refs,
  sampler: shuffledSampler(refs.length, 1),
  batch: 5,
  crops,
  masks: maskSettings(16, 4, 0.5, [0.1, 0.5]),
  seed: 1,
  end: 6,
  workers: 1,
  ...more
})

test('training: the same batches for any number of workers, any prefetch, with and without the cache, and from any step', async t => {
  const folder = await album(t, 12, {bad: [3, 4]})
  const refs = await imageTable(listImages([folder]))
  const run = async (more: Partial<CropOptions>) => {
    const bad: string[] = []
    const stream = cropBatches(training(folder, refs, {onRejected: b => bad.push(b.id.slice(-7)), ...more}))
    const batches = await collect(stream)
    const prints = batches.map(b =>
      createHash('sha256')
        .update(b.globals)
        .update(b.locals)
        .update(b.masks)
        .update(b.indices)
        .update(b.weights)
        .update(b.ids.join())
        .digest('hex')
    )
    return {batches, prints, bad, stats: stream.stats()}
  }
  const plain = await run({workers: 0, prefetch: 1, cacheBytes: 0})
  assert.deepEqual(
    plain.batches.map(({step}) => step),
    [0, 1, 2, 3, 4, 5]
  )
  const {ids, globals, locals, masks, upperbound} = plain.batches[0]!
  assert.deepEqual([ids.length, globals.length, locals.length, masks.length], [5, 10 * 768, 15 * 192, 10 * 16])
  assert.ok(upperbound > 0)
  assert.deepEqual([...plain.bad].sort(), ['003.png', '004.png'])
  assert.equal(plain.stats.bad, 2)
  for (const more of [
    {workers: 1},
    {workers: 1, native: false},
    {workers: 3, prefetch: 4},
    {workers: 2, cacheBytes: 2 << 20},
    {workers: 0, cacheBytes: 1 << 20}
  ]) {
    const other = await run(more)
    assert.deepEqual(other.prints, plain.prints)
    assert.deepEqual(other.bad, plain.bad)
  }
  const resumed = await run({start: 4})
  assert.deepEqual(resumed.prints, plain.prints.slice(4))
  assert.notDeepEqual((await run({seed: 2})).prints, plain.prints)
})

test('training: what was found in memory, and the time lost waiting, are reported as they were', async t => {
  const folder = await album(t, 10)
  const refs = await imageTable(listImages([folder]))
  const go = async (pause: number, more: Partial<CropOptions> = {}): Promise<{stats: LoadStats; seconds: number; sum: number}> => {
    const stream = cropBatches(training(folder, refs, {batch: 5, end: 8, workers: 1, ...more}))
    const begun = performance.now()
    let sum = 0
    for await (const {waitSeconds} of stream) {
      sum += waitSeconds
      await sleep(pause)
    }
    return {stats: stream.stats(), seconds: (performance.now() - begun) / 1000, sum}
  }
  const {stats, seconds, sum} = await go(0)
  assert.ok(stats.cache && stats.native)
  assert.deepEqual([stats.cache.images, stats.cache.hits, stats.cache.misses], [10, 30, 10]) // four passes over ten
  assert.equal(stats.cache.bytes, 10 * 4800)
  assert.ok(Math.abs(sum - stats.waitSeconds) < 1e-6)
  assert.ok(stats.waitSeconds > 0 && stats.waitSeconds <= seconds, `${stats.waitSeconds} of ${seconds}`)
  assert.match(describeLoad(stats), /^40 images were made ready by native code; .* 10 decoded ones are kept in 0 of 512 MiB, where 75 % /)
  const slow = await go(60)
  assert.ok(slow.stats.waitSeconds < slow.seconds, `${slow.stats.waitSeconds} of ${slow.seconds}`) // what was done meanwhile is not waiting
  const bare = await go(0, {cacheBytes: 0, native: false})
  assert.deepEqual([bare.stats.cache, bare.stats.native], [undefined, false])
  assert.match(describeLoad(bare.stats), /by JavaScript; .*; none are kept in memory$/)
})

test('training: scaled decoding gives the same batches however they are made, and leaves small images alone', async t => {
  const folder = folderFor(t)
  for (let i = 0; i < 4; i++) writeFileSync(join(folder, `${i}.jpg`), await jpeg(draw(i === 0 ? 40 : 400, i === 0 ? 40 : 300, i)))
  const refs = await imageTable(listImages([folder]))
  const prints = async (decode: 'full' | 'scaled', more: Partial<CropOptions>): Promise<string[]> => {
    const base = training(folder, refs, {batch: 4, end: 3, sampler: {size: 4, at: position => position % 4}, ...more})
    const batches = await collect(cropBatches({...base, crops: {...base.crops, decode}}))
    return batches.map(({globals, locals}) => createHash('sha256').update(globals).update(locals).digest('hex'))
  }
  const scaled = await prints('scaled', {workers: 0, cacheBytes: 0})
  assert.deepEqual(await prints('scaled', {workers: 2}), scaled)
  assert.notDeepEqual(await prints('full', {workers: 2}), scaled)
})

test('training: a bad image gives its place to the next good one by number', async t => {
  const folder = await album(t, 6, {bad: [2, 3]})
  const refs = await imageTable(listImages([folder]))
  const sampler = {size: 6, at: (position: number) => position % 6}
  for await (const {ids} of cropBatches(training(folder, refs, {sampler, batch: 6, end: 2})))
    assert.deepEqual(
      ids.map(id => id.slice(-5, -4)),
      ['0', '1', '4', '4', '4', '5']
    )
})

test('training: a set without one good image ends with a sentence', async t => {
  const folder = await album(t, 3, {bad: [0, 1, 2]})
  const refs = await imageTable(listImages([folder]))
  await assert.rejects(
    collect(cropBatches(training(folder, refs))),
    (error: Error) => error instanceof UserError && error.exit === 4 && /None of the 3 images/.test(error.message)
  )
})

test('crops lie crop-major: one crop of all images, then the next', async t => {
  const folder = await album(t, 4)
  const refs = await imageTable(listImages([folder]))
  const still = {
    ...crops,
    flip: 0,
    grey: 0,
    solarize: 0,
    globalScale: [1, 1],
    localScale: [1, 1],
    ratio: [1, 1],
    jitter: {brightness: 0, contrast: 0, saturation: 0, hue: 0, probability: 0},
    blurSigma: [0.001, 0.0011]
  } as const
  const sampler = {size: 4, at: (position: number) => position % 4}
  for await (const {globals, locals} of cropBatches(training(folder, refs, {sampler, batch: 4, end: 1, crops: still}))) {
    for (let b = 0; b < 4; b++) {
      const {data} = await loadPixels(refs.at(b)!, {resize: 16, crop: 16})
      for (let c = 0; c < 2; c++) assert.deepEqual(globals.subarray((c * 4 + b) * 768, (c * 4 + b + 1) * 768), data)
      const small = await loadPixels(refs.at(b)!, {resize: 8, crop: 8})
      for (let c = 0; c < 3; c++) assert.deepEqual(locals.subarray((c * 4 + b) * 192, (c * 4 + b + 1) * 192), small.data)
    }
  }
})

test('the table gives back what was put in', () => {
  const table = new ImageTable()
  const refs: ImageRef[] = [
    {id: 'a.jpg', path: 'a.jpg', fields: {}},
    {id: 'b', path: '/x/b.jpg', fields: {label: 'ü', n: 1}, folder: 'f'},
    {id: 'c\\xe9', path: Buffer.from([0x63, 0xe9]), pathBase64: 'Y+k=', fields: {}},
    {id: 's.tar/k', path: 's.tar', fields: {}, range: {offset: 512, size: 9}},
    {id: 'l:1', path: '', fields: {}, problem: 'no path'},
    {id: 'big', path: 'y'.repeat(3 << 20), fields: {}}
  ]
  for (let i = 0; i < 5000; i++) refs.push({id: `p/${i}.jpg`, path: `p/${i}.jpg`, fields: {}})
  for (const ref of refs) table.push(ref)
  assert.equal(table.length, refs.length)
  refs.forEach((ref, i) => assert.deepEqual(table.at(i), ref))
  assert.equal(table.at(refs.length), undefined)
  table.push({id: 't/k', path: 't', fields: {}, range: {offset: 1, size: 2}, bytes: Buffer.from('xx')})
  assert.equal(table.at(refs.length)!.bytes, undefined) // read again from its place
})

test('the cache keeps what fits, once', () => {
  const handle = makeCache(10, 1 << 20)!
  const [one, two] = [new ImageCache(handle), new ImageCache(handle)]
  one.put(3, draw(20, 10))
  assert.deepEqual(two.get(3), draw(20, 10))
  assert.equal(two.get(4), undefined)
  const {bytes} = one.stats()
  assert.deepEqual(two.stats(), {bytes, limit: 1 << 20, images: 1, hits: 1, misses: 1})
  two.put(3, draw(20, 10))
  assert.equal(one.stats().bytes, bytes)
  one.put(5, draw(700, 700))
  assert.equal(one.get(5), undefined) // 1.47 MB into 1 MiB
  for (let i = 6; i < 10; i++) one.put(i, draw(400, 300, i))
  assert.ok(two.get(7) && !two.get(9) && two.stats().bytes <= 1 << 20)
  assert.equal(makeCache(10, 0), undefined)
})

test('once it is stopped, refused images are no longer passed over in search of a good one', async () => {
  const stop = new AbortController()
  let refused = 0
  async function* absent(): AsyncGenerator<ImageRef> {
    for (let i = 0; i < 5000; i++) yield {id: `${i}`, path: `/absent/${i}.png`, fields: {}}
  }
  const batches = pixelBatches(absent(), {
    batch: 8,
    transform: {resize: 8, crop: 8},
    workers: 0,
    signal: stop.signal,
    onRejected: () => void (++refused === 20 && stop.abort())
  })
  assert.equal((await batches.next()).done, true)
  assert.equal(refused, 20)
})
