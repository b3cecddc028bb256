/** Images inside Parquet files: every row is an image or is refused by name, whatever wrote the file or damaged it. */
import assert from 'node:assert/strict'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {gzipSync} from 'node:zlib'
import * as arrow from 'apache-arrow'
import {UserError} from '../../../src/config/errors.js'
import {readBytes} from '../../../src/data/image/read-bytes.js'
import {holdsImages} from '../../../src/data/sources/parquet.js'
import {imageTable} from '../../../src/data/sources/image-table.js'
import {labelOf, listImages, type ImageRef, type SourceNote} from '../../../src/data/sources/source.js'
import {folderFor} from '../../support/drawn.js'
import {drawnImage} from '../../support/drawn-images.js'
import {bytesColumn, classLabels, imageColumn, parquetOf} from '../../support/parquet.js'
import {tarOf} from '../../support/tar.js'

type Listed = {rows: ImageRef[]; refused: string[]; notes: SourceNote[]}

async function list(folder: string, ...names: string[]): Promise<Listed> {
  const found: Listed = {rows: [], refused: [], notes: []}
  for await (const ref of listImages(names, {cwd: folder, onSkipped: note => found.notes.push(note)}))
    if (ref.problem === undefined) found.rows.push(ref)
    else found.refused.push(`${ref.id}: ${ref.problem}`)
  return found
}
const ids = (rows: readonly ImageRef[]): string[] => rows.map(({id}) => id)
const contents = (rows: readonly ImageRef[]): string[] => rows.map(ref => Buffer.from(readBytes(ref)).toString())
const text = (value: string): Uint8Array => Buffer.from(value)
const bigints = (values: readonly (number | null)[]): arrow.Vector =>
  arrow.vectorFromArray(values.map(value => (value === null ? null : BigInt(value))) as never[], new arrow.Int64() as never)

test('a dataset of Hugging Face: rows in order over row groups, labels by name, other columns riding along', async t => {
  const folder = folderFor(t)
  const n = 41
  const numbers = Array.from({length: n}, (_, i) => i)
  const file = parquetOf(
    {
      image: imageColumn(numbers.map(i => (i === 7 ? null : {bytes: text(`I${i}`), path: i % 2 ? `${i}.jpg` : null}))),
      label: bigints(numbers.map(i => (i === 40 ? -1 : i % 3))),
      width: bigints(numbers),
      score: arrow.vectorFromArray(numbers.map(i => (i === 3 ? NaN : i / 2)) as never[], new arrow.Float64() as never),
      tags: arrow.vectorFromArray(
        numbers.map(i => [`t${i}`]) as never[],
        new arrow.List(new arrow.Field('item', new arrow.Utf8(), true)) as never
      ),
      path: arrow.vectorFromArray(numbers.map(i => `web/${i}`)),
      sound: bytesColumn(numbers.map(() => text('la')))
    },
    {metadata: classLabels('label', ['cat', 'dog', 'owl'])}
  )
  writeFileSync(join(folder, 'train-00000-of-00001.parquet'), file)
  const {rows, refused, notes} = await list(folder, 'train-{00000..00000}-of-00001.parquet')
  assert.deepEqual(refused, ['train-00000-of-00001.parquet/7: row 7 of train-00000-of-00001.parquet has no image'])
  const there = numbers.filter(i => i !== 7)
  assert.deepEqual(
    ids(rows),
    there.map(i => `train-00000-of-00001.parquet/${i}`)
  )
  assert.deepEqual(
    contents(rows),
    there.map(i => `I${i}`)
  )
  assert.deepEqual(
    rows.map(labelOf),
    there.map(i => (i === 40 ? undefined : ['cat', 'dog', 'owl'][i % 3]))
  )
  assert.deepEqual(rows[3]!.fields, {label: 'cat', width: 3, tags: ['t3'], parquet_path: 'web/3', file_name: '3.jpg'})
  assert.deepEqual(rows[4]!.fields, {label: 'dog', width: 4, score: 2, tags: ['t4'], parquet_path: 'web/4'})
  assert.deepEqual(
    notes.map(({path}) => path),
    ['train-00000-of-00001.parquet, column sound']
  )
})

test('a column of bytes with ids of its own; a struct or a column of paths beside the file', async t => {
  const folder = folderFor(t)
  mkdirSync(join(folder, 'data'))
  writeFileSync(join(folder, 'data/a.jpg'), 'A')
  const bytes = parquetOf({id: bigints([12, 30]), jpg: bytesColumn([text('x'), text('y')])}, {packed: false})
  writeFileSync(join(folder, 'data/bytes.pq'), bytes)
  writeFileSync(join(folder, 'data/struct.parquet'), parquetOf({image: imageColumn([{bytes: null, path: 'a.jpg'}])}))
  const paths = {file_name: arrow.vectorFromArray(['a.jpg', null]), kind: arrow.vectorFromArray(['first', 'second'])}
  writeFileSync(join(folder, 'data/paths.parquet'), parquetOf(paths))
  const {rows, refused} = await list(folder, 'data/bytes.pq', 'data/struct.parquet', 'data/paths.parquet')
  assert.deepEqual(ids(rows), ['12', '30', 'a.jpg', 'a.jpg'])
  assert.deepEqual(contents(rows), ['x', 'y', 'A', 'A'])
  assert.deepEqual(rows[3]!.fields, {kind: 'first'})
  assert.deepEqual(refused, ['data/paths.parquet/1: row 1 of data/paths.parquet has no image'])
})

