/**
 * Images inside tar shards, compressed ones and Parquet files: lists that `curate` writes of them are read back, and
 * pages show their pictures.
 */
import assert from 'node:assert/strict'
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {gzipSync} from 'node:zlib'
import {drawnImage} from '../support/drawn-images.js'
import {imageColumn, parquetOf} from '../support/parquet.js'
import {CommandServer, folder, realBinary, run} from '../support/program.js'
import {tarOf} from '../support/tar.js'

const dir = folder()
const server = new CommandServer({env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}, cwd: dir})
after(() => server.end())
const at = (name: string): string => join(dir, name)
const text = (name: string): string => readFileSync(at(name), 'utf8')
const rows = (name: string): Record<string, unknown>[] =>
  text(name)
    .trim()
    .split('\n')
    .map(line => JSON.parse(line) as Record<string, unknown>)
const pictures = (name: string): number => text(name).split('src="data:image').length - 1
const model = ['--model', 'starter', '--size', '32']

async function ok(...words: string[]): Promise<string> {
  const {status, stderr} = await server.run(...words)
  assert.equal(status, 0, `${words.join(' ')}: ${stderr}`)
  return stderr
}

const images: Buffer[] = []

before(async () => {
  for (let i = 0; i < 6; i++) images.push(Buffer.from(await drawnImage(i % 3, i)))
  const tar = await tarOf(images.map((bytes, i) => [`./${i % 2 ? 'odd' : 'even'}/${i}.png`, bytes] as const))
  for (const [i, bytes] of images.entries()) {
    const folder = at(`folder/${i % 2 ? 'odd' : 'even'}`)
    mkdirSync(folder, {recursive: true})
    writeFileSync(join(folder, `${i}.png`), bytes)
  }
  writeFileSync(at('set.tar'), tar)
  writeFileSync(at('set.tgz'), gzipSync(tar))
  writeFileSync(at('set.parquet'), parquetOf({image: imageColumn(images.map(bytes => ({bytes, path: null})))}))
  mkdirSync(at('lists'))
})

/** Vectors by id of an embeddings file in JSON Lines. */
const vectors = (name: string): Map<unknown, unknown> =>
  new Map(
    rows(name)
      .filter(row => 'vector' in row)
      .map(row => [row['id'], row['vector']])
  )

for (const shard of ['set.tar', 'set.tgz'])
  describe(shard, () => {
    test('a list of images, and a list of their embeddings, give the vectors of the shard itself', async () => {
      await ok('embed', shard, ...model, '-o', 'whole.jsonl', '--force')
      await ok('curate', 'dedup', shard, '-o', 'lists/of-images.jsonl', '--force')
      await ok('curate', 'dedup', 'whole.jsonl', '--threshold', '1', '-o', 'lists/of-vectors.jsonl', '--force')
      const expected = vectors('whole.jsonl')
      assert.equal(expected.size, 6)
      for (const list of ['lists/of-images.jsonl', 'lists/of-vectors.jsonl']) {
        writeFileSync(at(list), text(list).trim().split('\n').reverse().join('\n')) // in another order than the shard
        await ok('embed', list, ...model, '-o', 'again.jsonl', '--force')
        assert.deepEqual(
          [...vectors('again.jsonl').keys()],
          rows(list).map(({id}) => id)
        )
        assert.deepEqual(Object.fromEntries(vectors('again.jsonl')), Object.fromEntries(expected))
        await ok('curate', 'dedup', list, '-o', 'lists/again.jsonl', '--force')
        assert.deepEqual(
          rows('lists/again.jsonl').map(({id}) => id),
          rows(list).map(({id}) => id)
        )
      }
    })

    test('images are written out of embeddings of a shard, and shown on the page of curation', async () => {
      await ok('embed', shard, ...model, '-o', 'whole.jsonl', '--force')
      await ok(
        ...['curate', 'dedup', 'whole.jsonl', '--threshold', '1', '-o', 'lists/kept.jsonl', '--force', '--html', 'page.html'],
        ...['--materialize', 'copy', '--to', `out-${shard}`]
      )
      assert.equal(pictures('page.html'), 6)
      const files = readdirSync(at(`out-${shard}`), {recursive: true, encoding: 'utf8'}).filter(name => name.endsWith('.png'))
      const contents = files.map(name => readFileSync(at(`out-${shard}/${name}`)).toString('base64'))
      assert.deepEqual(contents.sort(), images.map(bytes => bytes.toString('base64')).sort())
    })

    test('pages of evaluations show pictures', async () => {
      for (const set of ['folder', shard])
        await ok('knn-eval', '--train', set, '--val', set, ...model, '-k', '1', '--html', `knn-${set}.html`, '--force')
      assert.ok(pictures('knn-folder.html') > 0)
      assert.equal(pictures(`knn-${shard}.html`), pictures('knn-folder.html'))
    })

    test('a key that the shard does not have is refused by its name', async () => {
      writeFileSync(at('lists/wrong.jsonl'), `${JSON.stringify({path: `../${shard}/even/99`})}\n`)
      const {status, stderr} = await server.run('embed', 'lists/wrong.jsonl', ...model, '-o', 'wrong.jsonl')
      assert.equal(status, 4)
      assert.match(stderr, /there is no image of the key even\/99 in .*set\.t/)
    })
  })

for (const packed of ['set.tar', 'set.tgz', 'set.parquet'])
  test(`contact sheets show neighbours out of ${packed}`, async () => {
    await ok('embed', packed, ...model, '-o', 'vectors.arrow', '--force')
    await ok('index', 'vectors.arrow', '-o', 'all.index', '--force')
    const said = await ok('visualize', 'neighbours', 'all.index', 'vectors.arrow', '-k', '2', '-o', 'sheet.html', '--force')
    assert.equal(pictures('sheet.html'), 18)
    assert.doesNotMatch(said, /could not be opened/)
    await ok('search', 'all.index', 'vectors.arrow', '-k', '2', '-o', 'found.jsonl', '--html', 'search.html', '--force')
    assert.ok(pictures('search.html') >= 18)
  })

test('of a tar on stdin the list says that it cannot be read back, and how the images are kept', async () => {
  const words = ['curate', 'dedup', '-', '-o', 'lists/piped.jsonl', '--force']
  const {status, stderr} = await run(realBinary, words, {cwd: dir, input: readFileSync(at('set.tgz'))})
  assert.equal(status, 0, stderr)
  assert.match(stderr, /6 kept rows come out of a tar on stdin, which cannot be opened again.*--materialize copy --to FOLDER/)
})
