/**
 * Curation through its step and its commands: every row ends up kept or rejected with a reason, stages chain by their
 * lists, bytes repeat, and odd pools give sentences.
 */
import assert from 'node:assert/strict'
import {copyFile, lstat, mkdir, readdir, readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {Config} from '../../../src/cli/oclif.js'
import sharp from 'sharp'
import Curate from '../../../commands/curate/index.js'
import Cluster from '../../../commands/curate/cluster.js'
import Decontaminate from '../../../commands/curate/decontaminate.js'
import Dedup from '../../../commands/curate/dedup.js'
import Filter from '../../../commands/curate/filter.js'
import Retrieve from '../../../commands/curate/retrieve.js'
import Sample from '../../../commands/curate/sample.js'
import {batchOf, createEmbeddings} from '../../../src/files/embeddings/embeddings.js'
import {normalizeRows} from '../../../src/search/exact.js'
import {folder, realBinary, shell} from '../../support/program.js'
import {points} from '../../support/points.js'
import {drawnFolder} from '../../support/drawn-images.js'
import {saveTiny} from '../../support/tiny-backbone.js'
import {testMeta} from '../../support/vectors.js'

type Row = Record<string, unknown> & {id: string; path: string}

const dir = folder()
const config = await Config.load(fileURLToPath(new URL('../../../../', import.meta.url)))
before(async () => {
  process.chdir(dir)
  const paths = await drawnFolder(join(dir, 'photos'), ['a', 'b', 'c'], 6)
  // Near-copies: one re-encoded, one larger, one smaller; a flat picture; one that is no picture.
  await sharp(paths[0])
    .jpeg({quality: 60})
    .toFile(join(dir, 'photos', 'a', 'again.jpg'))
  await sharp(paths[7])
    .resize(90, 90)
    .toFile(join(dir, 'photos', 'b', 'large.png'))
  await sharp(paths[7])
    .resize(34, 34)
    .toFile(join(dir, 'photos', 'b', 'small.png'))
  await sharp({create: {width: 64, height: 64, channels: 3, background: '#778899'}}).toFile(join(dir, 'photos', 'flat.png'))
  await writeFile(join(dir, 'photos', 'broken.jpg'), 'not a picture')
  await saveTiny(join(dir, 'tiny.safetensors'))
})

type Runnable = {run: (argv: string[], config: Config) => Promise<unknown>}

const stages: Readonly<Record<string, Runnable>> = {
  cluster: Cluster,
  decontaminate: Decontaminate,
  dedup: Dedup,
  filter: Filter,
  retrieve: Retrieve,
  sample: Sample
}

/** Runs the command in this process, one at a time: what it says on stderr, and its status. */
async function run(...args: string[]): Promise<{status: number; stderr: string}> {
  const write = process.stderr.write.bind(process.stderr)
  const before = process.exitCode
  process.exitCode = 0
  let stderr = ''
  process.stderr.write = (text: string | Uint8Array) => {
    stderr += String(text)
    return true
  }
  try {
    const stage = stages[args[0] ?? '']
    const command: Runnable = stage ?? Curate
    await command.run([...(stage ? args.slice(1) : args), '--workers', '0', '--engine', 'torch', '--threads', '1'], config)
    return {status: Number(process.exitCode ?? 0), stderr}
  } finally {
    process.exitCode = before
    process.stderr.write = write
  }
}
const rows = async (name: string): Promise<Row[]> =>
  (await readFile(join(dir, name), 'utf8'))
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line) as Row)
async function good(...args: string[]): Promise<string> {
  const {status, stderr} = await run(...args)
  assert.equal(status, 0, `${args.join(' ')}: ${stderr}`)
  return stderr
}

