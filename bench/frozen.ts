/**
 * What the frozen features of a model are worth: every evaluation on sets of real pictures, beside all of its
 * baselines, as one table.
 *
 * usage: node dist/bench/frozen.js MODEL [--data ../shared/data] [--only TASK,…] [--pages DIR] [--threads N]
 * [--seed 0] DATA holds cls-scenes6, cls-caltech14, cls-clothing10, domain-aerial7, domain-bloodcells, seg-camvid,
 * depth-rgbd and retrieval-holidays300; what is not there is left out and said. TASK: knn, linear, seg, depth,
 * retrieval. --pages keeps the report and the page of every evaluation. The last 16 frames of `kitchen7s` are held out
 * of the training of depth heads and scored as the same scene seen later; the scenes under val are out of domain.
 * Prints the table in Markdown and, under it, every baseline that is not surely beaten.
 */
import {spawnSync} from 'node:child_process'
import {existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join, resolve} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import type {DepthReport} from '../src/tasks/eval/depth/evaluate.js'
import type {KnnReport} from '../src/tasks/eval/classification/knn-report.js'
import type {LinearReport} from '../src/tasks/eval/classification/linear-report.js'
import type {RetrievalReport} from '../src/tasks/eval/retrieval/report.js'
import type {SegReport} from '../src/tasks/eval/segmentation/report.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    data: {type: 'string', default: fileURLToPath(new URL('../../../shared/data', import.meta.url))},
    only: {type: 'string', default: 'knn,linear,seg,depth,retrieval'},
    pages: {type: 'string'},
    threads: {type: 'string'},
    seed: {type: 'string', default: '0'}
  }
})
const [model] = positionals
if (model === undefined) throw new Error('name a model')
const data = resolve(values.data)
const tasks = values.only.split(',')
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-frozen-'))
const keep = values.pages ?? scratch
mkdirSync(keep, {recursive: true})

/**
 * A score with its interval, and the same of everything that it stands beside; `sure` where the interval of the
 * difference leaves no doubt.
 */
type Line = {
  readonly what: string
  readonly measure: string
  readonly model: string
  readonly others: readonly {readonly name: string; readonly score: string; readonly better: boolean; readonly sure: boolean}[]
}

const percent = (share: number): string => (100 * share).toFixed(1)
const within = ([low, high]: readonly [number, number], show: (value: number) => string): string => `(${show(low)}–${show(high)})`
const names: Readonly<Record<string, string>> = {
  majority: 'largest class',
  chance: 'random order',
  pixels: 'raw pixels',
  untrained: 'untrained',
  mean: 'mean depth',
  'mean-map': 'mean of the place'
}
const lines: Line[] = []

/** Runs a command of the built tool and gives its report; its page stays in --pages. */
function evaluate<Report>(name: string, args: readonly string[]): Report {
  const begun = performance.now()
  const more = ['--model', model!, '--seed', values.seed, '-f', '-o', join(keep, `${name}.json`)]
  const page = values.pages === undefined ? [] : ['--html', join(keep, `${name}.html`)]
  const threads = values.threads === undefined ? [] : ['--threads', values.threads]
  const bin = fileURLToPath(new URL('../../bin/run.js', import.meta.url))
  const run = spawnSync(process.execPath, [bin, ...args, ...more, ...page, ...threads], {stdio: ['ignore', 'ignore', 'inherit']})
  if (run.status !== 0) throw new Error(`${args[0]} on ${name} left with ${run.status}`)
  console.error(`${name}: ${((performance.now() - begun) / 1000).toFixed(0)} s`)
  return JSON.parse(readFileSync(join(keep, `${name}.json`), 'utf8')) as Report
}

/** Whether a set is there. */
function has(set: string): boolean {
  if (existsSync(join(data, set))) return true
  console.error(`${set} is not in ${data} and is left out`)
  return false
}

// --------------------------------------------------------------------------------------------------------------
// classification