test('what holds no images, or leaves open which they are, is refused by a sentence', async t => {
  const folder = folderFor(t)
  const vector = arrow.vectorFromArray([[1, 2]] as never[], new arrow.List(new arrow.Field('item', new arrow.Float32(), true)) as never)
  writeFileSync(join(folder, 'vectors.parquet'), parquetOf({name: arrow.vectorFromArray(['a']), vector}))
  writeFileSync(join(folder, 'two.parquet'), parquetOf({left: bytesColumn([text('l')]), right: bytesColumn([text('r')])}))
  const refused = (message: RegExp) => (error: UserError) => error.exit === 2 && error.code === 'NO_IMAGES' && message.test(error.message)
  await assert.rejects(list(folder, 'vectors.parquet'), refused(/^vectors\.parquet has no column of images.* columns are name, vector\.$/))
  await assert.rejects(
    list(folder, 'two.parquet'),
    refused(/2 columns that may hold the images \(left, right\); call the one that counts image/)
  )
  assert.equal(await holdsImages(join(folder, 'two.parquet')), false)
  await assert.rejects(list(folder, 'gone.parquet'), (error: UserError) => error.exit === 3)
})

test('damaged files give their good rows and one counted problem, never a crash', async t => {
  const folder = folderFor(t)
  const whole = parquetOf({image: bytesColumn(Array.from({length: 24}, (_, i) => text(`I${i}`.repeat(40))))}, {rowsPerGroup: 8})
  const damages: Record<string, (bytes: Buffer) => Uint8Array> = {
    'empty.parquet': () => new Uint8Array(0),
    'text.parquet': () => text('PAR1 no'),
    'cut.parquet': bytes => bytes.subarray(0, bytes.length - 20),
    'page.parquet': bytes => Buffer.from(bytes).fill(0xff, 500, 900),
    'head.parquet': bytes => Buffer.from(bytes).fill(0x7f, 4, 24),
    'contents.parquet': bytes => Buffer.from(bytes).fill(0x15, bytes.length - 60, bytes.length - 30)
  }
  for (const [name, damage] of Object.entries(damages)) {
    writeFileSync(join(folder, name), damage(Buffer.from(whole)))
    try {
      const {rows, refused} = await list(folder, name)
      assert.ok(refused.length === 1 || (rows.length === 24 && name === 'page.parquet'), `${name}: ${refused.join()}`)
      assert.match(refused[0] ?? '', /^\w+\.parquet: the Parquet file is damaged after \d+ rows \(.+\)$|^$/)
    } catch (error) {
      assert.ok(error instanceof UserError, `${name}: ${error}`)
    }
  }
})

test('a list names rows, in any order, of several files', async t => {
  const folder = folderFor(t)
  for (const name of ['a', 'b'])
    writeFileSync(
      join(folder, `${name}.parquet`),
      parquetOf({image: bytesColumn(Array.from({length: 90}, (_, i) => text(`${name}${i}`)))}, {rowsPerGroup: 30})
    )
  const wanted = [
    ['a', 80],
    ['b', 3],
    ['a', 29],
    ['a', 30],
    ['b', 89],
    ['a', 0],
    ['a', 80]
  ] as const
  const lines = wanted.map(([name, row]) => JSON.stringify({path: `${name}.parquet`, row, label: name}))
  lines.push('{"path":"a.parquet","row":90}', '{"path":"c.parquet","row":0}', '{"path":"plain.jpg","row":5}')
  writeFileSync(join(folder, 'list.jsonl'), lines.join('\n'))
  const {rows, refused} = await list(folder, 'list.jsonl')
  const plain = rows.pop()!
  assert.deepEqual([plain.id, plain.fields], ['plain.jpg', {row: 5}])
  assert.deepEqual(
    contents(rows),
    wanted.map(([name, row]) => `${name}${row}`)
  )
  assert.deepEqual(ids(rows).slice(0, 2), ['a.parquet/80', 'b.parquet/3'])
  assert.equal(refused.length, 2)
  assert.match(refused[0]!, /^a\.parquet\/90: row 90 of .*a\.parquet has no image$/)
  assert.match(refused[1]!, /^c\.parquet\/0: there is no file .*c\.parquet$/)
})

test('a table of images holds none of their bytes, and finds them again', async t => {
  const folder = folderFor(t)
  const images = await Promise.all([0, 1, 2].map(i => drawnImage(1, i)))
  writeFileSync(join(folder, 'x.parquet'), parquetOf({image: imageColumn(images.map(bytes => ({bytes, path: null})))}))
  writeFileSync(join(folder, 'x.tgz'), gzipSync(await tarOf([['a.jpg', 'from a compressed shard']])))
  const table = await imageTable(listImages(['x.parquet', 'x.tgz'], {cwd: folder}))
  assert.equal(table.length, 4)
  for (const [i, bytes] of images.entries()) {
    const ref = table.at(i)!
    assert.equal(ref.bytes, undefined)
    assert.deepEqual([ref.path, ref.row], [join(folder, 'x.parquet'), i])
    assert.deepEqual(Buffer.from(readBytes(ref)), Buffer.from(bytes))
  }
  assert.equal(Buffer.from(readBytes(table.at(3)!)).toString(), 'from a compressed shard')
  assert.ok(readFileSync(table.at(0)!.copy!.path).length > images[0]!.length)
})
