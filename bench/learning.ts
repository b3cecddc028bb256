/**
 * What a recipe learns from a folder of images, for a given time of the processor: several recipes, several seeds,
 * beside raw pixels, a histogram of colours and the untrained model.
 *
 * usage: node dist/bench/learning.js TRAIN --arm "NAME: FLAGS OF pretrain"… [--val VAL] [--seeds 0,1,2] [--size 96]
 * [--threads 1] [-o FOLDER] [--linear]. TRAIN holds a folder a class; the names are used for scoring alone. Without
 * --val each image is classified by the others of TRAIN (leave one out), which is how recipes are chosen; VAL is read
 * once, for the recipe that was chosen. Runs stay in FOLDER and are not trained again. Prints Markdown: processor
 * minutes (user and system, all threads), top-1 by 10 and 20 nearest neighbours and, with --linear, by one linear
 * layer, each as mean and standard deviation over seeds.
 */
import {spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    arm: {type: 'string', multiple: true, default: []},
    val: {type: 'string'},
    seeds: {type: 'string', default: '0,1,2'},
    size: {type: 'string', default: '96'},
    threads: {type: 'string', default: '1'},
    linear: {type: 'boolean', default: false},
    output: {type: 'string', short: 'o', default: 'learning'}
  }
})
const train = positionals[0]
if (!train || values.arm.length === 0) throw new Error('name the folder of training images and at least one --arm "NAME: FLAGS"')
if (values.linear && !values.val) throw new Error('--linear scores a second set: add --val')
const {val, output} = values
const binary = fileURLToPath(new URL('../../bin/run.js', import.meta.url))
mkdirSync(output, {recursive: true})

/** Runs a command; gives its standard output and the processor minutes that it and its threads took. */
function timed(...args: string[]): {stdout: string; minutes: number} {
  const script = 'TIMEFORMAT="cpu %U %S"; time "$@"'
  const {stdout, stderr, status} = spawnSync('bash', ['-c', script, 'timed', process.execPath, binary, ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28
  })
  // Status 6 is a verdict on a run, and the model is there all the same.
  if (status !== 0 && status !== 6) throw new Error(`dinov2 ${args.join(' ')} left with ${status}:\n${stderr}`)
  const [, user, system] = /cpu ([\d.]+) ([\d.]+)\s*$/.exec(stderr)!
  return {stdout, minutes: (Number(user) + Number(system)) / 60}
}
const report = <T>(...args: string[]): T =>
  JSON.parse(
    timed(...args, '--json')
      .stdout.trimEnd()
      .split('\n')
      .at(-1)!
  ) as T

type Scores = {k10: number; k20: number; linear?: number}
const sets = ['--train', train, ...(val ? ['--val', val] : []), '--size', values.size]

/** Top-1 of a model and, for the first one judged, of the baselines. */
function judge(model: string, baselines: readonly string[]): Map<string, Scores> {
  type Knn = {scores: {features: string; k: number; top1: number}[]}
  const chosen = baselines.length === 0 ? ['--baseline', 'none'] : baselines.flatMap(baseline => ['--baseline', baseline])
  const {scores} = report<Knn>('knn-eval', ...sets, '--model', model, '-k', '10,20', ...chosen)
  const found = new Map<string, Scores>()
  for (const {features, k, top1} of scores) {
    const row = found.get(features) ?? {k10: NaN, k20: NaN}
    found.set(features, {...row, [`k${k}`]: top1})
  }
  if (!values.linear) return found
  type Linear = {scores: {set: string; model?: string; features?: string; top1: number}[]}
  const trained = ['--cached', '--steps', '1000', ...chosen]
  const line = report<Linear>('linear-eval', ...sets, '--model', model, ...trained).scores[0]!
  found.get('model')!.linear = line.top1
  return found
}

const percent = (share: number): string => (100 * share).toFixed(1)

function spread(numbers: readonly number[]): string {
  const mean = numbers.reduce((sum, x) => sum + x, 0) / numbers.length
  if (numbers.length === 1) return percent(mean)
  const deviation = Math.sqrt(numbers.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (numbers.length - 1))
  return `${percent(mean)} ± ${percent(deviation)}`
}

const columns = ['recipe', 'seeds', 'processor minutes', 'kNN, k = 10', 'k = 20', ...(values.linear ? ['linear'] : [])]
const rows: string[][] = []
const seeds = values.seeds.split(',')
let baselines: string[] = ['pixels', 'histogram', 'untrained']
for (const arm of values.arm) {
  const [name, flags] = [
    arm.slice(0, arm.indexOf(':')),
    arm
      .slice(arm.indexOf(':') + 1)
      .trim()
      .split(/\s+/)
  ]
  const scores: Scores[] = []
  const minutes: number[] = []
  for (const seed of seeds) {
    const run = join(output, `${name.replaceAll(/\W+/g, '-')}-${seed}`)
    const cost = `${run}.minutes`
    if (!existsSync(cost)) {
      const options = ['--set', `train.seed=${seed}`, '--threads', values.threads, '-o', run, '--force']
      writeFileSync(cost, String(timed('pretrain', train, ...flags, ...options).minutes))
    }
    minutes.push(Number(readFileSync(cost, 'utf8')))
    const found = judge(run, baselines)
    scores.push(found.get('model')!)
    for (const [features, {k10, k20}] of found) if (features !== 'model') rows.push([features, '', '', percent(k10), percent(k20)])
    baselines = []
    console.error(`${name}, seed ${seed}: ${JSON.stringify(scores.at(-1))}, ${minutes.at(-1)!.toFixed(1)} processor minutes`)
  }
  const mean = minutes.reduce((sum, x) => sum + x, 0) / minutes.length
  rows.push([name, String(seeds.length), mean.toFixed(1), spread(scores.map(s => s.k10)), spread(scores.map(s => s.k20))])
  if (values.linear) rows.at(-1)!.push(spread(scores.map(s => s.linear!)))
}
console.log(`| ${columns.join(' | ')} |\n|${columns.map(() => ' --- |').join('')}`)
for (const row of rows) console.log(`| ${[...row, ...Array<string>(columns.length - row.length).fill('')].join(' | ')} |`)
