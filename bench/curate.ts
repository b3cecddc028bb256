/**
 * Curation beside faiss on this machine, in one run: k-means, and all pairs above a threshold, exactly and by inverted
 * lists; and how cost grows with the rows.
 *
 * usage: node dist/bench/curate.js [--rows 10000,100000] [--dim 384] [--clusters 1000] [--iterations 10]
 * [--tasks kmeans,exact,lists,sample] [--plot growth.html|growth.svg] PYTHON names a Python with numpy and faiss-cpu.
 * Rows are drawn: unit vectors around one centre for 50 rows, one in twenty of them a near-copy of another. Each
 * contender is a process of its own, on two threads, reading one .npy file; time is that of the work without reading;
 * memory is the peak of the process. k-means starts as each does by default (ours k-means++, faiss from random rows).
 * Quality stands beside time: the mean squared distance of k-means, the pairs found.
 */
import {execFileSync} from 'node:child_process'
import {writeFileSync} from 'node:fs'
import {mkdtemp, open, rm} from 'node:fs/promises'
import {cpus, tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {balancedSample} from '../src/curate/balanced-sampling.js'
import {hierarchicalKMeans} from '../src/curate/hierarchical-kmeans.js'
import {finish, kmeans} from '../src/curate/kmeans.js'
import {pairRecall, pairsAbove} from '../src/curate/neighbours.js'
import {startEngine} from '../src/engine/start.js'
import {lineChart} from '../src/render/chart.js'
import {html, page} from '../src/render/html.js'
import {npyMatrix} from '../src/files/embeddings/npy.js'
import {fileRows} from '../src/files/search-index/matrix-file.js'
import {npyHeader} from '../src/files/embeddings/npy-header.js'
import {normalizeRows} from '../src/search/exact.js'
import {rng} from '../src/tensor/random.js'

const {values} = parseArgs({
  options: {
    rows: {type: 'string', default: '10000,100000'},
    dim: {type: 'string', default: '384'},
    clusters: {type: 'string', default: '1000'},
    iterations: {type: 'string', default: '10'},
    threshold: {type: 'string', default: '0.9'},
    tasks: {type: 'string', default: 'kmeans,exact,lists,sample'},
    plot: {type: 'string'},
    task: {type: 'string'},
    file: {type: 'string'}
  }
})
const [D, K, iterations, threshold] = [Number(values.dim), Number(values.clusters), Number(values.iterations), Number(values.threshold)]
const neighbours = 64
const probes = 8

type Result = {seconds: number; gib: number; objective?: number; pairs?: number; recall?: number}

/** One task of ours, in this process. */
async function own(task: string, file: string): Promise<Result> {
  await startEngine({engine: 'torch', device: 'cpu', precision: 'fp32', threads: 2, note: () => undefined})
  const lies = (await npyMatrix(file))!
  const rows = fileRows(file, lies.at, lies.count, lies.dim)
  const begun = performance.now()
  const result: Omit<Result, 'seconds' | 'gib'> & {seconds?: number} = {}
  if (task === 'kmeans') {
    const {objective} = finish(kmeans(rows, {k: K, seed: 1, iterations}))
    result.objective = objective
  } else if (task === 'sample') {
    const hierarchy = finish(
      hierarchicalKMeans(rows, {
        levels: [K, Math.round(K / 10), 10],
        seed: 1,
        iterations,
        resample: 1,
        nearest: [10, 5, 3],
        init: 'random'
      })
    )
    balancedSample(hierarchy, {target: Math.round(rows.count / 10), seed: 1})
  } else {
    const options = {threshold, k: neighbours, seed: 1, method: task as 'exact' | 'lists', probes}
    const pairs = finish(pairsAbove(rows, options))
    result.seconds = (performance.now() - begun) / 1000
    result.pairs = pairs.a.length
    if (task === 'lists') {
      const found = pairRecall(rows, pairs, options, 2000)
      if (found) result.recall = found.recall
    }
  }
  const seconds = result.seconds ?? (performance.now() - begun) / 1000
  return {...result, seconds, gib: process.resourceUsage().maxRSS / 2 ** 20}
}

if (values.task && values.file) {
  console.log(JSON.stringify(await own(values.task, values.file)))
  process.exit(0)
}

const scratch = await mkdtemp(join(tmpdir(), 'dinov2-curate-'))
const python = process.env['PYTHON'] ?? 'python3'
const here = fileURLToPath(import.meta.url)
const peers = fileURLToPath(new URL('../../bench/peers/curate.py', import.meta.url))

async function draw(n: number): Promise<string> {
  const path = join(scratch, `${n}.npy`)
  const file = await open(path, 'w')
  await file.write(npyHeader(n, D))
  const centres = normalizeRows(
    Float32Array.from(
      {length: Math.ceil(n / 50) * D},
      (
        (random = rng(1, 'centres')) =>
        () =>
          random.normal()
      )()
    ),
    D
  )
  const random = rng(1, 'rows', n)
  let last: Float32Array | undefined
  for (let from = 0; from < n; from += 4096) {
    const block = new Float32Array(Math.min(4096, n - from) * D)
    for (let i = 0; i < block.length; i += D) {
      const copy = last !== undefined && random.chance(0.05)
      const at = random.int(centres.length / D) * D
      const [weight, spread] = copy ? [1, 0.2] : [1, 0.8]
      for (let d = 0; d < D; d++) block[i + d] = weight * (copy ? last![d]! : centres[at + d]!) + (spread / Math.sqrt(D)) * random.normal()
      normalizeRows(block.subarray(i, i + D), D)
      last = block.subarray(i, i + D)
    }
    last = last!.slice()
    await file.write(new Uint8Array(block.buffer))
  }
  await file.close()
  return path
}

const ours = (task: string, file: string): Result =>
  JSON.parse(
    execFileSync(
      process.execPath,
      [
        here,
        '--task',
        task,
        '--file',
        file,
        '--dim',
        String(D),
        '--clusters',
        String(K),
        '--iterations',
        String(iterations),
        '--threshold',
        String(threshold)
      ],
      {encoding: 'utf8'}
    )
  ) as Result
const theirs = (...args: (string | number)[]): Result =>
  JSON.parse(
    execFileSync(python, [peers, ...args.map(String)], {encoding: 'utf8'})
      .trim()
      .split('\n')
      .at(-1)!
  ) as Result

const shown = ({seconds, gib, objective, pairs, recall}: Result): string =>
  `${seconds.toFixed(1)} s, ${gib.toFixed(2)} GiB${objective === undefined ? '' : `, objective ${objective.toFixed(5)}`}${pairs === undefined ? '' : `, ${pairs} pairs`}${recall === undefined ? '' : `, recall ${recall.toFixed(4)}`}`
const tasks = values.tasks.split(',')
const growth = new Map<string, [number, number][]>()
console.log(
  `${cpus()[0]?.model ?? 'unknown processor'}, two threads; ${D} numbers a row; k-means into ${K} clusters, ${iterations} rounds; pairs above ${threshold}, ${neighbours} neighbours\n`
)
console.log('| rows | task | dinov2 | faiss |\n| --- | --- | --- | --- |')
for (const n of values.rows.split(',').map(Number)) {
  const file = await draw(n)
  for (const task of tasks) {
    const mine = ours(task, file)
    growth.set(task, [...(growth.get(task) ?? []), [Math.log10(n), Math.log10(mine.seconds)]])
    const peer =
      task === 'kmeans'
        ? shown(theirs('kmeans', file, K, iterations))
        : task === 'exact'
          ? `flat, k = 64: ${shown(theirs('flat', file, neighbours, threshold))}; range: ${shown(theirs('range', file, 0, threshold))}`
          : task === 'lists'
            ? `IVF: ${shown(theirs('ivf', file, neighbours, threshold, probes))}`
            : 'not in faiss'
    console.log(`| ${n.toLocaleString('en')} | ${task} | ${shown(mine)} | ${peer} |`)
  }
  await rm(file)
}
await rm(scratch, {recursive: true, force: true})
if (values.plot) {
  const chart = lineChart({
    title: 'Seconds (logarithm to base 10) by rows (the same)',
    x: 'log10 of rows',
    series: [...growth].map(([name, points]) => ({name, points}))
  })
  writeFileSync(
    values.plot,
    values.plot.endsWith('.svg')
      ? picture(String(chart), [...growth.keys()])
      : page({
          title: 'How curation grows',
          body: html`<h1>How curation grows</h1>
            ${chart}`
        })
  )
}

/** The chart as a file of its own: without the page around it, with its colours and the names of its lines inside. */
function picture(chart: string, names: readonly string[]): string {
  const colours = ['#1f6feb', '#d9480f', '#2b8a3e', '#9c36b5']
  const style =
    'svg{background:#fcfcfa;font:11px system-ui,sans-serif;fill:#1c1e21}.axis{stroke:#d9d9d4}path,polyline{fill:none;stroke-width:1.5}' +
    colours.map((colour, i) => `.c${i}{stroke:${colour}}`).join('') +
    `:root{${colours.map((colour, i) => `--c${i}:${colour}`).join(';')};--line:#d9d9d4;--quiet:#666b73;--ink:#1c1e21}`
  const legend = names.map((name, i) => `<text x="66" y="${24 + 14 * i}" style="fill:${colours[i]}">${name}</text>`).join('')
  const [svg] = /<svg[\s\S]*<\/svg>/.exec(chart)!
  return svg
    .replace('<svg ', '<svg xmlns="http://www.w3.org/2000/svg" width="780" height="360" ')
    .replace(/(<svg [^>]*>)/, `$1<style>${style}</style>`)
    .replace('</svg>', `${legend}</svg>\n`)
}
