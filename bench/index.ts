/**
 * Three ways to hold an index beside one another on this machine: exact, a graph (HNSW), and a LanceDB table (IVF-PQ).
 * Building, queries, recall, memory, disk.
 *
 * usage: node dist/bench/index.js [--rows 20000] [--dim 384] [--queries 200] [--kinds exact,hnsw,lance,lance-exact]
 * [--k 10] Rows are drawn as in bench/curate.ts, the queries from the same centres. Each kind is a process of its own
 * that reads one .npy file, builds, and writes its index; a second process opens it and asks, one query after another.
 * Recall is the share of the true k nearest (a neighbour as near as the last of them counts), and the truth is the
 * exact index's answer by `nearest`. Memory is the peak of the process. Growth: give several numbers, --rows
 * 20000,100000,1000000.
 */
import {execFileSync} from 'node:child_process'
import {mkdtemp, open, readdir, rm, stat} from 'node:fs/promises'
import {cpus, tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {npyHeader} from '../src/files/embeddings/npy-header.js'
import {fileSink} from '../src/files/embeddings/bytes.js'
import {openEmbeddings} from '../src/files/embeddings/embeddings.js'
import {nearestNeighbours, normalizeRows, oneBlock} from '../src/search/exact.js'
import {recall} from '../src/search/recall.js'
import {buildIndex} from '../src/tasks/search/build-index.js'
import {indexLance} from '../src/tasks/search/lance-index.js'
import {loadIndex} from '../src/tasks/search/search.js'
import {rng} from '../src/tensor/random.js'

const {values} = parseArgs({
  options: {
    rows: {type: 'string', default: '20000'},
    dim: {type: 'string', default: '384'},
    queries: {type: 'string', default: '200'},
    kinds: {type: 'string', default: 'exact,hnsw,lance,lance-exact'},
    k: {type: 'string', default: '10'},
    task: {type: 'string'},
    kind: {type: 'string'},
    file: {type: 'string'},
    index: {type: 'string'},
    asked: {type: 'string'}
  }
})
const [D, Q, k] = [Number(values.dim), Number(values.queries), Number(values.k)]
const gib = (): number => process.resourceUsage().maxRSS / 2 ** 20

async function finish<T>(events: AsyncGenerator<unknown, T>): Promise<T> {
  for (;;) {
    const {value, done} = await events.next()
    if (done) return value
  }
}

type Built = {seconds: number; gib: number; measured: number | null; looking: string}

async function build(kind: string, file: string, index: string): Promise<Built> {
  const begun = performance.now()
  if (kind.startsWith('lance')) {
    const {recall: found, lists} = await finish(
      indexLance({sources: [file], target: index, kind: kind === 'lance-exact' ? 'exact' : 'ivf-pq', metric: 'cosine'})
    )
    return {
      seconds: (performance.now() - begun) / 1000,
      gib: gib(),
      measured: found?.value ?? null,
      looking: lists ? `${lists.partitions} lists, probes ${lists.probes}, refine ${lists.refine}` : ''
    }
  }
  const {report, write} = await finish(buildIndex({sources: [file], kind: kind as 'exact' | 'hnsw', metric: 'cosine'}))
  const handle = await open(index, 'w')
  await write(fileSink(handle))
  await handle.close()
  return {
    seconds: (performance.now() - begun) / 1000,
    gib: gib(),
    measured: report.recall?.value ?? null,
    looking: report.ef ? `ef ${report.ef}` : ''
  }
}

type Asked = {load: number; milliseconds: number; gib: number; scores: number[][]}

async function ask(index: string, asked: string): Promise<Asked> {
  let begun = performance.now()
  const searcher = await loadIndex(index)
  const load = (performance.now() - begun) / 1000
  const batch = await everything(asked)
  await searcher.search({ids: ['warm'], fields: [{}], vectors: batch.slice(0, D)}, {k})
  begun = performance.now()
  const scores: number[][] = []
  for (let q = 0; q < batch.length / D; q++) {
    const [found] = await searcher.search({ids: [String(q)], fields: [{}], vectors: batch.slice(q * D, (q + 1) * D)}, {k})
    scores.push(found!.map(({similarity}) => similarity!))
  }
  return {load, milliseconds: (performance.now() - begun) / scores.length, gib: gib(), scores}
}

async function everything(file: string): Promise<Float32Array> {
  const source = await openEmbeddings(file)
  const parts: Float32Array[] = []
  for await (const {vectors} of source.rows) parts.push(Float32Array.from(vectors))
  await source.close()
  const all = new Float32Array(parts.reduce((n, part) => n + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

if (values.task === 'build') console.log(JSON.stringify(await build(values.kind!, values.file!, values.index!)))
else if (values.task === 'ask') console.log(JSON.stringify(await ask(values.index!, values.asked!)))
else await all()

/** Draws `n` unit vectors around one centre for 50 rows into a .npy file. */
async function draw(path: string, n: number, of: number, name: string): Promise<void> {
  const random = rng(1, 'centres')
  const centres = normalizeRows(
    Float32Array.from({length: Math.ceil(of / 50) * D}, () => random.normal()),
    D
  )
  const own = rng(1, name)
  const file = await open(path, 'w')
  await file.write(npyHeader(n, D))
  for (let from = 0; from < n; from += 4096) {
    const block = new Float32Array(Math.min(4096, n - from) * D)
    for (let i = 0; i < block.length; i += D) {
      const at = own.int(centres.length / D) * D
      for (let d = 0; d < D; d++) block[i + d] = centres[at + d]! + (0.8 / Math.sqrt(D)) * own.normal()
    }
    await file.write(new Uint8Array(normalizeRows(block, D).buffer))
  }
  await file.close()
}

async function bytesOf(path: string): Promise<number> {
  const found = await stat(path)
  if (!found.isDirectory()) return found.size
  let sum = 0
  for (const name of await readdir(path)) sum += await bytesOf(join(path, name))
  return sum
}

async function all(): Promise<void> {
  const scratch = await mkdtemp(join(tmpdir(), 'dinov2-index-'))
  const here = fileURLToPath(import.meta.url)
  const run = <T>(...args: string[]): T =>
    JSON.parse(
      execFileSync(process.execPath, [here, '--dim', String(D), '--k', String(k), ...args], {encoding: 'utf8', maxBuffer: 1 << 28})
        .trim()
        .split('\n')
        .at(-1)!
    ) as T
  console.log(`${cpus()[0]?.model ?? 'unknown processor'}; ${D} numbers a row; ${Q} queries one after another, k = ${k}\n`)
  console.log(
    '| rows | kind | build, s | build, peak GiB | on disk, GiB | open, s | a query, ms | search, peak GiB | recall@k | as measured while building |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |'
  )
  try {
    for (const n of values.rows.split(',').map(Number)) {
      const [file, asked] = [join(scratch, `${n}.npy`), join(scratch, `${n}-queries.npy`)]
      await draw(file, n, n, `rows ${n}`)
      await draw(asked, Q, n, `queries ${n}`)
      const truth = await exactly(file, asked)
      for (const kind of values.kinds.split(',')) {
        const index = join(scratch, `${n}-${kind}`)
        const made = run<Built>('--task', 'build', '--kind', kind, '--file', file, '--index', index)
        const got = run<Asked>('--task', 'ask', '--index', index, '--asked', asked)
        const share = recall(
          got.scores.map(scores => ({scores: Float64Array.from(scores)})),
          truth
        )
        const disk = (await bytesOf(index)) / 2 ** 30
        console.log(
          `| ${n.toLocaleString('en')} | ${kind} | ${made.seconds.toFixed(1)} | ${made.gib.toFixed(2)} | ${disk.toFixed(2)} | ${got.load.toFixed(2)} | ${got.milliseconds.toFixed(2)} | ${got.gib.toFixed(2)} | ${share.toFixed(4)} | ${[made.measured?.toFixed(4), made.looking].filter(Boolean).join('; ')} |`
        )
        await rm(index, {recursive: true})
      }
      await rm(file)
    }
  } finally {
    await rm(scratch, {recursive: true, force: true})
  }
}

/** The scores of the true k nearest of each query; the rows stream by. */
async function exactly(file: string, asked: string): Promise<{scores: Float64Array}[]> {
  const queries = normalizeRows(await everything(asked), D)
  let truth = Array.from({length: queries.length / D}, () => ({scores: new Float64Array(0)}))
  const source = await openEmbeddings(file)
  for await (const {vectors} of source.rows) {
    const some = nearestNeighbours(oneBlock(normalizeRows(vectors, D), D), queries, k)
    truth = truth.map(({scores}, q) => ({
      scores: Float64Array.from([...scores, ...some[q]!.scores])
        .sort()
        .reverse()
        .subarray(0, k)
    }))
  }
  await source.close()
  return truth
}
