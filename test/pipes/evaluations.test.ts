/**
 * Evaluations in a shell: lists on stdin that are wanted several times, embeddings through a pipe, heads kept and
 * used, and what is refused.
 */
import assert from 'node:assert/strict'
import {existsSync} from 'node:fs'
import {readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {CommandServer, folder, realBinary, run as runProgram, shell as runShell, type Ended} from '../support/program.js'
import {drawnFolder} from '../support/drawn-images.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4', HF_HUB_OFFLINE: '1'}
const server = new CommandServer({env, cwd: dir})
after(() => server.end())
const run = (args: readonly string[], input = ''): Promise<Ended> =>
  input === '' ? server.run(...args) : runProgram(realBinary, args, {env, cwd: dir, input})
const shell = (line: string): Promise<Ended> =>
  runShell(realBinary, `set -o pipefail; export DINOV2_ENGINE=wasm DINOV2_WORKERS=1 DINOV2_BATCH=4; ${line}`, dir)
let names: string[]
before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  names = (await drawnFolder(join(dir, 'photos'), ['one', 'two'], 4)).map(path => path.slice(dir.length + 1))
})
type Report = {images: number; scores: {features: string; map: number}[]}

test('a list on stdin serves the model and both baselines, and says what the folder says', async () => {
  const eachGroup = ['--group-regex', '/?(one|two)', '--query', 'all', '--model', 'tiny.safetensors', '--size', '28', '--json', '-q']
  const rows = names.map(path => JSON.stringify({path, group: path.split('/')[1]})).join('\n')
  const flags = eachGroup.slice(2)
  const [piped, named] = [await run(['retrieval-eval', '-', ...flags], rows), await run(['retrieval-eval', 'photos', ...flags])]
  assert.equal(piped.status, 0, piped.stderr)
  const [a, b] = [JSON.parse(piped.stdout) as Report, JSON.parse(named.stdout) as Report]
  assert.deepEqual(a.scores, b.scores)
  assert.deepEqual(
    a.scores.map(({features}) => features),
    ['model', 'untrained', 'pixels', 'histogram', 'chance']
  )
  const labelled = names.map(path => JSON.stringify({path, label: path.split('/')[1]})).join('\n')
  const knn = [
    'knn-eval',
    '--train',
    '-',
    '--model',
    'tiny.safetensors',
    '--size',
    '28',
    '--baseline',
    'untrained',
    '--baseline',
    'pixels',
    '-k',
    '1',
    '-q'
  ]
  const voted = await run(knn, labelled)
  assert.equal(voted.status, 0, voted.stderr)
  assert.match(voted.stdout, /8 images, each by the others.*untrained.*pixels/s)
})

test('embeddings through a pipe; report, queries and page in files', async () => {
  const done = await shell(
    '$P embed photos --model tiny.safetensors --size 28 -q | $P retrieval-eval - --html page.html --queries q.jsonl -o report.json -k 1,3'
  )
  assert.equal(done.status, 0, done.stderr)
  assert.match(done.stderr, /warning: --queries is deprecated.*--predictions/)
  assert.match(done.stdout, /2 queries among 8 images in 2 groups.*random order/s)
  const report = JSON.parse(await readFile(join(dir, 'report.json'), 'utf8')) as Report
  assert.equal(report.images, 8)
  const lines = (await readFile(join(dir, 'q.jsonl'), 'utf8')).trim().split('\n')
  assert.equal(lines.length, 2)
  assert.deepEqual(Object.keys(JSON.parse(lines[0]!) as object), ['id', 'set', 'features', 'group', 'averagePrecision', 'ranks', 'found'])
  assert.match(await readFile(join(dir, 'page.html'), 'utf8'), /best queries|Best queries/)
})

test('flags that have no effect together are refused', async () => {
  const sets = ['--val', 'photos', '--model', 'tiny.safetensors']
  for (const [args, message] of [
    [['linear-eval', '--train', 'photos', ...sets, '--repeats', '3'], /--repeats 3 asks for draws.*--shots N/s],
    [['knn-eval', '--train', 'photos', '--repeats', '3'], /--repeats 3 asks for draws.*--n-per-class N/s],
    [['knn-eval', '--train', 'photos', '--repeats', '3', '--n-per-class', 'all'], /--n-per-class N/],
    [['linear-eval', '--head', 'h.safetensors', ...sets, '--shots', '3'], /--shots=3 cannot also be provided when using --head/],
    [['linear-eval', '--head', 'h.safetensors', ...sets, '--train', 'photos'], /--train=photos cannot also be provided/],
    ...(['--cached', '--steps 3', '--train-batch 2', '--lr 1', '--weight-decay 0', '--cache-memory 1', '--cache-disk 1'] as const).flatMap(
      (flag): [string[], RegExp][] => [
        [['seg-eval', '--head', 'h.safetensors', ...sets, ...flag.split(' ')], new RegExp(`${flag.split(' ')[0]}\\S* cannot also`)],
        [['depth-eval', '--head', 'h.safetensors', ...sets, ...flag.split(' ')], new RegExp(`${flag.split(' ')[0]} is for training`)]
      ]
    ),
    [
      ['depth-eval', '--head', 'dinov2_vits14_nyu_linear4', ...sets, '--bins', '9'],
      /--bins is for training, but --head dinov2_vits14_nyu_linear4/
    ]
  ] as const) {
    const {status, stderr} = await run([...args])
    assert.equal(status, 2)
    assert.match(stderr, message)
  }
})

