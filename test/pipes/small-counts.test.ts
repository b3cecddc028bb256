/**
 * No image, one and two: for each command a right result or a sentence (status 2 or 3), never a defect, NaN in a
 * report, or an empty success. Embeddings are written by hand, so that nothing is computed but what is asked.
 */
import assert from 'node:assert/strict'
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {drawnFolder} from '../support/drawn-images.js'
import {CommandServer, folder} from '../support/program.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const server = new CommandServer({env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}, cwd: dir})
after(() => server.end())

const rows = (labels: readonly string[]): string =>
  labels.map((label, i) => `${JSON.stringify({id: `${i}`, label, group: label, vector: [1, i, 0.5 * i]})}\n`).join('')

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  for (const n of [1, 2]) await drawnFolder(join(dir, `images${n}`), ['one'], n)
  await mkdir(join(dir, 'images0'))
  for (const [name, labels] of Object.entries({v0: [], v1: ['a'], v2: ['a', 'b'], same2: ['a', 'a']}))
    await writeFile(join(dir, `${name}.jsonl`), rows(labels))
  for (const n of [1, 2]) assert.equal((await server.run('index', `v${n}.jsonl`, '-o', `v${n}.index`, '-q')).status, 0)
})

/** What of a command is held: a success by a pattern of its output, a refusal by one of its sentence. */
type Case = readonly [line: string, status: readonly number[], said?: RegExp]

const model = '--model tiny.safetensors --size 28'
const cases: readonly Case[] = [
  [`embed images0 ${model} -o e0.jsonl`, [2, 3]],
  [`embed images1 ${model} -o e1.jsonl`, [0]],
  ['index v0.jsonl -o i0.index', [2, 3]],
  ['search v1.index v0.jsonl', [2, 3]],
  ['search v1.index v1.jsonl -k 5', [0], /"rank":1/],
  ['search v2.index v1.jsonl -k 1', [0], /"rank":1/],
  ['search v2.index v2.jsonl -k 0', [2]],
  ...['v0', 'v1', 'v2', 'same2'].flatMap((name): Case[] => [
    [`knn-eval --train ${name}.jsonl --json`, [0, 2, 3]],
    [`knn-eval --train ${name}.jsonl --val ${name}.jsonl --json`, [0, 2, 3]],
    [`linear-eval --train ${name}.jsonl --val ${name}.jsonl --steps 2 --json`, [0, 2, 3]],
    [`retrieval-eval ${name}.jsonl --json`, [0, 2, 3]],
    [`curate dedup ${name}.jsonl -o dedup-${name}.jsonl --json`, name === 'v0' ? [2, 3] : [0]],
    [`curate outliers ${name}.jsonl -o outliers-${name}.jsonl --json`, [0, 2, 3]],
    [`curate mislabelled ${name}.jsonl -o mislabelled-${name}.jsonl --json`, [0, 2, 3]],
    [`curate cluster ${name}.jsonl --levels 1 -o cluster1-${name}.jsonl --json`, [0, 2, 3]],
    [`curate cluster ${name}.jsonl --levels 2 -o cluster2-${name}.jsonl --json`, [0, 2, 3]],
    [`explore ${name}.jsonl -o explore-${name} --json`, [0, 2, 3]]
  ]),
  ...[0, 1, 2].flatMap((n): Case[] => [
    [`curate images${n} -o curated-${n}.jsonl --json`, n === 0 ? [2, 3] : [0]],
    [`curate filter images${n} -o filtered-${n}.jsonl --json`, [0, 2, 3]],
    [`curate dedup images${n} --calibrate -o calibrated-${n}.jsonl --json`, n === 0 ? [2, 3] : [0]],
    [`visualize pca images${n} ${model} -o pca-${n}.png --json`, n === 0 ? [2, 3] : [0, 2, 3]],
    [`curate decontaminate images2 --against images${n} --features perceptual -o clean-${n}.jsonl --json`, n === 0 ? [2, 3] : [0]]
  ])
]

test('every command has a right result or a sentence for none, one and two', async () => {
  const wrong: string[] = []
  for (const [line, statuses, said] of cases) {
    const {status, stdout, stderr} = await server.run(...line.split(' '), '-q')
    const problems = [
      ...(statuses.includes(status!) ? [] : [`status ${status}`]),
      ...(/\bNaN\b|\bundefined\b|Infinity/.test(stdout + stderr) ? ['says NaN, Infinity or undefined'] : []),
      ...(status === 0 && line.includes('--json') && stdout.trim() === '' ? ['says nothing'] : []),
      ...(status !== 0 && !/^error: \S+ .+/m.test(stderr) ? ['has no sentence'] : []),
      ...(said && !said.test(stdout) ? [`does not say ${said.source}`] : [])
    ]
    if (problems.length > 0) wrong.push(`${line}: ${problems.join(', ')}\n${stdout.slice(0, 300)}${stderr.slice(0, 600)}`)
  }
  assert.deepEqual(wrong, [])
})
