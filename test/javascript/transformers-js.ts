/**
 * Opens exported ONNX folders by transformers.js, and so by onnxruntime in Node, and compares with what this program
 * computes: `make test-transformers-js`, which installs the package in a folder that is this program's argument. It is
 * no part of `make test`, because the package takes half a gigabyte.
 */
import assert from 'node:assert/strict'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {createRequire} from 'node:module'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {pathToFileURL} from 'node:url'
import {encodeImage} from '../../src/data/image/encode.js'
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {loadBackbone} from '../../src/tasks/embed/load-backbone.js'
import {exportModel} from '../../src/tasks/export.js'
import {onPlain} from '../support/engine.js'
import {architectures, noise, saveDpt, saveHeads, writeExpected} from '../support/onnx-models.js'
import {saveTiny} from '../support/tiny-backbone.js'

type JsTensor = {readonly data: Float32Array; readonly dims: readonly number[]}
type Model = (inputs: object) => Promise<Readonly<Record<string, JsTensor>>>
type Pipeline = (input: unknown, options?: object) => Promise<JsTensor & {readonly label: string; readonly score: number}[]>
/** What is used of the package. */
type TransformersJs = {
  readonly env: {allowRemoteModels: boolean; localModelPath: string}
  readonly AutoModel: {from_pretrained(name: string, options: object): Promise<Model>}
  readonly Tensor: new (type: string, data: Float32Array, dims: readonly number[]) => JsTensor
  pipeline(task: string, name: string, options?: object): Promise<Pipeline>
}

const {resolve: resolvePackage} = createRequire(join(resolve(process.argv[2]!), 'package.json'))
const {env, AutoModel, Tensor, pipeline} = (await import(pathToFileURL(resolvePackage('@huggingface/transformers')).href)) as TransformersJs
const folder = await mkdtemp(join(tmpdir(), 'dinov2-transformers-js-'))
env.allowRemoteModels = false
env.localModelPath = folder

/** The largest difference over the largest expected entry. */
function worst(computed: Float32Array, expected: Float32Array): number {
  assert.equal(computed.length, expected.length)
  const largest = (values: Float32Array): number => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  return largest(computed.map((value, i) => value - expected[i]!)) / largest(expected)
}

/** Compares all outputs of an exported folder, and of what pipelines there are for it. */
async function check(name: string, model: string, side: number, heads: readonly string[], options: object): Promise<void> {
  const at = name.replaceAll(/\W+/g, '-')
  await exportModel({model, to: 'onnx', output: join(folder, at), size: side, heads, toolVersion: '0', ...options})
  const expectedPath = join(folder, `${at}.safetensors`)
  await writeExpected(expectedPath, model, {side, heads})
  const file = await openSafetensors(expectedPath)
  const expected = new Map<string, Float32Array>()
  for (const [key, entry] of file.tensors) expected.set(key, await entry.readFloat32())
  await file.close()
  const isHalf = 'fp16' in options
  const opened = await AutoModel.from_pretrained(at, {
    dtype: isHalf ? 'fp16' : 'fp32',
    ...('externalAbove' in options && {use_external_data_format: true})
  })
  const outputs = await opened({pixel_values: new Tensor('float32', expected.get('pixel_values')!, [2, 3, side, side])})
  for (const [key, values] of expected) {
    if (key === 'pixel_values') continue
    const difference = worst(outputs[key]!.data, values)
    console.log(`${name}: ${key} ${difference.toExponential(1)}`)
    assert.ok(difference <= (isHalf ? 1e-2 : 1e-4), `${name}, ${key}: ${difference}`)
  }
  if (isHalf) return
  const image = join(folder, `${at}.png`)
  const pixels = Uint8Array.from(noise(side).subarray(0, side * side * 3), value => Math.round(value * 255))
  await writeFile(image, await encodeImage(pixels, {width: side, height: side}))
  const extract = await pipeline('image-feature-extraction', at, {dtype: 'fp32'})
  assert.deepEqual((await extract(image, {pool: true})).dims, [1, expected.get('pooler_output')!.length / 2])
  console.log(`${name}: pipeline('image-feature-extraction') opens it`)
  if (!expected.has('logits')) return
  const [best] = await (await pipeline('image-classification', at, {dtype: 'fp32'}))(image)
  assert.ok(['cat', 'dog', 'fox'].includes(best!.label))
  console.log(`${name}: pipeline('image-classification') says ${best!.label}`)
}

try {
  await onPlain()
  for (const [name, {config, side}] of Object.entries(architectures)) {
    const model = join(folder, `${name}.safetensors`)
    await saveTiny(model, 1, config)
    const backbone = await loadBackbone(model)
    const heads = await saveHeads(folder, backbone, {size: side, crop: 40, stride: 24})
    backbone[Symbol.dispose]()
    await check(`${name} with heads`, model, side, heads, {})
    await check(`${name} in half precision`, model, side, [], {fp16: true})
    if (config.depth > 3) await check(`${name} with DPT`, model, side, [await saveDpt(folder, config)], {externalAbove: 1000})
  }
} finally {
  await rm(folder, {recursive: true})
}
