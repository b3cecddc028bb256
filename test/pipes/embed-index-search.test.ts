/**
 * The pipe that the tool is made for, with the real binary: find, embed, index, search; and what happens to it when
 * something goes wrong.
 */
import assert from 'node:assert/strict'
import {existsSync} from 'node:fs'
import {readFile, stat, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {setTimeout as wait} from 'node:timers/promises'
import {CommandServer, folder, realBinary, run as runProgram, shell as runShell, start, type Ended} from '../support/program.js'
import {openEmbeddings, rowsOf} from '../../src/files/embeddings/embeddings.js'
import {drawnFolder} from '../support/drawn-images.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
let images: string[]
// The engine that needs nothing installed; --batch is fixed because bytes may depend on it.
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}
const server = new CommandServer({env, cwd: dir})
after(() => server.end())
const run = (args: readonly string[], input = ''): Promise<Ended> =>
  input === '' ? server.run(...args) : runProgram(realBinary, args, {env, cwd: dir, input})
const shell = (line: string): Promise<Ended> =>
  runShell(realBinary, `set -o pipefail; export DINOV2_ENGINE=wasm DINOV2_WORKERS=1; ${line}`, dir)
const embed = ['embed', '--model', 'tiny.safetensors', '--size', '28', '--batch', '4']
const rows = (text: string): Record<string, unknown>[] =>
  text
    .trimEnd()
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line) as Record<string, unknown>)

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await saveTiny(join(dir, 'other.safetensors'), 1)
  images = (await drawnFolder(join(dir, 'photos'), ['one', 'two', 'three'], 8)).map(path => path.slice(dir.length + 1))
})

