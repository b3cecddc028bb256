/**
 * Whether curation is worth it: pretraining at equal steps on the raw and on the curated pool, judged by nearest
 * neighbours on labelled images that neither has seen.
 *
 * usage: node dist/bench/curate-worth.js POOL --train LABELLED/train --val LABELLED/val [--steps 300] [--seeds 0,1]
 * [--target 0] [--config small] [--size 64] [--set key=value]… First everything near a labelled image (train or val)
 * is taken out of POOL by `curate decontaminate` at its default; what is left is the raw pool. It is curated with the
 * filter and near-duplicates at their defaults; with --target a balanced sample on features of the model trained on
 * the raw pool follows, which is drawn from what those two leave. Every run is a process of its own, with one setting
 * of threads (DINOV2_THREADS). Prints one row a run as it ends, and the means, in Markdown: the number, whatever it
 * is.
 */
import {execFileSync} from 'node:child_process'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    train: {type: 'string'},
    val: {type: 'string'},
    steps: {type: 'string', default: '300'},
    seeds: {type: 'string', default: '0,1'},
    target: {type: 'string', default: '0'},
    config: {type: 'string', default: 'small'},
    size: {type: 'string', default: '64'},
    k: {type: 'string', default: '20'},
    set: {type: 'string', multiple: true, default: []}
  }
})
const [pool, {train, val}] = [positionals[0], values]
if (!pool || !train || !val) throw new Error('name a pool, --train and --val')
const binary = fileURLToPath(new URL('../../bin/run.js', import.meta.url))
const scratch = await mkdtemp(join(tmpdir(), 'dinov2-worth-'))
const run = (...args: string[]): string =>
  execFileSync(process.execPath, [binary, ...args], {encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 1 << 26})
const report = <T>(...args: string[]): T =>
  JSON.parse(
    run(...args, '--json')
      .trimEnd()
      .split('\n')
      .at(-1)!
  ) as T

const clean = join(scratch, 'clean.jsonl')
const {pool: given, kept: left} = report<{pool: number; kept: number}>(
  'curate',
  'decontaminate',
  pool,
  '--against',
  train,
  '--against',
  val,
  '-o',
  clean
)
console.log(
  `${given - left} of ${given} images of ${pool} are near a labelled one and left out\n${values.steps} steps each, nearest neighbours (k = ${values.k}) on ${val}\n\n| trained on | images | seed | top-1, % |\n| --- | --- | --- | --- |`
)

const rows: {set: string; images: number; seed: number; top1: number}[] = []
for (const seed of values.seeds.split(',')) {
  const lists: {set: string; list: string; images: number}[] = []
  const curated = join(scratch, `curated-${seed}.jsonl`)
  const {pool: images, kept} = report<{pool: number; kept: number}>('curate', clean, '-o', curated, '--seed', seed)
  lists.push({set: 'raw', list: clean, images}, {set: 'filter and near-duplicates', list: curated, images: kept})
  let first: string | undefined
  for (const {set, list, images: n} of lists) {
    const folder = join(scratch, `${set.replaceAll(' ', '-')}-${seed}`)
    const settings = ['--config', values.config, '--set', `train.steps=${values.steps}`, ...values.set.flatMap(text => ['--set', text])]
    try {
      run('pretrain', list, ...settings, '--seed', seed, '-o', folder)
    } catch (error) {
      if ((error as {status?: number}).status !== 6) throw error // 6 is a verdict on the run's health; its model is there and is judged like the others
    }
    const judged = report<{scores: {features: string; k: number; top1: number}[]}>(
      'knn-eval',
      '--train',
      train,
      '--val',
      val,
      '--model',
      folder,
      '--size',
      values.size,
      '-k',
      values.k
    )
    const score = judged.scores.find(({features, k}) => features === 'model' && k === Number(values.k))
    rows.push({set, images: n, seed: Number(seed), top1: score!.top1})
    console.log(`| ${set} | ${n} | ${seed} | ${(100 * score!.top1).toFixed(1)} |`)
    if (first === undefined) {
      first = folder
      if (Number(values.target) > 0) {
        const sampled = join(scratch, `balanced-${seed}.jsonl`)
        const made = report<{kept: number}>(
          'curate',
          clean,
          '--model',
          folder,
          '--size',
          values.size,
          '--sample-target',
          values.target,
          '-o',
          sampled,
          '--seed',
          seed,
          '-f'
        )
        lists.push({set: 'and balanced', list: sampled, images: made.kept})
      }
    }
  }
}
for (const set of new Set(rows.map(row => row.set))) {
  const own = rows.filter(row => row.set === set)
  console.log(`| ${set}, mean | | | ${((100 * own.reduce((sum, {top1}) => sum + top1, 0)) / own.length).toFixed(1)} |`)
}
await rm(scratch, {recursive: true, force: true})
