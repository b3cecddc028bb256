/**
 * Embedding as a step: what a vector is, rows that stay paired with their images, no tensor left behind, and going on
 * where a run stopped.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {basename, join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import type {RejectedImage} from '../../../src/data/sources/image-ref.js'
import type {PixelBatch} from '../../../src/data/loader/pixel-batches.js'
import {loadPixels} from '../../../src/data/image/decode.js'
import {listImages} from '../../../src/data/sources/source.js'
import {startEngine} from '../../../src/engine/start.js'
import type {EmbeddingBatch} from '../../../src/files/embeddings/embeddings.js'
import {openBackbone, readBackbone} from '../../../src/files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../../src/files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../../src/files/checkpoint/preprocessing.js'
import {forward, intermediateLayers} from '../../../src/model/vit.js'
import {loadBackbone, type Backbone} from '../../../src/tasks/embed/load-backbone.js'
import {
  embed,
  embedderOf,
  fieldsOf,
  loadEmbedder,
  settingsOf,
  defaultFeatures,
  type FeatureSettings
} from '../../../src/tasks/embed/embedder.js'
import type {NamedRow} from '../../../src/files/embeddings/embeddings.js'
import {leaveOutDone} from '../../../src/tasks/embed/leave-out-done.js'
import {normalizePixels} from '../../../src/tensor/ops/patches.js'
import {memory, tidy} from '../../../src/tensor/tf.js'
import {drawnFolder, drawnImage} from '../../support/drawn-images.js'
import {saveTiny, tiny} from '../../support/tiny-backbone.js'

let dir: string
let model: string
let images: string[]
let backbone: Backbone
const transform = {resize: 48, crop: 42}

before(async () => {
  await startEngine({engine: 'wasm', note: () => {}})
  dir = await mkdtemp(join(tmpdir(), 'embed-'))
  model = join(dir, 'tiny.safetensors')
  await saveTiny(model)
  images = await drawnFolder(join(dir, 'photos'), ['a', 'b', 'c'], 4)
  backbone = await loadBackbone(model)
})
after(async () => {
  backbone[Symbol.dispose]()
  await rm(dir, {recursive: true, force: true})
})

const all = async (rows: AsyncIterable<EmbeddingBatch>): Promise<{ids: string[]; vectors: number[]; fields: object[]; sizes: number[]}> => {
  const found = {ids: [] as string[], vectors: [] as number[], fields: [] as object[], sizes: [] as number[]}
  for await (const {ids, vectors, fields} of rows) {
    found.ids.push(...ids)
    found.vectors.push(...vectors)
    found.fields.push(...fields)
    found.sizes.push(ids.length)
  }
  return found
}

const borrowed = (change: Partial<FeatureSettings>) =>
  embedderOf({...backbone, [Symbol.dispose]: () => {}}, {...defaultFeatures, transform, toolVersion: '0', ...change}, 'tiny')

async function pixels(): Promise<PixelBatch> {
  const refs = images.slice(0, 2).map(path => ({id: path, path, fields: {}}))
  const rasters = await Promise.all(refs.map(ref => loadPixels(ref, transform)))
  return {refs, pixels: Buffer.concat(rasters.map(({data}) => data)), height: 42, width: 42}
}

describe('what a vector is', () => {
  const C = tiny.width
  const N = 9
  const close = (a: ArrayLike<number>, b: ArrayLike<number>): void => {
    assert.equal(a.length, b.length)
    for (let i = 0; i < a.length; i++) assert.ok(Math.abs(a[i]! - b[i]!) < 1e-5, `entry ${i}: ${a[i]} and ${b[i]}`)
  }
  /** cls [block][image] and patches [block][image] of all blocks, from the model itself. */
  async function parts(): Promise<{cls: number[][][]; patches: number[][][][]}> {
    const batch = await pixels()
    const out = tidy(() => {
      const tensors = intermediateLayers(backbone.params, normalizePixels(batch.pixels, [2, 42, 42]), backbone.config, {n: 3})
      return tensors.map(({cls, patches}) => ({cls: cls.arraySync(), patches: patches.arraySync()})) as unknown as []
    }) as unknown as {cls: number[][]; patches: number[][][]}[]
    return {cls: out.map(({cls}) => cls), patches: out.map(({patches}) => patches)}
  }
  const average = (tokens: number[][]): number[] =>
    tokens[0]!.map((_, c) => tokens.reduce((sum, token) => sum + token[c]!, 0) / tokens.length)

  test('cls is the normed class token of the plain forward pass', async () => {
    const batch = await pixels()
    const expected = tidy(() => forward(backbone.params, normalizePixels(batch.pixels, [2, 42, 42]), backbone.config).cls)
    close(await borrowed({}).vectors(batch, 2), expected.dataSync())
    expected.dispose()
  })
  for (const [name, change, dim] of [
    ['the last two cls tokens', {layers: 2}, 2 * C],
    ['the cls tokens of listed blocks', {layers: [0, 2]}, 2 * C],
    ['the mean patch', {pool: 'mean'}, C],
    ['the mean patches of two blocks', {pool: 'mean', layers: 2}, 2 * C],
    ['two cls tokens and the last mean', {pool: 'cls+mean', layers: 2}, 3 * C],
    ['every patch token', {pool: 'patch'}, N * C],
    ['every patch token of two blocks', {pool: 'patch', layers: 2}, N * 2 * C]
  ] as [string, Partial<FeatureSettings>, number][]) {
    test(name, async () => {
      const {cls, patches} = await parts()
      const {layers = 1, pool = 'cls'} = change
      const blocks = typeof layers === 'number' ? [0, 1, 2].slice(3 - layers) : layers
      const expected = [0, 1].flatMap(image => {
        const c = blocks.flatMap(block => cls[block]![image]!)
        if (pool === 'cls') return c
        if (pool === 'mean') return blocks.flatMap(block => average(patches[block]![image]!))
        if (pool === 'cls+mean') return [...c, ...average(patches[2]![image]!)]
        return Array.from({length: N}, (_, n) => blocks.flatMap(block => patches[block]![image]![n]!)).flat()
      })
      const embedder = borrowed(change)
      assert.equal(embedder.meta.dim, dim)
      if (pool === 'patch') assert.deepEqual(embedder.meta.shape, {rows: 3, columns: 3, channels: blocks.length * C})
      const before_ = memory().numTensors
      close(await embedder.vectors(await pixels(), 2), expected)
      assert.equal(memory().numTensors, before_)
    })
  }
  test('normalized: every vector has length 1, of patches every token', async () => {
    for (const [pool, length] of [
      ['cls', C],
      ['patch', C]
    ] as const) {
      const vectors = await borrowed({pool, normalize: true}).vectors(await pixels(), 2)
      for (let at = 0; at < vectors.length; at += length) assert.ok(Math.abs(Math.hypot(...vectors.subarray(at, at + length)) - 1) < 1e-5)
    }
  })
  test('settings that do not fit the model are refused with a way out', () => {
    assert.throws(() => borrowed({transform: {resize: 48, crop: 40}}), {
      exit: 2,
      message: /40 pixels.*14-pixel/,
      hint: /--crop 28 or --crop 42/
    })
    assert.throws(() => borrowed({layers: 4}), {exit: 2, message: /3 blocks/})
    assert.throws(() => borrowed({layers: [0, 3]}), {exit: 2})
    assert.throws(() => borrowed({pool: 'patch', transform: {resize: 48}}), {exit: 2, message: /Uncropped/})
  })
  test('the record gives the settings back', () => {
    for (const change of [
      {},
      {pool: 'cls+mean', layers: [0, 2], normalize: true},
      {transform: {resize: 42}}
    ] as Partial<FeatureSettings>[]) {
      const {meta, transform: used} = borrowed(change)
      assert.deepEqual(settingsOf(meta, 'x'), {
        ...defaultFeatures,
        transform: used,
        ...change,
        ...(change.transform ? {transform: used} : {})
      })
    }
  })
})

