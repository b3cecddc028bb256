/**
 * Evaluations on frozen features beside scikit-learn and PyTorch doing the same on the same numbers: seconds, memory, and the score, which has to agree.
 *
 * usage: node dist/bench/eval.js [--rows 5000] [--val 1000] [--classes 20] [--width 384] [--steps 1000] [--tasks knn,lbfgs,linear] [--repeats 1]
 * PYTHON names a Python with numpy, torch and scikit-learn. Features are drawn: classes around centres, the cls tokens of four blocks and a mean token, each `width` numbers.
 * Every contender is a process of its own, timed from beginning to end; of a peer, the seconds of the work without its imports stand in brackets. Memory is the peak of the process.
 * The grid takes `steps` steps of 128 rows instead of 12,500, on both sides.
 */
import {execFileSync} from 'node:child_process'
import {mkdtemp, rm} from 'node:fs/promises'
import {availableParallelism, cpus, tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {batchOf, createEmbeddings, type EmbeddingMeta, type Row} from '../src/files/embeddings.js'
import {rng} from '../src/tensor/random.js'

const {values} = parseArgs({
  options: {
    rows: {type: 'string', default: '5000'},
    val: {type: 'string', default: '1000'},
    classes: {type: 'string', default: '20'},
    width: {type: 'string', default: '384'},
    steps: {type: 'string', default: '1000'},
    tasks: {type: 'string', default: 'knn,lbfgs,linear'},
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

type Outcome = {wall: number; gib: number; top1: number; work?: number; note?: string}

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

function ours(task: string): Outcome {
  const sets = (ending: string): string[] => ['--train', file(`train${ending}.npy`), '--val', file(`val${ending}.npy`)]
  const engine = ['--precision', 'fp32', '--json', '-q']
  const args =
    task === 'knn'
      ? ['knn-eval', ...sets('-cls'), '-k', '20', ...engine]
      : task === 'lbfgs'
        ? ['linear-eval', ...sets('-cls'), '--solver', 'lbfgs', ...engine]
        : ['linear-eval', ...sets(''), '--steps', values.steps, ...engine]
  const {wall, gib, out} = watched([process.execPath, join(root, 'bin/run.js'), ...args])
  const {scores} = JSON.parse(out.trim().split('\n').at(-1)!) as {scores: {top1: number; chosen?: string}[]}
  const {top1, chosen} = scores[0]!
  return {wall, gib, top1, ...(chosen === undefined ? {} : {note: chosen})}
}

function theirs(task: string, way: string): Outcome {
  const ending = task === 'linear' ? '' : '-cls'
  const args = [file(`train${ending}.npy`), file(`val${ending}.npy`), way, String(blocks), values.steps]
  const {wall, gib, out} = watched([python, '-W', 'ignore', join(root, 'bench/peers/eval.py'), ...args])
  const {seconds, top1, note} = JSON.parse(out.trim().split('\n').at(-1)!) as {seconds: number; top1: number; note?: string}
  return {wall, gib, top1, work: seconds, ...(note === undefined ? {} : {note})}
}

await draw('train', Number(values.rows))
await draw('val', Number(values.val))
console.log(
  `${cpus()[0]?.model ?? 'unknown processor'}, ${availableParallelism()} cores; ${values.rows} rows to train on and ${values.val} to score, ${K} classes, width ${C}; the grid in ${values.steps} steps\n`
)
console.log('| task | program | seconds | ours is | peak GiB | top-1 % | chosen |\n| --- | --- | --- | --- | --- | --- | --- |')
const ways: Readonly<Record<string, readonly string[]>> = {
  knn: ['knn-torch', 'knn-sklearn'],
  lbfgs: ['lbfgs-sklearn'],
  linear: ['linear-torch']
}
for (const task of values.tasks.split(',')) {
  const best = new Map<string, Outcome>()
  const keep = (name: string, outcome: Outcome): void => {
    const known = best.get(name)
    if (!known || outcome.wall < known.wall) best.set(name, outcome)
  }
  const jobs = [() => keep('dinov2', ours(task)), ...ways[task]!.map(way => () => keep(way, theirs(task, way)))]
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) for (const job of repeat % 2 ? jobs.reverse() : jobs) job()
  const mine = best.get('dinov2')!.wall
  for (const name of ['dinov2', ...ways[task]!]) {
    const {wall, gib, top1, work, note} = best.get(name)!
    const spent = `${wall.toFixed(1)}${work === undefined ? '' : ` (${work.toFixed(1)})`}`
    console.log(
      `| ${task} | ${name} | ${spent} | ${name === 'dinov2' ? '' : `${(wall / mine).toFixed(2)} ×`} | ${gib.toFixed(2)} | ${(100 * top1).toFixed(1)} | ${note ?? ''} |`
    )
  }
}
await rm(scratch, {recursive: true, force: true})
