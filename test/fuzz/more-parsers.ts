/** Parsers of models, heads, lists, settings and runs: the entries of `parsers.ts` that read no embeddings. */
import {readFile} from 'node:fs/promises'
import {join} from 'node:path'
import {gzipSync} from 'node:zlib'
import {readLayers} from '../../src/config/read-layers.js'
import {resolveSettings} from '../../src/config/settings.js'
import {listImages} from '../../src/data/sources/source.js'
import {openHead, saveHead} from '../../src/files/checkpoint/head-file.js'
import {openPth, writePth} from '../../src/files/checkpoint/pth.js'
import {openSafetensors, writeSafetensors, type TensorSource} from '../../src/files/checkpoint/safetensors.js'
import {readMetrics} from '../../src/files/run/run-folder.js'
import {readIds} from '../../src/files/search-index/id-list.js'
import {headerOf} from '../../src/files/search-index/lance-header.js'
import {tarOf} from '../support/tar.js'
import {meta, type Parser} from './parsers.js'
import {json, lines, moved, numbers, opcodes, safetensorsHeader} from './structured.js'

const tensors: readonly TensorSource[] = [
  {name: 'cls_token', dtype: 'F32', shape: [1, 1, 4], read: () => Buffer.from(Float32Array.from([1, 2, 3, 4]).buffer)},
  {name: 'blocks.0.norm1.weight', dtype: 'F32', shape: [3], read: () => Buffer.from(Float32Array.from([5, 6, 7]).buffer)}
]

const classifierSpec = {kind: 'linear', pool: 'cls', layers: 1, normalize: false, start: 0, length: 2, classes: ['a', 'b']}

/** Tensors as a text; their numbers have no checksum. */
async function tensorText(
  all: Iterable<readonly [string, {readonly shape: readonly number[]; readFloat32(): Promise<Float32Array>}]>
): Promise<string> {
  const lines: string[] = []
  for (const [name, entry] of all) lines.push(`${name} ${entry.shape.join()} ${(await entry.readFloat32()).join()}`)
  return lines.join('\n')
}

/** A list of images under one ending. */
const list = (ending: string, text: string | Promise<Uint8Array>): Parser => ({
  name: `list-${ending}`,
  inputs: 2000,
  ending: `.${ending}`,
  structured: ending.startsWith('t') ? [numbers, lines] : [json, lines],
  seeds: async () => [Buffer.from((await text) as string)],
  editable: true,
  lenient: true, // what names no image is a row with a problem
  read: async path => {
    const found: string[] = []
    for await (const {id, problem} of listImages([path])) found.push(`${id} ${problem ?? ''}`)
    return found.join('\n')
  }
})

export const moreParsers: readonly Parser[] = [
  {
    name: 'safetensors-model',
    inputs: 2000,
    structured: [safetensorsHeader],
    seeds: async folder => {
      await writeSafetensors(join(folder, 'seed'), tensors, {task: 'x'}, {force: true})
      return [await readFile(join(folder, 'seed'))]
    },
    read: async path => {
      const file = await openSafetensors(path)
      return tensorText(file.tensors).finally(() => file.close())
    }
  },
  {
    name: 'pth',
    inputs: 2000,
    structured: [numbers, moved, opcodes],
    seeds: async folder => {
      await writePth(join(folder, 'seed'), tensors, {force: true})
      return [await readFile(join(folder, 'seed'))]
    },
    read: async path => {
      const file = await openPth(path)
      const all = [...file.roots].flatMap(([, dict]) => [...dict])
      return tensorText(all).finally(() => file.close())
    }
  },
  {
    name: 'head',
    inputs: 2000,
    structured: [safetensorsHeader],
    seeds: async folder => {
      const weights = new Map([['weight', {shape: [2, 2], data: Float32Array.from([1, 2, 3, 4])}]])
      const trainedOn = {fingerprint: 'f'.repeat(64), images: 4}
      await saveHead(join(folder, 'seed'), {task: 'classify', tensors: weights, spec: classifierSpec, trainedOn}, {force: true})
      return [await readFile(join(folder, 'seed'))]
    },
    read: async path => JSON.stringify((await openHead(path, {task: 'classify', backbone: 'f'.repeat(64)})).spec)
  },
  list('jsonl', '{"path":"a.png","id":"a","label":"x","range":[1,2]}\n{"path":"b.png","nested":{"deep":[[1]]}}\n{"image":"c.png"}\n'),
  list('csv', 'path,label,id\na.png,"x, y",a\nb.png,z,b\n"c ""d"".png",,c\n'),
  list('txt', 'a.png\nb c.png\n/abs/d.jpg\n'),
  list(
    'tar',
    tarOf([
      ['a.jpg', 'picture'],
      ['a.json', '{"label":"x","k":[1]}'],
      ['b.png', 'picture'],
      ['b.cls', '3']
    ])
  ),
  {
    name: 'settings',
    inputs: 2000,
    structured: [lines],
    editable: true,
    seeds: async () => [
      Buffer.from(
        '# of a run\noptim:\n  base_lr: 0.002 # peak\n  epochs: 3\ncrops: {local_crops_size: 98, global_crops_scale: [0.32, 1.0]}\nstudent: &s\n  arch: vit_small\nmodel: "x"\n'
      )
    ],
    read: async path => JSON.stringify(resolveSettings(readLayers([path], [], {flags: ['model'], settings: true}).settings).settings)
  },
  list(
    'tgz',
    tarOf([
      ['a.jpg', 'picture'],
      ['a.json', '{"label":"x"}']
    ]).then(bytes => gzipSync(bytes))
  ),
  {
    name: 'metrics',
    inputs: 2000,
    structured: [json, lines],
    editable: true,
    lenient: true, // lines that are torn are counted
    seeds: async () => [Buffer.from('{"step":1,"loss":{"dino":7.5,"ibot":NaN},"lr":1e-4}\n{"step":2,"loss":{"dino":7.25}}\n')],
    read: async path => {
      const {lines, broken} = readMetrics(await readFile(path, 'utf8'))
      return `${broken} ${lines.map(({step, values}) => `${step} ${[...values].join()}`).join('\n')}`
    }
  },
  {
    name: 'ids',
    inputs: 2000,
    structured: [json, lines],
    editable: true,
    lenient: true, // a line that is no JSON is an id
    seeds: async () => [Buffer.from('{"id":"a"}\n{"id":7}\n{"id":"c","x":[1]}\n'), Buffer.from('a\nb c\n')],
    read: async path => {
      const found: string[] = []
      for await (const id of readIds(path)) found.push(id)
      return found.join()
    }
  },
  {
    name: 'lance-header',
    inputs: 2000,
    structured: [json],
    editable: true,
    seeds: async () => [
      Buffer.from(
        JSON.stringify({
          version: 1,
          kind: 'ivf-pq',
          metric: 'cosine',
          rows: 300,
          dim: meta.dim,
          meta,
          lists: {partitions: 4, pieces: 2, trained: 256, probes: 2, refine: 10},
          recall: {k: 10, value: 0.97, queries: 40},
          table: 3
        })
      )
    ],
    read: async path => JSON.stringify(headerOf(await readFile(path, 'utf8'), path))
  }
]