describe('rows', () => {
  test('keep the order and the fields of the images; bad ones are reported and have no row', async () => {
    const broken = join(dir, 'photos', 'a', '001b.png')
    await writeFile(broken, 'no picture')
    const bad: RejectedImage[] = []
    const before_ = memory().numTensors
    const embedder = await loadEmbedder(model, {...defaultFeatures, transform, toolVersion: '0'})
    const rows = embed(listImages([join(dir, 'photos')]), embedder, {batch: 5, workers: 1, onRejected: image => bad.push(image)})
    const found = await all(rows)
    assert.deepEqual(found.ids, images)
    assert.deepEqual(found.sizes, [5, 5, 2])
    assert.deepEqual(
      found.fields,
      images.map(path => ({label: path.split('/').at(-2)}))
    )
    assert.deepEqual(
      bad.map(({path}) => path),
      [broken]
    )
    assert.equal(rows.stats().images, 12)

    // One at a time gives the same vectors, so a row does not depend on its neighbours.
    const single = await all(embed(listImages(images), embedder, {batch: 1, workers: 0}))
    for (const [i, x] of single.vectors.entries()) assert.ok(Math.abs(x - found.vectors[i]!) < 1e-4)
    embedder[Symbol.dispose]()
    assert.equal(memory().numTensors, before_)
    await rm(broken)
  })
  test('a reader that breaks off leaves no tensor', async () => {
    const before_ = memory().numTensors
    for await (const {ids} of embed(listImages(images), borrowed({}), {batch: 2, workers: 1})) {
      assert.equal(ids.length, 2)
      break
    }
    assert.equal(memory().numTensors, before_)
  })
  test('uncropped images of several shapes: a batch ends where the shape changes', async () => {
    const wide = join(dir, 'wide.png')
    await writeFile(wide, await drawnImage(1, 0, 80, 40))
    const inputs = [...images.slice(0, 2), wide, images[2]!]
    const found = await all(embed(listImages(inputs), borrowed({transform: {resize: 42}}), {batch: 8, workers: 0}))
    assert.deepEqual(found.ids, inputs)
    assert.deepEqual(found.sizes, [2, 1, 1])
    assert.equal(found.vectors.length, 4 * tiny.width)
  })
  test('after a signal no further batch is begun', async () => {
    const stop = new AbortController()
    let batches = 0
    for await (const _ of embed(listImages(images), borrowed({}), {batch: 3, workers: 0, signal: stop.signal})) {
      batches++
      stop.abort()
    }
    assert.equal(batches, 1)
  })
  test('the folder is the label where the list has none, and the place is reported where the id is not the place', () => {
    assert.deepEqual(fieldsOf({id: 'p/cat/1.jpg', path: 'p/cat/1.jpg', fields: {}, folder: 'cat'}), {label: 'cat'})
    assert.deepEqual(fieldsOf({id: '7', path: 'p/1.jpg', fields: {label: 'dog', depth: 1}, folder: 'cat'}), {
      label: 'dog',
      depth: 1,
      path: 'p/1.jpg'
    })
    assert.deepEqual(fieldsOf({id: 's.tar/1', path: 's.tar', fields: {}, range: {offset: 0, size: 1}}), {})
  })
})

