/**
 * Memory of `dinov2 embed` against the number of images: peak memory of the process for 100, 1,000 and 10,000 files.
 *
 * usage: node dist/bench/memory.js FOLDER [--counts 100,1000,10000]
 * The files of the folder are named again and again until there are enough; a small model of random weights keeps it
 * short.
 */
import {execFileSync} from 'node:child_process'
import {readdirSync, writeFileSync} from 'node:fs'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {parseArgs} from 'node:util'
import {saveBackbone} from '../src/files/checkpoint/backbone.js'
import type {NamedTensor} from '../src/files/checkpoint/backbone.js'
import {initVit} from '../src/model/init.js'
import {startEngine} from '../src/engine/start.js'
import {leaves} from '../src/tensor/tree.js'

const {positionals, values} = parseArgs({allowPositionals: true, options: {counts: {type: 'string', default: '100,1000,10000'}}})
const folder = positionals[0]
if (!folder) throw new Error('name a folder of JPEG files')
const scratch = await mkdtemp(join(tmpdir(), 'dinov2-bench-'))
const root = new URL('../../', import.meta.url).pathname
const config = {
  width: 192,
  depth: 6,
  heads: 3,
  patch: 14,
  ffn: 'mlp',
  hidden: 768,
  registers: 0,
  grid: 7,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
} as const

await startEngine({engine: 'wasm', note: () => undefined})
async function* tensors(): AsyncGenerator<NamedTensor> {
  for (const [name, leaf] of leaves(initVit(config, 1, 1))) yield {name, shape: leaf.shape, data: (await leaf.data()) as Float32Array}
}
const model = join(scratch, 'model.safetensors')
await saveBackbone(model, config, tensors())
const files = readdirSync(folder, {recursive: true, encoding: 'utf8'})
  .filter(name => name.endsWith('.jpg'))
  .map(name => resolve(folder, name))
const watch =
  'import json, resource, subprocess, sys; run = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, text=True, check=True); ' +
  'print(json.dumps({**json.loads(run.stdout), "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}))'
console.log('| images | peak MiB | images/s |\n| --- | --- | --- |')
for (const count of values.counts.split(',').map(Number)) {
  const list = join(scratch, 'list.txt')
  writeFileSync(list, Array.from({length: count}, (_, i) => files[i % files.length]).join('\n') + '\n')
  const command = [
    'node',
    join(root, 'bin/run.js'),
    'embed',
    list,
    '--model',
    model,
    '--size',
    '98',
    '-o',
    join(scratch, 'out.arrow'),
    '-f',
    '-q',
    '--json',
    '--batch',
    '32'
  ]
  const report = JSON.parse(execFileSync(process.env['PYTHON'] ?? 'python3', ['-c', watch, ...command], {encoding: 'utf8'})) as {
    peak: number
    imagesPerSecond: number
  }
  console.log(`| ${count} | ${report.peak.toFixed(0)} | ${report.imagesPerSecond} |`)
}
await rm(scratch, {recursive: true})