test('filter and near-duplicates: kept and rejected are the pool, copies name the image they repeat, the best image stays', async () => {
  const said = await good('photos', '-o', 'kept.jsonl', '--rejected', 'rest.jsonl', '--html', 'page.html', '--filter-max-noise', '2')
  assert.match(said, /18 of 23 kept \(1 unreadable\)/)
  const [kept, rest] = [await rows('kept.jsonl'), await rows('rest.jsonl')]
  assert.equal(new Set([...kept, ...rest].map(({id}) => id)).size, 23)
  const of = (id: string): Row => rest.find(row => row.id === `photos/${id}`)!
  assert.equal(of('flat.png')['stage'], 'filter')
  assert.match(String(of('flat.png')['reason']), /nearly one colour/)
  assert.equal(of('broken.jpg')['stage'], 'read')
  assert.equal(of('a/again.jpg')['similar_to'], 'photos/a/000.png')
  assert.ok(Number(of('a/again.jpg')['similarity']) > 0.9)
  assert.equal(of('b/001.png')['similar_to'], 'photos/b/large.png', 'the one with most pixels stays')
  assert.equal(of('b/small.png')['similar_to'], 'photos/b/large.png')
  assert.ok(kept.every(row => row['label'] !== undefined && row['width'] !== undefined))
  const page = await readFile(join(dir, 'page.html'), 'utf8')
  assert.match(page, /18 of 23 rows are kept/)
  assert.ok(page.includes('data:image/jpeg'))
  assert.match(page, /<figure title="photos\/b\/large\.png" class="kept">/)
  assert.match(page, /small\.png: 0\.\d+ like large\.png/)
  await good('photos', '-o', 'again.jsonl', '--rejected', 'again-rest.jsonl', '--filter-max-noise', '2')
  assert.deepEqual(await readFile(join(dir, 'again.jsonl')), await readFile(join(dir, 'kept.jsonl')))
  assert.deepEqual(await readFile(join(dir, 'again-rest.jsonl')), await readFile(join(dir, 'rest.jsonl')))
})

test('the verdict of an earlier run is not carried on, also where its field has its old name', async () => {
  const earlier = {id: 'photos/a/000.png', path: 'photos/a/000.png', stage: 'dedup', reason: 'near-duplicate', label: 'a'}
  const lines = [
    {...earlier, twin: 'x.png'},
    {...earlier, id: 'photos/b/000.png', path: 'photos/b/000.png', similar_to: 'x.png'}
  ]
  await writeFile(join(dir, 'earlier.jsonl'), lines.map(line => JSON.stringify(line) + '\n').join(''))
  await good('filter', 'earlier.jsonl', '-o', 'later.jsonl')
  for (const row of await rows('later.jsonl')) {
    assert.equal(row['reason'], 'passed the filter')
    assert.equal(row['label'], 'a')
    for (const field of ['stage', 'twin', 'similar_to']) assert.equal(row[field], undefined, field)
  }
})

test('stages run alone and chain by lists and pipes; a model gives the features of clusters', async () => {
  await good('filter', 'photos', '--max-noise', '2', '-o', '1.jsonl')
  await good('dedup', '1.jsonl', '-o', '2.jsonl')
  assert.deepEqual(
    (await rows('2.jsonl')).map(({id}) => id),
    (await rows('kept.jsonl')).map(({id}) => id)
  )
  await good('cluster', '2.jsonl', '--model', 'tiny.safetensors', '--size', '56', '--levels', '4,2', '--seed', '3', '-o', '3.jsonl')
  const clustered = await rows('3.jsonl')
  assert.ok(clustered.every(row => /^[01]\/[0-3]$/.test(String(row['cluster']))))
  assert.match(await good('sample', '3.jsonl', '--target', '7', '--seed', '3', '-o', '4.jsonl', '--rejected', '4-rest.jsonl'), /evenness/)
  assert.equal((await rows('4.jsonl')).length, 7)
  assert.equal((await rows('4-rest.jsonl')).length, 11)
  // In one run, from a file of settings.
  await writeFile(
    join(dir, 'all.yaml'),
    'stages: [filter, dedup, cluster, sample]\nfilter:\n  max_noise: 2\ncluster: {levels: "4,2"}\nsample: {target: 7}\nmodel: tiny.safetensors\nsize: 56\nseed: 3\n'
  )
  await good('photos', '--config', 'all.yaml', '-o', 'all.jsonl')
  assert.deepEqual(
    (await rows('all.jsonl')).map(({id}) => id),
    (await rows('4.jsonl')).map(({id}) => id)
  )
})

