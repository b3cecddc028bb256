/** `curate outliers` and `curate mislabelled` as commands, and the rules of `curate filter` on exposure and colour. */
import assert from 'node:assert/strict'
import {mkdir, readFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import sharp, {type Sharp} from 'sharp'
import {CommandServer, folder} from '../../support/program.js'
import {drawnFolder, drawnImage} from '../../support/drawn-images.js'
import {clusteredRows, testMeta, writeEmbeddings} from '../../support/vectors.js'

type Row = Record<string, unknown> & {readonly id: string}

const dir = folder()
const program = new CommandServer({cwd: dir, env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '0'}})
const run = (...args: string[]) => program.run('curate', ...args)
const rows = (text: string): Row[] =>
  text
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line) as Row)
const file = async (name: string): Promise<Row[]> => rows(await readFile(join(dir, name), 'utf8'))

after(() => program.end())
before(async () => {
  const made = clusteredRows(60, 0, {dim: 16, classes: 3, folder: 'pics'})
  // Row 7 is of no cluster; row 20 is labelled as another class.
  made[7] = {...made[7]!, vector: Float32Array.from({length: 16}, (_, d) => (d % 2 ? 4 : -4))}
  made[20] = {...made[20]!, fields: {label: 'c0'}}
  await writeEmbeddings(join(dir, 'vectors.arrow'), made, testMeta(16))
  await mkdir(join(dir, 'photos'))
  const colour = sharp(await drawnImage(1, 0, 96, 96))
  const save = (name: string, picture: Sharp): Promise<unknown> => picture.png().toFile(join(dir, 'photos', name))
  await save('colour.png', colour.clone())
  await save('grey.png', colour.clone().greyscale())
  await save('dark.png', colour.clone().linear(0.06, 0))
  await save('bright.png', colour.clone().linear(1, 200))
})

test('outliers: all rows in their order with scores, the odd one highest; --leave-out and --max-score divide them', async () => {
  const all = await run('outliers', 'vectors.arrow')
  assert.equal(all.status, 0, all.stderr)
  const scored = rows(all.stdout)
  assert.deepEqual(scored.map(({id}) => id), Array.from({length: 60}, (_, i) => `pics/${i}.jpg`)) // prettier-ignore
  const score = (row: Row): number => row['outlier_score'] as number
  assert.equal([...scored].sort((a, b) => score(b) - score(a))[0]!.id, 'pics/7.jpg')
  assert.match(all.stderr, /60 of 60 kept/)
  const some = await run('outliers', 'vectors.arrow', '--leave-out', '5%', '-o', 'kept.jsonl', '--rejected', 'odd.jsonl', '--json')
  assert.equal(some.status, 0, some.stderr)
  const odd = await file('odd.jsonl')
  assert.equal(odd.length, 3)
  assert.ok(odd.some(({id, reason}) => id === 'pics/7.jpg' && /outlier: score/.test(reason as string)))
  assert.equal((await file('kept.jsonl')).length, 57)
  const limit = String(score(scored[7]!) - 1e-4)
  await run('outliers', 'vectors.arrow', '--max-score', limit, '-o', 'kept.jsonl', '--rejected', 'odd.jsonl', '-f')
  assert.deepEqual((await file('odd.jsonl')).map(({id}) => id), ['pics/7.jpg']) // prettier-ignore
})

test('mislabelled: the label that neighbours contradict is named with what they say; without labels a sentence', async () => {
  const made = await run('mislabelled', 'vectors.arrow', '--max-score', '0.9', '-o', 'good.jsonl', '--rejected', 'doubtful.jsonl', '-f')
  assert.equal(made.status, 0, made.stderr)
  assert.match(made.stderr, /labels? of 60 contradicted by most votes/)
  const doubtful = await file('doubtful.jsonl')
  const wrong = doubtful.find(({id}) => id === 'pics/20.jpg')!
  assert.deepEqual([wrong['label'], wrong['suggested'], wrong['reason']], ['c0', 'c2', 'label: neighbours are c2'])
  assert.ok(doubtful.length <= 2, 'that one, and perhaps the outlier')
  assert.ok((await file('good.jsonl')).every(row => (row['label_score'] as number) <= 0.9 && row['suggested'] === row['label']))
  const flat = await run('mislabelled', 'photos', '--features', 'perceptual')
  assert.equal(flat.status, 2)
  assert.match(flat.stderr, /No row has a label/)
  const model = await run('outliers', 'photos')
  assert.match(model.stderr, /no model was named/)
})

test('filter: dark, overexposed and greyscale images go out where their rules are given, and stay otherwise', async () => {
  const plain = await run('filter', 'photos')
  assert.equal(rows(plain.stdout).length, 4, plain.stderr)
  for (const [flags, name, reason] of [
    [['--min-brightness', '20'], 'dark.png', /^dark: brightness/],
    [['--max-overexposed', '0.5'], 'bright.png', /^overexposed: 0\.\d+|^overexposed: 1 of/],
    [['--min-colorfulness', '3'], 'grey.png', /^greyscale: colorfulness 0$/]
  ] as const) {
    const {status, stderr} = await run('filter', 'photos', ...flags, '--min-sharpness', '0', '--min-contrast', '0', '-o', 'out.jsonl', '--rejected', 'gone.jsonl', '-f') // prettier-ignore
    assert.equal(status, 0, stderr)
    const gone = (await file('gone.jsonl')).filter(({reason: why}) => reason.test(why as string))
    assert.deepEqual(gone.map(({id}) => id), [`photos/${name}`]) // prettier-ignore
    assert.ok((await file('out.jsonl')).some(({id}) => id === 'photos/colour.png'))
  }
})

test('their lists are images to every other command, as they are', async () => {
  await drawnFolder(join(dir, 'labelled'), ['one', 'two'], 3)
  const model = ['--model', 'starter', '--size', '48']
  for (const stage of ['outliers', 'mislabelled']) {
    const list = `${stage}.jsonl`
    const made = await run(stage, 'labelled', '--model', 'starter', '-o', list)
    assert.equal(made.status, 0, made.stderr)
    assert.equal((await file(list)).length, 6)
    for (const args of [
      ['embed', list, ...model, '-o', `${stage}.arrow`],
      ['curate', 'filter', list, '-o', `${stage}-filter.jsonl`],
      ['curate', 'dedup', list, '--model', 'starter', '-o', `${stage}-dedup.jsonl`],
      ['knn-eval', '--train', list, '--val', list, ...model, '-o', `${stage}-knn.json`],
      ['visualize', 'pca', list, ...model, '-o', `${stage}.png`],
      ['explore', list, '--model', 'starter', '-o', `${stage}-site`]
    ]) {
      const {status, stderr} = await program.run(...args)
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`)
      assert.doesNotMatch(stderr, /skipped|could not be read|refused/, args.join(' '))
    }
  }
})