test('find | embed | index, then search with an image and with embeddings', async () => {
  const make = (name: string): Promise<Ended> =>
    shell(`find photos -name '*.png' -print0 | sort -z | $P ${embed.join(' ')} -0 - | $P index - -o ${name}`)
  const made = await make('a.index')
  assert.equal(made.status, 0, made.stderr)
  assert.equal(made.stdout, '')
  assert.match(made.stderr, /24 rows of 32 numbers.*images\/s/)
  assert.match(made.stderr, /24 rows of 32 numbers; exact search, recall@10 1; in a\.index/)

  await make('b.index')
  assert.deepEqual(await readFile(join(dir, 'a.index')), await readFile(join(dir, 'b.index')))

  const found = await run(['search', 'a.index', images[5]!, '--model', 'tiny.safetensors', '-k', '3', '--html', 'found.html', '-q'])
  assert.equal(found.status, 0, found.stderr)
  const neighbours = rows(found.stdout)
  assert.deepEqual(
    neighbours.map(({query, rank}) => [query, rank]),
    [1, 2, 3].map(rank => [images[5], rank])
  )
  assert.deepEqual([neighbours[0]!['id'], neighbours[0]!['similarity']], [images[5], 1])
  const page = await readFile(join(dir, 'found.html'), 'utf8')
  assert.equal(page.match(/data:image\/jpeg;base64/g)?.length, 4)
  assert.doesNotMatch(page, /(src|href)="(?!data:|#)/)

  const [piped, others] = await Promise.all([
    shell(`$P ${embed.join(' ')} photos/two -q | $P search a.index - -k 1 -q`),
    shell(`$P ${embed.join(' ')} photos/two -q | $P search a.index - -k 1 --no-self -q`)
  ])
  assert.deepEqual(
    rows(piped.stdout).map(({query, id}) => [query, id]),
    images.filter(name => name.includes('/two/')).map(name => [name, name])
  )
  assert.ok(rows(others.stdout).every(({query, id}) => query !== id))
})

test('adding to and removing from an index in place', async () => {
  await run([...embed, 'photos/one', 'photos/two', '-o', 'two.arrow'])
  await run([...embed, 'photos/three', '-o', 'three.parquet'])
  await run(['index', 'two.arrow', 'three.parquet', '-o', 'all.index'])
  assert.equal((await run(['index', 'two.arrow', '-o', 'grown.index'])).status, 0)
  const added = await run(['index', '-o', 'grown.index', '--add', 'three.parquet', '--json'])
  assert.equal(added.status, 0, added.stderr)
  assert.deepEqual([(JSON.parse(added.stdout) as {rows: number}).rows, (JSON.parse(added.stdout) as {added: number}).added], [24, 8])
  assert.deepEqual(await readFile(join(dir, 'grown.index')), await readFile(join(dir, 'all.index')))
  const again = await run(['index', '-o', 'grown.index', '--add', 'three.parquet'])
  assert.equal(again.status, 2)
  assert.match(again.stderr, /comes twice/)
  const removed = await run(['index', 'grown.index', '--remove', '-'], 'photos/three/000.png\nphotos/three/001.png\n')
  assert.match(removed.stderr, /22 rows of 32 numbers \(2 removed\)/)
  const piped = await shell('$P index two.arrow -q > piped.index && $P search piped.index two.arrow -k 1 -q | wc -l')
  assert.equal(piped.stdout.trim(), '16')
})

test('the format follows the ending, and the rows are the same in all', async () => {
  const names = ['a.arrow', 'b.parquet', 'c.npy', 'e.csv']
  const made = await Promise.all(names.map(name => run([...embed, 'photos/one', '-o', name, '-q'])))
  const found = await Promise.all(
    names.map(async (name, i) => {
      assert.equal(made[i]!.status, 0, made[i]!.stderr)
      const {meta, rows: batches} = await openEmbeddings(join(dir, name))
      const list: unknown[] = []
      for await (const batch of batches) for (const {id, vector, fields} of rowsOf(batch)) list.push([id, [...vector], {...fields}])
      return {list, fingerprint: meta.fingerprint, dim: meta.dim, preprocessing: meta.preprocessing}
    })
  )
  for (const each of found) assert.deepEqual(each, found[0])
  assert.equal(found[0]!.list.length, 8)
})

describe('when something goes wrong', () => {
  test('a model that is not the one of the index is refused, with both named', async () => {
    const found = await run(['search', 'a.index', images[0]!, '--model', 'other.safetensors', '--json'])
    assert.equal(found.status, 2)
    const {error} = JSON.parse(found.stderr.trimEnd().split('\n').at(-1)!) as {error: {code: string; message: string}}
    assert.equal(error.code, 'MIXED_EMBEDDINGS')
    assert.match(error.message, /two models.*a\.index.*other\.safetensors/)
  })

  test('a bad image is named, counted and left out; too many are status 4 and leave no output', async () => {
    await writeFile(join(dir, 'bad.txt'), [images[0], 'bad.txt', images[1], 'absent.png', images[2]].join('\n'))
    const allowed = await run([...embed, 'bad.txt', '-o', 'some.jsonl', '--max-bad', '2', '--bad', 'refused.jsonl'])
    assert.equal(allowed.status, 0, allowed.stderr)
    assert.deepEqual(
      rows(await readFile(join(dir, 'some.jsonl'), 'utf8')).map(({id}) => id),
      images.slice(0, 3)
    )
    assert.deepEqual(
      rows(await readFile(join(dir, 'refused.jsonl'), 'utf8')).map(({id}) => id),
      ['bad.txt', 'absent.png']
    )

    const refused = await run([...embed, 'bad.txt', '-o', 'none.jsonl'])
    assert.equal(refused.status, 4)
    assert.match(refused.stderr, /3 rows are kept in none\.jsonl\.partial.*2 of 5 inputs were refused/s)
    assert.ok(!existsSync(join(dir, 'none.jsonl')))
    const resumed = await run([...embed, 'bad.txt', '-o', 'none.jsonl', '--resume', '--max-bad', '50%'])
    assert.equal(resumed.status, 0, resumed.stderr)
    assert.deepEqual(await readFile(join(dir, 'none.jsonl')), await readFile(join(dir, 'some.jsonl')))
  })

  test('nothing to embed is status 3, a wrong flag 2, an existing output 2', async () => {
    const cases: [number, string[], RegExp][] = [
      [3, [...embed, '-'], /no image/],
      [3, [...embed, 'absent'], /absent/],
      [3, embed, /No images were named/],
      [2, [...embed, 'photos', '--pool', 'max'], /--pool/],
      [2, [...embed, 'photos', '--crop', '300'], /--crop/],
      [2, ['embed', '--model', 'tiny.safetensors', 'photos', '--size', '30', '-o', 'x.arrow'], /14-pixel patches/],
      [2, [...embed, 'photos', '-o', 'two.arrow'], /two\.arrow exists/],
      [2, [...embed, 'photos', '-o', 'rows.bin'], /ending/],
      [2, ['search', 'a.index', images[0]!], /--model/],
      [2, ['index', '--add', 'two.arrow'], /none was named/],
      [3, ['search', 'absent.index', 'two.arrow'], /absent\.index/]
    ]
    const ended = await Promise.all(cases.map(([, args]) => run(args)))
    for (const [i, [status, args, words]] of cases.entries()) {
      assert.equal(ended[i]!.status, status, `${args.join(' ')}: ${ended[i]!.stderr}`)
      assert.match(ended[i]!.stderr, words)
    }
  })

  test('a reader that has had enough is a good end', async () => {
    const {stdout, status, stderr} = await shell(`$P ${embed.join(' ')} photos --format jsonl -q | head -1; echo "\${PIPESTATUS[0]}"`)
    assert.equal(status, 0, stderr)
    const [row, left] = stdout.trimEnd().split('\n')
    assert.equal((JSON.parse(row!) as {id: string}).id, images[0])
    assert.equal(left, '0')
  })

  test('embed that dies leaves no index behind', async () => {
    await writeFile(join(dir, 'half.txt'), [images[0], images[1], ...Array<string>(40).fill('absent.png')].join('\n'))
    const ended = await shell(`$P ${embed.join(' ')} half.txt | $P index - -o half.index`)
    assert.notEqual(ended.status, 0)
    assert.match(ended.stderr, /breaks off/)
    assert.ok(!existsSync(join(dir, 'half.index')))
  })

  test('killed in the middle, embed --resume goes on to the same bytes', async () => {
    const {child, ended} = start(realBinary, [...embed, '-', '-o', 'killed.arrow'], {env, cwd: dir, input: null})
    child.stdin!.write(images.slice(0, 18).join('\n') + '\n') // and the list stays open, so it cannot end
    const partial = join(dir, 'killed.arrow.partial')
    for (let i = 0; i < 400 && (await stat(partial).catch(() => ({size: 0}))).size < 1500; i++) await wait(50)
    child.kill('SIGKILL')
    await ended
    assert.ok(!existsSync(join(dir, 'killed.arrow')))
    const list = images.join('\n')
    const [refused, straight] = await Promise.all(['killed.arrow', 'straight.arrow'].map(name => run([...embed, '-', '-o', name], list)))
    assert.equal(refused!.status, 2)
    assert.match(refused!.stderr, /left by an interrupted run/)
    assert.equal(straight!.status, 0, straight!.stderr)
    const resumed = await run([...embed, '-', '-o', 'killed.arrow', '--resume', '--json'], list)
    assert.equal(resumed.status, 0, resumed.stderr)
    assert.ok((JSON.parse(resumed.stdout) as {resumed: number}).resumed >= 4, resumed.stdout)
    assert.deepEqual(await readFile(join(dir, 'killed.arrow')), await readFile(join(dir, 'straight.arrow')))
    const whole = await run([...embed, '-', '-o', 'killed.arrow', '--resume'], list)
    assert.equal(whole.status, 0, whole.stderr)
    assert.match(whole.stderr, /24 rows that are done/)
  })

  test('beside a live writer, --resume and --force are refused with its number; behind a killed one they go on', async () => {
    const {child, ended} = start(realBinary, [...embed, '-', '-o', 'shared.arrow'], {env, cwd: dir, input: null})
    child.stdin!.write(images.slice(0, 18).join('\n') + '\n')
    const partial = join(dir, 'shared.arrow.partial')
    for (let i = 0; i < 400 && (await stat(partial).catch(() => ({size: 0}))).size < 1500; i++) await wait(50)
    const list = images.join('\n')
    const others = await Promise.all(['--resume', '--force'].map(flag => run([...embed, '-', '-o', 'shared.arrow', flag], list)))
    for (const {status, stderr} of others) {
      assert.equal(status, 2, stderr)
      assert.match(stderr, new RegExp(`Another process \\(${child.pid}\\) is writing shared\\.arrow`))
    }
    child.kill('SIGKILL')
    await ended
    assert.ok(existsSync(join(dir, '.shared.arrow.partial.lock')), 'a lock is left behind')
    const resumed = await run([...embed, '-', '-o', 'shared.arrow', '--resume', '--json'], list)
    assert.equal(resumed.status, 0, resumed.stderr)
    assert.ok((JSON.parse(resumed.stdout) as {resumed: number}).resumed >= 4, resumed.stdout)
    assert.deepEqual(await readFile(join(dir, 'shared.arrow')), await readFile(join(dir, 'straight.arrow')))
    assert.ok(!existsSync(join(dir, '.shared.arrow.partial.lock')))
  })

  test('after status 4 --resume goes on, and the same command without it starts anew', async () => {
    await writeFile(join(dir, 'some-bad.txt'), [...images, 'absent.png', 'absent-too.png'].join('\n'))
    const ask = (...more: string[]): Promise<Ended> => run([...embed, 'some-bad.txt', '-o', 'bad.arrow', ...more])
    const ended = await ask()
    assert.equal(ended.status, 4, ended.stderr)
    assert.match(ended.stderr, /24 rows are kept in bad\.arrow\.partial; --resume with a larger --max-bad/)
    assert.equal((await ask()).status, 4)
    const resumed = await ask('--resume', '--max-bad', '2')
    assert.equal(resumed.status, 0, resumed.stderr)
    assert.match(resumed.stderr, /going on behind 24 rows that are done/)
    assert.ok(!existsSync(join(dir, 'bad.arrow.partial.rejected')))
    const straight = await run([...embed, 'some-bad.txt', '-o', 'bad-straight.arrow', '--max-bad', '2'])
    assert.equal(straight.status, 0, straight.stderr)
    assert.deepEqual(await readFile(join(dir, 'bad.arrow')), await readFile(join(dir, 'bad-straight.arrow')))
  })

  test('a tar shard on stdin is known by its first bytes, also where it is compressed', async () => {
    const list = (line: string): Promise<Ended> => shell(`${line} | $P ${embed.join(' ')} - --format jsonl`)
    for (const pack of ['tar -c photos', 'tar -cz photos']) {
      const {status, stdout, stderr} = await list(pack)
      assert.equal(status, 0, stderr)
      const ids = rows(stdout).map(({id}) => id)
      assert.equal(ids.filter(id => typeof id === 'string').length, 24)
      assert.ok(ids.includes(`stdin/${images[0]!.replace(/\.png$/, '')}`), String(ids[0]))
    }
    const cut = await list('tar -cz photos | head -c 3000')
    assert.equal(cut.status, 4)
    assert.match(cut.stderr, /stdin: the shard is damaged/)
  })

  test('SIGINT finishes the batch, keeps the rows and leaves with 130', async () => {
    const {child, ended} = start(realBinary, [...embed, '-', '-o', 'stopped.arrow'], {env, cwd: dir, input: null})
    child.stdin!.write(images.join('\n') + '\n')
    for (let i = 0; i < 400 && !existsSync(join(dir, 'stopped.arrow.partial')); i++) await wait(20)
    child.kill('SIGINT')
    await wait(300)
    child.stdin!.end(images.slice(0, 8).join('\n'))
    const {status, stderr} = await ended
    assert.equal(status, 130, stderr)
    assert.ok(!existsSync(join(dir, 'stopped.arrow')))
  })
})

test('--dry-run counts a long list without opening it, and tells the time', async () => {
  const {status, stdout, stderr} = await shell(
    `(cat <(printf '%s\\n' ${images.join(' ')}); seq -f 'photos/%08.0f.png' 1 100000) | $P ${embed.join(' ')} - --dry-run --json`
  )
  assert.equal(status, 0, stderr)
  const report = JSON.parse((stdout || stderr).trimEnd().split('\n').at(-1)!) as {images: number; seconds: number}
  assert.equal(report.images, 100_024)
  assert.ok(report.seconds > 0)
})

test('knn-eval from folders and from embeddings agree', async () => {
  const folders = run([
    'knn-eval',
    '--train',
    'photos',
    '--model',
    'tiny.safetensors',
    '--size',
    '28',
    '--batch',
    '4',
    '-k',
    '1,5',
    '--baseline',
    'none',
    '--json'
  ])
  await run([...embed, 'photos', '-o', 'eval.arrow'])
  const stored = await run(['knn-eval', '--train', 'eval.arrow', '-k', '1,5', '--baseline', 'none', '-o', 'knn.json'])
  assert.equal(stored.status, 0, stored.stderr)
  assert.match(stored.stdout, /24 images, each by the others, 3 classes/)
  assert.deepEqual(
    (JSON.parse(await readFile(join(dir, 'knn.json'), 'utf8')) as {scores: object}).scores,
    (JSON.parse((await folders).stdout) as {scores: object}).scores
  )
})
