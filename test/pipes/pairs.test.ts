/**
 * Pairs of images and maps with the real binary: from folders, lists with a column for the map, a list on stdin and
 * names that end in NUL, all to the same scores; and every kind of bad pair, named with its reason, counted, and left
 * out as far as --max-bad goes.
 */
import assert from 'node:assert/strict'
import {existsSync} from 'node:fs'
import {readFile, rm, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {encodeGrey16} from '../../src/data/image/encode.js'
import {encodeMask} from '../../src/data/image/png-write.js'
import {CommandServer, folder, realBinary, run as runProgram, type Ended} from '../support/program.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnScene, drawnScenes, scenePalette} from '../support/drawn-masks.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm'}
const server = new CommandServer({env, cwd: dir})
after(() => server.end())
const run = (args: readonly string[], input = ''): Promise<Ended> =>
  input === '' ? server.run(...args) : runProgram(realBinary, args, {env, cwd: dir, input})
const common = ['--model', 'tiny.safetensors', '--cached', '--steps', '2', '--json', '-q']
const depthEval = ['depth-eval', ...common, '--head', 'lin1', '--baseline', 'mean']
const segEval = ['seg-eval', ...common, '--size', '56', '--baseline', 'none', '--classes', 'classes.txt']

/** A NumPy file of floating-point numbers. */
function npy(width: number, height: number, value: number): Buffer {
  const head = `{'descr': '<f4', 'fortran_order': False, 'shape': (${height}, ${width}), }`.padEnd(117) + '\n'
  const start = Buffer.from([0x93, ...Buffer.from('NUMPY'), 1, 0, head.length, 0])
  return Buffer.concat([start, Buffer.from(head), Buffer.from(new Float32Array(width * height).fill(value).buffer)])
}

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnRooms(join(dir, 'rooms'), 'train', 7)
  await drawnRooms(join(dir, 'rooms'), 'val', 2, 20)
  await drawnScenes(join(dir, 'streets'), 'train', 7)
  await drawnScenes(join(dir, 'streets'), 'val', 2, 20)
  await writeFile(join(dir, 'classes.txt'), '0 sky\n1 ground\n2 box\n9 void\n')
})

type Bad = {path: string; reason: string}
const badRows = async (name: string): Promise<Bad[]> =>
  (await readFile(join(dir, name), 'utf8'))
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as Bad)
const reasonsBy = (rows: readonly Bad[]): Map<string, string> =>
  new Map(rows.map(({path, reason}) => [/(\d+)\.png$/.exec(path)?.[1] ?? path, reason]))

test('folders, JSON Lines, CSV, stdin and names that end in NUL give the same scores', async () => {
  for (const [evaluation, root, kind, field, names] of [
    [depthEval, 'rooms', 'depth', 'depth', {train: ['00', '01', '02', '03', '04', '05', '06'], val: ['20', '21']}],
    [segEval, 'streets', 'masks', 'mask', {train: ['0', '1', '2', '3', '4', '5', '6'], val: ['20', '21']}]
  ] as const) {
    const pair = (set: string, name: string): [string, string] => [
      `${root}/images/${set}/${name}.png`,
      `${root}/${kind}/${set}/${name}.png`
    ]
    const pairs = {train: names.train.map(name => pair('train', name)), val: names.val.map(name => pair('val', name))}
    const rows = (list: readonly (readonly [string, string])[]): string =>
      list.map(([path, map]) => JSON.stringify({path, [field]: map, place: 'x'}) + '\n').join('')
    await writeFile(join(dir, `${root}.jsonl`), rows(pairs.train))
    await writeFile(join(dir, `${root}.csv`), [`${field},path`, ...pairs.val.map(([path, map]) => `${map},${path}`), ''].join('\n'))
    const folders = [`--${kind === 'depth' ? 'depths' : 'masks'}`, `${root}/${kind}`]
    const [laid, listed, piped, nul] = await Promise.all([
      run([...evaluation, '--train', `${root}/images/train`, '--val', `${root}/images/val`, ...folders]),
      run([...evaluation, '--train', `${root}.jsonl`, '--val', `${root}.csv`]),
      run([...evaluation, '--train', `${root}.jsonl`, '--val', '-'], rows(pairs.val)),
      run(
        [...evaluation, '--train', `${root}/images/train`, '--val', '-', '-0', ...folders],
        pairs.val.map(([path]) => `${path}\0`).join('')
      )
    ])
    const scores = [laid, listed, piped, nul].map(({status, stdout, stderr}) => {
      assert.equal(status, 0, stderr)
      const {train, sets, scores: all} = JSON.parse(stdout) as {train: number; sets?: {images: number; scores: unknown}[]; scores?: unknown}
      assert.equal(train, 7)
      return sets ? sets.map(set => set.scores) : all
    })
    for (const other of scores.slice(1)) assert.deepEqual(other, scores[0])
  }
})

