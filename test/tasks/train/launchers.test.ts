/**
 * Training started by the launchers themselves: torchrun, which comes with libtorch, starts again after a process was
 * killed; mpirun and srun where they are installed. They get what the README says and nothing else.
 */
import assert from 'node:assert/strict'
import {execFile, spawnSync, type ExecFileException} from 'node:child_process'
import {existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {before, test} from 'node:test'
import {setTimeout as sleep} from 'node:timers/promises'
import {encodeImage} from '../../../src/data/image/encode.js'
import {findTorch, privateTorch} from '../../../src/engine/torch/find.js'
import {rng} from '../../../src/tensor/random.js'
import {freePort} from '../../support/processes.js'
import {folder, realBinary, start} from '../../support/program.js'
import {startSlurm} from '../../support/slurm.js'

const root = folder()
const at = (...names: string[]): string => join(root, ...names)

before(async () => {
  mkdirSync(at('pictures'))
  for (let i = 0; i < 12; i++) {
    const random = rng(3, 'picture', i)
    const pixels = Uint8Array.from({length: 40 * 40 * 3}, () => Math.floor(random.uniform(0, 255)))
    writeFileSync(at('pictures', `${i}.png`), await encodeImage(pixels, {width: 40, height: 40}))
  }
  writeFileSync(
    at('recipe.yaml'),
    `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
train: {OFFICIAL_EPOCH_LENGTH: 6, workers: 1, log_every: 1, process_timeout: 20}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, layerscale: 1.0}
optim: {epochs: 1, warmup_epochs: 0, freeze_last_layer_epochs: 0}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`
  )
})

const pretrain = (name: string, ...more: string[]): string[] => [
  ...[process.execPath, realBinary, 'pretrain', at('pictures'), '--config', at('recipe.yaml'), '--engine', 'torch', '--device', 'cpu'],
  ...['--precision', 'fp32', '--threads', '1', '--batch', '2', '-o', at(name), ...more]
]

const steps = (name: string): number[] =>
  readFileSync(at(name, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => (JSON.parse(line) as {step: number}).step)

type Launched = {status: number | null; stderr: string}

function launch(command: string, args: readonly string[], own: Readonly<Record<string, string>> = {}): Promise<Launched> {
  // What the launcher of this test run may have set must not reach the launcher under test.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(RANK|WORLD_SIZE|LOCAL_|MASTER_|OMPI_|SLURM_)/.test(name))
  )
  return new Promise(resolve =>
    execFile(command, [...args], {env: {...env, ...own}, maxBuffer: 1 << 26}, (error: ExecFileException | null, _stdout, stderr) =>
      resolve({status: error ? (typeof error.code === 'number' ? error.code : 1) : 0, stderr})
    )
  )
}

/** Six steps teach nothing, which status 6 says at the end; a launcher passes it on or calls it a failure. */
const finished = (name: string): boolean => existsSync(at(name, 'final', 'backbone.safetensors'))

test('torchrun starts two processes, and starts them again where one was killed; they go on from the checkpoint; a verdict is a failure', async () => {
  const {python} = await findTorch()
  const torchrun = join(dirname(python ?? join(privateTorch(), 'bin', 'python')), 'torchrun')
  const args = ['--nproc-per-node', '2', '--max-restarts', '2', '--monitor-interval', '0.2', '--no-python']
  const long = ['--set', 'train.steps=80', '--set', 'train.checkpoint_every=3']
  const ended = launch(torchrun, [...args, ...pretrain('restarted', ...long)])
  const checkpoints = at('restarted', 'checkpoints')
  while (!existsSync(checkpoints) || !readdirSync(checkpoints).some(name => !name.startsWith('.'))) await sleep(50)
  const {stdout} = spawnSync('pgrep', ['-f', `pretrain ${at('pictures')}.*restarted`], {encoding: 'utf8'})
  const children = stdout
    .split('\n')
    .map(Number)
    .filter(pid => pid > 0 && readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith(process.execPath))
  assert.equal(children.length, 2, stdout)
  process.kill(children[1]!, 'SIGKILL')
  const {status, stderr} = await ended
  assert.ok(finished('restarted'), `${status}: ${stderr}`)
  // The second restart is of a run that is finished, and says the same of it without a step.
  assert.equal(stderr.match(/The run ended unhealthy; /g)?.length, 2, stderr)
  assert.equal(status, 1)
  assert.match(stderr, /exitcode *: 6 /)
  const seen = steps('restarted')
  assert.deepEqual(
    seen,
    Array.from({length: 80}, (_, i) => i + 1),
    'every step once'
  )
  rmSync(at('restarted'), {recursive: true})
})

const mpirun = spawnSync('mpirun', ['--version']).status === 0
test('mpirun starts two processes', {skip: !mpirun && 'Open MPI is not installed here (apt-get install openmpi-bin)'}, async () => {
  const {stderr, status} = await launch('mpirun', [
    '--allow-run-as-root',
    '--oversubscribe',
    '-np',
    '2',
    ...pretrain('mpi', '--set', 'train.steps=6')
  ])
  assert.ok(finished('mpi'), `${status}: ${stderr}`)
  assert.deepEqual(steps('mpi'), [1, 2, 3, 4, 5, 6])
})

test('srun starts two processes; without Slurm, with what it sets', async () => {
  const command = pretrain('slurm', '--set', 'train.steps=6', '--set', 'train.parallel=fsdp')
  const slurm = await startSlurm(at('cluster'))
  try {
    if (slurm) {
      const {stderr, status} = await launch('srun', ['-n', '2', '--overcommit', ...command], slurm.env)
      assert.ok([0, 6].includes(status!), stderr)
      assert.equal(stderr.match(/after 6 steps/g)?.length, 1, stderr)
    } else {
      const job = String(await freePort()) // decides at which port they meet
      const set = {
        SLURM_NTASKS: '2',
        SLURM_STEP_NUM_TASKS: '2',
        SLURM_STEP_TASKS_PER_NODE: '2',
        SLURM_STEP_NODELIST: 'localhost',
        SLURM_JOB_ID: job
      }
      const all = [0, 1].map(
        rank => start(realBinary, command.slice(2), {env: {...set, SLURM_PROCID: `${rank}`, SLURM_LOCALID: `${rank}`}}).ended
      )
      const [first, second] = await Promise.all(all)
      assert.ok([0, 6].includes(first!.status!), first!.stderr)
      assert.deepEqual([second!.status, second!.stderr], [0, ''])
    }
  } finally {
    await slurm?.end()
  }
  assert.ok(finished('slurm'))
  assert.deepEqual(steps('slurm'), [1, 2, 3, 4, 5, 6])
})
