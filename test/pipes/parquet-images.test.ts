/** A dataset of images in a Parquet file goes the way of a folder: the same vectors, lists of its rows, training. */
import assert from 'node:assert/strict'
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {vectorFromArray} from 'apache-arrow'
import {drawnImage} from '../support/drawn-images.js'
import {classLabels, imageColumn, parquetOf} from '../support/parquet.js'
import {folder, realBinary, run as runProgram, type Ended} from '../support/program.js'

const dir = folder()
const tmp = join(dir, 'tmp') // of this test alone
mkdirSync(tmp)
const env = {TMPDIR: tmp, DINOV2_ENGINE: 'torch', DINOV2_DEVICE: 'cpu', DINOV2_PRECISION: 'fp32', DINOV2_THREADS: '1', DINOV2_WORKERS: '1'}
const run = (...args: string[]): Promise<Ended> => runProgram(realBinary, args, {env, cwd: dir})
const good = async (...args: string[]): Promise<Ended> => {
  const ended = await run(...args)
  assert.equal(ended.status, 0, `${args.join(' ')}\n${ended.stderr}`)
  return ended
}
type Row = {id: string; label: string; path: string; row?: number; vector: number[]}
const rowsOf = (text: string): Row[] =>
  text
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Row)
const read = (name: string): string => readFileSync(join(dir, name), 'utf8')

test('embed, curate and train on a dataset in a Parquet file as the same images in a folder', async () => {
  const images: {bytes: Uint8Array; path: null}[] = []
  mkdirSync(join(dir, 'folder'))
  for (let i = 0; i < 24; i++) {
    const bytes = i === 5 ? Buffer.from('no image') : await drawnImage(i % 2, i)
    images.push({bytes, path: null})
    writeFileSync(join(dir, 'folder', `${String(i).padStart(2, '0')}.png`), bytes)
  }
  const label = vectorFromArray(images.map((_, i) => i % 2))
  writeFileSync(join(dir, 'd.parquet'), parquetOf({image: imageColumn(images), label}, {metadata: classLabels('label', ['cat', 'dog'])}))
  const model = ['--model', 'starter', '--size', '32', '--max-bad', '10%']

  const [made] = await Promise.all([
    good('embed', 'd.parquet', ...model, '-o', 'parquet.jsonl'),
    good('embed', 'folder', ...model, '-o', 'folder.jsonl')
  ])
  assert.match(made.stderr, /^skipped d\.parquet\/5: it is text, not an image$/m)
  const rows = rowsOf(read('parquet.jsonl'))
  assert.deepEqual(
    rows.map(({vector}) => vector),
    rowsOf(read('folder.jsonl')).map(({vector}) => vector)
  )
  assert.deepEqual([rows[1]!.id, rows[1]!.label, rows[1]!.path, rows[1]!.row], ['d.parquet/1', 'dog', 'd.parquet', 1])

  await good('curate', 'd.parquet', '--max-bad', '10%', '-o', 'kept.jsonl', '--materialize', 'copy', '--to', 'kept')
  assert.equal(readdirSync(join(dir, 'kept/d.parquet')).length, 23)
  await good('embed', 'kept.jsonl', ...model, '-o', 'kept-vectors.jsonl')
  assert.deepEqual(
    rowsOf(read('kept-vectors.jsonl')).map(({vector}) => vector),
    rows.map(({vector}) => vector)
  )

  const sizes = ['train.steps=1', 'train.batch_size_per_gpu=4', 'student.embed_dim=32', 'student.depth=2', 'dino.head_n_prototypes=64']
  const trained = await run(
    'pretrain',
    'd.parquet',
    '--config',
    'tiny',
    '-o',
    'run',
    '--max-bad',
    '10%',
    ...sizes.flatMap(one => ['--set', one])
  )
  assert.ok([0, 6].includes(trained.status!), trained.stderr) // two steps may count as unhealthy
  assert.deepEqual(
    readdirSync(tmp).filter(name => name.startsWith(`dinov2-images-`)),
    []
  )
})
