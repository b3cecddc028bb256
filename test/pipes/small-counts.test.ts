/**
 * No image, one and two: for each command the one result or the one sentence that is right, never a defect, NaN in a
 * report, or an empty success. Embeddings are written by hand and training takes one step, so that little is computed
 * but what is asked.
 */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, statSync} from 'node:fs'
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnFolder} from '../support/drawn-images.js'
import {drawnScenes} from '../support/drawn-masks.js'
import {CommandServer, folder} from '../support/program.js'
import {projectFolder} from '../support/scratch.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const server = new CommandServer({env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}, cwd: dir})
after(() => server.end())

const rows = (labels: readonly string[]): string =>
  labels.map((label, i) => `${JSON.stringify({id: `${i}`, label, group: label, vector: [1, i, 0.5 * i]})}\n`).join('')

const recipe = `
dino: {head_n_prototypes: 16, head_bottleneck_dim: 8, head_hidden_dim: 16}
train: {batch_size_per_gpu: 2, steps: 1, workers: 1}
student: {arch: custom, embed_dim: 16, depth: 4, num_heads: 2, patch_size: 8, layerscale: 1.0}
optim: {epochs: 10, warmup_epochs: 1}
crops: {local_crops_number: 1, global_crops_size: 32, local_crops_size: 16}
`
const model = '--model tiny.safetensors --size 28'
const alone = `${model} --baseline none --json`
const trained = `${alone} --steps 1`

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  for (const n of [1, 2]) await drawnFolder(join(dir, `images${n}`), ['one'], n)
  await drawnFolder(join(dir, 'classes'), ['one', 'two'], 1)
  for (const n of [1, 2]) {
    await drawnRooms(join(dir, 'rooms'), `n${n}`, n)
    await drawnScenes(join(dir, 'scenes'), `n${n}`, n)
  }
  for (const empty of ['images0', 'rooms/images/n0', 'scenes/images/n0']) await mkdir(join(dir, empty), {recursive: true})
  for (const [name, labels] of Object.entries({v0: [], v1: ['a'], v2: ['a', 'b'], same2: ['a', 'a']}))
    await writeFile(join(dir, `${name}.jsonl`), rows(labels))
  await writeFile(join(dir, 'recipe.yaml'), recipe)
  for (const line of [
    ...[1, 2].map(n => `index v${n}.jsonl -o v${n}.index`),
    `linear-eval --cached --train classes --val classes ${trained} --head-out classes.safetensors`,
    `depth-eval --train rooms/images/n2 --val rooms/images/n1 --depths rooms/depth ${trained} --head-out depth.safetensors`,
    `seg-eval --train scenes/images/n2 --val scenes/images/n1 --masks scenes/masks ${trained} --head-out segment.safetensors`
  ]) {
    const {status, stderr} = await server.run(...line.split(' '), '-q')
    assert.equal(status, 0, `${line}: ${stderr}`)
  }
})

/** A command, its status, and what its result (status 0) or its sentence says. */
type Case = readonly [line: string, status: number, said: RegExp]

const none = (name: string): RegExp => new RegExp(`^error: There is no image to work on: none in ${name}\\.`, 'm')
const empty = /^error: v0\.jsonl is empty\./m
const oneClass = /^error: All train images are of one class \((a|one)\)/m
/** The same line for none, one and two images. */
const counts = (line: (n: number) => string, ...ends: readonly (readonly [status: number, said: RegExp])[]): Case[] =>
  ends.map(([status, said], n): Case => [line(n), status, said])
const ok = (said: RegExp): readonly [number, RegExp] => [0, said]
const noImage = [3, none('images0')] as const

