/**
 * Pipes nobody writes to, folders and endless devices in the place of a file, tried on every argument of every
 * command that names one: refused at once, with a sentence that names them.
 */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {existsSync, mkdirSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnFolder} from '../support/drawn-images.js'
import {CommandServer, folder, realBinary, run as runProgram, shell, start, type Ended} from '../support/program.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4'}
const run = (args: readonly string[]): Promise<Ended> => runProgram(realBinary, args, {env, cwd: dir})

/** How long one command may take to refuse; on a busy machine it takes seconds to start. */
const PATIENCE = 60_000

const server = new CommandServer({env, cwd: dir, patience: PATIENCE})
after(() => server.end())

/** Each argument that names a file: the words of the command with X in its place, and its ending. */
const places: Readonly<Record<string, {readonly words: string; readonly ending: string}>> = {
  'settings of pretrain': {words: 'pretrain photos -o out --config X', ending: '.yaml'},
  'flags of embed': {words: 'embed photos --model tiny.safetensors --config X', ending: '.yaml'},
  'a .pth': {words: 'embed photos --model X', ending: '.pth'},
  'a .safetensors': {words: 'export X --to meta -o out', ending: '.safetensors'},
  'weights to go on from': {words: 'pretrain photos -o out --init X', ending: '.pth'},
  'a teacher': {words: 'distill photos -o out --teacher X', ending: '.pth'},
  'a student': {words: 'distill photos -o out --teacher tiny.safetensors --student X', ending: '.yaml'},
  'a head of classes': {words: 'predict classify photos --model tiny.safetensors --head X', ending: '.safetensors'},
  'a head of depths': {words: 'predict depth photos --model tiny.safetensors --head X -o out', ending: '.safetensors'},
  'a head of regions': {words: 'predict segment photos --model tiny.safetensors --head X -o out', ending: '.safetensors'},
  'an index that is searched': {words: 'search X vectors.jsonl', ending: '.index'},
  'an index that is added to': {words: 'index -o X --add vectors.jsonl', ending: '.index'},
  'embeddings as queries': {words: 'search ok.index X', ending: '.arrow'},
  'embeddings as Arrow': {words: 'index X -o out', ending: '.arrow'},
  'embeddings as Parquet': {words: 'index X -o out', ending: '.parquet'},
  'embeddings as npy': {words: 'index X -o out', ending: '.npy'},
  'embeddings as JSON Lines': {words: 'index X -o out', ending: '.jsonl'},
  'ids to remove': {words: 'index --remove X -o ok.index', ending: '.txt'},
  'seeds of curation': {words: 'curate retrieve vectors.jsonl --seeds X -o out', ending: '.npy'},
  'vectors of curation': {words: 'curate cluster X --levels 2 -o out', ending: '.npy'},
  'a list of a pool': {words: 'curate filter X -o out', ending: '.jsonl'},
  'a list of images': {words: 'embed X --model tiny.safetensors', ending: '.txt'},
  'a shard': {words: 'embed X --model tiny.safetensors', ending: '.tar'},
  'a zipped shard': {words: 'embed X --model tiny.safetensors', ending: '.tgz'},
  'sets of an evaluation': {words: 'knn-eval --train X --val photos --model tiny.safetensors -k 1', ending: '.csv'},
  'names of classes': {words: 'predict classify photos --model tiny.safetensors --head tiny.safetensors --classes X', ending: '.txt'},
  'rows to draw': {words: 'visualize neighbours X -o out.html', ending: '.jsonl'},
  'a recording': {words: 'engine verify --golden X', ending: ''}
}

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 2)
  await drawnRooms(join(dir, 'rooms'), 'train', 2)
  writeFileSync(join(dir, 'vectors.jsonl'), [1, 2, 3].map(n => JSON.stringify({id: `i${n}`, vector: [n, 1, -n, 2]})).join('\n'))
  assert.equal((await run(['index', 'vectors.jsonl', '-o', 'ok.index'])).status, 0)
  for (const ending of new Set(Object.values(places).map(place => place.ending))) {
    execFileSync('mkfifo', [join(dir, `pipe${ending}`)])
    mkdirSync(join(dir, `folder${ending}`))
    symlinkSync('/dev/zero', join(dir, `zero${ending}`))
  }
})

for (const kind of ['pipe', 'zero', 'folder'])
  describe(`a ${kind === 'zero' ? 'device without end' : kind} in the place of`, () => {
    for (const [number, [name, {words, ending}]] of Object.entries(places).entries()) {
      // file-flags.test.ts tries a pipe on every flag, by one kind of file each
      if (kind === 'pipe' && !/^(embeddings as|a shard|a zipped|an index)/.test(name)) continue
      it(name, async () => {
        const out = `out-${kind}-${number}`
        const {status, signal, stderr, waited} = await server.run(
          ...words.split(' ').map(word => (word === 'X' ? `${kind}${ending}` : word === 'out' ? out : word))
        )
        assert.ok(!waited, `it waits: ${stderr}`)
        assert.equal(signal, null)
        assert.ok(status !== null && status >= 1 && status <= 5, `status ${status}: ${stderr}`)
        assert.match(stderr, /error: /)
        assert.ok(stderr.includes(`${kind}${ending}`), stderr)
        assert.ok(!existsSync(join(dir, out)), 'it leaves an output')
      })
    }
  })

describe('a pipe that the shell has opened', () => {
  it('is read as settings, as embeddings and as rows', async () => {
    const {status, stderr} = await shell(
      realBinary,
      `$P index <(cat vectors.jsonl) -o piped.index --config <(echo 'metric: l2') && $P search piped.index <(cat vectors.jsonl) -k 1 | cat > found && $P index --remove <(echo i1) -o piped.index`,
      dir
    )
    assert.equal(status, 0, stderr)
  })

  it('named on stdin does not hold up a second Ctrl-C', async () => {
    const {child, ended} = start(realBinary, ['index', '/dev/stdin', '-o', 'never.index'], {env, cwd: dir, input: null})
    const timer = setInterval(() => child.kill('SIGINT'), 1500)
    const {status, signal} = await ended
    clearInterval(timer)
    assert.ok(status === 130 || signal === 'SIGINT', `status ${status}, signal ${signal}`)
  })
})