/** The baselines beside the model: their top-1, and whether the model is better, and surely so. */
const othersOf = (
  scores: readonly {readonly features: string; readonly top1: number}[],
  differences: readonly {readonly over: string; readonly mean: number; readonly interval: readonly number[]}[]
) =>
  differences.map(({over, mean, interval: [low]}) => ({
    name: over,
    score: percent(scores.find(({features}) => features === over)!.top1),
    better: mean > 0,
    sure: low! > 0
  }))

/** Sets of labelled images, with the side that the model sees. */
const classified = [
  {set: 'cls-scenes6', title: 'six kinds of scenes', size: 96},
  {set: 'cls-caltech14', title: 'fourteen kinds of objects', size: 96},
  {set: 'cls-clothing10', title: 'ten kinds of clothes', size: 96},
  {set: 'domain-aerial7', title: 'seven kinds of land from the air', size: 96},
  {set: 'domain-bloodcells/crops', title: 'three kinds of blood cells', size: 96}
]
for (const {set, title, size} of classified) {
  if (!tasks.some(task => task === 'knn' || task === 'linear') || !has(set)) continue
  const common = ['--train', join(data, set, 'train'), '--val', join(data, set, 'val'), '--size', String(size)]
  const name = set.split('/')[0]!
  if (tasks.includes('knn')) {
    const {scores, differences} = evaluate<KnnReport>(`${name}-knn`, ['knn-eval', ...common, '-k', '20'])
    const own = scores.find(({features}) => features === 'model')!
    lines.push({
      what: `${title}, \`knn-eval\`, k = 20`,
      measure: 'top-1 %',
      model: `${percent(own.top1)} ${within(own.intervals['top1']!, percent)}`,
      others: othersOf(scores, differences)
    })
  }
  if (tasks.includes('linear')) {
    const {scores, differences} = evaluate<LinearReport>(`${name}-linear`, ['linear-eval', ...common, '--cached', '--steps', '1500'])
    const own = scores.find(({features}) => features === 'model')!
    lines.push({
      what: `${title}, \`linear-eval --cached\``,
      measure: 'top-1 %',
      model: `${percent(own.top1)} ${within(own.intervals['top1']!, percent)}`,
      others: othersOf(scores, differences)
    })
  }
}

// ----------------------------------------------------------------------------------------------------------------
// segmentation

if (tasks.includes('seg') && has('seg-camvid')) {
  const root = join(data, 'seg-camvid')
  const sets = ['--train', join(root, 'images/train'), '--val', join(root, 'images/val'), '--test', join(root, 'images/test')]
  const options = ['--masks', join(root, 'masks'), '--cached', '--size', '240', '--steps', '600', '--train-batch', '8', '--layers', '4']
  const {scores, differences} = evaluate<SegReport>('seg-camvid', ['seg-eval', ...sets, ...options])
  for (const set of ['val', 'test'] as const) {
    const own = scores.find(score => score.features === 'model' && score.set === set)!
    lines.push({
      what: `streets, ${set}, \`seg-eval --cached --layers 4\``,
      measure: 'mIoU %',
      model: `${percent(own.miou)} ${within(own.intervals['miou']!, percent)}`,
      others: differences
        .filter(difference => difference.set === set)
        .map(({over, mean, significant}) => ({
          name: over,
          score: percent(scores.find(score => score.features === over && score.set === set)!.miou),
          better: mean > 0,
          sure: significant
        }))
    })
  }
}

// -------------------------------------------------------------------------------------------------------------------
// depth

