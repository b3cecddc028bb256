/**
 * The time of a training step in two processes by bandwidth and latency, measured and as docs/scale.md predicts it.
 *
 * usage: node dist/bench/step-time.js IMAGES [--conditions 0:0,20e6:0,60e6:0,0:0.002] [--turns 8] [--precision fp32]
 * [--width 192] [--depth 8] [--batch 4]
 * A condition is bytes a second that each process sends (0: as fast as it goes) and seconds one way. Needs root on
 * Linux and python3. The first condition must be 0:0: what it takes is the computing of the prediction. One run of
 * ddp and one of fsdp take turns in all conditions, fsdp with and without overlap.
 */
import {spawnSync} from 'node:child_process'
import {mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {writeBlockRecipe} from './block-recipe.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    conditions: {type: 'string', default: '0:0,20e6:0,60e6:0,0:0.002'},
    turns: {type: 'string', default: '8'},
    precision: {type: 'string', default: 'fp32'},
    width: {type: 'string', default: '192'},
    depth: {type: 'string', default: '8'},
    batch: {type: 'string', default: '4'}
  }
})
const images = positionals[0]
if (!images) throw new Error('name a folder of images')
const conditions = values.conditions.split(',').map(text => text.split(':').map(Number) as [rate: number, delay: number])
const [batch, turns, width, depth] = [values.batch, values.turns, values.width, values.depth].map(Number) as [
  number,
  number,
  number,
  number
]
const entry = fileURLToPath(new URL('./alternate-conditions.js', import.meta.url))
const network = fileURLToPath(new URL('../../bench/peers/slow-network.py', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-step-time-'))
const recipe = writeBlockRecipe(scratch, {width, depth, epoch: 1000})

/** Seconds of the steps of each condition, with overlap and without. */
type Seconds = {on: number[]; off: number[]}[]

function measure(parallel: string): {seconds: Seconds; bytes: number; packets: number; steps: number} {
  const steps = conditions.length * (2 * turns + 2) // the first turn of each kind warms up
  const run = join(scratch, parallel)
  const {status, stdout, stderr} = spawnSync(
    'python3',
    [
      ...[
        network,
        '2',
        values.conditions,
        process.execPath,
        entry,
        'pretrain',
        images!,
        '--config',
        recipe,
        '-o',
        run,
        '--engine',
        'torch'
      ],
      ...['--device', 'cpu', '--precision', values.precision, '--threads', '1', '--batch', String(batch / 2)],
      ...['--set', `train.steps=${steps}`, '--set', `train.parallel=${parallel}`]
    ],
    {encoding: 'utf8', env: {...process.env, BENCH_CONDITIONS: String(conditions.length)}}
  )
  if (status !== 0) throw new Error(`${parallel} left with ${status}:\n${stderr.slice(-3000)}`)
  const seconds: Seconds = conditions.map(() => ({on: [], off: []}))
  for (const line of readFileSync(join(run, 'timings.jsonl'), 'utf8').trim().split('\n')) {
    const {step, images_per_second: rate} = JSON.parse(line) as Record<string, number>
    const turn = Math.floor((step! - 1) / conditions.length)
    if (turn >= 2) seconds[(step! - 1) % conditions.length]![turn % 2 === 0 ? 'on' : 'off'].push(batch / rate!)
  }
  const [bytes, packets] = ['BYTES', 'PACKETS'].map(name => Number(new RegExp(`${name} (\\d+)`).exec(stdout)?.[1]))
  return {seconds, bytes: bytes!, packets: packets!, steps}
}

const median = (list: readonly number[]): number => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]!
/** Half of the middle half: how far medians of so many steps may be trusted. */
const spread = (list: readonly number[]): number => {
  const sorted = [...list].sort((a, b) => a - b)
  return (sorted[Math.floor(sorted.length * 0.75)]! - sorted[Math.floor(sorted.length * 0.25)]!) / 2
}
const shown = (list: readonly number[]): string => `${median(list).toFixed(2)} ± ${spread(list).toFixed(2)}`

try {
  const ddp = measure('ddp')
  const fsdp = measure('fsdp')
  console.log(JSON.stringify({conditions, ddp, fsdp}))
  console.log(
    '| each process sends | one way | ddp | fsdp, overlapped | fsdp, one after the other | gain, pairs |\n| --- | --- | --- | --- | --- | --- |'
  )
  for (const [i, [rate, delay]] of conditions.entries()) {
    const {on, off} = fsdp.seconds[i]!
    const gain = on.map((seconds, turn) => off[turn]! / seconds)
    console.log(
      `| ${rate ? `${rate / 1e6} MB/s` : 'all it can'} | ${delay * 1000} ms | ${shown([...ddp.seconds[i]!.on, ...ddp.seconds[i]!.off])} | ${shown(on)} | ${shown(off)} | ${shown(gain)} |`
    )
  }
} finally {
  rmSync(scratch, {recursive: true, force: true})
}
