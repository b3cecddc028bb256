/**
 * What distillation is worth: a student beside its teacher and beside the same student pretrained from scratch for as
 * many steps on the same images, by frozen features on labelled images.
 *
 * usage: node dist/bench/distill-worth.js TEACHER IMAGES --train LABELLED/train --val LABELLED/val
 * [--config distill-small] [--steps 400] [--seeds 0,1] [--size 64] [--k 20] [--set key=value]… TEACHER is a run
 * folder; both students take its settings, and those of --config above them, so that they differ in nothing but the
 * teacher. Every run is a process of its own. Prints kNN and linear scores with intervals, images a second of `embed`
 * on the val images (all models in one round, best of three), parameters and size of the file, in Markdown: the
 * numbers, whatever they are.
 */
import {spawnSync} from 'node:child_process'
import {mkdtempSync, rmSync, statSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {openBackbone} from '../src/files/checkpoint/backbone.js'
import {expectedShapes} from '../src/files/checkpoint/architecture.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    train: {type: 'string'},
    val: {type: 'string'},
    config: {type: 'string', default: 'distill-small'},
    steps: {type: 'string', default: '400'},
    seeds: {type: 'string', default: '0,1'},
    size: {type: 'string', default: '64'},
    k: {type: 'string', default: '20'},
    set: {type: 'string', multiple: true, default: []}
  }
})
const [teacher, images, {train, val, k, size}] = [positionals[0], positionals[1], values]
if (!teacher || !images || !train || !val) throw new Error('name a teacher, images, --train and --val')
const binary = fileURLToPath(new URL('../../bin/run.js', import.meta.url))
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-worth-'))

/** Runs a command and gives its report; status 6 is a verdict on a run, and the model is there all the same. */
function report<T>(...args: string[]): T {
  const {stdout, stderr, status} = spawnSync(process.execPath, [binary, ...args, '--json'], {encoding: 'utf8', maxBuffer: 1 << 28})
  if (status !== 0 && status !== 6) throw new Error(`dinov2 ${args.join(' ')} left with ${status}:\n${stderr}`)
  return JSON.parse(stdout.trimEnd().split('\n').at(-1)!) as T
}

type Row = {what: string; seed: string; model: string; knn: string; linear: string; top1: number; linear1: number}
const percent = (share: number): string => (100 * share).toFixed(1)
const within = ([low, high]: readonly [number, number]): string => `(${percent(low)}–${percent(high)})`

/** Scores of a model, and of the raw pixels beside it. */
function judge(what: string, seed: string, model: string): Row {
  type Score = {features: string; k: number; top1: number; intervals: {top1: [number, number]}}
  const {scores} = report<{scores: Score[]}>(
    'knn-eval',
    '--train',
    train!,
    '--val',
    val!,
    '--model',
    model,
    '--size',
    size,
    '-k',
    k,
    '--baseline',
    'pixels'
  )
  const near = scores.find(score => score.features === 'model' && score.k === Number(k))!
  type Linear = {scores: {set: string; top1: number; intervals: {top1: [number, number]}}[]}
  const trained = ['--cached', '--steps', '1000', '--baseline', 'majority']
  const found = report<Linear>('linear-eval', '--train', train!, '--val', val!, '--model', model, '--size', size, ...trained)
  const line = found.scores[0]!
  const row: Row = {
    ...{what, seed, model},
    knn: `${percent(near.top1)} ${within(near.intervals.top1)}`,
    linear: `${percent(line.top1)} ${within(line.intervals.top1)}`,
    top1: near.top1,
    linear1: line.top1
  }
  console.error(`${what}, seed ${seed}: kNN ${row.knn}, linear ${row.linear}`)
  return row
}

const rows: Row[] = [judge('teacher', '', teacher)]
const sets = [`train.steps=${values.steps}`, ...values.set].flatMap(text => ['--set', text])
for (const seed of values.seeds.split(',')) {
  const [taught, alone] = [join(scratch, `taught-${seed}`), join(scratch, `alone-${seed}`)]
  const own = ['--config', join(teacher, 'config.yaml'), '--config', values.config, ...sets, '--seed', seed]
  report('distill', images, '--teacher', teacher, ...own, '-o', taught)
  rows.push(judge('student, taught', seed, taught))
  report('pretrain', images, ...own, '-o', alone)
  rows.push(judge('the same, from scratch', seed, alone))
}

/** Images a second of `embed`, decoding included. */
const speeds = new Map<string, number>()
const embedded = [teacher, rows[1]!.model]
for (let turn = 0; turn < 3; turn++)
  for (const model of turn % 2 ? [...embedded].reverse() : embedded) {
    const begun = performance.now()
    const {rows: count} = report<{rows: number}>('embed', val, '--model', model, '--size', size, '-o', join(scratch, 'rows.npy'), '-f')
    speeds.set(model, Math.max(speeds.get(model) ?? 0, count / ((performance.now() - begun) / 1000)))
  }
async function sizeOf(model: string): Promise<{parameters: string; bytes: string}> {
  const {config, checkpoint} = await openBackbone(model)
  await checkpoint.close()
  const numbers = [...expectedShapes(config).values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0)
  return {
    parameters: `${(numbers / 1e6).toFixed(2)} M`,
    bytes: `${(statSync(join(model, 'final', 'backbone.safetensors')).size / 1e6).toFixed(1)} MB`
  }
}
console.log(`${values.steps} steps, frozen features on ${val} at ${size} pixels\n`)
console.log('| | seed | kNN, % | linear, % | images/s | parameters | file |\n| --- | --- | --- | --- | --- | --- | --- |')
for (const {what, seed, model, knn, linear} of rows) {
  const {parameters, bytes} = await sizeOf(model)
  console.log(`| ${what} | ${seed} | ${knn} | ${linear} | ${speeds.get(model)?.toFixed(0) ?? ''} | ${parameters} | ${bytes} |`)
}
const mean = (what: string, of: (row: Row) => number): number => {
  const some = rows.filter(row => row.what === what)
  return some.reduce((sum, row) => sum + of(row), 0) / some.length
}
const gain = (of: (row: Row) => number): string => (100 * (mean('student, taught', of) - mean('the same, from scratch', of))).toFixed(1)
console.log(
  `\nTaught against from scratch, mean of the seeds: kNN ${gain(row => row.top1)} points, linear ${gain(row => row.linear1)} points.`
)
rmSync(scratch, {recursive: true, force: true})
