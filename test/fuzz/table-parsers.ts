/**
 * Parsers of what other programs write: Arrow with types that this tool writes none of, Parquet files of images, lists
 * in other encodings, folders of timm, models in several files, and what an interrupted command left.
 */
import {mkdir, readFile, rm, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {openBackbone, readBackbone} from '../../src/files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {saveTimm} from '../../src/files/checkpoint/timm-folder.js'
import {createEmbeddings, partialOf} from '../../src/files/embeddings/embeddings.js'
import {listImages} from '../../src/data/sources/source.js'
import {PredictedRows} from '../../src/tasks/eval/shared/predicted-rows.js'
import type {VitConfig} from '../../src/model/config.js'
import {vectorFromArray, Utf8} from 'apache-arrow'
import {imageColumn, parquetOf} from '../support/parquet.js'
import {draw, png} from '../support/drawn.js'
import {tiny} from '../support/tiny-backbone.js'
import {arrowFile, arrowStream} from './arrow-streams.js'
import {batchOfRows, meta, readRows, type Parser} from './parsers.js'
import {json, lines, moved, numbers} from './structured.js'

const foreign = (name: string, seeds: () => Buffer[]): Parser => ({
  name: `arrow-${name}`,
  inputs: 2000,
  seeds: async () => seeds(),
  read: readRows,
  editable: true, // no checksum
  structured: [numbers, numbers, moved]
})

/** Rows of a list, without the bytes of their images. */
async function listed(path: string): Promise<string> {
  const found: string[] = []
  for await (const {id, problem, fields} of listImages([path])) found.push(`${id} ${problem ?? ''} ${JSON.stringify(fields)}`)
  return found.join('\n')
}
const list = (name: string, ending: string, seed: Buffer): Parser => ({
  name: `list-${name}`,
  inputs: 2000,
  ending,
  seeds: async () => [seed],
  editable: true,
  lenient: true,
  structured: [lines],
  read: listed
})

const config: VitConfig = {...tiny, width: 4, depth: 1, heads: 1, hidden: 8, grid: 1, patch: 2}
const parameters = [...expectedShapes(config)].map(([name, shape]) => ({
  name,
  shape,
  data: Float32Array.from({length: shape.reduce((a, b) => a * b, 1)}, (_, i) => Math.sin(i))
}))

async function openFolder(path: string): Promise<string> {
  const {config: found, checkpoint} = await openBackbone(dirname(path))
  try {
    const text = [JSON.stringify(found), JSON.stringify(checkpoint.preprocessing)]
    for await (const {name, data} of readBackbone(found, checkpoint)) text.push(`${name} ${data.join()}`)
    return text.join('\n')
  } finally {
    await checkpoint.close()
  }
}
const folder = (name: string, file: string, make: (folder: string) => Promise<Buffer>): Parser => ({
  name,
  inputs: 1000,
  file: `${name}/${file}`,
  editable: true,
  structured: [json],
  seeds: async scratch => [await make(join(scratch, name))],
  read: openFolder
})

/** The partial output that an interrupted `embed` leaves, gone on from. */
const resumed = (format: 'arrow' | 'jsonl' | 'csv' | 'npy' | 'safetensors'): Parser => ({
  name: `partial-${format}`,
  inputs: 500,
  file: partialOf(`out.${format}`),
  editable: true, // what is damaged is made again
  lenient: true,
  structured: [numbers, lines],
  seeds: async scratch => {
    const path = join(scratch, `out.${format}`)
    const output = await createEmbeddings(path, {meta, format})
    await output.write(batchOfRows(3))
    await output.keep()
    return [await readFile(partialOf(path))]
  },
  read: async partial => {
    const path = partial.replace(/\.partial$/, '')
    const output = await createEmbeddings(path, {meta, format, resume: true})
    try {
      let ids = ''
      for await (const {id} of output.resumedRows()) ids += `${id} `
      return `${output.resumed} ${ids}`
    } finally {
      await output.keep()
    }
  }
})

const head = 'head.bin'
const predicted = {predicted_with: {model: 'm', head: 'h'}}

export const tableParsers: readonly Parser[] = [
  foreign('views', () => [arrowStream('views')]),
  foreign('nested', () => [arrowStream('nested'), arrowStream('dictionary')]),
  foreign('packed', () => [arrowStream('views', 'lz4'), arrowStream('nested', 'zstd')]),
  foreign('file', () => [arrowFile('views'), arrowFile('nested')]),
  {
    name: 'parquet-images',
    inputs: 2000,
    ending: '.parquet',
    onDisk: true,
    editable: true,
    lenient: true,
    structured: [numbers],
    seeds: async () => {
      const bytes = await png(draw(8, 8))
      const images = [0, 1, 2].map(i => ({bytes, path: `${i}.png`}))
      const label = vectorFromArray(['a', 'b', 'a'], new Utf8())
      return [Buffer.from(parquetOf({image: imageColumn(images), label}, {packed: false}))]
    },
    read: listed
  },
  list('utf16', '.txt', Buffer.from('\ufeffa.png\nb c.png\n/abs/d\u00e9.jpg\n', 'utf16le')),
  list('nul', '.txt', Buffer.from('a.png\0b\nc.png\0/abs/d.jpg\0')),
  list('tsv', '.tsv', Buffer.from('path\tlabel\tid\na.png\tx "y"\ta\nb.png\tz\tb\n')),
  folder('timm', 'config.json', async path => {
    await saveTimm(path, config, parameters, {force: true})
    return readFile(join(path, 'config.json'))
  }),
  folder('hf-shards', 'model.safetensors.index.json', async path => {
    await saveHuggingFace(path, config, parameters, {force: true})
    const bytes = await readFile(join(path, 'model.safetensors'))
    const names = Object.keys(JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0)))) as object)
    await writeFile(join(path, 'model-00001-of-00001.safetensors'), bytes)
    await rm(join(path, 'model.safetensors'))
    const map = names.filter(name => name !== '__metadata__').map(name => [name, 'model-00001-of-00001.safetensors'])
    return Buffer.from(JSON.stringify({metadata: {total_size: bytes.length}, weight_map: Object.fromEntries(map) as object}))
  }),
  ...(['arrow', 'jsonl', 'csv', 'npy', 'safetensors'] as const).map(resumed),
  {
    name: 'partial-predictions',
    inputs: 1000,
    editable: true,
    lenient: true,
    structured: [json, lines],
    seeds: async scratch => {
      await mkdir(scratch, {recursive: true})
      await writeFile(join(scratch, head), 'x')
      return [Buffer.from([predicted, {id: 'a', class: 'x'}, {id: 'b', top: [1]}].map(row => `${JSON.stringify(row)}\n`).join(''))]
    },
    read: async path => {
      const rows = await PredictedRows.open({path, output: path, head: join(dirname(path), head), options: {}, resume: true})
      await rows.close()
      return JSON.stringify(['a', 'b'].map(id => rows.earlier({id, path: id, fields: {}})))
    }
  }
]
