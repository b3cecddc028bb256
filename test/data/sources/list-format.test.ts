/**
 * Lists as other programs write them: other encodings, separators and column names are read, or refused in
 * one sentence.
 */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test, type TestContext} from 'node:test'
import {UserError} from '../../../src/config/errors.js'
import {isNulList} from '../../../src/data/sources/list-format.js'
import {listImages, type ImageRef} from '../../../src/data/sources/source.js'
import {folderFor} from '../../support/drawn.js'

async function read(t: TestContext, name: string, bytes: Buffer | string, nul = false): Promise<ImageRef[]> {
  const folder = folderFor(t)
  writeFileSync(join(folder, name), bytes)
  const refs: ImageRef[] = []
  for await (const ref of listImages([name], {cwd: folder, nul})) refs.push(ref)
  return refs
}
const ids = (refs: readonly ImageRef[]): string[] => refs.map(({id, problem}) => problem ?? id)
const names = ['plain.jpg', 'café with space.jpg', '図.png']

test('UTF-16 of both orders, with its mark and without, and UTF-8 with a mark', async t => {
  const text = `${names.join('\r\n')}\r\n`
  const little = Buffer.from(text, 'utf16le')
  const big = Buffer.from(little).swap16()
  for (const [name, bytes] of Object.entries({
    little: Buffer.concat([Buffer.from([0xff, 0xfe]), little]),
    big: Buffer.concat([Buffer.from([0xfe, 0xff]), big]),
    mark: Buffer.from(`\ufeff${text}`)
  }))
    assert.deepEqual(ids(await read(t, 'l.txt', bytes)), names, name)
  assert.deepEqual(ids(await read(t, 'l.txt', Buffer.from('plain.jpg\nother.jpg\n', 'utf16le'))), ['plain.jpg', 'other.jpg'])
  const table = Buffer.from(`\ufeffpath;label\r\n${names[1]};1\r\n`, 'utf16le')
  const [row] = await read(t, 'l.csv', table)
  assert.deepEqual([row!.id, row!.fields], [names[1], {label: '1'}])
  assert.deepEqual(ids(await read(t, 'l.jsonl', Buffer.from(`\ufeff{"path":"${names[2]}"}\n`, 'utf16le'))), [names[2]])
})

test('NUL-separated names are known without a flag, lines that hold a NUL are not taken for them', async t => {
  const list = `${[...names, 'new\nline.jpg'].join('\0')}\0`
  for (const name of ['l.txt', 'l.lst']) assert.deepEqual(ids(await read(t, name, list)), [...names, 'new\nline.jpg'])
  for (const name of ['l.nul', 'l']) assert.deepEqual(ids(await read(t, name, list, true)), [...names, 'new\nline.jpg'], name)
  assert.match(ids(await read(t, 'l.txt', 'a.jpg\nb\0c.jpg\nd.jpg\n'))[1]!, /holds a NUL/)
  assert.ok(!isNulList(Buffer.from('\0\0\0\0')) && !isNulList(Buffer.from('a.jpg\n')) && !isNulList(Buffer.from([0x89, 0x01, 0])))
})

test('tables with other separators and column names are read', async t => {
  for (const [header, rows] of [
    ['path;label', `${names[1]};1`],
    ['label\tpath', `1\t${names[1]}`],
    ['filename,label', `${names[1]},1`],
    ['"File_Name";"label"', `"${names[1]}";"1"`],
    ['label|image', `1|${names[1]}`],
    [' path , label ', `${names[1]},1`]
  ] as const)
    for (const name of ['l.csv', 'l.tsv']) {
      const [row] = await read(t, name, `${header}\n${rows}\n`)
      assert.deepEqual([row!.id, row!.fields], [names[1], {label: '1'}], header)
    }
  assert.deepEqual(ids(await read(t, 'l.txt', 'path;label\na.jpg;0\n')), ['a.jpg'])
  const [row] = await read(t, 'metadata.jsonl', '{"file_name":"a.jpg","text":"x"}\n')
  assert.deepEqual([row!.id, row!.fields], ['a.jpg', {text: 'x'}])
})