describe('going on where a run stopped', () => {
  const rows = async function* (...done: (string | NamedRow)[]): AsyncGenerator<NamedRow> {
    for (const one of done) yield typeof one === 'string' ? {id: one, fields: {}} : one
  }
  const rest = async (done: (string | NamedRow)[], inputs: string[], bad: RejectedImage[] = []): Promise<string[]> => {
    const left: string[] = []
    for await (const {id} of leaveOutDone(listImages(inputs), rows(...done), transform, image => bad.push(image))) left.push(id)
    return left
  }
  test('done images are left out, refused ones are refused again', async () => {
    const broken = join(dir, 'broken.png')
    await writeFile(broken, 'no picture')
    const bad: RejectedImage[] = []
    assert.deepEqual(await rest(images.slice(0, 3), [images[0]!, broken, ...images.slice(1)], bad), images.slice(3))
    assert.deepEqual(
      bad.map(({path}) => path),
      [broken]
    )
    assert.deepEqual(await rest([], images), images)
    assert.deepEqual(await rest(images, images), [])
  })
  test('another list is noticed', async () => {
    await assert.rejects(rest([images[1]!], images), {exit: 2, code: 'LIST_CHANGED', message: new RegExp(`${images[0]} stands where`)})
    await assert.rejects(rest([images[0]!, 'gone.png'], [images[0]!]), {exit: 2, message: /gone\.png.*not among the inputs/})
  })
  test('a label that was corrected is noticed; a folder that was moved is no change', async () => {
    const list = async (name: string, row: object): Promise<string> => {
      const path = join(dir, name)
      await writeFile(path, `${JSON.stringify({id: 'a', path: images[0]!, ...row})}\n`)
      return path
    }
    const fields = {label: 'cat', box: [1, {x: 2}], path: `/elsewhere/${basename(images[0]!)}`}
    const same = await list('same.jsonl', {label: 'cat', box: [1, {x: 2}], none: null})
    assert.deepEqual(await rest([{id: 'a', fields}], [same]), [])
    const refused = (message: RegExp): object => ({exit: 2, code: 'LIST_CHANGED', message})
    for (const [row, message] of [
      [{label: 'dog', box: [1, {x: 2}]}, /^a had "cat" as its label in the earlier run, and has "dog" now/],
      [{label: 'cat'}, /^a had \[1,\{"x":2\}\] as its box .* has none now/],
      [{label: 'cat', box: [1, {x: 2}], more: 1}, /^a had none as its more .* has 1 now/],
      [{label: 'cat', box: [1, {x: 2}], path: images[1]!}, /^a had ".*" as its path/]
    ] as const)
      await assert.rejects(rest([{id: 'a', fields}], [await list('other.jsonl', row)]), refused(message))
  })
})

