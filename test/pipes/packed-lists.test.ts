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

test('an image inside a shard or a Parquet file is named as an argument', async () => {
  await ok('embed', 'set.tar', ...model, '-o', 'tar.jsonl', '--force')
  await ok('embed', 'set.parquet', ...model, '-o', 'parquet.jsonl', '--force')
  const [tar, parquet] = [vectors('tar.jsonl'), vectors('parquet.jsonl')]
  await ok('embed', 'set.tgz/even/2', './set.tar/odd/1', at('set.parquet/4'), 'folder/odd/3.png', ...model, '-o', 'four.jsonl', '--force')
  const found = [...vectors('four.jsonl')]
  assert.deepEqual(
    found.map(([id]) => id),
    ['set.tgz/even/2', './set.tar/odd/1', at('set.parquet/4'), 'folder/odd/3.png']
  )
  assert.deepEqual(
    found.slice(0, 3).map(([, vector]) => vector),
    [
      tar.get('set.tar/./even/2') ?? tar.get('set.tar/even/2'),
      tar.get('set.tar/./odd/1') ?? tar.get('set.tar/odd/1'),
      parquet.get('set.parquet/4')
    ]
  )
  await ok('visualize', 'match', 'set.tgz/even/0', 'folder/odd/1.png', ...model, '-o', 'match.png', '--force')
  for (const [name, reason] of [
    ['set.tar/even/9', /there is no image of the key even\/9 in set\.tar/],
    ['set.parquet/17', /row 17 of set\.parquet has no image/],
    ['set.parquet/cat', /rows of set\.parquet are named by their numbers, not by cat/]
  ] as const) {
    const {status, stderr} = await server.run('embed', name, ...model, '-o', 'none.jsonl', '--force')
    assert.equal(status, 4, stderr)
    assert.match(stderr, reason)
  }
  const missing = await server.run('embed', 'absent.tar/even/9', ...model, '-o', 'none.jsonl', '--force')
  assert.equal(missing.status, 3)
  assert.match(missing.stderr, /There is no file or folder: absent\.tar\/even\/9/)
})

test('a key with .. in it is found again from a list in another folder', async () => {
  writeFileSync(at('up.tgz'), gzipSync(await tarOf(images.slice(0, 3).map((bytes, i) => [`a/../../${i}.png`, bytes] as const))))
  await ok('embed', 'up.tgz', ...model, '-o', 'up.jsonl', '--force')
  await ok('curate', 'dedup', 'up.tgz', '-o', 'lists/up.jsonl', '--force')
  assert.equal(rows('lists/up.jsonl').length, 3)
  await ok('embed', 'lists/up.jsonl', ...model, '--max-bad', '0', '-o', 'up-again.jsonl', '--force')
  assert.deepEqual([...vectors('up-again.jsonl').values()], [...vectors('up.jsonl').values()])
})

test('the label that a folder gives goes along into materialized shards', async () => {
  const sorted = ['even', 'even', 'even', 'odd', 'odd', 'odd']
  for (const [input, folder, labels] of [
    ['folder', 'of-folder', sorted],
    ['set.tar', 'of-tar', sorted.map((_, i) => (i % 2 ? 'odd' : 'even'))]
  ] as const) {
    await ok('curate', 'dedup', input, '-o', 'kept.jsonl', '--materialize', 'tar', '--to', folder, '--force')
    await ok('embed', `${folder}/000000.tar`, ...model, '-o', 'labelled.jsonl', '--force')
    assert.deepEqual(
      rows('labelled.jsonl').map(({label}) => label),
      labels
    )
  }
})

test('what is named in the place of images, vectors, models and runs is called by its name', async () => {
  await ok('embed', 'set.tar', ...model, '-o', 'v.arrow', '--force')
  await ok('embed', 'set.tar', ...model, '-o', 'v.npy', '--force')
  await ok('index', 'v.arrow', '-o', 'v.index', '--force')
  writeFileSync(
    at('ids.jsonl'),
    rows('tar.jsonl')
      .map(({id}) => JSON.stringify({id, class: 'x'}))
      .join('\n')
  )
  for (const [line, status, message] of [
    [['embed', 'v.index', ...model, '-o', 'n.arrow'], 4, /v\.index: it is a search index, not an image/],
    [['embed', 'v.arrow', ...model, '-o', 'n.arrow'], 4, /v\.arrow: it is a table of Apache Arrow, perhaps of embeddings, not an image/],
    [['embed', 'v.npy', ...model, '-o', 'n.arrow'], 4, /v\.npy: it is a NumPy array, not an image/],
    [
      ['knn-eval', '--train', 'v.index'],
      2,
      /v\.index is not a file of embeddings[^]*It is a search index[^]*embeddings that it was made of/
    ],
    [['export', 'v.index', '--to', 'hf', '-o', 'n'], 1, /v\.index is a search index, not a model/],
    [['report', 'ids.jsonl', '-o', 'n.html'], 2, /ids\.jsonl is a file, but a run is a folder/],
    [['embed', 'ids.jsonl', ...model, '-o', 'n.arrow'], 4, /line 1 of ids\.jsonl has no path, only an id; where ids are paths, jq/]
  ] as const) {
    const ended = await server.run(...line)
    assert.equal(ended.status, status, `${line.join(' ')}: ${ended.stderr}`)
    assert.match(ended.stderr, message)
  }
})