test('seeds, several sets in one run, and a benchmark kept out', async () => {
  await mkdir(join(dir, 'seeds'), {recursive: true})
  for (const name of ['a', 'b']) {
    await mkdir(join(dir, 'seeds', name), {recursive: true})
    for (const i of [2, 3]) await copyFile(join(dir, 'photos', name, `00${i}.png`), join(dir, 'seeds', name, `${i}.png`))
  }
  await good(
    'retrieve',
    '2.jsonl',
    '--features',
    'perceptual',
    '--seeds',
    'as=seeds/a',
    '--seeds',
    'bs=seeds/b',
    '--method',
    'sample',
    '--per-seed',
    '2',
    '-o',
    'grown.jsonl'
  )
  const grown = await rows('grown.jsonl')
  assert.deepEqual([...new Set(grown.map(row => row['seed_set']))].sort(), ['as', 'bs'])
  assert.equal(grown.find(row => row.id === 'photos/a/002.png')!['seed'], 'seeds/a/2.png')
  await good(
    'retrieve',
    '2.jsonl',
    '--features',
    'perceptual',
    '--seeds',
    'as:cluster=seeds/a',
    '--clusters',
    '3',
    '--more-than',
    '0',
    '--per-cluster',
    '3',
    '-o',
    'hit.jsonl'
  )
  assert.ok((await rows('hit.jsonl')).length > 0)
  await good(
    'decontaminate',
    'photos',
    '--max-bad',
    '1',
    '--against',
    'seeds/a',
    '--threshold',
    '0.9',
    '-o',
    'clean.jsonl',
    '--rejected',
    'near.jsonl'
  )
  const near = await rows('near.jsonl')
  assert.deepEqual(
    near.filter(row => row['stage'] === 'decontaminate').map(({id}) => id),
    ['photos/a/002.png', 'photos/a/003.png']
  )
  assert.equal(near[0]!['similar_to'], 'seeds/a/2.png')
})

test('what an earlier run kept stays, and what is new is judged against it; features are kept', async () => {
  await mkdir(join(dir, 'new'), {recursive: true})
  await sharp(join(dir, 'photos', 'c', '004.png'))
    .jpeg({quality: 80})
    .toFile(join(dir, 'new', 'copy.jpg'))
  const [extra] = await drawnFolder(join(dir, 'new'), ['d'], 1, 50)
  await good('dedup', 'photos', '--max-bad', '1', '--cache', 'features', '-o', 'first.jsonl')
  const said = await good(
    'dedup',
    'photos',
    'new',
    '--max-bad',
    '1',
    '--since',
    'first.jsonl',
    '--cache',
    'features',
    '-o',
    'second.jsonl',
    '--rejected',
    'second-rest.jsonl'
  )
  const [first, second] = [await rows('first.jsonl'), await rows('second.jsonl')]
  assert.deepEqual(
    second.map(({id}) => id),
    [...first.map(({id}) => id), extra!.slice(dir.length + 1)]
  )
  const copy = (await rows('second-rest.jsonl')).find(({id}) => id === 'new/copy.jpg')!
  assert.equal(copy['similar_to'], 'photos/c/004.png')
  assert.match(said, /19 of \d+ kept|kept/)
  assert.deepEqual(await readdir(join(dir, 'features')), ['perceptual.arrow'])
  // A file of features is a pool by itself, and gives the same.
  await good('dedup', 'features/perceptual.arrow', '-o', 'by-vectors.jsonl')
  await good('dedup', 'photos', 'new', '--max-bad', '1', '-o', 'by-images.jsonl')
  assert.deepEqual(new Set((await rows('by-vectors.jsonl')).map(({id}) => id)), new Set((await rows('by-images.jsonl')).map(({id}) => id)))
})