test('linear-eval keeps a head, and predict classify uses it on a list from stdin, row by row', async () => {
  const few = ['--steps', '20', '--train-batch', '8', '-q']
  const labelled = names.map(path => JSON.stringify({path, label: path.split('/')[1], place: 'x'})).join('\n')
  const made = await run(
    // prettier-ignore
    ['linear-eval', '--train', '-', '--val', 'photos', '--model', 'tiny.safetensors', '--size', '28', '--cached', '--baseline', 'majority', '--baseline', 'untrained', '--baseline', 'pixels', '--head-out', 'head.safetensors', '--html', 'linear.html', '-o', 'linear.json', ...few],
    labelled
  )
  assert.equal(made.status, 0, made.stderr)
  assert.match(made.stdout, /8 images, 8 to train on, 2 classes.*untrained model.*raw pixels.*most frequent class.*verdict/s)
  assert.match(await readFile(join(dir, 'linear.html'), 'utf8'), /data:image\/jpeg/)
  const report = JSON.parse(await readFile(join(dir, 'linear.json'), 'utf8')) as {scores: {top1: number}[]}

  const reported = await run(
    ['predict', 'classify', '-', '--model', 'tiny.safetensors', '--head', 'head.safetensors', '--top', '1', '--json', '-q'],
    labelled
  )
  assert.equal(reported.status, 0, reported.stderr)
  const rows = reported.stdout
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, unknown>)
  assert.deepEqual(
    rows.map(({id, place}) => [id, place]),
    names.map(path => [path, 'x'])
  )
  assert.equal(rows.filter(row => row['class'] === row['label']).length / 8, report.scores[0]!.top1)
  assert.deepEqual(Object.keys(rows[0]!), ['id', 'label', 'place', 'class', 'probability', 'top'])
  assert.deepEqual(JSON.parse(reported.stderr.trim().split('\n').at(-1)!), {output: '-', images: 8, refused: 0, finished: true})

  const first = await shell('$P predict classify photos --model tiny.safetensors --head head.safetensors -q | head -1')
  assert.equal(first.status, 0, first.stderr)
  assert.equal(first.stderr, '')
  await saveTiny(join(dir, 'other.safetensors'), 1)
  const other = await run([
    'predict',
    'classify',
    'photos',
    '--model',
    'other.safetensors',
    '--head',
    'head.safetensors',
    '-o',
    'none.jsonl'
  ])
  assert.equal(other.status, 2)
  assert.match(other.stderr, /another backbone/)
  assert.ok(!existsSync(join(dir, 'none.jsonl')))
  const released = await run(['predict', 'classify', 'photos', '--model', 'tiny.safetensors', '--head', 'dinov2_vits14_linear'])
  assert.equal(released.status, 3)
  assert.match(released.stderr, /models pull dinov2_vits14_linear/)
})

test('what is refused: images without a model, a bad pattern, no group, a missing folder; bad images are status 4 and leave no file', async () => {
  const cases: [number, string[], RegExp][] = [
    [2, [names[0]!], /--model/],
    [2, ['photos', '--group-regex', '('], /regular expression/],
    [2, ['photos', '--group-prefix', '2', '--group-regex', 'x'], /group-regex/],
    [2, ['photos', '-k', '1,x'], /whole numbers/],
    [3, [], /No images or embeddings/],
    [3, ['absent', '--model', 'tiny.safetensors'], /absent/]
  ]
  for (const [status, args, words] of cases) {
    const ended = await run(['retrieval-eval', ...args])
    assert.equal(ended.status, status, args.join(' ') + ended.stderr)
    assert.match(ended.stderr, words)
  }
  await writeFile(join(dir, 'bad.txt'), [...names, 'absent.png'].join('\n'))
  const bad = ['retrieval-eval', 'bad.txt', '--group-prefix', '2', '--baseline', 'pixels', '-o', 'bad.json']
  const refused = await run(bad)
  assert.equal(refused.status, 4, refused.stderr)
  assert.ok(!existsSync(join(dir, 'bad.json')))
  const allowed = await run([...bad, '--max-bad', '1'])
  assert.equal(allowed.status, 0, allowed.stderr)
})
