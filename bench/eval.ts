/**
 * Evaluations on frozen features beside scikit-learn and PyTorch doing the same on the same numbers: seconds, memory,
 * and the score, which has to agree.
 *
 * usage: node dist/bench/eval.js [--rows 5000] [--val 1000] [--classes 20] [--width 384] [--steps 1000] [--maps 64]
 * [--tasks knn,lbfgs,linear,depth] [--repeats 1] PYTHON names a Python with numpy, torch and scikit-learn. Features
 * are drawn: classes around centres, the cls tokens of four blocks and a mean token, each `width` numbers; and, for
 * depth, maps of 16 × 20 patches of 2 × `width` numbers with smooth depth of 128 × 160 pixels. Every contender is a
 * process of its own, timed from beginning to end; the seconds of the work without its imports stand in brackets.
 * Memory is the peak of the process. The grid takes `steps` steps of 128 rows instead of 12,500, the depth head half
 * as many of 8 maps, on both sides.
 */
import {execFileSync} from 'node:child_process'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {availableParallelism, cpus, tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {batchOf, createEmbeddings, type EmbeddingMeta, type Row} from '../src/files/embeddings/embeddings.js'
import {rng} from '../src/tensor/random.js'
import type {DepthShape} from './depth-head.js'

const {values} = parseArgs({
  options: {
    rows: {type: 'string', default: '5000'},
    val: {type: 'string', default: '1000'},
    classes: {type: 'string', default: '20'},
    width: {type: 'string', default: '384'},
    steps: {type: 'string', default: '1000'},
    maps: {type: 'string', default: '64'},
    tasks: {type: 'string', default: 'knn,lbfgs,linear,depth'},
    repeats: {type: 'string', default: '1'}
  }
})
const [C, K] = [Number(values.width), Number(values.classes)]
const blocks = 4
const python = process.env['PYTHON'] ?? 'python3'
const root = fileURLToPath(new URL('../../', import.meta.url))
const scratch = await mkdtemp(join(tmpdir(), 'dinov2-eval-'))

/** Writes `name`.npy of all features and `name`-cls.npy of the last cls token, each with its list of labels. */
async function draw(name: string, n: number): Promise<void> {
  const centres = Array.from({length: K}, (_, k) => {
    const random = rng(1, 'centre', k)
    return Float32Array.from({length: (blocks + 1) * C}, () => random.normal())
  })
  const rows: Row[] = Array.from({length: n}, (_, i) => {
    const random = rng(1, name, i)
    const k = random.int(K)
    // A few directions carry the classes, all of them noise, as in features of images.
    const vector = centres[k]!.map((value, d) => (d % 8 === 0 ? 0.55 * value : 0) + random.normal())
    return {id: `${name}/${i}`, vector, fields: {label: `c${k}`}}
  })
  const save = async (file: string, change: Partial<EmbeddingMeta>, part: (row: Row) => Row): Promise<void> => {
    const meta: EmbeddingMeta = {
      fingerprint: 'f'.repeat(64),
      preprocessing: {resize: 256, crop: 224},
      pooling: 'cls+mean',
      layers: blocks,
      normalized: false,
      dim: (blocks + 1) * C,
      toolVersion: '0',
      ...change
    }
    const output = await createEmbeddings(join(scratch, file), {meta})
    await output.write(batchOf(rows.map(part)))
    await output.commit()
  }
  await save(`${name}.npy`, {}, row => row)
  await save(`${name}-cls.npy`, {pooling: 'cls', layers: 1, dim: C}, row => ({
    ...row,
    vector: row.vector.slice((blocks - 1) * C, blocks * C)
  }))
}

const shape: DepthShape = {
  train: Number(values.maps),
  val: Math.max(1, Math.round(Number(values.maps) / 4)),
  h: 16,
  w: 20,
  channels: 2 * C,
  height: 128,
  width: 160
}

/**
 * Writes the maps of a set and their depth: a few waves that some channels tell, under noise; a tenth of the pixels
 * are unknown.
 */
async function drawMaps(name: 'train' | 'val'): Promise<void> {
  const {h, w, channels: D, height, width} = shape
  const features = new Float32Array(shape[name] * h * w * D)
  const truth = new Float32Array(shape[name] * height * width)
  for (let i = 0; i < shape[name]; i++) {
    const random = rng(1, 'map', name, i)
    const waves = Array.from({length: 4}, () => [4 * random.normal(), 4 * random.normal(), 6.3 * random.uniform()] as const)
    /** Depth in metres at a place between 0 and 1. */
    const depthAt = (x: number, y: number): number =>
      1 + 8 / (1 + Math.exp(-waves.reduce((sum, [a, b, c]) => sum + Math.sin(a * x + b * y + c), 0)))
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const near = (depthAt((x + 0.5) / w, (y + 0.5) / h) - 5) / 3
        const at = ((i * h + y) * w + x) * D
        for (let d = 0; d < D; d++) features[at + d] = (d % 16 === 0 ? near * (d % 32 ? 0.4 : -0.4) : 0) + random.normal()
      }
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        truth[(i * height + y) * width + x] = random.uniform() < 0.1 ? 0 : depthAt((x + 0.5) / width, (y + 0.5) / height)
  }
  await writeFile(join(scratch, `${name}-features`), features)
  await writeFile(join(scratch, `${name}-truth`), truth)
  await writeFile(join(scratch, 'shape.json'), JSON.stringify(shape))
}

