/**
 * `dinov2 embed` beside its peers: images a second from JPEG files to cls features, on this machine, in one run.
 *
 * usage: node dist/bench/embed.js FOLDER [--count 200] [--sizes s,b] [--repeats 3] [--modes hf,torch,…]
 *
 * Modes are hf, torch, torch_bf16, ort and export: what `dinov2 export --to onnx` writes, under ONNX Runtime. PYTHON
 * names a Python with torch, transformers, onnxruntime, onnx, pillow and safetensors; REF a checkout of
 * facebookresearch/dinov2, without which the modes torch and ort and the cosine have to be left out. Peers run with
 * 0 and 2 loading workers and the better counts; every second repeat goes in the opposite order. The best of the
 * repeats is compared. Prints a table in Markdown, and the cosine of our features with the reference's (float32,
 * Pillow) on the same weights.
 */
import {execFileSync} from 'node:child_process'
import {readdirSync, writeFileSync} from 'node:fs'
import {mkdtemp, rm} from 'node:fs/promises'
import {availableParallelism, cpus, tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {parseArgs} from 'node:util'
import {saveBackbone} from '../src/files/checkpoint/backbone.js'
import type {NamedTensor} from '../src/files/checkpoint/backbone.js'
import type {VitConfig} from '../src/model/config.js'
import {initVit} from '../src/model/init.js'
import {startEngine} from '../src/engine/start.js'
import {exportModel} from '../src/tasks/export.js'
import {disposeTree, leaves} from '../src/tensor/tree.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    count: {type: 'string', default: '200'},
    sizes: {type: 'string', default: 's,b'},
    repeats: {type: 'string', default: '3'},
    modes: {type: 'string', default: 'hf,torch,torch_bf16,ort,export'}
  }
})
const folder = positionals[0]
if (!folder) throw new Error('name a folder of JPEG files')
const python = process.env['PYTHON'] ?? 'python3'
const root = new URL('../../', import.meta.url).pathname
const scratch = await mkdtemp(join(tmpdir(), 'dinov2-bench-'))

const config = (size: string): VitConfig => {
  const width = size === 's' ? 384 : 768
  return {
    width,
    depth: 12,
    heads: width / 64,
    patch: 14,
    ffn: 'mlp',
    hidden: 4 * width,
    registers: 0,
    grid: 37,
    layerScale: true,
    interpolateOffset: 0.1,
    interpolateAntialias: false
  }
}

/** A file of random weights with LayerScale 1, so that every layer counts. */
async function weights(size: string): Promise<string> {
  const path = join(scratch, `vit-${size}.safetensors`)
  await startEngine({engine: 'wasm', note: () => undefined})
  const params = initVit(config(size), 1, 1)
  async function* tensors(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of leaves(params)) yield {name, shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  await saveBackbone(path, config(size), tensors())
  disposeTree(params)
  return path
}

type Outcome = {images_per_second: number; peak_gib: number}

/** Runs our command under Python's resource counter, which tells the peak memory of a child. */
function ours(files: string, model: string, out: string): Outcome {
  const watch =
    'import json, resource, subprocess, sys; run = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True); sys.stderr.write(run.stderr) if run.returncode else None; ' +
    'report = json.loads(run.stdout); print(json.dumps({"images_per_second": report["imagesPerSecond"], "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20}))'
  const command = ['node', join(root, 'bin/run.js'), 'embed', files, '--model', model, '-o', out, '--force', '--json', '--batch', '16']
  return JSON.parse(execFileSync(python, ['-c', watch, ...command], {encoding: 'utf8'})) as Outcome
}

function peer(mode: string, size: string, count: string, workers: number, extra: string[] = []): Outcome & {least?: number; mean?: number} {
  const args = [join(root, 'bench/peers/embed.py'), folder!, count, mode, size, String(workers), ...extra]
  return JSON.parse(
    execFileSync(python, ['-W', 'ignore', ...args], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit']})
      .trim()
      .split('\n')
      .at(-1)!
  )
}

console.log(`${cpus()[0]?.model}, ${availableParallelism()} cores, node ${process.version}\n`)
for (const size of values.sizes.split(',')) {
  const count = size === 's' ? values.count : String(Math.ceil(Number(values.count) / 3))
  const model = await weights(size)
  const list = join(scratch, 'list.txt')
  const files = readdirSync(folder, {recursive: true, encoding: 'utf8'})
    .filter(name => name.endsWith('.jpg'))
    .map(name => join(folder, name))
    .sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)))
    .slice(0, Number(count))
  // Peers are timed after a warm-up; a process of ours begins anew each time, so it gets the files three times over
  // and its own beginning counts.
  writeFileSync(list, [...files, ...files, ...files].map(name => resolve(name)).join('\n') + '\n')
  const features = join(scratch, 'features.npy')
  const exported = join(scratch, `vit-${size}-onnx`)
  await exportModel({model, to: 'onnx', output: exported, size: 224, toolVersion: 'bench'})
  const onnx = join(exported, 'onnx/model.onnx')
  const best = new Map<string, Outcome>()
  const keep = (name: string, outcome: Outcome): void => {
    const known = best.get(name)
    if (!known || outcome.images_per_second > known.images_per_second) best.set(name, outcome)
    console.error(`${size} ${name}: ${outcome.images_per_second.toFixed(2)} images/s, ${outcome.peak_gib.toFixed(2)} GiB`)
  }
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) {
    const jobs: (() => void)[] = [
      () => keep('dinov2 embed', ours(list, model, features)),
      ...values.modes
        .split(',')
        .flatMap(mode => [0, 2].map(workers => () => keep(mode, peer(mode, size, count, workers, mode === 'export' ? [onnx] : []))))
    ]
    for (const job of repeat % 2 ? jobs.reverse() : jobs) job()
  }
  const mine = best.get('dinov2 embed')!.images_per_second
  console.log(`ViT-${size.toUpperCase()}/14 at 224, ${count} files\n\n| | images/s | ours is | peak GiB |\n| --- | --- | --- | --- |`)
  for (const [name, {images_per_second, peak_gib}] of best)
    console.log(`| ${name} | ${images_per_second.toFixed(2)} | ${(mine / images_per_second).toFixed(2)} × | ${peak_gib.toFixed(2)} |`)
  if (process.env['REF'] === undefined) continue
  const {least, mean} = peer('cosine', size, count, 0, [model, features])
  console.log(`\ncosine with the reference in float32, file to feature: least ${least?.toFixed(6)}, mean ${mean?.toFixed(6)}\n`)
}
await rm(scratch, {recursive: true})
