/** Parsers of models, heads and run folders: the entries of `parsers.ts` for what training and export write. */
import {mkdir, readFile, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {openBackbone, readBackbone, saveBackbone} from '../../src/files/checkpoint/backbone.js'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {openHead, saveHead, type SavedHead} from '../../src/files/checkpoint/head-file.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {openSegmentHead} from '../../src/files/checkpoint/segment-head-file.js'
import {readRun} from '../../src/files/run/run-folder.js'
import {readState, writeState} from '../../src/files/checkpoint/training-state.js'
import type {VitConfig} from '../../src/model/config.js'
import {batchOfRun, carriedOver, recordedSettings, settingsOfRun} from '../../src/tasks/train/resume.js'
import * as pickled from '../support/pickle-bytes.js'
import {tiny} from '../support/tiny-backbone.js'
import {openPth} from '../../src/files/checkpoint/pth.js'
import type {Parser} from './parsers.js'
import {json, moved, numbers as numberFields, opcodes, safetensorsHeader} from './structured.js'

const config: VitConfig = {...tiny, width: 4, depth: 1, heads: 1, hidden: 8, grid: 1, patch: 2}
const numbers = (count: number): Float32Array => Float32Array.from({length: count}, (_, i) => Math.sin(i))
const parameters = [...expectedShapes(config)].map(([name, shape]) => ({name, shape, data: numbers(shape.reduce((a, b) => a * b, 1))}))

/** What a backbone is, and its numbers. */
async function backboneText(path: string): Promise<string> {
  const {config: found, checkpoint} = await openBackbone(path)
  try {
    const lines = [JSON.stringify(found), JSON.stringify(checkpoint.preprocessing)]
    for await (const {name, data} of readBackbone(found, checkpoint)) lines.push(`${name} ${data.join()}`)
    return lines.join('\n')
  } finally {
    await checkpoint.close()
  }
}

/** A file of a folder for transformers, whose other files are whole. */
const huggingFace = (name: string): Parser => ({
  name: `hf-${name.replace('.json', '')}`,
  inputs: 1000,
  file: `hf/${name}`,
  editable: true, // written to be edited
  structured: [json],
  seeds: async folder => {
    await saveHuggingFace(join(folder, 'hf'), config, parameters, {force: true})
    return [await readFile(join(folder, 'hf', name))]
  },
  read: path => backboneText(dirname(path))
})

const trainedOn = {fingerprint: 'f'.repeat(64), images: 4}
const head = (what: string, made: Omit<SavedHead, 'trainedOn'>, read: (path: string) => Promise<object>): Parser => ({
  name: `head-${what}`,
  inputs: 1000,
  structured: [safetensorsHeader],
  seeds: async folder => {
    await saveHead(join(folder, 'seed'), {...made, trainedOn}, {force: true})
    return [await readFile(join(folder, 'seed'))]
  },
  read: async path => JSON.stringify(await read(path))
})
const tensors = (shapes: Readonly<Record<string, readonly number[]>>): SavedHead['tensors'] =>
  new Map(Object.entries(shapes).map(([name, shape]) => [name, {shape, data: numbers(shape.reduce((a, b) => a * b, 1))}]))

const state = [
  {name: 'student.backbone.norm.weight', shape: [4], read: async () => numbers(4)},
  {name: 'teacher.backbone.norm.weight', shape: [4], read: async () => numbers(4)}
]
const stateRecord = {
  settings: JSON.stringify({optim: {base_lr: 0.002, epochs: 3}, train: {batch_size_per_gpu: 8}}),
  window: JSON.stringify({sums: {loss: 1}, count: 2}),
  history: JSON.stringify([{step: 1, changes: ['train.seed 0 → 1']}])
}

/** A pickle of a dictionary with tensors, and training scripts' own values beside them. */
const pth = (): Buffer => {
  const {op} = pickled
  const weights = pickled.dict({
    'norm.weight': pickled.tensor('0', 2, [2], [1]),
    'norm.bias': pickled.tensor('1', 2, [2], [1])
  })
  const all = pickled.dict({model: weights, epoch: op.int(3), best: op.none})
  return pickled.pth(pickled.pickle(all), {0: new Uint8Array(numbers(2).buffer), 1: new Uint8Array(numbers(2).buffer)})
}

const storage = new Uint8Array(numbers(2).buffer)
const weight = pickled.tensor('0', 2, [2], [1])

/** What torch.save wrote before version 1.6: pickles and storages one after the other. */
const sequence = (): Buffer =>
  pickled.pthSequence(pickled.pickle(pickled.dict({weight: pickled.tensor('0', 2, [2], [1], {part: pickled.op.none})})), {0: storage})

/** A pickle of protocol 4: a frame, and a text whose length takes 64 bits. */
function framed(): Buffer {
  const long = (length: number): Buffer => {
    const bytes = Buffer.alloc(8)
    bytes.writeBigUInt64LE(BigInt(length))
    return bytes
  }
  const {op} = pickled
  const name = Buffer.concat([Buffer.of(0x8d), long(6), Buffer.from('weight')])
  const body = Buffer.concat([op.emptyDict, name, weight, op.setItem, op.stop])
  return pickled.pth(Buffer.concat([op.proto(4), Buffer.of(0x95), long(body.length), body]), {0: storage})
}

/** The archive with its directory's place in 64 bits, as torch.save writes files above 4 GiB. */
function zip64(): Buffer {
  const small = pickled.pth(pickled.pickle(pickled.dict({weight})), {0: storage})
  const end = Buffer.from(small.subarray(small.length - 22))
  const end64 = Buffer.alloc(56)
  end64.write('PK\x06\x06', 'latin1')
  for (const [i, value] of [end.readUInt16LE(8), end.readUInt16LE(10), end.readUInt32LE(12), end.readUInt32LE(16)].entries())
    end64.writeBigUInt64LE(BigInt(value), 24 + 8 * i)
  const locator = Buffer.alloc(20)
  locator.write('PK\x06\x07', 'latin1')
  locator.writeBigUInt64LE(BigInt(small.length - 22), 8)
  end.writeUInt32LE(0xffffffff, 16)
  return Buffer.concat([small.subarray(0, -22), end64, locator, end])
}

export const modelParsers: readonly Parser[] = [
  {
    name: 'backbone',
    inputs: 1000,
    structured: [safetensorsHeader],
    seeds: async folder => {
      await saveBackbone(join(folder, 'seed'), config, parameters, {}, {force: true})
      return [await readFile(join(folder, 'seed'))]
    },
    read: backboneText
  },
  huggingFace('config.json'),
  huggingFace('preprocessor_config.json'),
  {
    name: 'pickle',
    inputs: 2000,
    structured: [opcodes, numberFields, moved],
    ending: '.pth',
    editable: true, // its checksums are not filled in
    seeds: async () => [pth(), sequence(), framed(), zip64()],
    read: async path => {
      const file = await openPth(path)
      try {
        const lines: string[] = []
        for (const [root, dict] of file.roots)
          for (const [name, entry] of dict) lines.push(`${root} ${name} ${entry.shape.join()} ${(await entry.readFloat32()).join()}`)
        return lines.join('\n')
      } finally {
        await file.close()
      }
    }
  },
  head(
    'depth',
    {
      task: 'depth',
      tensors: tensors({'conv_depth.weight': [3, 8], 'conv_depth.bias': [3]}),
      spec: {dense: {layers: [0], cls: true, norm: false}, bins: {min: 0.1, max: 10, count: 3, spacing: 'uniform'}}
    },
    path => openHead(path, {task: 'depth'})
  ),
  head(
    'segment',
    {
      task: 'segment',
      tensors: tensors({
        'bn.weight': [4],
        'bn.bias': [4],
        'bn.running_mean': [4],
        'bn.running_var': [4],
        'conv_seg.weight': [2, 4],
        'conv_seg.bias': [2]
      }),
      spec: {
        kind: 'linear',
        layers: [0],
        size: 64,
        crop: null,
        stride: null,
        scales: [1],
        flip: false,
        classes: ['a', 'b'].map((name, id) => ({id, name, colour: [id, 0, 255]})),
        ignored: [255]
      }
    },
    async path => (await openSegmentHead(path)).spec
  ),
  {
    name: 'training-state',
    inputs: 1000,
    structured: [safetensorsHeader],
    file: 'checkpoints/step-0000003.safetensors',
    seeds: async folder => [await readFile(await writeState(folder, 3, state, stateRecord).written)],
    read: async path => {
      const lines: string[] = []
      const {step, metadata} = await readState(
        path,
        () => undefined,
        (name, shape, values) => lines.push(`${name} ${shape.join()} ${values.join()}`)
      )
      recordedSettings(metadata['settings']!, path)
      const run = dirname(dirname(path))
      const settings = [await settingsOfRun(run), await batchOfRun(run)]
      return `${step} ${JSON.stringify(carriedOver(metadata, path))} ${JSON.stringify(settings)}\n${lines.join('\n')}`
    }
  },
  {
    name: 'run-folder',
    inputs: 1000,
    structured: [json],
    file: 'run/eval.json',
    editable: true,
    lenient: true, // a file that is still being written is passed over
    seeds: async folder => {
      const run = join(folder, 'run')
      await mkdir(run, {recursive: true})
      await writeFile(join(run, 'metrics.jsonl'), '{"step":1,"loss":{"dino":7.5}}\n')
      await writeFile(join(run, 'config.yaml'), 'optim:\n  base_lr: 0.002\n')
      return [Buffer.from('{"task":"knn","scores":{"model":{"top1":{"value":0.5,"low":0.4,"high":0.6}}}}')]
    },
    read: async path => {
      const {results, lines} = await readRun(dirname(path))
      return JSON.stringify([results, lines.length])
    }
  }
]
