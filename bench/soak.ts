/**
 * Memory of a long run of `dinov2 pretrain`: what the process holds, second by second, and whether it keeps growing.
 *
 * usage: node dist/bench/soak.js IMAGES [--minutes 30] [--out soak] [-- FLAGS OF PRETRAIN]
 *
 * Trains for so many minutes, then stops the run as Ctrl-C does. Leaves OUT/memory.csv, OUT/memory.html and the run in
 * OUT/run. Checkpoints are written and images decoded all the while. The first third is the warm-up: libraries load,
 * the cache of decoded images fills. Over the rest a line is fitted; the curve is called flat where that line rises by
 * less than 2 % of what the process holds. Status 1 where it is not, or the run did not end well.
 */
import {spawn} from 'node:child_process'
import {existsSync, readFileSync} from 'node:fs'
import {mkdir, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import {lineChart} from '../src/render/chart.js'
import {html, page, table} from '../src/render/html.js'

const own = process.argv.slice(2)
const cut = own.indexOf('--')
const further = cut < 0 ? [] : own.slice(cut + 1)
const {positionals, values} = parseArgs({
  args: cut < 0 ? own : own.slice(0, cut),
  allowPositionals: true,
  options: {minutes: {type: 'string', default: '30'}, out: {type: 'string', default: 'soak'}}
})
const [images] = positionals
const minutes = Number(values.minutes)
if (!images || !(minutes > 0)) throw new Error('usage: node dist/bench/soak.js IMAGES [--minutes 30] [--out soak] [-- FLAGS OF PRETRAIN]')

const run = join(values.out, 'run')
await mkdir(values.out, {recursive: true})
if (existsSync(join(run, 'metrics.jsonl'))) await rm(run, {recursive: true})
const settings = further.some(word => word.startsWith('--config')) ? [] : ['--config', 'small']
const command = [
  'pretrain',
  images,
  ...settings,
  '--set',
  'train.steps=10000000',
  '--set',
  'train.checkpoint_every=200',
  '-o',
  run,
  ...further
]
console.error(`dinov2 ${command.join(' ')}`)
const child = spawn(process.execPath, [new URL('../../bin/run.js', import.meta.url).pathname, ...command], {
  stdio: ['ignore', 'inherit', 'inherit']
})
const ended = new Promise<number | null>(done => child.once('exit', done))

/** MiB that the process holds: all, and what no file backs; undefined once it is gone. */
function held(): {rss: number; anonymous: number} | undefined {
  try {
    const text = readFileSync(`/proc/${child.pid}/status`, 'utf8')
    const mib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)![1]) / 1024
    return {rss: mib('VmRSS'), anonymous: mib('RssAnon')}
  } catch {
    return undefined
  }
}

const samples: {seconds: number; rss: number; anonymous: number}[] = []
const begun = performance.now()
const timer = setInterval(() => {
  const seconds = (performance.now() - begun) / 1000
  const now = held()
  if (now) samples.push({seconds, ...now})
  if (seconds >= 60 * minutes && child.exitCode === null && !stopping) {
    stopping = true
    child.kill('SIGINT')
  }
}, 1000)
let stopping = false
const status = await ended
clearInterval(timer)

const rest = samples.filter(({seconds}) => seconds >= (samples.at(-1)?.seconds ?? 0) / 3)
if (rest.length < 10) throw new Error(`the run ended with status ${status} after ${samples.length} s: too soon to say anything`)
const mean = (of: readonly number[]): number => of.reduce((sum, x) => sum + x, 0) / of.length
const [x, y] = [mean(rest.map(({seconds}) => seconds)), mean(rest.map(({rss}) => rss))]
const slope = // MiB a second, by least squares
  rest.reduce((sum, {seconds, rss}) => sum + (seconds - x) * (rss - y), 0) / rest.reduce((sum, {seconds}) => sum + (seconds - x) ** 2, 0)
const window = rest.at(-1)!.seconds - rest[0]!.seconds
const rise = (slope * window) / y
const flat = Math.abs(rise) < 0.02
const well = stopping && status === 130
const lines = readFileSync(join(run, 'timings.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .filter(line => line)
  .map(line => JSON.parse(line) as Record<string, number>)
const verdict =
  `${flat ? 'flat' : rise > 0 ? 'rising' : 'falling'}: over the last ${(window / 60).toFixed(1)} minutes the line through it goes from ${(y - (slope * window) / 2).toFixed(0)} to ` +
  `${(y + (slope * window) / 2).toFixed(0)} MiB (${(100 * rise).toFixed(2)} %, ${(slope * 3600).toFixed(1)} MiB an hour)`

await writeFile(
  join(values.out, 'memory.csv'),
  'seconds,rss_mib,anonymous_mib\n' +
    samples.map(({seconds, rss, anonymous}) => `${seconds.toFixed(1)},${rss.toFixed(1)},${anonymous.toFixed(1)}\n`).join('')
)
const chart = lineChart({
  title: 'Memory of the process (MiB)',
  x: 'minute',
  fromZero: true,
  series: [
    {name: 'all (RSS)', points: samples.map(({seconds, rss}) => [seconds / 60, rss])},
    {name: 'without files', points: samples.map(({seconds, anonymous}) => [seconds / 60, anonymous])},
    {name: 'the line', points: [0, window].map(t => [(rest[0]!.seconds + t) / 60, y + slope * (t - window / 2)])}
  ]
})
const close = lineChart({
  title: 'The same after the warm-up',
  x: 'minute',
  series: [{name: 'all (RSS)', points: rest.map(({seconds, rss}) => [seconds / 60, rss])}]
})
const figures: [string, string][] = [
  ['steps', String(lines.at(-1)?.['step'] ?? 0)],
  [
    'images a second, median',
    String([...lines.map(line => line['images_per_second'] ?? NaN)].sort((a, b) => a - b)[lines.length >> 1] ?? '')
  ],
  [
    'lowest and highest after the warm-up',
    `${Math.min(...rest.map(({rss}) => rss)).toFixed(0)} and ${Math.max(...rest.map(({rss}) => rss)).toFixed(0)} MiB`
  ],
  ['status', `${status}${well ? ', stopped as asked' : ''}`]
]
await writeFile(
  join(values.out, 'memory.html'),
  page({
    title: 'Memory of a long run',
    body: [
      html`<h1>Memory of a long run</h1>`,
      html`<p>The curve is ${verdict}.</p>`,
      html`<div class="grid">${[chart, close]}</div>`,
      table([['', ''], ...figures]),
      html`<p class="quiet">dinov2 ${command.join(' ')}</p>`
    ]
  })
)
for (const [name, value] of figures) console.log(`${name}: ${value}`)
console.log(`memory: ${verdict}`)
console.log(`${join(values.out, 'memory.html')}, ${join(values.out, 'memory.csv')}`)
process.exitCode = flat && well ? 0 : 1
