/** Pictures of features and of neighbours, from images that are drawn here and a recorded model. */
import assert from 'node:assert/strict'
import {mkdir, mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {Readable} from 'node:stream'
import {after, before, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {centered, enlarge, fitSide, paste, blankCanvas} from '../../../src/render/canvas.js'
import {decodeRgb, type Raster} from '../../../src/data/image/decode.js'
import {drawPicture} from '../../../src/synthetic/picture.js'
import {encodeImage} from '../../../src/data/image/encode.js'
import {answerRows, contactSheet, type QueryAnswer} from '../../../src/tasks/search/contact-sheet.js'
import {defaultSize} from '../../../src/tasks/visualize/run-on-images.js'
import {blackReason, visualizePca} from '../../../src/tasks/visualize/pca.js'
import {memory} from '../../../src/tensor/tf.js'

const model = fileURLToPath(new URL('../../../../test/golden/vit_plain.safetensors', import.meta.url))
let folder: string
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'visualize-'))
  for (const [i, kind] of ['star', 'mug', 'bricks'].entries()) {
    await mkdir(join(folder, 'pictures', kind), {recursive: true})
    await writeFile(
      join(folder, 'pictures', kind, 'a.png'),
      await encodeImage(drawPicture({kind, split: 'train', number: i, style: 'hard'}, 64, 0), {width: 64, height: 64})
    )
  }
  await writeFile(join(folder, 'pictures', 'star', 'broken.png'), 'not a picture')
})
after(async () => rm(folder, {recursive: true}))

const decoded = (bytes: Uint8Array): Promise<Raster> => decodeRgb({id: 'x', path: 'x', fields: {}, bytes})
const pca = (more: Partial<Parameters<typeof visualizePca>[0]> = {}): ReturnType<typeof visualizePca> =>
  visualizePca({
    images: [join(folder, 'pictures')],
    model,
    engine: {engine: 'wasm', precision: 'fp32', note: () => undefined},
    size: 112,
    foreground: true,
    smooth: false,
    limit: 12,
    format: 'png',
    ...more
  })

test('patches become one picture for all images; the same call gives the same bytes and leaves no tensor', async () => {
  const bad: string[] = []
  const {content, report} = await pca({onRejected: ({path}) => bad.push(path)})
  const held = memory().numTensors
  assert.equal(report.images, 3)
  assert.equal(report.patches, 3 * 64)
  assert.ok(report.foreground! > 0 && report.foreground! < 1)
  assert.ok(bad[0]!.endsWith('broken.png'))
  const image = await decoded(content as Uint8Array)
  assert.ok(image.width > 2 * 112 && image.height > 3 * 112)
  assert.deepEqual((await pca()).content, content)
  assert.equal(memory().numTensors, held)
})

test('pictures that would be mostly black are named: all of them together, or half of the images', () => {
  const mask = (inFront: number): Uint8Array => Uint8Array.from({length: 100}, (_, i) => (i < inFront ? 1 : 0))
  assert.equal(blackReason([mask(9), mask(11)]), 'only 10 % of the patches stand in front')
  assert.equal(blackReason([mask(2), mask(0), mask(90)]), 'almost nothing stands in front in 2 of 3 images')
  assert.equal(blackReason([mask(2), mask(40), mask(50)]), undefined)
  assert.equal(blackReason([mask(20)]), undefined)
})