type Outcome = {wall: number; gib: number; score: string; work?: number; note?: string}
/** What a program says in its last line. */
type Said = {seconds?: number; top1?: number; rmse?: number; note?: string}

const lastLine = (out: string): string => out.trim().split('\n').at(-1)!
const told = ({wall, gib}: {wall: number; gib: number}, {seconds, top1, rmse, note}: Said): Outcome => ({
  wall,
  gib,
  score: top1 === undefined ? `RMSE ${rmse!.toFixed(3)} m` : (100 * top1).toFixed(1),
  ...(seconds === undefined ? {} : {work: seconds}),
  ...(note === undefined ? {} : {note})
})

/** Runs a program under Python's resource counter, which tells the peak memory of a child. */
function watched(command: readonly string[]): {wall: number; gib: number; out: string} {
  const watch =
    'import json, resource, subprocess, sys, time; begun = time.time(); run = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True); wall = time.time() - begun; ' +
    'sys.exit(run.stderr) if run.returncode else print(json.dumps({"wall": wall, "gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, "out": run.stdout}))'
  return JSON.parse(execFileSync(python, ['-c', watch, ...command], {encoding: 'utf8', maxBuffer: 1 << 28})) as {
    wall: number
    gib: number
    out: string
  }
}
const file = (name: string): string => join(scratch, name)

const depthSteps = String(Math.max(1, Math.round(Number(values.steps) / 2)))

function ours(task: string): Outcome {
  if (task === 'depth') {
    const run = watched([process.execPath, join(root, 'dist/bench/depth-head.js'), scratch, depthSteps])
    return told(run, JSON.parse(lastLine(run.out)) as Said)
  }
  const sets = (ending: string): string[] => ['--train', file(`train${ending}.npy`), '--val', file(`val${ending}.npy`)]
  const engine = ['--precision', 'fp32', '--json', '-q']
  const args =
    task === 'knn'
      ? ['knn-eval', ...sets('-cls'), '-k', '20', ...engine]
      : task === 'lbfgs'
        ? ['linear-eval', ...sets('-cls'), '--solver', 'lbfgs', ...engine]
        : ['linear-eval', ...sets(''), '--steps', values.steps, ...engine]
  const run = watched([process.execPath, join(root, 'bin/run.js'), ...args])
  return told(run, (JSON.parse(lastLine(run.out)) as {scores: {top1: number; chosen?: string}[]}).scores.map(best)[0]!)
}
const best = ({top1, chosen}: {top1: number; chosen?: string}): Said => ({top1, ...(chosen === undefined ? {} : {note: chosen})})

function theirs(task: string, way: string, chosen?: string): Outcome {
  const ending = task === 'linear' ? '' : '-cls'
  const args =
    task === 'depth'
      ? [scratch, scratch, way, '0', depthSteps]
      : [file(`train${ending}.npy`), file(`val${ending}.npy`), way, String(blocks), values.steps, ...(chosen === undefined ? [] : [chosen])]
  const run = watched([python, '-W', 'ignore', join(root, 'bench/peers/eval.py'), ...args])
  return told(run, JSON.parse(lastLine(run.out)) as Said)
}

await draw('train', Number(values.rows))
await draw('val', Number(values.val))
if (values.tasks.split(',').includes('depth')) for (const name of ['train', 'val'] as const) await drawMaps(name)
console.log(
  `${cpus()[0]?.model ?? 'unknown processor'}, ${availableParallelism()} cores; ${values.rows} rows to train on and ${values.val} to score, ${K} classes, width ${C}; the grid in ${values.steps} steps; a depth head in ${depthSteps} steps on ${shape.train} maps\n`
)
console.log('| task | program | seconds | ours is | peak GiB | top-1 % or error | chosen |\n| --- | --- | --- | --- | --- | --- | --- |')
const ways: Readonly<Record<string, readonly string[]>> = {
  knn: ['knn-torch', 'knn-sklearn'],
  lbfgs: ['lbfgs-sklearn'],
  linear: ['linear-torch'],
  depth: ['depth-torch']
}
for (const task of values.tasks.split(',')) {
  const fastest = new Map<string, Outcome>()
  const keep = (name: string, outcome: Outcome): void => {
    const known = fastest.get(name)
    if (!known || outcome.wall < known.wall) fastest.set(name, outcome)
  }
  const jobs = [
    () => keep('dinov2', ours(task)),
    ...ways[task]!.map(way => () => keep(way, theirs(task, way, /C (\S+)$/.exec(fastest.get('dinov2')?.note ?? '')?.[1])))
  ]
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) for (const job of repeat % 2 ? jobs.reverse() : jobs) job()
  const mine = fastest.get('dinov2')!.wall
  for (const name of ['dinov2', ...ways[task]!]) {
    const {wall, gib, score, work, note} = fastest.get(name)!
    const spent = `${wall.toFixed(1)}${work === undefined ? '' : ` (${work.toFixed(1)})`}`
    console.log(
      `| ${task} | ${name} | ${spent} | ${name === 'dinov2' ? '' : `${(wall / mine).toFixed(2)} ×`} | ${gib.toFixed(2)} | ${score} | ${note ?? ''} |`
    )
  }
}
await rm(scratch, {recursive: true, force: true})