test('depth-eval names every kind of bad pair, counts them, and goes on within --max-bad', async () => {
  const map = (name: string, ending = 'png'): string => join(dir, 'rooms/depth/train', `${name}.${ending}`)
  await rm(map('00'))
  await writeFile(map('01'), await encodeGrey16(new Uint16Array(40 * 42).fill(900), {width: 40, height: 42}))
  await rm(map('02'))
  await writeFile(map('02', 'npy'), npy(56, 42, NaN))
  await writeFile(map('03'), await encodeGrey16(new Uint16Array(56 * 42), {width: 56, height: 42}))
  await writeFile(map('04'), await encodeGrey16(new Uint16Array(56 * 42).fill(60_000), {width: 56, height: 42}))
  const sets = ['--train', 'rooms/images/train', '--val', 'rooms/images/val', '--depths', 'rooms/depth', '-o', 'depth.json']
  const strict = await run([...depthEval, ...sets, '--bad', 'strict.jsonl'])
  assert.equal(strict.status, 4, strict.stderr)
  assert.ok(!existsSync(join(dir, 'depth.json')))
  const {error} = JSON.parse(strict.stdout.trimEnd().split('\n').at(-1)!) as {error: {code: string; message: string}}
  assert.match(error.message, /refused, more than --max-bad 0/)
  const narrow = await run([...depthEval, ...sets, '--max-bad', '4'])
  assert.equal(narrow.status, 4, narrow.stderr)
  const allowed = await run([...depthEval.filter(word => word !== '-q'), ...sets, '--max-bad', '5', '--bad', 'depth-bad.jsonl'])
  assert.equal(allowed.status, 0, allowed.stderr)
  assert.equal((JSON.parse(allowed.stdout) as {train: number}).train, 2)
  assert.match(allowed.stderr, /skipped .*00\.png: it has no depth map[^]*5 of 9 inputs were refused/)
  const reasons = reasonsBy(await badRows('depth-bad.jsonl'))
  assert.deepEqual([...reasons.keys()].sort(), ['00', '01', '02', '03', '04'])
  assert.match(reasons.get('00')!, /no depth map: there is no .*00\.png, \.tif or \.npy/)
  assert.match(reasons.get('01')!, /it is 56 × 42, but its depth map .* is 40 × 42/)
  assert.match(reasons.get('02')!, /02\.npy holds no known depth/)
  assert.match(reasons.get('03')!, /03\.png holds no known depth/)
  assert.match(reasons.get('04')!, /no depth between 0\.001 and 10 metres that counts/)
})

test('seg-eval names every kind of bad pair, counts them, and goes on within --max-bad', async () => {
  const mask = (name: string, ending = 'png'): string => join(dir, 'streets/masks/train', `${name}.${ending}`)
  const png = (ids: Uint8Array, width: number, height: number): Uint8Array => encodeMask(ids, {width, height, palette: scenePalette})
  await rm(mask('0'))
  await writeFile(mask('1'), png(new Uint8Array(40 * 30), 40, 30))
  await rm(mask('2'))
  await writeFile(mask('2', 'npy'), npy(70, 56, NaN))
  const {ids} = drawnScene(3)
  ids[7] = 5
  await writeFile(mask('3'), png(ids, 70, 56))
  await writeFile(mask('4'), png(new Uint8Array(70 * 56).fill(9), 70, 56))
  const sets = ['--train', 'streets/images/train', '--val', 'streets/images/val', '--masks', 'streets/masks', '-o', 'seg.json']
  const strict = await run([...segEval, ...sets])
  assert.equal(strict.status, 4, strict.stderr)
  assert.ok(!existsSync(join(dir, 'seg.json')))
  const allowed = await run([...segEval.filter(word => word !== '-q'), ...sets, '--max-bad', '5', '--bad', 'seg-bad.jsonl'])
  assert.equal(allowed.status, 0, allowed.stderr)
  assert.equal((JSON.parse(allowed.stdout) as {train: number}).train, 2)
  assert.match(allowed.stderr, /5 of 9 inputs were refused/)
  const reasons = reasonsBy(await badRows('seg-bad.jsonl'))
  assert.deepEqual([...reasons.keys()].sort(), ['0', '1', '2', '3', '4'])
  assert.match(reasons.get('0')!, /it has no mask/)
  assert.match(reasons.get('1')!, /it is 70 × 56 pixels, but its mask is 40 × 30/)
  assert.match(
    reasons.get('2')!,
    /its mask cannot be used: it holds NaN \(floating-point numbers\), where class ids from 0 to 65535 are wanted/
  )
  assert.match(reasons.get('3')!, /its mask holds the id 5 \(1 pixels\), which is no class; classes are 0–2, left out 9/)
  assert.match(reasons.get('4')!, /no pixel of its mask counts/)
})