test('kept images are laid down as links, copies and shards', async () => {
  for (const how of ['links', 'copy']) {
    await good('dedup', '1.jsonl', '--materialize', how, '--to', `set-${how}`, '-o', '/dev/null')
    const path = join(dir, `set-${how}`, 'photos', 'a', '000.png')
    assert.equal((await lstat(path)).isSymbolicLink(), how === 'links')
    assert.deepEqual(await readFile(path), await readFile(join(dir, 'photos', 'a', '000.png')))
  }
  await good('dedup', '1.jsonl', '--materialize', 'tar', '--to', 'shards', '--shard-size', '10', '-o', '/dev/null')
  assert.deepEqual((await readdir(join(dir, 'shards'))).sort(), ['000000.tar', '000001.tar'])
  // Shards are a pool again: members are named in lists, and read through them.
  await good('dedup', 'shards/000000.tar', 'shards/000001.tar', '-o', 'from-shards.jsonl')
  const members = await rows('from-shards.jsonl')
  assert.equal(members.length, 18)
  assert.ok(Array.isArray(members[0]!['range']))
  await good('dedup', 'from-shards.jsonl', '-o', 'from-list.jsonl')
  assert.deepEqual(
    (await rows('from-list.jsonl')).map(({id}) => id),
    members.map(({id}) => id)
  )
})

test('an id that is file and folder at once becomes two files beside each other, in either order', async () => {
  const lines = (ids: readonly string[]): string =>
    ids.map((id, i) => JSON.stringify({id, path: join(dir, 'photos', 'a', `00${i}.png`)})).join('\n')
  for (const [name, ids] of Object.entries({down: ['x/b.png', 'x/b.png/c.png'], up: ['x/b.png/c.png', 'x/b.png']})) {
    await writeFile(join(dir, `clash-${name}.jsonl`), lines(ids))
    for (const how of ['links', 'copy'])
      await good('filter', `clash-${name}.jsonl`, '--materialize', how, '--to', `clash-${name}-${how}`, '-o', '/dev/null')
    const found = (await readdir(join(dir, `clash-${name}-copy`), {recursive: true, withFileTypes: true})).filter(entry => entry.isFile())
    assert.equal(found.length, 2)
    assert.deepEqual(found.map(entry => entry.name).sort(), name === 'down' ? ['b.png', 'c.png'] : ['b-1.png', 'c.png'])
  }
})

const meta = testMeta(12, {fingerprint: 'd'.repeat(64)})
async function vectors(name: string, data: Float32Array, ids: readonly string[], dim = 12): Promise<void> {
  const output = await createEmbeddings(join(dir, name), {meta: {...meta, dim}, force: true})
  await output.write(batchOf(ids.map((id, i) => ({id, vector: data.subarray(i * dim, (i + 1) * dim), fields: {}}))))
  await output.commit()
}

test('embeddings are a pool: from any format, by pipe, restricted to a list, in little memory', async () => {
  const data = points(300, 12, {centres: 30, spread: 0.05})
  const ids = Array.from({length: 300}, (_, i) => `r${String(i).padStart(3, '0')}`)
  for (const name of ['v.npy', 'v.arrow']) await vectors(name, data, ids)
  await good('dedup', 'v.npy', '--threshold', '0.99', '-o', 'n.jsonl')
  await good('dedup', 'v.arrow', '--threshold', '0.99', '--memory', '1k', '-o', 'm.jsonl')
  assert.deepEqual(await readFile(join(dir, 'n.jsonl')), await readFile(join(dir, 'm.jsonl')))
  const kept = await rows('n.jsonl')
  const unit = normalizeRows(data.slice(), 12)
  const numbers = kept.map(({id}) => Number(id.slice(1)))
  for (const i of numbers)
    for (const j of numbers)
      if (i < j) assert.ok(Array.from({length: 12}, (_, d) => unit[i * 12 + d]! * unit[j * 12 + d]!).reduce((a, b) => a + b, 0) < 0.99)
  assert.match(await good('sample', 'v.npy', '--only', 'n.jsonl', '--target', '10', '-o', 's.jsonl'), /10 images drawn/)
  assert.ok((await rows('s.jsonl')).every(({id}) => kept.some(row => row.id === id)))
  for (const method of ['lists', 'graph']) {
    assert.match(
      await good('dedup', 'v.npy', '--threshold', '0.99', '--method', method, '--probes', '64', '-f', '-o', 'l.jsonl'),
      /found \d+\.\d % of/
    )
    assert.ok(Math.abs((await rows('l.jsonl')).length - kept.length) <= 3)
  }
})

