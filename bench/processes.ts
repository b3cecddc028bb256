/**
 * Training in several processes on one machine: images a second, memory of a process and bytes sent, for 1, 2 and 4
 * processes, data-parallel and fully sharded, with the same number of images a step in all.
 *
 * usage: node dist/bench/processes.js IMAGES [--counts 1,2,4] [--batch 8] [--steps 12] [--width 384] [--depth 8]
 * [--precision fp32] [--rate 1gbit] [--delay 0.1ms] [--peer PYTHON]
 * IMAGES is any folder of images. The batch is that of all processes together. Each process has one thread. Where the
 * process may make a network namespace (root on Linux), each run has one of its own, whose loopback counter gives the
 * bytes, and --rate and --delay limit it as a slow
 * network would (tc; a delay needs netem in the kernel). Bytes a step are the difference between a
 * run of --steps and one of twice as many, so that what is sent at the start does not count. --peer compares with
 * PyTorch's DDP and FSDP2 on the same kind of blocks and batch (bench/peers/processes.py), by the Python that is
 * named.
 */
import {spawn, spawnSync} from 'node:child_process'
import {mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {cpus, tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {writeBlockRecipe} from './block-recipe.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    counts: {type: 'string', default: '1,2,4'},
    batch: {type: 'string', default: '8'},
    steps: {type: 'string', default: '12'},
    width: {type: 'string', default: '384'},
    depth: {type: 'string', default: '8'},
    precision: {type: 'string', default: 'fp32'},
    rate: {type: 'string'},
    delay: {type: 'string'},
    peer: {type: 'string'}
  }
})
const images = positionals[0]
if (!images) throw new Error('name a folder of images')
const [batch, steps] = [Number(values.batch), Number(values.steps)]
const binary = fileURLToPath(new URL('../../bin/run.js', import.meta.url))
const peerFile = fileURLToPath(new URL('../../bench/peers/processes.py', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-processes-'))
const recipe = writeBlockRecipe(scratch, {width: Number(values.width), depth: Number(values.depth), epoch: 100})
const hasNamespaces = process.platform === 'linux' && spawnSync('unshare', ['-n', 'true']).status === 0

/** Runs `command` in every process of one training. → bytes over the loopback device; -1 where unknown. */
async function together(count: number, command: readonly string[]): Promise<number> {
  const rate = values.rate && `tc qdisc add dev lo root tbf rate ${values.rate} burst 256kb latency 400ms`
  const delay =
    values.delay && `tc qdisc add dev lo root netem limit 100000 ${values.rate ? `rate ${values.rate} ` : ''}delay ${values.delay}`
  const limit = delay ?? rate // netem, which many kernels lack, is needed for a delay alone
  if (limit && !hasNamespaces) throw new Error('--rate and --delay need a network namespace: run as root on Linux')
  const setUp = hasNamespaces ? `ip link set lo up; ${limit ? `${limit} || exit 97;` : ''}` : ''
  const script = `${setUp}
    for r in $(seq 0 ${count - 1}); do RANK=$r LOCAL_RANK=$r "$@" & pids="$pids $!"; done
    bad=0; for p in $pids; do wait $p; s=$?; [ $s = 0 ] || [ $s = 6 ] || bad=$s; done
    echo "BYTES $(awk '/lo:/ {print $10}' /proc/net/dev)"; exit $bad`
  const several = {WORLD_SIZE: String(count), LOCAL_WORLD_SIZE: String(count), MASTER_ADDR: '127.0.0.1', MASTER_PORT: '29611'}
  const shell = ['bash', '-c', script, 'together', ...command]
  const [program, ...args] = hasNamespaces ? ['unshare', '-n', ...shell] : shell
  return new Promise((resolve, reject) => {
    const child = spawn(program!, args, {env: {...process.env, OMP_NUM_THREADS: '1', ...several}, stdio: ['ignore', 'pipe', 'pipe']})
    let [out, errors] = ['', '']
    child.stdout.on('data', (text: Buffer) => (out += text.toString()))
    child.stderr.on('data', (text: Buffer) => (errors += text.toString()))
    child.on('close', status => {
      if (status !== 0) return reject(new Error(`${command.join(' ')} in ${count} processes left with ${status}:\n${errors.slice(-3000)}`))
      resolve(hasNamespaces ? Number(/BYTES (\d+)/.exec(out)?.[1] ?? -1) : -1)
    })
  })
}

type Outcome = {speed: number; peak: number; tensors?: number; bytes: number}
const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!

async function ours(count: number, parallel: string): Promise<Outcome> {
  const run = join(scratch, 'run')
  const once = async (n: number): Promise<number> =>
    together(count, [
      ...[process.execPath, binary, 'pretrain', images!, '--config', recipe, '--precision', values.precision, '--threads', '1'],
      ...['--batch', String(batch / count), '--set', `train.steps=${n}`, '--set', `train.parallel=${parallel}`, '-o', run, '--force']
    ])
  const less = count === 1 ? 0 : await once(steps)
  const more = await once(2 * steps)
  const timings = readFileSync(join(run, 'timings.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, number>)
  return {
    speed: median(timings.slice(2).map(line => line['images_per_second']!)),
    peak: timings.at(-1)!['memory_process_mib']!,
    tensors: timings.at(-1)!['memory_tensors_mib']!,
    bytes: (more - less) / steps
  }
}

async function peer(count: number, parallel: string): Promise<Outcome> {
  const found = join(scratch, 'peer.json')
  const command = (n: number): string[] => [
    ...[values.peer!, '-W', 'ignore', peerFile, parallel, String(batch / count)],
    ...[values.width, values.depth, String(n), found, values.precision]
  ]
  const less = count === 1 ? 0 : await together(count, command(steps))
  const more = await together(count, command(2 * steps))
  const {seconds, peak} = JSON.parse(readFileSync(found, 'utf8')) as {seconds: number[]; peak: number}
  return {speed: batch / median(seconds), peak, bytes: (more - less) / steps}
}

const note = [values.rate, values.delay].filter(Boolean).join(', ')
console.log(`${cpus()[0]?.model}, ${cpus().length} cores, one thread a process${note && `, network ${note}`}`)
console.log(`${values.width} wide, ${values.depth} deep, ${batch} images a step in all, ${values.precision}\n`)
console.log(
  '| | processes | images/s | peak of a process, MiB | of its tensors, MiB | MiB sent a step |\n| --- | --- | --- | --- | --- | --- |'
)
const mib = (bytes: number): string => (bytes < 0 ? '' : (bytes / 2 ** 20).toFixed(1))
try {
  for (const count of values.counts.split(',').map(Number))
    for (const parallel of count === 1 ? ['none'] : ['ddp', 'fsdp']) {
      const rows: [string, Outcome][] = [[`dinov2 ${count === 1 ? '' : parallel}`, await ours(count, parallel)]]
      if (values.peer) rows.push([`PyTorch ${count === 1 ? '' : parallel === 'ddp' ? 'DDP' : 'FSDP2'}`, await peer(count, parallel)])
      for (const [name, {speed, peak, tensors, bytes}] of rows)
        console.log(
          `| ${name} | ${count} | ${speed.toFixed(2)} | ${peak.toFixed(0)} | ${tensors?.toFixed(0) ?? ''} | ${count === 1 ? '' : mib(bytes)} |`
        )
    }
} finally {
  rmSync(scratch, {recursive: true, force: true})
}
