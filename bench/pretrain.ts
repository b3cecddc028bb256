/**
 * One optimization step of `dinov2 pretrain` beside the reference's modules in PyTorch: images a second and memory, on
 * this machine.
 *
 * usage: REF=… PYTHON=… node dist/bench/pretrain.js [--arch s] [--batch 8] [--precision bf16] [--repeats 3]
 * [--steps 3] [--off TECHNIQUE,…] [--peer bf16|fp32|none]
 *        [--memory fast|balanced|small] [--accumulate 1] [--threads N] [--ablate] [--profile]
 * REF is a checkout of facebookresearch/dinov2. Both sides take random pixels (2 × 224 px and 8 × 98 px an image, or
 * 96 px for ViT-L/16), a head of K = 65,536 for DINO and iBOT, the same masks, drop path 0.3, Sinkhorn–Knopp, KoLeo,
 * clipping, AdamW and the teacher's average; data loading is left out on both sides. Each repeat is a process of its
 * own, ours and the peer's by turns. `--off` takes a technique away (all names with `--list`), which is how the table
 * of what each of them gives is made; `--ablate` runs them all. `--packing` compares one packed pass of the student's
 * backbone with a pass for each size of crop. `--profile` prints the CPU time of each operator instead. Times are of
 * one step; memory is the peak of the whole process, Node or Python included. CPU seconds are those of all threads:
 * they say something on a machine that others use as well.
 */
import {execFileSync} from 'node:child_process'
import {readFileSync} from 'node:fs'
import {availableParallelism, cpus} from 'node:os'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import {onePretrainRun, packedAndSeparate, techniques} from './pretrain-step.js'
import type {Outcome, RunOptions, Technique} from './pretrain-step.js'

const {values} = parseArgs({
  options: {
    arch: {type: 'string', default: 's'},
    batch: {type: 'string', default: '8'},
    precision: {type: 'string', default: 'bf16'},
    peer: {type: 'string', default: 'bf16'},
    memory: {type: 'string', default: 'fast'},
    accumulate: {type: 'string', default: '1'},
    prototypes: {type: 'string', default: '65536'},
    repeats: {type: 'string', default: '3'},
    steps: {type: 'string', default: '3'},
    threads: {type: 'string', default: String(availableParallelism())},
    off: {type: 'string', default: ''},
    ablate: {type: 'boolean', default: false},
    profile: {type: 'boolean', default: false},
    packing: {type: 'boolean', default: false},
    list: {type: 'boolean', default: false},
    worker: {type: 'boolean', default: false}
  }
})

const off = values.off.split(',').filter(Boolean) as Technique[]
for (const name of off)
  if (!(name in techniques)) throw new Error(`no technique is named ${name}; expected some of ${Object.keys(techniques).join(', ')}`)

/** The peak of this process's memory in GiB, as the kernel counted it. */
const peakOfProcess = (): number => Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) / 2 ** 20

if (values.list) {
  for (const [name, sentence] of Object.entries(techniques)) console.log(`${name}\t${sentence}`)
} else if (values.packing) {
  const {packed, separate} = await packedAndSeparate(runOptions())
  console.log('| backbone, forward and backward | seconds | CPU seconds |\n| --- | --- | --- |')
  console.log(`| one packed pass | ${packed.seconds.toFixed(2)} | ${packed.cpu.toFixed(2)} |`)
  console.log(`| a pass for each size of crop | ${separate.seconds.toFixed(2)} | ${separate.cpu.toFixed(2)} |`)
} else if (values.worker || values.profile) {
  const outcome = await onePretrainRun(runOptions())
  if (values.profile) console.log(outcome.profile)
  else console.log(JSON.stringify({...outcome, peak: peakOfProcess()}))
} else {
  await compare()
}

function runOptions(): RunOptions {
  return {
    arch: values.arch as 's',
    batch: Number(values.batch),
    precision: values.precision as 'bf16',
    memory: values.memory as 'fast',
    accumulate: Number(values.accumulate),
    prototypes: Number(values.prototypes),
    steps: Number(values.steps),
    threads: Number(values.threads),
    off,
    profile: values.profile
  }
}

type Measured = Outcome & {peak: number}