test('which folders inside a shard are labels is said, each place once', async () => {
  const said = /labels are the folders[^\n]*/g
  assert.deepEqual((await ok('embed', 'set.tar', 'set.tgz', ...model, '-o', 'n.arrow', '--force')).match(said), [
    'labels are the folders at its root, the first of them even'
  ])
  writeFileSync(at('deep.tar'), await tarOf(images.map((bytes, i) => [`a/photos/${i % 2 ? 'odd' : 'even'}/x/${i}.png`, bytes] as const)))
  const scored = await ok('knn-eval', '--train', 'deep.tar', ...model, '-k', '1', '--baseline', 'none')
  assert.deepEqual(scored.match(said), ['labels are the folders in a/photos, the first of them even'])
  writeFileSync(
    at('flat.tar'),
    await tarOf(images.flatMap((bytes, i) => [[`${i}.png`, bytes] as const, [`${i}.cls`, Buffer.from(`${i % 2}`)] as const]))
  )
  assert.equal((await ok('knn-eval', '--train', 'flat.tar', ...model, '-k', '1', '--baseline', 'none')).match(said), null)
})

test('a table that names its rows nowhere is said to be numbered, with the columns that could name them', async () => {
  writeFileSync(at('plots.csv'), 'plot,tree,v0,v1,v2\nA,oak,1,2,3\nB,fir,2,1,0\nC,oak,0,1,1\n')
  writeFileSync(at('bare.csv'), 'v0,v1,v2\n1,2,3\n2,1,0\n0,1,1\n')
  writeFileSync(at('named.csv'), 'id,tree,v0,v1,v2\nA,oak,1,2,3\nB,fir,2,1,0\nC,oak,0,1,1\n')
  const said = /[^\n]*numbered from 0[^\n]*/g
  assert.deepEqual((await ok('index', 'plots.csv', '-o', 'plots.index', '--force')).match(said), [
    'dinov2: plots.csv has no column id, so its rows are numbered from 0; where one of these names the images, rename it to id: plot, tree'
  ])
  assert.deepEqual((await ok('index', 'bare.csv', '-o', 'plots.index', '--force')).match(said), [
    'dinov2: bare.csv has no column id, so its rows are numbered from 0'
  ])
  assert.equal((await ok('index', 'named.csv', '-o', 'plots.index', '--force')).match(said), null)
})

test('vectors of zeros, which have no direction, are counted and named once where embeddings are read', async () => {
  const said = /[^\n]*of zeros[^\n]*/g
  const lines = (of: readonly string[]): string => of.map((vector, i) => `{"id": "${'abcdef'[i]}", "vector": [${vector}]}\n`).join('')
  writeFileSync(at('plain.jsonl'), lines(['1, 2', '2, 1']))
  writeFileSync(at('one.jsonl'), lines(['0, 1', '0, 0', '1, 0']))
  await ok('index', 'plain.jsonl', '-o', 'plain.index', '--force')
  for (const [name, ...words] of [
    ['a.jsonl', 'index'],
    ['b.jsonl', 'curate', 'dedup'],
    ['c.jsonl', 'search', 'plain.index']
  ] as const) {
    writeFileSync(at(name), lines(['1, 2', '0, 0', '2, 1', '-0, 0']))
    const notes = (await ok(...words, name, '-o', `made-of-${name}`, '--force')).match(said)
    assert.equal(notes?.length, 1, name)
    assert.ok(
      notes[0]!.startsWith(`dinov2: ${name} holds 2 vectors of zeros (the first is that of b), which have no direction: `),
      notes[0]
    )
  }
  assert.match(await ok('index', 'one.jsonl', '-o', 'one.index', '--force'), /one\.jsonl holds a vector of zeros \(that of b\)/)
})
