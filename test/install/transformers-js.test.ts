/** Exported ONNX folders in the hands of JavaScript users: onnxruntime for Node, pipelines of transformers.js. */
import assert from 'node:assert/strict'
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {loadBackbone} from '../../src/tasks/embed/load-backbone.js'
import {exportModel} from '../../src/tasks/export.js'
import {jpeg, png, draw} from '../support/drawn.js'
import {onPlain, onWasm} from '../support/engine.js'
import {architectures, saveHeads, writeExpected} from '../support/onnx-models.js'
import {realBinary, run} from '../support/program.js'
import {scratch} from '../support/scratch.js'
import {saveTiny} from '../support/tiny-backbone.js'
import {inTransformersJs} from './transformers-js.js'

test('onnxruntime for Node computes what we compute', async t => {
  const folder = await scratch(t)
  await onPlain()
  const {config, side} = architectures['registers and SwiGLU']!
  const model = join(folder, 'model.safetensors')
  await saveTiny(model, 1, config)
  await exportModel({model, to: 'onnx', output: join(folder, 'out'), size: side, toolVersion: '0'})
  await writeExpected(join(folder, 'expected.safetensors'), model, {side})
  const expected = await openSafetensors(join(folder, 'expected.safetensors'))
  t.after(() => expected.close())
  const numbers = async (name: string): Promise<Float32Array> => expected.tensors.get(name)!.readFloat32()
  await writeFile(join(folder, 'pixels.bin'), new Uint8Array((await numbers('pixel_values')).buffer))
  const outputs = await inTransformersJs<Record<string, number[]>>(
    `import {readFileSync} from 'node:fs'
     import ort from 'onnxruntime-node'
     const [model, pixels, side] = process.argv.slice(1)
     const session = await ort.InferenceSession.create(model)
     const data = new Float32Array(readFileSync(pixels).buffer.slice(0))
     const made = await session.run({pixel_values: new ort.Tensor('float32', data, [2, 3, +side, +side])})
     console.log(JSON.stringify(Object.fromEntries(Object.entries(made).map(([name, {data}]) => [name, Array.from(data)]))))`,
    join(folder, 'out/onnx/model.onnx'),
    join(folder, 'pixels.bin'),
    String(side)
  )
  assert.deepEqual(Object.keys(outputs).sort(), ['last_hidden_state', 'patch_tokens', 'pooler_output'])
  for (const [name, values] of Object.entries(outputs)) {
    const own = await numbers(name)
    assert.equal(values.length, own.length)
    const largest = own.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const worst = own.reduce((most, value, i) => Math.max(most, Math.abs(value - values[i]!)), 0)
    assert.ok(worst <= 1e-4 * largest, `${name}: ${worst} of ${largest}`)
  }
})

const cosine = (a: readonly number[], b: readonly number[]): number => {
  const dot = (x: readonly number[], y: readonly number[]): number => x.reduce((sum, value, i) => sum + value * y[i]!, 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

test('pipelines of transformers.js give the vectors of embed and the classes of a head, from image files', async t => {
  const folder = await scratch(t)
  await onWasm()
  const {config} = architectures['registers']!
  const side = 84
  const model = join(folder, 'model.safetensors')
  await saveTiny(model, 2, config)
  const backbone = await loadBackbone(model)
  const [classifier] = await saveHeads(folder, backbone)
  backbone[Symbol.dispose]()
  const plain = {model, to: 'onnx', size: side, toolVersion: '0'} as const
  await exportModel({...plain, output: join(folder, 'plain')})
  await exportModel({...plain, output: join(folder, 'half'), fp16: true, normalize: true})
  await exportModel({...plain, output: join(folder, 'external'), externalAbove: 1000})
  await exportModel({...plain, output: join(folder, 'classes'), heads: [classifier!]})
  await mkdir(join(folder, 'images'))
  // The first needs no resizing; the others are as photographs are.
  await writeFile(join(folder, 'images/a.png'), await png(draw(120, 96)))
  await writeFile(join(folder, 'images/b.jpg'), await jpeg(draw(300, 200, 1)))
  await writeFile(join(folder, 'images/c.jpg'), await jpeg(draw(180, 260, 2)))
  const images = ['a.png', 'b.jpg', 'c.jpg'].map(name => join(folder, 'images', name))
  const made = await inTransformersJs<{vectors: Record<string, number[][]>; classes: {label: string; score: number}[][]; dims: number[]}>(
    `import {env, pipeline} from '@huggingface/transformers'
     const [folder, ...images] = process.argv.slice(1)
     env.allowRemoteModels = false
     env.localModelPath = folder
     const vectors = {}
     let dims
     for (const name of ['plain', 'half', 'external', 'classes']) {
       const extract = await pipeline('image-feature-extraction', name)
       vectors[name] = []
       for (const image of images) vectors[name].push(Array.from((await extract(image, {pool: true})).data))
       dims = (await extract(images[0])).dims
     }
     const classify = await pipeline('image-classification', 'classes')
     const classes = []
     for (const image of images) classes.push(await classify(image, {top_k: 3}))
     console.log(JSON.stringify({vectors, classes, dims}))`,
    folder,
    ...images
  )
  const flags = ['--model', model, '--engine', 'wasm', '--size', String(side)]
  const embedded = await run(realBinary, ['embed', ...images, ...flags, '--format', 'jsonl'])
  assert.equal(embedded.status, 0, embedded.stderr)
  const own = embedded.stdout.trim().split('\n').map(line => (JSON.parse(line) as {vector: number[]}).vector) // prettier-ignore
  assert.deepEqual(made.dims, [1, 1 + 4 + (side / 14) ** 2, config.width])
  for (const [name, vectors] of Object.entries(made.vectors))
    for (const [i, vector] of vectors.entries()) {
      // transformers.js resizes by libvips, we as Pillow does; without resizing all pixels are the same.
      const least = i > 0 ? 0.98 : name === 'half' ? 0.9999 : 0.999999
      assert.ok(cosine(vector, own[i]!) >= least, `${name}, image ${i}: cosine ${cosine(vector, own[i]!)}`)
      assert.ok(cosine(vector, made.vectors['plain']![i]!) >= 0.9999, `${name}, image ${i}`)
    }
  const predicted = await run(realBinary, ['predict', 'classify', ...images, ...flags, '--head', classifier!])
  assert.equal(predicted.status, 0, predicted.stderr)
  const rows = predicted.stdout.trim().split('\n').map(line => JSON.parse(line) as {class: string; probability: number}) // prettier-ignore
  for (const [i, row] of rows.entries()) {
    assert.equal(made.classes[i]![0]!.label, row.class)
    assert.ok(Math.abs(made.classes[i]![0]!.score - row.probability) < 0.05)
  }
})
