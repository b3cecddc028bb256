/**
 * How well curation does on a pool whose truth is known: near-duplicates, irrelevant images, and balance, for hashes,
 * perceptual features and models.
 *
 * usage: node dist/bench/curate-quality.js POOL [--model RUN,…] [--size 64] [--images 0]
 * POOL holds truth.csv (path, domain, group, transform) and duplicate_pairs.csv (a, b, kind). Pairs of frames of one
 * video count as neither right nor wrong. A model is also tried with fresh weights of the same architecture. Prints
 * tables in Markdown.
 */
import {readFileSync} from 'node:fs'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {parseArgs} from 'node:util'
import {engineArithmetic} from '../src/curate/matmul-backend.js'
import {balancedSample, evenness} from '../src/curate/balanced-sampling.js'
import {hamming} from '../src/curate/hashes.js'
import {hierarchicalKMeans} from '../src/curate/hierarchical-kmeans.js'
import {finish} from '../src/curate/kmeans.js'
import {retrieveNearest} from '../src/curate/retrieval.js'
import type {RowSource} from '../src/curate/rows.js'
import {refOf, type ImageRef} from '../src/data/sources/image-ref.js'
import {openBackbone, saveBackbone, type NamedTensor} from '../src/files/checkpoint/backbone.js'
import {initVit} from '../src/model/init.js'
import {defaultLevels} from '../src/tasks/curate/cluster.js'
import {defaultThreshold} from '../src/tasks/curate/feature-meta.js'
import {FeatureMaker} from '../src/tasks/curate/features.js'
import {filterStage, type FilterOptions} from '../src/tasks/curate/filter.js'
import type {Pool} from '../src/tasks/curate/pool.js'
import {rng} from '../src/tensor/random.js'
import {dispose} from '../src/tensor/tf.js'
import {leaves} from '../src/tensor/tree.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {model: {type: 'string', default: ''}, size: {type: 'string', default: '64'}, images: {type: 'string', default: '0'}}
})
const root = positionals[0]
if (!root) throw new Error('name a pool with truth.csv and duplicate_pairs.csv')

const table = (name: string): Record<string, string>[] => {
  const [head, ...lines] = readFileSync(join(root, name), 'utf8')
    .trim()
    .split(/\r?\n/)
    .map(line => line.split(','))
  return lines.map(cells => Object.fromEntries(head!.map((key, i) => [key, cells[i] ?? ''])))
}
const most = Number(values.images) || Infinity
const truth = table('truth.csv').slice(0, most)
const numberOf = new Map(truth.map(({path}, i) => [path!, i]))
const N = truth.length
/** Pairs that are copies, and frames of one video, by number. */
const copyKinds = new Map<number, string>()
const frames = new Set<number>()
for (const {a, b, kind, transform_a: ta, transform_b: tb} of table('duplicate_pairs.csv')) {
  const [i, j] = [numberOf.get(a!), numberOf.get(b!)]
  if (i === undefined || j === undefined) continue
  const key = Math.min(i, j) * N + Math.max(i, j)
  if (kind === 'video') frames.add(key)
  else
    copyKinds.set(
      key,
      [ta!, tb!]
        .filter(t => t !== 'original')
        .sort()
        .join(' + ') || 'exact-copy'
    )
}
/** Re-encoding and resizing, of one or of both of a pair. */
const plain = /^((jpeg-q\d+|webp-q\d+|recode-png|resize-half|exact-copy)( \+ )?)+$/
const percent = (x: number): string => (100 * x).toFixed(1)

type Judged = {name: string; note: string; usual: number | undefined; score: (i: number, j: number) => number}