if (tasks.includes('depth') && has('depth-rgbd')) {
  const root = join(data, 'depth-rgbd')
  /** A list of pairs, with their depth maps in a column. */
  const list = (name: string, split: string, wanted: (frame: string) => boolean): string => {
    const frames = readdirSync(join(root, 'images', split))
      .filter(wanted)
      .sort()
    const path = join(scratch, `${name}.jsonl`)
    const row = (frame: string): string =>
      JSON.stringify({
        id: `${split}/${frame}`,
        path: join(root, 'images', split, frame),
        depth: join(root, 'depth', split, frame.replace(/\.\w+$/, '.png'))
      })
    writeFileSync(path, frames.map(frame => row(frame) + '\n').join(''))
    return path
  }
  const late = (frame: string): boolean => /^kitchen7s_0(6[89]|7\d|8[0-3])\./.test(frame)
  const sets = [
    ...['--train', list('early-frames', 'train', frame => !late(frame)), '--val', list('late-frames', 'train', late)],
    ...['--out-of-domain', list('other-scenes', 'val', () => true)]
  ]
  const {
    sets: scored,
    scores,
    differences
  } = evaluate<DepthReport>('depth-rgbd', ['depth-eval', ...sets, '--cached', '--size', '160', '--steps', '800', '--max-depth', '10'])
  const fixed = (value: number): string => value.toFixed(3)
  for (const {kind, name: set} of scored)
    for (const alignment of ['none', 'depth'] as const)
      for (const measure of ['rmse', 'abs_rel'] as const) {
        const scoreOf = (features: string): DepthReport['scores'][number] =>
          scores.find(score => score.features === features && score.set === set && score.alignment === alignment)!
        const own = scoreOf('model')
        lines.push({
          what: `${kind === 'val' ? 'depth, late frames of a scene' : 'depth, other scenes'}${alignment === 'none' ? '' : ', scale and shift fitted'}, \`depth-eval --cached\``,
          measure: measure === 'rmse' ? 'RMSE m ↓' : 'abs_rel ↓',
          model: `${fixed(own[measure])} ${within(own.intervals[measure]!, fixed)}`,
          others: differences
            .filter(one => one.set === set && one.alignment === alignment && one.measure === measure)
            .map(({over, mean, significant}) => ({
              name: over,
              score: fixed(scoreOf(over)[measure]),
              better: mean < 0,
              sure: significant && mean < 0
            }))
        })
      }
}

// -------------------------------------------------------------------------------------------------------------------
// retrieval

if (tasks.includes('retrieval') && has('retrieval-holidays300')) {
  const options = ['--group-prefix', '4', '--size', '128', '--crop-borders', '--pool', 'cls+mean']
  const {scores, differences} = evaluate<RetrievalReport>('retrieval-holidays300', [
    'retrieval-eval',
    join(data, 'retrieval-holidays300/images'),
    ...options
  ])
  const own = scores.find(({features}) => features === 'model')!
  lines.push({
    what: 'holiday photos, 300 groups, `retrieval-eval --crop-borders`',
    measure: 'mAP %',
    model: `${percent(own.map)} ${within(own.intervals['map']!, percent)}`,
    others: differences.map(({over, mean, interval: [low]}) => ({
      name: over,
      score: percent(scores.find(({features}) => features === over)!.map),
      better: mean > 0,
      sure: low > 0
    }))
  })
}
rmSync(scratch, {recursive: true})

// -------------------------------------------------------------------------------------------------------------------
// table

console.log('| | measure | model (95 %) | chance | raw pixels | untrained |\n| --- | --- | --- | --- | --- | --- |')
for (const {what, measure, model: own, others} of lines) {
  const cell = (wanted: readonly string[]): string =>
    others
      .filter(({name}) => wanted.includes(name))
      .map(({name, score, better, sure}) => {
        const words = name.startsWith('mean') ? `${names[name]} ${score}` : score
        return better ? (sure ? words : `${words} ?`) : `**${words}**`
      })
      .join('; ')
  console.log(
    `| ${what} | ${measure} | ${own} | ${cell(['majority', 'chance', 'mean', 'mean-map'])} | ${cell(['pixels'])} | ${cell(['untrained'])} |`
  )
}
console.log('\nBold: the model does not beat it. ?: it is above, but the interval of the difference holds zero.\n')
const open = lines.flatMap(({what, measure, others}) =>
  others
    .filter(({sure}) => !sure)
    .map(
      ({name, better}) =>
        `- ${what}, ${measure}: ${better ? 'better than' : 'does not beat'} ${names[name]}${better ? ', but not surely' : ''}`
    )
)
console.log(open.length > 0 ? open.join('\n') : 'Every baseline is beaten.')
