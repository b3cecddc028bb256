/**
 * Depth with the real binary: lists with a depth column, reports, heads, maps and pictures, and what a shell sees
 * when pairs are bad.
 */
import assert from 'node:assert/strict'
import {readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {folder, realBinary, run as runProgram, shell as runShell, type Ended} from '../support/program.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
// The engine that needs nothing installed.
const env = {DINOV2_ENGINE: 'wasm'}
const run = (args: readonly string[], input = ''): Promise<Ended> => runProgram(realBinary, args, {env, cwd: dir, input})
const evaluate = [
  'depth-eval',
  '--model',
  'tiny.safetensors',
  '--cached',
  '--steps',
  '5',
  '--lr',
  '0.03',
  '--head',
  'lin1',
  '--baseline',
  'mean'
]

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnRooms(dir, 'train', 4)
  await drawnRooms(dir, 'val', 2, 9)
  const rows = [0, 1, 2, 3].map(n => `images/train/0${n}.png,depth/train/0${n}.png,7`)
  await writeFile(join(dir, 'train.csv'), ['path,depth,camera', ...rows, ''].join('\n'))
  await writeFile(join(dir, 'holed.csv'), ['path,depth', rows[0]!.slice(0, -2), 'images/train/01.png,depth/nothing.png', ''].join('\n'))
})

test('train and score, keep the head, predict with it through a pipe, and look at it', async () => {
  const outputs = ['--head-out', 'head.safetensors', '--html', 'depth.html', '-o', 'depth.json']
  const made = await run([...evaluate, '--train', 'train.csv', '--val', 'images/val', '--depths', 'depth/val', ...outputs])
  assert.equal(made.status, 0, made.stderr)
  assert.match(
    made.stdout,
    /^linear head on blocks 2, trained on 4 pairs in 5 steps[^]*val: 2 images[^]*mean depth [^]*compared with[^]*mean depth +.*RMSE m .*not significant/
  )
  const report = JSON.parse(await readFile(join(dir, 'depth.json'), 'utf8')) as {task: string; train: number; sets: {images: number}[]}
  assert.deepEqual([report.task, report.train, report.sets[0]!.images], ['depth', 4, 2])
  const page = await readFile(join(dir, 'depth.html'), 'utf8')
  assert.doesNotMatch(page, /(src|href)="(?!data:|#)/)

  const line = '$P predict depth train.csv --model tiny.safetensors --head head.safetensors -o maps -q | head -1'
  const piped = await runShell(realBinary, `export DINOV2_ENGINE=wasm; ${line}; echo "\${PIPESTATUS[0]}"`, dir)
  const [row, status] = piped.stdout.trimEnd().split('\n')
  assert.equal(status, '0', piped.stderr)
  const {predicted, depth, camera, scale} = JSON.parse(row!) as Record<string, unknown>
  assert.deepEqual([predicted, depth, camera, scale], ['maps/images/train/00.png', 'depth/train/00.png', '7', 0.001])

  const [again, shown] = await Promise.all([
    run(
      ['predict', 'depth', '-', '--model', 'tiny.safetensors', '--head', 'head.safetensors', '-o', 'other', '--json'],
      'images/val/09.png\n'
    ),
    run([
      'visualize',
      'depth',
      'images/val',
      '--depths',
      'depth',
      '--model',
      'tiny.safetensors',
      '--head',
      'head.safetensors',
      '-o',
      'seen.png',
      '--json',
      '-q'
    ])
  ])
  assert.deepEqual(JSON.parse(again.stderr.trimEnd().split('\n').at(-1)!), {output: 'other', images: 1})
  assert.equal(again.stdout.trimEnd().split('\n').length, 1)
  assert.equal((JSON.parse(shown.stdout) as {images: number}).images, 2)
})

test('bad pairs, wrong words and missing things, as a script sees them', async () => {
  const [holed, allowed, scale, none, unfit] = await Promise.all([
    run([...evaluate, '--train', 'holed.csv', '--val', 'images/val', '--depths', 'depth/val', '--bad', 'bad.jsonl']),
    run([...evaluate, '--train', 'holed.csv', '--val', 'images/val', '--depths', 'depth/val', '--max-bad', '1', '--json', '-q']),
    run([...evaluate, '--train', 'train.csv', '--val', 'train.csv', '--depth-scale', 'inches']),
    run([...evaluate, '--train', 'train.csv']),
    run(['predict', 'depth', 'images', '--model', 'tiny.safetensors', '--head', 'tiny.safetensors', '-o', 'never', '--json'])
  ])
  assert.equal(holed.status, 4, holed.stderr)
  assert.match(
    holed.stderr,
    /skipped .*01\.png: its depth map .*nothing\.png cannot be used: there is no such file[^]*1 of 2 inputs were refused, more than --max-bad 0/
  )
  assert.equal((await readFile(join(dir, 'bad.jsonl'), 'utf8')).trimEnd().split('\n').length, 1)
  assert.equal(allowed.status, 0, allowed.stderr)
  assert.equal((JSON.parse(allowed.stdout) as {train: number}).train, 1)
  assert.deepEqual([scale.status, none.status], [2, 2])
  assert.match(scale.stderr, /--depth-scale: expected a number above 0 such as 0\.001 or 1\/256, but received inches/)
  assert.match(none.stderr, /No set to score was named/)
  assert.equal(unfit.status, 2, unfit.stderr)
  assert.match(
    (JSON.parse(unfit.stderr.trimEnd().split('\n').at(-1)!) as {error: {message: string}}).error.message,
    /holds no trained head/
  )
})
