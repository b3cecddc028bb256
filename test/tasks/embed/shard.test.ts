/** Shards of a list: together they are the list, in its order, and a missing or double one is refused by name. */
import assert from 'node:assert/strict'
import {readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {parseShard} from '../../../src/cli/shard-flag.js'
import {shardRange} from '../../../src/tasks/embed/shard.js'
import {drawnFolder} from '../../support/drawn-images.js'
import {CommandServer, folder, realBinary, shell, type Ended} from '../../support/program.js'
import {saveTiny} from '../../support/tiny-backbone.js'

const dir = folder()
const server = new CommandServer({cwd: dir, env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}})
after(() => server.end())
const program = (words: string): Promise<Ended> => server.run(...words.split(' '))
const embed = (words: string): Promise<Ended> => program(`embed ${words} --model tiny.safetensors --size 56 --batch 2 -q`)
const parts = (...numbers: number[]): string => numbers.map(n => `part-${n}.arrow`).join(' ')

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 5)
  writeFileSync(join(dir, 'photos', 'one', 'broken.png'), 'no image')
  const all = [
    embed('photos -o whole.arrow --max-bad 1'),
    ...[0, 1, 2].map(i => embed(`photos -o part-{shard}.arrow --max-bad 1 --shard ${i}/3`)),
    embed('photos/two -o other.arrow --shard 1/3')
  ]
  for (const {status, stderr} of await Promise.all(all)) assert.equal(status, 0, stderr)
})

describe('shards of a list', () => {
  it('make the index of one process, byte for byte, in whatever order they are given', async () => {
    const made = await Promise.all([program('index whole.arrow -o whole.index -q'), program(`index ${parts(2, 0, 1)} -o merged.index -q`)])
    for (const {status, stderr} of made) assert.equal(status, 0, stderr)
    assert.ok(readFileSync(join(dir, 'whole.index')).equals(readFileSync(join(dir, 'merged.index'))))
  })

  it('are refused where one is missing, is there twice, or is of another list', async () => {
    const cases: [string, RegExp][] = [
      [parts(0, 2), /shard 1\/3 is missing beside part-0\.arrow/],
      [parts(1), /shard 0\/3, shard 2\/3 are missing beside part-1\.arrow/],
      [`${parts(0, 1)} part-0.arrow`, /part-0\.arrow and part-0\.arrow are both shard 0\/3/],
      [`${parts(0)} other.arrow ${parts(2)}`, /part-0\.arrow and other\.arrow are shards of two lists/],
      [`whole.arrow ${parts(0, 1, 2)}`, /whole\.arrow and part-0\.arrow cannot be read together/]
    ]
    const piped = await shell(realBinary, `cat part-0.arrow | $P index - part-1.arrow part-2.arrow -o none.index -q`, dir)
    assert.match(piped.stderr, /stdin is a pipe, but shards are read from files/)
    for (const [sources, words] of cases) {
      const {status, stderr} = await program(`index ${sources} -o none.index -q`)
      assert.equal(status, 2, stderr)
      assert.match(stderr, words)
    }
  })

  it('go on with --resume as themselves, not as another shard', async () => {
    assert.equal((await embed('photos -o part-0.arrow --max-bad 1 --shard 0/3 --resume')).status, 0)
    const {status, stderr} = await embed('photos -o part-0.arrow --max-bad 1 --shard 1/3 --resume')
    assert.equal(status, 2)
    assert.match(stderr, /part-0\.arrow is shard 0\/3 of 11 images; this is shard 1\/3/)
  })

  it('are not taken from stdin, nor are there more than images', async () => {
    assert.match((await embed('- -o x.arrow --shard 0/2')).stderr, /a list on stdin cannot be told/)
    assert.match((await embed('photos -o x.arrow --shard 0/12')).stderr, /11 images cannot be cut into 12 shards/)
  })
})

it('a shard begins where a batch does, and all together are the list', () => {
  for (const [images, count, batch] of [
    [11, 3, 2],
    [100, 7, 8],
    [5, 5, 64],
    [1000, 3, 256]
  ] as const) {
    const ranges = Array.from({length: count}, (_, index) => shardRange({index, count, images, list: ''}, batch))
    assert.equal(ranges[0]![0], 0)
    assert.equal(ranges.at(-1)![1], images)
    ranges.slice(1).forEach(([from], i) => assert.equal(from, ranges[i]![1]))
    assert.ok(ranges.every(([from, to]) => to > from))
    if (images / batch >= count) assert.ok(ranges.every(([from]) => from % batch === 0))
  }
})

it('--shard auto asks Slurm arrays and launchers', () => {
  assert.deepEqual(parseShard('2/8'), {index: 2, count: 8})
  assert.deepEqual(parseShard('auto', {SLURM_ARRAY_TASK_ID: '3', SLURM_ARRAY_TASK_MIN: '1', SLURM_ARRAY_TASK_MAX: '4'}), {
    index: 2,
    count: 4
  })
  assert.deepEqual(parseShard('auto', {RANK: '1', WORLD_SIZE: '2', LOCAL_WORLD_SIZE: '2'}), {index: 1, count: 2})
  assert.throws(() => parseShard('auto', {}), /SLURM_ARRAY_TASK_ID/)
  for (const text of ['8/8', '1', '-1/2', '0/0', '1/2/3']) assert.throws(() => parseShard(text, {}), /expected i\/n/)
})