test('a table without a column of paths is refused in one sentence with its separator and columns', async t => {
  for (const [header, sentence] of [
    ['url;label\n1;2\n3;4\n', /l\.csv has no column of paths: its first line, separated by semicolons, gives the columns url, label\./],
    ['a.jpg,1\nb.jpg,2\n', /separated by commas, gives the columns a\.jpg, 1\./],
    ['a.jpg\nb.jpg\n', /gives the column a\.jpg\./]
  ] as const)
    await assert.rejects(read(t, 'l.csv', header), (error: unknown) => error instanceof UserError && sentence.test(error.message))
})

test('a table says each thing once: columns of one name, and rows with more cells than columns, are refused', async t => {
  for (const header of ['path,path', 'path,label,label', 'filename;label;"label"'])
    await assert.rejects(read(t, 'l.csv', `${header}\na.jpg,b,c\n`), {
      name: 'UserError',
      exit: 2,
      message: /two columns that are called \w+\./
    })
  const found = await read(t, 'l.csv', 'path,label\na, b.jpg,cat\nc.jpg,dog\nd.jpg,dog,,\ne.jpg\n')
  assert.match(found[0]!.problem!, /line 2 of l\.csv has 3 cells, but there are 2 columns/)
  assert.deepEqual(
    found.slice(1).map(({id, fields}) => [id, fields]),
    [
      ['c.jpg', {label: 'dog'}],
      ['d.jpg', {label: 'dog'}],
      ['e.jpg', {}]
    ]
  )
  const columns = Array.from({length: 50_000}, (_, k) => `c${k}`).join()
  const [wide] = await read(t, 'l.csv', `path,${columns}\na.jpg,${columns}\n`)
  assert.equal(Object.keys(wide!.fields).length, 50_000)
  const [first, second] = await read(t, 'l.jsonl', '{"path":"a.jpg","path":"b.jpg"}\n{"path":"a.jpg","x":1e400}\n')
  assert.match(first!.problem!, /line 1 of l\.jsonl is not a JSON object: it has the name "path" twice/)
  assert.match(second!.problem!, /line 2 .* a number that is not finite/)
})

test('an id that is no name and a text that is no UTF-8 are refused, not replaced', async t => {
  const rows = ['true', '{}', '["a"]', 'null', '7', '"b"'].map(id => `{"path":"a.jpg","id":${id}}\n`)
  const found = ids(await read(t, 'l.jsonl', rows.join('')))
  for (const problem of found.slice(0, 3)) assert.match(problem, /has an id that is neither a text nor a number/)
  assert.deepEqual(found.slice(3), ['a.jpg', '7', 'b'])
  const latin = (text: string): Buffer => Buffer.from(text, 'latin1')
  const [line, good] = ids(await read(t, 'l.jsonl', latin('{"path":"a.jpg","label":"caf\xe9"}\n{"path":"b.jpg"}\n')))
  assert.match(line!, /line 1 of l\.jsonl is not UTF-8 text/)
  assert.equal(good, 'b.jpg')
  const [cell, other] = ids(await read(t, 'l.csv', latin('path,label\na.jpg,caf\xe9\nb.jpg,x\n')))
  assert.match(cell!, /line 2 of l\.csv is not UTF-8 text/)
  assert.equal(other, 'b.jpg')
})

test('a table without a telling name is known by any name of its column of paths', async t => {
  for (const header of ['filename;label', 'image,label', 'label|File_Name'])
    assert.equal(
      (await read(t, 'l.txt', `${header}\n${header.startsWith('label') ? 'x|a.jpg' : header.includes(';') ? 'a.jpg;x' : 'a.jpg,x'}\n`))[0]!
        .id,
      'a.jpg'
    )
  assert.deepEqual(ids(await read(t, 'l.txt', 'image,1.jpg\nb.jpg\n')), ['image,1.jpg', 'b.jpg'])
})