function ours(without: readonly string[]): Measured {
  const same = ['arch', 'batch', 'precision', 'memory', 'accumulate', 'prototypes', 'steps', 'threads'] as const
  const args = [process.argv[1]!, '--worker', ...same.flatMap(key => [`--${key}`, values[key]]), '--off', without.join(',')]
  return last(execFileSync(process.execPath, args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit']})) as Measured
}

function peer(): {seconds: number[]; cpu: number[]; peak: number; masked: number} {
  const file = join(new URL('../../', import.meta.url).pathname, 'bench/peers/pretrain.py')
  return last(
    execFileSync(
      process.env['PYTHON'] ?? 'python3',
      ['-W', 'ignore', file, values.peer, values.batch, values.arch, values.prototypes, values.steps],
      {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
        env: {...process.env, THREADS: values.threads}
      }
    )
  ) as {seconds: number[]; cpu: number[]; peak: number; masked: number}
}

function last(text: string): unknown {
  return JSON.parse(text.trim().split('\n').at(-1)!)
}

async function compare(): Promise<void> {
  if (values.peer !== 'none' && !process.env['REF'])
    throw new Error('name a checkout of facebookresearch/dinov2 in REF, or leave the peer out with --peer none')
  type Row = {seconds: number[]; cpu: number[]; peak: number; split?: Outcome['memory']}
  const rows = new Map<string, Row>()
  const note = (
    name: string,
    {seconds, cpu, peak, memory}: {seconds: number[]; cpu: number[]; peak: number; memory?: Outcome['memory']}
  ): void => {
    const row = rows.get(name) ?? {seconds: [], cpu: [], peak: 0}
    row.seconds.push(...seconds)
    row.cpu.push(...cpu)
    row.peak = Math.max(row.peak, peak)
    if (memory) row.split = memory
    rows.set(name, row)
    console.error(
      `${name}: ${seconds.map(s => s.toFixed(2)).join(' ')} s (CPU ${cpu.map(s => s.toFixed(2)).join(' ')}), peak ${peak.toFixed(2)} GiB`
    )
  }
  const variants = values.ablate ? [[], ...Object.keys(techniques).map(name => [name])] : [off]
  const nameOf = (without: readonly string[]): string => `dinov2 ${values.precision}${without.map(name => `, without ${name}`).join('')}`
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) {
    const jobs = [
      ...variants.map(without => () => note(nameOf(without), ours(without))),
      ...(values.peer === 'none' ? [] : [() => note(`PyTorch ${values.peer}`, peer())])
    ]
    for (const job of repeat % 2 ? jobs.reverse() : jobs) job()
  }
  const B = Number(values.batch)
  const best = ({seconds}: Row): number => B / Math.min(...seconds)
  const median = ({seconds}: Row): number => B / [...seconds].sort((a, b) => a - b)[Math.floor(seconds.length / 2)]!
  const mine = rows.get(nameOf(variants[0]!))!
  console.log(`${cpus()[0]?.model}, ${values.threads} threads, node ${process.version}`)
  console.log(`ViT-${values.arch.toUpperCase()}, batch ${B}, K = ${values.prototypes}, memory ${values.memory}\n`)
  console.log(
    '| | images/s, best | median | ours is (best) | (median) | CPU s a step | peak GiB |\n| --- | --- | --- | --- | --- | --- | --- |'
  )
  for (const [name, row] of rows)
    console.log(
      `| ${name} | ${best(row).toFixed(2)} | ${median(row).toFixed(2)} | ${row === mine ? '' : `${(best(mine) / best(row)).toFixed(2)} ×`} | ${row === mine ? '' : `${(median(mine) / median(row)).toFixed(2)} ×`} | ${Math.min(...row.cpu).toFixed(2)} | ${row.peak.toFixed(2)} |`
    )
  const {split} = mine
  if (!split) return
  const gib = (bytes: number): string => (bytes / 2 ** 30).toFixed(2)
  console.log(
    `\nOurs in GiB: process before the state ${gib(split.base)}, state (float32: weights, teacher, moments) ${gib(split.state)}, compute copies of both networks ${gib(split.copies)}, ` +
      `activations, gradients and all else ${gib(split.rest)} (most tensors alive at once ${gib(split.tensors)}); peak of the process ${mine.peak.toFixed(2)}.`
  )
}