test('calibration finds a threshold on copies, with and without a model, and says what it finds', async () => {
  const said = await good('dedup', '1.jsonl', '--calibrate', '--calibration-images', '12', '-f', '-o', 'calibrated.jsonl')
  const found = /threshold (0\.\d+) for a precision of 0\.99, from copies of 12 images: finds (\d+\.\d) %/.exec(said)
  assert.ok(found, said)
  assert.ok(Number(found[1]) > 0.3 && Number(found[1]) < 1)
  assert.ok(Number(found[2]) > 20, said)
  assert.match(said, /found by kind: JPEG quality 75 \d+ %.*middle 70 % \d+ %/)
  assert.ok(said.includes(`above ${Number(found[1]).toFixed(3)}`), 'it is the threshold in force')
  const other = await good(
    'dedup',
    '1.jsonl',
    '--model',
    'tiny.safetensors',
    '--size',
    '28',
    '--calibrate',
    '--calibration-images',
    '6',
    '-f',
    '-o',
    'calibrated.jsonl'
  )
  assert.match(other, /copies/)
})

test('odd pools and mistakes give sentences', async () => {
  await vectors(
    'alike.npy',
    new Float32Array(20 * 12).fill(1),
    Array.from({length: 20}, (_, i) => `s${i}`)
  )
  await good('dedup', 'alike.npy', '-f', '-o', 'one.jsonl')
  assert.deepEqual(
    (await rows('one.jsonl')).map(({id}) => id),
    ['s0']
  )
  await good('sample', 'alike.npy', '--target', '5', '-f', '-o', 'five.jsonl')
  assert.equal((await rows('five.jsonl')).length, 5)
  await good('cluster', 'alike.npy', '-f', '-o', 'c.jsonl')
  // A list of levels that is meant for a larger pool: levels that would be one cluster for each row are left out.
  assert.match(await good('cluster', 'alike.npy', '--levels', '1000,100,3', '-f', '-o', 'c.jsonl'), /20 images in 1 cluster\n/)
  await good('photos/c/000.png', '--filter-max-noise', '2', '-f', '-o', 'c.jsonl')
  assert.equal((await rows('c.jsonl')).length, 1)
  await writeFile(join(dir, 'twice.txt'), 'photos/a/000.png\nphotos/a/001.png\nphotos/a/000.png\n')
  await good('dedup', 'twice.txt', '-f', '-o', 'c.jsonl', '--rejected', 'r.jsonl')
  assert.deepEqual(
    (await rows('r.jsonl')).map(row => [row.id, row['reason']]),
    [['photos/a/000.png', 'its id was there before']]
  )
  await mkdir(join(dir, 'empty'), {recursive: true})
  await writeFile(join(dir, 'empty.txt'), '')
  await vectors('none.arrow', new Float32Array(0), [])
  await vectors('short.npy', new Float32Array(4).fill(1), ['s'], 4)
  await vectors('odd.npy', new Float32Array(12).fill(NaN), ['o'])
  const cases: [number, RegExp, ...string[]][] = [
    [3, /There is no image/, 'empty'],
    [3, /No images or embeddings were named/],
    [3, /none of photos is in empty.txt/, 'dedup', 'photos', '--only', 'empty.txt'],
    [3, /There is no row in none.arrow/, 'dedup', 'none.arrow'],
    [2, /two vector lengths/, 'retrieve', 'alike.npy', '--seeds', 'a=short.npy'],
    [2, /no method bogus/, 'retrieve', 'alike.npy', '--seeds', 'a:bogus=alike.npy'],
    [3, /There is no row in none.arrow/, 'decontaminate', 'alike.npy', '--against', 'none.arrow'],
    [1, /not finite/, 'cluster', 'odd.npy'],
    [3, /no file or folder: nowhere/, 'dedup', 'nowhere'],
    [3, /There is no image/, 'retrieve', '1.jsonl', '--features', 'perceptual', '--seeds', 'x=empty'],
    [2, /No seeds were named/, 'retrieve', '1.jsonl', '--features', 'perceptual'],
    [2, /no model was named/, 'cluster', '1.jsonl'],
    [2, /No benchmark was named/, 'decontaminate', '1.jsonl'],
    [2, /number of images to keep is missing/, 'sample', 'alike.npy'],
    [2, /no stage sharpen/, '1.jsonl', '--stages', 'filter,sharpen'],
    [2, /named twice/, '1.jsonl', '--stages', 'filter,filter'],
    [2, /holds vectors/, 'filter', 'alike.npy'],
    [2, /holds vectors/, 'dedup', 'alike.npy', '--calibrate'],
    [2, /embeddings, but photos images|images, but alike.npy embeddings/, 'dedup', 'photos', 'alike.npy'],
    [2, /are not in alike.npy/, 'dedup', 'alike.npy', '--only', '1.jsonl'],
    [2, /level below/, 'cluster', 'alike.npy', '--levels', '2,5'],
    [2, /exists/, 'dedup', 'alike.npy', '-o', '1.jsonl'],
    [2, /expected a number/, 'dedup', 'alike.npy', '--threshold', 'much'],
    [4, /None of the|more than --max-bad/, 'dedup', 'photos/broken.jpg']
  ]
  for (const [status, sentence, ...args] of cases) {
    const result = await run(...args)
    assert.equal(result.status, status, `${args.join(' ')}: ${result.stderr}`)
    assert.match(result.stderr, sentence, args.join(' '))
    assert.doesNotMatch(result.stderr, /\n\s+at /, args.join(' '))
  }
})