/** Precision and recall over all pairs, most alike first. */
function judge({name, score, usual}: Judged): void {
  const pairs: {key: number; score: number}[] = []
  for (let i = 0; i < N; i++)
    for (let j = i + 1; j < N; j++) {
      const s = score(i, j)
      if (s > -Infinity) pairs.push({key: i * N + j, score: s})
    }
  pairs.sort((a, b) => b.score - a.score || a.key - b.key)
  const wanted = [...copyKinds.values()].filter(kind => plain.test(kind)).length
  let [right, wrong, found] = [0, 0, 0]
  let best = {threshold: Infinity, precision: 1, recall: 0}
  let atNinety: number | undefined
  let atUsual = {precision: 1, recall: 0}
  for (const [n, {key, score: s}] of pairs.entries()) {
    const kind = copyKinds.get(key)
    if (kind !== undefined) {
      right++
      if (plain.test(kind)) found++
    } else if (!frames.has(key)) wrong++
    if (pairs[n + 1]?.score === s) continue
    const precision = right / Math.max(1, right + wrong)
    if (precision >= 0.99) best = {threshold: s, precision, recall: found / wanted}
    if (atNinety === undefined && found >= 0.9 * wanted) atNinety = precision
    if (usual !== undefined && s >= usual) atUsual = {precision, recall: found / wanted}
  }
  const byKind = new Map<string, {n: number; found: number}>()
  for (const [key, kind] of copyKinds) {
    if (kind.includes(' + ')) continue
    const of = byKind.get(kind) ?? {n: 0, found: 0}
    of.n++
    if (score(Math.floor(key / N), key % N) >= best.threshold) of.found++
    byKind.set(kind, of)
  }
  console.log(
    `| ${name} | ${Number.isFinite(best.threshold) ? best.threshold.toFixed(4) : 'none'} | ${percent(best.recall)} | ${percent(atNinety ?? 0)} | ${usual === undefined ? '' : `${usual}: ${percent(atUsual.precision)} / ${percent(atUsual.recall)}`} |`
  )
  kinds.push({name, shares: new Map([...byKind].map(([kind, {n, found: f}]) => [kind, f / n]))})
}
const kinds: {name: string; shares: Map<string, number>}[] = []

const scratch = await mkdtemp(join(tmpdir(), 'dinov2-quality-'))
const refs: ImageRef[] = truth.map(({path}) => refOf(path!, join(root, path!)))
const size = Number(values.size)
const vectors = {pool: 'cls' as const, layers: 1, normalize: true, transform: {resize: Math.round((size * 8) / 7), crop: size}}
const engine = {engine: 'auto' as const, device: 'cpu', precision: 'fp32' as const, note: () => undefined}
const makerOf = (model?: string): FeatureMaker => new FeatureMaker({vectors, engine, toolVersion: 'bench', memory: 2 ** 31, model})

async function describe(maker: FeatureMaker, kind: 'perceptual' | 'model') {
  const work = maker.describe(refs, kind, bad => {
    throw new Error(`${bad.id}: ${bad.reason}`)
  })
  for (;;) {
    const {done, value} = await work.next()
    if (done) return value
  }
}