test('the preprocessing that a model records is in force where nothing is asked for, and is said and recorded', async () => {
  const said: string[] = []
  const path = join(dir, 'folder')
  const {config, checkpoint} = await openBackbone(model)
  const foreign = {...defaultPreprocessing, resize: 48, crop: 42, mean: [0.53, 0.53, 0.53], std: [0.26, 0.26, 0.26]} as const
  await saveHuggingFace(path, config, readBackbone(config, checkpoint), {preprocessing: foreign})
  await checkpoint.close()
  const load = (request: object, from = path) =>
    loadEmbedder(from, {...defaultFeatures, transform: request, toolVersion: '0', note: line => said.push(line)})
  using own = await load({})
  assert.deepEqual([own.transform.resize, own.transform.crop], [48, 42])
  assert.match(said.join(), /short side 48, centre crop 42, mean 0\.53 0\.53 0\.53, deviation 0\.26.*preprocessor_config\.json/)
  assert.deepEqual(own.meta.preprocessing!['mean'], [0.53, 0.53, 0.53])
  using asked = await load({resize: 56, crop: 28})
  assert.deepEqual([asked.transform.resize, asked.transform.crop], [56, 28])
  using plain = await load({resize: 48, crop: 42}, model)
  // The same weights see other pixels: other vectors, and another fingerprint, so that they are not mixed.
  assert.notEqual(own.meta.fingerprint, plain.meta.fingerprint)
  const {data} = await loadPixels({id: 'a', path: images[0]!, fields: {}}, own.transform)
  const [a, b] = await Promise.all([own, plain].map(one => one.vectors({pixels: data, height: 42, width: 42}, 1)))
  const difference = Math.max(...a!.map((value, i) => Math.abs(value - b![i]!)))
  assert.ok(difference > 1e-2, `vectors differ by ${difference}`)
})
