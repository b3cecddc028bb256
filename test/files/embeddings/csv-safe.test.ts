/** CSV for spreadsheets: no cell is a formula, and what is read is what was written. */
import assert from 'node:assert/strict'
import {readFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {parse} from 'csv-parse/sync'
import {appendEmbeddings, batchOf, createEmbeddings, openEmbeddings, partialOf} from '../../../src/files/embeddings/embeddings.js'
import {meta} from '../../fuzz/parsers.js'
import {scratch} from '../../support/scratch.js'

const texts = ['=cmd|x', '+1+1', '-2+3', '@SUM(A1)', '\t=1', '\r=1', "'quoted", 'plain', 'a=b', '-']
const rows = batchOf(
  texts.map((text, i) => ({id: `${text}${i}`, vector: Float32Array.of(-i, 1, 2, 3), fields: {'=title': text, n: -i - 1}}))
)

async function read(path: string): Promise<[string, object][]> {
  const {rows: all} = await openEmbeddings(path)
  const found: [string, object][] = []
  for await (const {ids, fields} of all) found.push(...ids.map((id, i): [string, object] => [id, {...fields[i]}]))
  return found
}
const expected = rows.ids.map((id, i): [string, object] => [id, {...rows.fields[i]}])

test('with csvSafe no text begins as a formula does, and all comes back; without, texts stay as they are', async t => {
  const folder = await scratch(t)
  const [safe, plain] = [join(folder, 'safe.csv'), join(folder, 'plain.csv')]
  for (const [path, csvSafe] of [
    [safe, true],
    [plain, false]
  ] as const) {
    const output = await createEmbeddings(path, {meta, csvSafe})
    await output.write(rows)
    await output.commit()
    assert.deepEqual(await read(path), expected)
  }
  const cells = (path: string): Promise<string[][]> => readFile(path).then(bytes => parse(bytes))
  const isText = (cell: string): boolean => Number.isNaN(Number(cell)) // numbers may be negative
  assert.deepEqual(
    (await cells(safe)).flat().filter(cell => isText(cell) && /^[=+\-@\t\r]/.test(cell)),
    []
  )
  assert.equal((await cells(plain)).flat().filter(cell => isText(cell) && /^[=+\-@\t\r]/.test(cell)).length, 14)
})

test('more rows go into a safe file safely, and a partial file of the other kind is not continued', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'a.csv')
  const output = await createEmbeddings(path, {meta, csvSafe: true})
  await output.write(rows)
  await output.commit()
  const more = await appendEmbeddings(path, {meta})
  await more.write(batchOf([{id: '=new', vector: Float32Array.of(1, 2, 3, 4), fields: {}}]))
  await more.commit()
  assert.match(await readFile(path, 'utf8'), /^'=new,/m)
  assert.equal((await read(path)).at(-1)![0], '=new')

  const begun = await createEmbeddings(join(folder, 'b.csv'), {meta, csvSafe: true})
  await begun.write(rows)
  assert.equal(await begun.keep(), true)
  await readFile(partialOf(join(folder, 'b.csv')))
  await assert.rejects(createEmbeddings(join(folder, 'b.csv'), {meta, resume: true}), /was begun with --csv-safe/)
  await assert.rejects(createEmbeddings(join(folder, 'c.npy'), {meta, csvSafe: true}), /--csv-safe is for CSV, but .* is written as npy/)
})