/** A file of fresh weights (LayerScale 1) of the same architecture. */
async function untrained(model: string): Promise<string> {
  const {config, checkpoint} = await openBackbone(model)
  await checkpoint.close()
  const path = join(scratch, 'untrained.safetensors')
  const params = initVit(config, 1, 1)
  async function* tensors(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of leaves(params)) yield {name, shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  await saveBackbone(path, config, tensors(), {}, {force: true})
  dispose([...leaves(params)].map(([, leaf]) => leaf))
  return path
}

const cosines = (rows: RowSource): ((i: number, j: number) => number) => {
  const all = rows.gather(Int32Array.from({length: N}, (_, i) => i))
  const products = new Float32Array(N * N)
  for (let i = 0; i < N; i += 512)
    products.set(engineArithmetic.products(all.subarray(i * rows.dim, (i + 512) * rows.dim), all, rows.dim), i * N)
  return (i, j) => products[i * N + j]!
}

const maker = makerOf()
await maker.engine()
const own = await describe(maker, 'perceptual')
const features: {name: string; rows: RowSource; usual: number}[] = [
  {name: 'perceptual features', rows: own.features.rows, usual: defaultThreshold(own.features.meta)}
]
for (const model of values.model.split(',').filter(Boolean)) {
  for (const [name, path] of [
    ['untrained', await untrained(model)],
    ['pretrained', model]
  ] as const) {
    const some = makerOf(path)
    const {features: made} = await describe(some, 'model')
    features.push({name: `${name} model at ${size} px`, rows: made.rows, usual: defaultThreshold(made.meta)})
    some.close()
  }
}

console.log(
  `${N} images, ${copyKinds.size} pairs of copies (${[...copyKinds.values()].filter(kind => plain.test(kind)).length} re-encoded or resized), ${frames.size} pairs of video frames\n`
)
console.log(
  '| features | threshold for precision 99 % | re-encoded and resized found there, % | precision at 90 % of them, % | at the default: precision / found, % |'
)
console.log('| --- | --- | --- | --- | --- |')
const hashes = new Uint32Array(2 * N)
for (const [i, {hash}] of own.measures!.entries()) {
  hashes[2 * i] = parseInt(hash.slice(0, 8), 16)
  hashes[2 * i + 1] = parseInt(hash.slice(8), 16)
}
judge({
  name: '64-bit hash (64 - bits apart)',
  note: '',
  usual: undefined,
  score: (i, j) => {
    const apart = hamming(hashes, i, j)
    return apart <= 16 ? 64 - apart : -Infinity
  }
})
for (const {name, rows, usual} of features) judge({name, note: '', usual, score: cosines(rows)})
const names = [...new Set(kinds.flatMap(({shares}) => [...shares.keys()]))].sort()
console.log(
  `\nFound at that threshold, by kind of copy, %:\n\n| copy | ${kinds.map(({name}) => name).join(' | ')} |\n| --- |${' --- |'.repeat(kinds.length)}`
)
for (const name of names) console.log(`| ${name} | ${kinds.map(({shares}) => percent(shares.get(name) ?? 0)).join(' | ')} |`)

// ---- what the filter discards ----
const rules: FilterOptions = {
  minSide: 32,
  maxAspect: 5,
  minContrast: 2,
  minEntropy: 0,
  minSharpness: 2,
  maxNoise: 0.7,
  minBrightness: 0,
  maxOverexposed: 1,
  minColorfulness: 0,
  maxHashDistance: undefined,
  seeds: [],
  minSimilarity: 0
}
const pool = {count: N, ref: (row: number) => refs[row]!, measures: own.measures, fixed: undefined, name: root} as unknown as Pool
const filtering = filterStage(
  {pool, rows: Int32Array.from({length: N}, (_, i) => i), maker, seed: 0, features: 'perceptual', fields: () => ({})},
  rules
)
let verdict = await filtering.next()
while (!verdict.done) verdict = await filtering.next()
const out = verdict.value.kept
const domains = [...new Set(truth.map(({domain}) => domain!))].sort()
const share = (test: (domain: string) => boolean): string => {
  const some = truth.flatMap(({domain}, i) => (test(domain!) ? [i] : []))
  return `${some.filter(i => !out[i]).length} of ${some.length}`
}
console.log('\nThe filter at its defaults leaves out:\n')
for (const domain of domains.filter(name => name.startsWith('junk'))) console.log(`- ${domain}: ${share(name => name === domain)}`)
console.log(`- all other images: ${share(name => !name.startsWith('junk'))}`)

// ---- retrieval by seeds, and balance ----
console.log(
  '\nTwenty seeds each of flowers and scenes, four images for each seed: share of retrieved images of the seeds’ own domain; balanced samples of 600: domains.\n'
)
console.log(
  '| features | right domain, % (base rate) | evenness of domains before | after | largest domain before, % | after, % |\n| --- | --- | --- | --- | --- | --- |'
)
for (const {name, rows} of features) {
  const chosen: number[] = []
  for (const domain of ['flower', 'scene']) {
    const all = truth.flatMap((row, i) => (row['domain'] === domain ? [i] : []))
    for (const j of rng(1, 'seeds', domain).permutation(all.length).subarray(0, 20)) chosen.push(all[j]!)
  }
  const isSeed = new Set(chosen)
  const rest = Int32Array.from({length: N}, (_, i) => i).filter(i => !isSeed.has(i))
  const all = rows.gather(rest)
  const {seed} = retrieveNearest(
    {
      dim: rows.dim,
      count: rest.length,
      block: (from, n) => all.subarray(from * rows.dim, (from + n) * rows.dim),
      gather: some => rows.gather(Int32Array.from({length: some.length}, (_, i) => rest[some[i]!]!))
    },
    rows.gather(chosen),
    {perSeed: 4}
  )
  const found = [...seed.keys()].filter(i => seed[i]! >= 0)
  const right = found.filter(i => truth[rest[i]!]!['domain'] === truth[chosen[seed[i]!]!]!['domain']).length / found.length
  const base = ['flower', 'scene'].reduce(
    (sum, domain) => sum + 0.5 * ([...rest].filter(i => truth[i]!['domain'] === domain).length / rest.length),
    0
  )
  const hierarchy = finish(hierarchicalKMeans(rows, {levels: defaultLevels(N), seed: 0, resample: 3, nearest: [10, 4]}))
  const sample = balancedSample(hierarchy, {target: Math.min(600, N), seed: 0})
  const counts = (some: Iterable<number>): number[] => {
    const by = new Map(domains.map(domain => [domain, 0]))
    for (const i of some) by.set(truth[i]!['domain']!, by.get(truth[i]!['domain']!)! + 1)
    return [...by.values()]
  }
  const [before, after] = [counts(truth.keys()), counts(sample)]
  console.log(
    `| ${name} | ${percent(right)} (${percent(base)}) | ${evenness(before).toFixed(3)} | ${evenness(after).toFixed(3)} | ${percent(Math.max(...before) / N)} | ${percent(Math.max(...after) / sample.length)} |`
  )
}
await rm(scratch, {recursive: true, force: true})
