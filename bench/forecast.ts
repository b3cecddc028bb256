/**
 * What `dinov2 pretrain --dry-run` says, beside what then happens: seconds, peak memory of the process and of its
 * tensors.
 *
 * usage: node dist/bench/forecast.js FLAGS OF PRETRAIN …
 * e.g.:  node dist/bench/forecast.js photos --config small --set train.steps=100
 * The run goes to a temporary folder. Seconds are those of the steps and what is written, by the command's own clock;
 * the process is watched from outside.
 */
import {execFileSync, spawnSync} from 'node:child_process'
import {mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import type {MeasuredCost} from '../src/tasks/train/cost-probe.js'

const given = process.argv.slice(2)
if (given.length === 0) throw new Error('give the flags of a run: node dist/bench/forecast.js photos --config small --set train.steps=100')
const program = join(new URL('../../', import.meta.url).pathname, 'bin/run.js')
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-forecast-'))
try {
  const said = JSON.parse(
    execFileSync('node', [program, 'pretrain', ...given, '--dry-run', '--json', '-q'], {encoding: 'utf8'})
  ) as MeasuredCost
  const run = join(scratch, 'run')
  const begun = performance.now()
  const {status, stderr} = spawnSync('node', [program, 'pretrain', ...given, '-o', run, '-q'], {encoding: 'utf8'})
  const seconds = (performance.now() - begun) / 1000
  if (status !== 0 && status !== 6) throw new Error(`the run ended with status ${status}: ${stderr}`) // so short a run may be judged unhealthy
  const lines = readFileSync(join(run, 'timings.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, number>)
  const last = lines.at(-1)!
  const gib = (mib: number): string => (mib / 1024).toFixed(3)
  const row = (what: string, before: number, after: number, show: (x: number) => string): void =>
    console.log(`| ${what} | ${show(before)} | ${show(after)} | ${((100 * before) / after - 100).toFixed(1)} % |`)
  console.log('| | said | happened | off |\n| --- | --- | --- | --- |')
  row('seconds, start to end', said.seconds, seconds, x => x.toFixed(1))
  row('process, GiB', (said.processBytes ?? NaN) / 2 ** 20, last['memory_process_mib'] ?? NaN, gib)
  row('tensors, GiB', (said.peakBytes ?? NaN) / 2 ** 20, last['memory_tensors_mib'] ?? NaN, gib)
} finally {
  rmSync(scratch, {recursive: true, force: true})
}