test('all patches are coloured on request, smooth or not, and a page holds its pictures', async () => {
  const {content, report} = await pca({
    foreground: false,
    smooth: true,
    format: 'html',
    limit: 2,
    images: [join(folder, 'pictures/star/a.png'), join(folder, 'pictures/mug'), join(folder, 'pictures/bricks')]
  })
  assert.equal(report.foreground, undefined)
  assert.equal(report.leftOut, 1)
  assert.equal((String(content).match(/src="data:image/g) ?? []).length, 4)
  assert.doesNotMatch(String(content), /(src|href)="(?!data:)/)
})

test('no images and a size below two patches are sentences', async () => {
  await mkdir(join(folder, 'empty'), {recursive: true})
  await assert.rejects(pca({images: [join(folder, 'empty')]}), {exit: 3})
  await assert.rejects(pca({size: 20}), {exit: 2, code: 'USAGE'})
})

test('the usual size gives at least 16 patches', () => {
  const of = (grid: number, patch: number): number => defaultSize({grid, patch} as Parameters<typeof defaultSize>[0])
  assert.equal(of(37, 14), 518)
  assert.equal(of(6, 8), 144)
})

test('a contact sheet shows what can be opened, and counts labels that agree', async () => {
  const name = (kind: string): string => `pictures/${kind}/a.png`
  const answers: QueryAnswer[] = [
    {
      query: name('star'),
      fields: {label: 'star'},
      found: [
        {query: name('star'), rank: 1, id: name('mug'), similarity: 0.9, fields: {label: 'mug'}},
        {query: name('star'), rank: 2, id: '<gone>.png', similarity: 0.8, fields: {label: 'star'}},
        {query: name('star'), rank: 3, id: 'elsewhere', similarity: 0.7, fields: {label: 'star', path: name('bricks')}}
      ]
    }
  ]
  const {content, report} = await contactSheet(answers, {format: 'html', root: folder, side: 32})
  assert.deepEqual([report.queries, report.pictures, report.missing], [1, 3, 1])
  assert.ok(Math.abs(report.sameLabel! - 2 / 3) < 1e-9)
  assert.ok(String(content).includes('&lt;gone&gt;.png') && !String(content).includes('<gone>'))
  assert.match(String(content), /grid-template-columns: repeat\(4, minmax\(0, 44px\)\)/) // a query and three neighbours in one row
  const png = await contactSheet(answers, {format: 'png', root: folder, side: 32})
  const image = await decoded(png.content as Uint8Array)
  // Margins, the note in two lines, the name of the query, captions, pictures; narrow panels get small letters.
  assert.equal(image.height, 2 * 16 + 2 * 10 + 6 + 2 * 10 + 32)
  assert.equal(image.width, 320 + 2 * 16)
})

test('rows of a search are read as a stream, grouped by query', async () => {
  const row = (query: string, id: string): string => JSON.stringify({query, rank: 1, id, similarity: 0.5, label: 'x'})
  const read = async (text: string, limit = 9): Promise<QueryAnswer[]> => {
    const all: QueryAnswer[] = []
    for await (const answer of answerRows(Readable.from([Buffer.from(text)]), {k: 2, limit})) all.push(answer)
    return all
  }
  const text = [row('a', '1'), row('a', '2'), row('a', '3'), '', row('b', '4')].join('\n')
  const all = await read(text)
  assert.deepEqual(
    all.map(({query, found}) => [query, found.map(({id}) => id)]),
    [
      ['a', ['1', '2']],
      ['b', ['4']]
    ]
  )
  assert.equal(all[0]!.found[0]!.fields['label'], 'x')
  assert.equal((await read(text, 1)).length, 1)
  await assert.rejects(read('{"id":1}\n'), {code: 'NOT_ROWS', message: /Line 1 of stdin/})
  await assert.rejects(read(''), {exit: 3})
})

test('sheets, pasting, enlarging and fitting', () => {
  const dot: Raster = {width: 2, height: 1, data: Uint8Array.of(1, 2, 3, 4, 5, 6)}
  assert.deepEqual([...enlarge(dot, 2).data], [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6])
  const onto = blankCanvas(3, 2, 0)
  paste(onto, dot, 1, 1)
  assert.deepEqual([...onto.data.subarray(9)], [0, 0, 0, 1, 2, 3, 4, 5, 6])
  assert.throws(() => paste(onto, dot, 2, 1), RangeError)
  const wide = fitSide(blankCanvas(100, 40), 50)
  assert.deepEqual([wide.width, wide.height], [50, 20])
  assert.equal(centered(wide, 60).data.length, 60 * 60 * 3)
})

test('rows of a search leave out the query itself where asked, and still give k neighbours', async () => {
  const rows = ['a', 'b', 'c'].map((id, i) => JSON.stringify({query: 'a', id, rank: i + 1, similarity: 1 - i / 10}) + '\n')
  const found = async (skipSelf: boolean): Promise<string[]> => {
    const answers = answerRows(Readable.from(rows.map(row => Buffer.from(row))), {k: 2, limit: 5, skipSelf})
    return (await answers.next()).value!.found.map(({id}: {id: string}) => id)
  }
  assert.deepEqual(await found(true), ['b', 'c'])
  assert.deepEqual(await found(false), ['a', 'b'])
})
