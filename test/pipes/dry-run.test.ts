/** `--dry-run`: what would be read, computed and written is reported, and nothing is written. */
import assert from 'node:assert/strict'
import {readdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {drawnFolder} from '../support/drawn-images.js'
import {folder, realBinary, run, type Ended} from '../support/program.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const ask = (args: readonly string[]): Promise<Ended> => run(realBinary, args, {env: {DINOV2_ENGINE: 'wasm'}, cwd: dir})

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 3)
  await drawnFolder(join(dir, 'single'), ['one'], 1)
  await writeFile(join(dir, 'head.safetensors'), 'a head')
  await writeFile(join(dir, 'vectors.csv'), 'id,v0\na,1\n')
  await writeFile(join(dir, 'is-here'), '')
})

const model = ['--model', 'tiny.safetensors']
const head = ['--head', 'head.safetensors']

const lines: readonly (readonly [line: readonly string[], read: RegExp, written: string])[] = [
  [
    ['predict', 'classify', 'photos', ...model, ...head, '-o', 'out.jsonl'],
    /6 images; tiny\.safetensors \(.* of memory in fp32\)/,
    'out.jsonl'
  ],
  [['predict', 'depth', 'single', ...model, ...head, '-o', 'maps'], /read 1 image; tiny/, 'maps, stdout'],
  [['predict', 'segment', 'photos', ...model, ...head, '-o', 'masks'], /6 images/, 'masks, stdout'],
  [['visualize', 'pca', 'photos', ...model, '-o', 'a.png'], /6 images/, 'a.png'],
  [['visualize', 'attention', 'photos', ...model, '-o', 'a.png'], /6 images/, 'a.png'],
  [['visualize', 'similarity', 'photos', ...model, '-o', 'a.html'], /6 images/, 'a.html'],
  [['visualize', 'match', 'photos/one/000.png', 'photos/two/000.png', ...model, '-o', 'a.jsonl'], /2 images/, 'a.jsonl'],
  [['explore', 'photos', ...model, '-o', 'site'], /6 images/, 'site'],
  [['visualize', 'depth', 'photos', ...model, ...head, '-o', 'a.png'], /6 images/, 'a.png'],
  [['visualize', 'segment', 'photos', ...model, ...head, '-o', 'a.png'], /6 images/, 'a.png'],
  [['visualize', 'neighbours', 'vectors.csv', 'photos', ...model, '-o', 'a.html'], /queries: 6 images; .*vectors\.csv/, 'a.html'],
  [['knn-eval', '--train', 'photos', '--val', 'single', ...model, '-o', 'k.json'], /train: 6 images; val: 1 image;/, 'k.json'],
  [['linear-eval', '--train', 'photos', '--val', 'single', ...model, '--head-out', 'h'], /train: 6 images; val: 1 image;/, 'h'],
  [['seg-eval', '--train', 'photos', '--val', 'single', ...model, '--html', 's.html'], /train: 6 images; val: 1 image;/, 's.html'],
  [['depth-eval', '--train', 'photos', '--val', 'single', ...model, '-o', 'd.json'], /train: 6 images; val: 1 image;/, 'd.json'],
  [['retrieval-eval', 'photos', ...model, '--predictions', 'r.jsonl'], /6 images/, 'r.jsonl'],
  [['search', 'vectors.csv', 'vectors.csv', '-o', 'found.jsonl'], /queries of 0\.0 kB/, 'found.jsonl'],
  [['curate', 'photos', '-o', 'kept.jsonl', '--rejected', 'out.jsonl'], /6 images/, 'kept.jsonl, out.jsonl'],
  [['curate', 'dedup', 'photos', ...model, '-o', 'kept.jsonl'], /6 images; tiny/, 'kept.jsonl'],
  [['curate', 'decontaminate', 'photos', '--against', 'single', '-o', 'kept.jsonl'], /6 images; other sets: 1 image/, 'kept.jsonl'],
  [['curate', 'cluster', 'vectors.csv', '-o', 'kept.jsonl'], /read/, 'kept.jsonl'],
  [['index', 'vectors.csv', '-o', 'new.index'], /embeddings of 0\.0 kB/, 'new.index']
]

test('every command that writes counts its work and writes nothing', async () => {
  const names = (await readdir(dir)).sort()
  for (const [line, read, written] of lines) {
    const {status, stderr} = await ask([...line, '-n'])
    assert.equal(status, 0, `${line.join(' ')}: ${stderr}`)
    assert.match(stderr, read)
    assert.match(stderr, /^would compute /m)
    assert.ok(stderr.includes(`would write ${written}\n`), stderr)
  }
  assert.deepEqual((await readdir(dir)).sort(), names)
})

test('an output that exists and a model that is not there are refused as without it', async () => {
  const fine = await ask(['visualize', 'pca', 'photos', ...model, '-o', 'not-here.png', '-n'])
  assert.equal(fine.status, 0, fine.stderr)
  const exists = await ask(['predict', 'classify', 'photos', ...model, ...head, '-o', 'is-here', '-n'])
  assert.equal(exists.status, 2, exists.stderr)
  const absent = await ask(['visualize', 'pca', 'photos', '--model', 'gone.pth', '-o', 'a.png', '-n'])
  assert.equal(absent.status, 3, absent.stderr)
  const json = await ask(['knn-eval', '--train', 'photos', ...model, '-n', '--json'])
  assert.deepEqual((JSON.parse(json.stdout) as {reads: unknown}).reads, [{set: 'train', images: 6}])
})