const features: Case[] = [
  ...counts(n => `embed images${n} ${model} -o e${n}.arrow --json`, noImage, ok(/"rows":1,/), ok(/"rows":2,/)),
  ...counts(n => `index v${n}.jsonl -o i${n}.index --json`, [3, empty], ok(/"rows":1,.*"queries":0/), ok(/"rows":2,/)),
  ...counts(n => `search v2.index v${n}.jsonl -k 1`, [3, empty], ok(/^\{[^\n]*"rank":1[^\n]*\n$/), ok(/^(\{[^\n]*"rank":1[^\n]*\n){2}$/)),
  ['search v1.index v1.jsonl -k 5', 0, /^\{[^\n]*"rank":1[^\n]*\n$/],
  ['search v2.index v2.jsonl -k 0', 2, /^error: .*-k.* 1 but received: 0/m]
]

const evaluations: Case[] = [
  ...counts(n => `knn-eval --train v${n}.jsonl --val v2.jsonl --json`, [3, empty], ok(/"train":1,"val":2,/), ok(/"top1":1,/)),
  ...counts(n => `knn-eval --train v2.jsonl --val v${n}.jsonl --json`, [3, empty], ok(/"train":2,"val":1,/), ok(/"top1":1,/)),
  ...counts(
    n => `knn-eval --train v${n}.jsonl --json`,
    [3, empty],
    [2, /^error: There is no other train image to compare with\./m],
    ok(/"leaveOneOut":true/)
  ),
  ['knn-eval --train same2.jsonl --json', 0, /"classes":1,/],
  ...counts(n => `knn-eval --train images${n} --val images2 ${alone}`, noImage, ok(/"k":1,/), ok(/"k":2,/)),
  ...counts(n => `linear-eval --train v${n}.jsonl --val v2.jsonl --steps 1 --json`, [3, empty], [2, oneClass], ok(/"classes":\["a","b"\]/)),
  ...counts(n => `linear-eval --train v2.jsonl --val v${n}.jsonl --steps 1 --json`, [3, empty], ok(/"images":1/), ok(/"images":2/)),
  ['linear-eval --train same2.jsonl --val same2.jsonl --steps 1 --json', 2, oneClass],
  ['linear-eval --train same2.jsonl --val same2.jsonl --solver lbfgs --json', 2, oneClass],
  ...counts(
    n => `retrieval-eval v${n}.jsonl --json`,
    [3, empty],
    [2, /^error: No group has two images/m],
    [2, /^error: No group has two images/m]
  ),
  ['retrieval-eval same2.jsonl --json', 0, /"groups":1,/],
  ...counts(
    n => `depth-eval --train rooms/images/n${n} --val rooms/images/n1 --depths rooms/depth ${trained}`,
    [3, none('rooms/images/n0')],
    ok(/"task":"depth"/),
    ok(/"task":"depth"/)
  ),
  ...counts(
    n => `depth-eval --val rooms/images/n${n} --depths rooms/depth ${alone} --head depth.safetensors`,
    [3, none('rooms/images/n0')],
    ok(/"images":1,/),
    ok(/"images":2,/)
  ),
  ...counts(
    n => `seg-eval --train scenes/images/n${n} --val scenes/images/n1 --masks scenes/masks ${trained}`,
    [3, none('scenes/images/n0')],
    ok(/"train":1,"val":1,/),
    ok(/"train":2,"val":1,/)
  ),
  [`seg-eval --train scenes/images/n1 --val scenes/images/n0 --masks scenes/masks ${trained}`, 3, none('scenes/images/n0')]
]

const curation: Case[] = [
  ...counts(n => `curate images${n} -o curated${n}.jsonl --json`, noImage, ok(/"pool":1,"kept":1,/), ok(/"pool":2,"kept":2,/)),
  ...counts(n => `curate filter images${n} -o filtered${n}.jsonl --json`, noImage, ok(/"kept":1,/), ok(/"kept":2,/)),
  ...counts(n => `curate dedup images${n} --calibrate -o calibrated${n}.jsonl --json`, noImage, ok(/"kept":1,/), ok(/"kept":2,/)),
  ...counts(n => `curate dedup v${n}.jsonl -o dedup${n}.jsonl --json`, [3, empty], ok(/"kept":1,/), ok(/"pool":2,/)),
  ...counts(
    n => `curate decontaminate images2 --against images${n} --features perceptual -o clean${n}.jsonl --json`,
    noImage,
    ok(/"kept":1,/),
    ok(/"kept":0,/)
  ),
  ...counts(
    n => `curate retrieve v2.jsonl --seeds one=v${n}.jsonl --method sample --per-seed 1 -o found${n}.jsonl --json`,
    [3, empty],
    ok(/"seeds":1,/),
    ok(/"seeds":2,/)
  ),
  ['curate retrieve v0.jsonl --seeds one=v2.jsonl --per-seed 1 -o found.jsonl --json', 3, empty],
  ...counts(n => `curate cluster v${n}.jsonl --levels 2 -o cluster${n}.jsonl --json`, [3, empty], ok(/"clusters":1/), ok(/"clusters":2/)),
  ['curate cluster v1.jsonl --levels 0 -o cluster.jsonl --json', 2, /^error: .*levels/m],
  ['curate sample v0.jsonl --target 1 -o sample0.jsonl --json', 3, empty],
  ['curate sample cluster1.jsonl --target 5 -o sample1.jsonl --json', 0, /"kept":1,/],
  ['curate sample cluster2.jsonl --target 1 -o sample2.jsonl --json', 0, /"kept":1,/],
  ['curate sample cluster2.jsonl --target 0 -o sample.jsonl --json', 2, /^error: --target: .* 1 but received: 0/m],
  ...counts(n => `curate outliers v${n}.jsonl -o outliers${n}.jsonl --json`, [3, empty], ok(/"kept":1,/), ok(/"kept":2,/)),
  ...counts(
    n => `curate mislabelled v${n}.jsonl -o mislabelled${n}.jsonl --json`,
    [3, empty],
    [2, /^error: All rows have the label a\./m],
    ok(/"labels":2,/)
  )
]

const pictures = (name: string, more = ''): Case[] =>
  counts(n => `visualize ${name} images${n} ${model}${more} -o ${name}${n}.png --json`, noImage, ok(/"output"/), ok(/"output"/))

const results: Case[] = [
  ...counts(
    n => `predict classify images${n} ${model} --head classes.safetensors -o classes${n}.jsonl --json`,
    noImage,
    ok(/"images":1,/),
    ok(/"images":2,/)
  ),
  ...counts(
    n => `predict depth images${n} ${model} --head depth.safetensors -o depth${n}`,
    noImage,
    ok(/^[^\n]+\n$/),
    ok(/^[^\n]+\n[^\n]+\n$/)
  ),
  ...counts(
    n => `predict segment images${n} --model tiny.safetensors --head segment.safetensors -o masks${n}`,
    noImage,
    ok(/^[^\n]+\n$/),
    ok(/^[^\n]+\n[^\n]+\n$/)
  ),
  ...['pca', 'attention', 'similarity'].flatMap(name => pictures(name)),
  ...pictures('depth', ' --head depth.safetensors'),
  ...pictures('segment', ' --head segment.safetensors'),
  ...counts(
    n => `visualize neighbours v2.index v${n}.jsonl -o neighbours${n}.html --json`,
    [3, empty],
    ok(/"queries":1,/),
    ok(/"queries":2,/)
  ),
  [`visualize match images1/one/000.png images1/one/000.png ${model} -o match.jsonl --json`, 0, /"matches":4,/],
  [`visualize match images1/one/000.png ${model} -o match1.jsonl --json`, 2, /^error: .*/m],
  ...counts(n => `explore v${n}.jsonl -o map${n} --json`, [3, empty], ok(/"images":1,/), ok(/"images":2,/)),
  [`explore images0 ${model} -o map --json`, 3, none('images0')]
]

const training: Case[] = [
  ['pretrain images0 --config recipe.yaml -o run0 --json', 3, none('images0')],
  ['pretrain images1 --config recipe.yaml -o run1 --json', 0, /"finished":true/],
  ['pretrain images2 --config recipe.yaml -o run2 --json', 6, /^error: The run ended unhealthy; not learning/m],
  ['distill images0 --teacher run2 --config recipe.yaml -o student0 --json', 3, none('images0')],
  ['distill images1 --teacher run2 --config recipe.yaml -o student1 --json', 6, /^error: The run ended unhealthy; not learning/m],
  ['report images0 -o report0.html --json', 3, /^error: images0 holds no metrics\.jsonl, so it is not a run folder\./m],
  ['report run1 -o report1.html --json', 0, /"run":"run1","steps":1,/],
  ['report run1 run2 -o report2.html --json', 0, /"run":"run2","steps":1,/],
  ['export images0 --to safetensors -o gone.safetensors --json', 3, /^error: .*images0/m],
  ['export run1 --to safetensors -o one.safetensors --json', 0, /"output":"one\.safetensors"/]
]

const tables = {features, evaluations, curation, results, training}

for (const [name, cases] of Object.entries(tables))
  test(`${name}: the right result or the right sentence for none, one and two`, async () => {
    const wrong: string[] = []
    for (const [line, expected, said] of cases) {
      const {status, stdout, stderr} = await server.run(...line.split(' '), '-q')
      const output = / -o (\S+)/.exec(line)?.[1]
      const problems = [
        ...(status === expected ? [] : [`status ${status}, expected ${expected}`]),
        ...(said.test(status === 0 ? stdout : stderr) ? [] : [`does not say ${said.source}`]),
        ...(/\bNaN\b|\bundefined\b|Infinity/.test(stdout + stderr) ? ['says NaN, Infinity or undefined'] : []),
        ...(status === 0 && output !== undefined && !written(join(dir, output)) ? [`wrote no ${output}`] : []),
        ...((status === 2 || status === 3) && output !== undefined && existsSync(join(dir, output)) ? [`left ${output}`] : [])
      ]
      if (problems.length > 0) wrong.push(`${line}: ${problems.join('; ')}\n${stdout.slice(0, 300)}${stderr.slice(0, 600)}`)
    }
    assert.deepEqual(wrong, [])
  })

/** Whether a file or a folder with something in it stands there. */
const written = (path: string): boolean => existsSync(path) && (!statSync(path).isDirectory() || readdirSync(path).length > 0)

describe('the table', () => {
  /** Commands without a number of images to try. */
  const without = ['completion', 'doctor', 'schema', 'engine', 'models', 'samples']
  test('has every command that takes images, embeddings or runs', () => {
    const commands = readdirSync(join(projectFolder(), 'commands'), {recursive: true, encoding: 'utf8'})
      .filter(name => name.endsWith('.ts'))
      .map(name => name.replace(/(\/index)?\.ts$/, '').replace('/', ' '))
      .filter(name => !without.includes(name.split(' ')[0]!))
    const lines = Object.values(tables).flatMap(cases => cases.map(([line]) => line))
    assert.deepEqual(
      commands.filter(name => !lines.some(line => line.startsWith(`${name} `))),
      []
    )
  })
})
