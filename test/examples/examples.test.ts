/** The examples that documents point to: Python programs run, shell scripts and Makefiles parse. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdtempSync, readFileSync, readdirSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {promisify} from 'node:util'
import {drawnFolder} from '../support/drawn-images.js'
import {realBinary, run as runProgram, type Ended} from '../support/program.js'
import {testPython} from '../support/python.js'
import {projectFolder} from '../support/scratch.js'

const dir = mkdtempSync(join(tmpdir(), 'dinov2-examples-'))
after(() => rmSync(dir, {recursive: true, force: true}))
const root = projectFolder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}
const dinov2 = async (...args: string[]): Promise<Ended> => {
  const ended = await runProgram(realBinary, args, {env, cwd: dir})
  assert.equal(ended.status, 0, `${args.join(' ')}\n${ended.stderr}`)
  return ended
}
const python = async (script: string, ...args: string[]): Promise<string> =>
  (await promisify(execFile)(testPython(), [join(root, 'examples/python', script), ...args], {cwd: dir})).stdout

before(async () => {
  for (const [set, first] of [
    ['train', 0],
    ['val', 20]
  ] as const)
    await drawnFolder(join(dir, 'photos', set), ['a', 'b'], 4, first)
  for (const set of ['train', 'val']) await dinov2('embed', `photos/${set}`, '--model', 'starter', '--size', '40', '-o', `${set}.parquet`)
})

test('Python reads every format alike', async () => {
  const rows = readdirSync(join(dir, 'photos/train'), {recursive: true}).filter(name => String(name).endsWith('.png')).length
  const found: unknown[] = []
  for (const format of ['parquet', 'arrow', 'npy', 'safetensors']) {
    if (format !== 'parquet') await dinov2('embed', 'photos/train', '--model', 'starter', '--size', '40', '-o', `v.${format}`)
    found.push(JSON.parse(await python('read_vectors.py', format === 'parquet' ? 'train.parquet' : `v.${format}`)))
  }
  assert.deepEqual(found[0], {...(found[0] as object), rows, dim: 128, first: 'photos/train/a/000.png', labels: ['a', 'b']})
  for (const one of found) assert.deepEqual(one, found[0])
})

test('scikit-learn learns from features, and vectors made in Python are indexed and searched', async () => {
  assert.match(await python('classify.py', 'train.parquet', 'val.parquet'), /^top-1 (\d+\.\d) % of 8 images\n$/)
  await python('write_vectors.py', 'points.parquet')
  await dinov2('index', 'points.parquet', '-o', 'points.index')
  const {stdout} = await dinov2('search', 'points.index', 'points.parquet', '-k', '1', '--no-self')
  const hits = stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as {query: string; id: string; fields: {label: string}})
  assert.equal(hits.length, 100)
  for (const {query, fields} of hits) assert.equal(fields.label, `class ${Math.floor(Number(query.slice(6)) / 25)}`)
})

test('transformers opens an export', async () => {
  await dinov2('export', 'starter', '--to', 'hf', '-o', 'starter-hf')
  const image = 'photos/train/a/000.png'
  const [theirs] = JSON.parse(await python('open_export.py', 'starter-hf', image)) as number[][]
  const row = JSON.parse((await dinov2('embed', image, '--model', 'starter', '--format', 'jsonl')).stdout) as {vector: number[]}
  assert.equal(theirs!.length, row.vector.length)
  const dot = (a: number[], b: number[]): number => a.reduce((sum, value, i) => sum + value * b[i]!, 0)
  const cosine = dot(theirs!, row.vector) / Math.sqrt(dot(theirs!, theirs!) * dot(row.vector, row.vector))
  assert.ok(cosine > 0.999, `cosine ${cosine}`)
})

/** Options of launchers and of Slurm that examples use, as their manuals have them. */
const launcherOptions: Readonly<Record<string, readonly string[]>> = {
  sbatch: ['job-name', 'array', 'nodes', 'ntasks-per-node', 'gpus', 'gpus-per-node', 'cpus-per-task', 'time', 'signal', 'requeue'],
  torchrun: ['nproc-per-node', 'nnodes', 'rdzv-endpoint', 'max-restarts', 'no-python']
}

const optionsOf = (text: string): string[] => [...text.matchAll(/(?<![\w-])--([a-z][\w-]*)/g)].map(([, name]) => name!)

/** The scripts in shell of a document, and the files of the folder of examples. */
const scripts = (): [name: string, text: string][] => [
  ...readdirSync(join(root, 'examples/slurm')).map((name): [string, string] => [
    name,
    readFileSync(join(root, 'examples/slurm', name), 'utf8')
  ]),
  ...[...readFileSync(join(root, 'docs/scale.md'), 'utf8').matchAll(/^```sh\n([^]*?)^```/gm)].map(([, text], i): [string, string] => [
    `docs/scale.md, script ${i + 1}`,
    text!
  ])
]

test('scripts for Slurm, torchrun and mpirun parse, and name options that there are; the Makefile goes from images to an index', async () => {
  const run = promisify(execFile)
  const helps = new Map<string, string>()
  const all = scripts()
  assert.ok(all.length >= 7)
  for (const [name, text] of all) {
    await run('bash', ['-n', '-c', text])
    for (const line of text.split('\n')) {
      if (line.startsWith('#SBATCH'))
        for (const option of optionsOf(line)) assert.ok(launcherOptions['sbatch']!.includes(option), `${name}: ${option}`)
      const [before, command, after] = /^(.*?)\bdinov2 ([a-z-]+)(.*)$/.exec(line)?.slice(1) ?? []
      if (command === undefined || line.startsWith('#')) continue
      if (before!.startsWith('torchrun'))
        for (const option of optionsOf(before!)) assert.ok(launcherOptions['torchrun']!.includes(option), `${name}: ${option}`)
      if (!helps.has(command)) helps.set(command, (await dinov2(command, '--help')).stdout)
      for (const option of optionsOf(after!.replace(/ # .*/, '')))
        assert.ok(helps.get(command)!.includes(`--${option}`), `${name}: ${option}`)
    }
  }
  const makefile = join(root, 'examples/Makefile')
  const program = `DINOV2=${process.execPath} ${realBinary}`
  const {stdout} = await run('make', ['-n', '-f', makefile, program], {cwd: dir})
  for (const command of ['curate', 'embed', 'index', 'knn-eval', 'visualize pca']) assert.ok(stdout.includes(` ${command} `), command)
  await run('make', ['-f', makefile, program, 'out/photos.index'], {cwd: dir, env: {...process.env, ...env}})
  assert.ok(readFileSync(join(dir, 'out/photos.index')).length > 1000)
})