test('through the binary: a pipe of embeddings, stages joined by pipes, and a reader that leaves', async () => {
  const line = (text: string) => shell(realBinary, `set -o pipefail; export DINOV2_ENGINE=wasm DINOV2_WORKERS=1; ${text}`, dir)
  const made = await line(
    '$P embed photos --max-bad 1 --model tiny.safetensors --size 28 --batch 4 -q | $P curate dedup - --threshold 0.9999 -q | $P curate sample - --model tiny.safetensors --size 28 --target 3 --json'
  )
  assert.equal(made.status, 0, made.stderr)
  assert.equal(made.stdout.trimEnd().split('\n').length, 3)
  assert.equal((JSON.parse(made.stderr.trimEnd().split('\n').at(-1)!) as {kept: number}).kept, 3)
  const none = await line('$P curate filter 1.jsonl --max-noise 2 -o whole.jsonl --rejected none.jsonl -q')
  assert.equal(none.status, 0, none.stderr)
  assert.equal(await readFile(join(dir, 'none.jsonl'), 'utf8'), '', 'no rejected rows are an empty file')
  const cut = await line('set +o pipefail; $P curate dedup 1.jsonl -q | head -1')
  assert.equal(cut.status, 0, cut.stderr)
  assert.equal(cut.stderr, '')
})

test('old names of flags still work and are reported, alone and in the pipeline', async () => {
  const old = await good('sample', 'v.npy', '--target', '5', '--start', 'random', '--draw', 'nearest', '-f', '-o', 'old.jsonl')
  assert.match(old, /--start is deprecated and will be removed; the flag is called --init now/)
  assert.match(old, /--draw is deprecated and will be removed; the flag is called --select now/)
  const now = await good('sample', 'v.npy', '--target', '5', '--init', 'random', '--select', 'nearest', '-f', '-o', 'now.jsonl')
  assert.doesNotMatch(now, /deprecated/)
  assert.deepEqual(await readFile(join(dir, 'old.jsonl')), await readFile(join(dir, 'now.jsonl')))
  const piped = await good('v.npy', '--stages', 'sample', '--sample-target', '5', '--sample-draw', 'nearest', '-f', '-o', 'piped.jsonl')
  assert.match(piped, /--sample-draw is deprecated and will be removed; the flag is called --sample-select now/)
})
