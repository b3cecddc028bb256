/** A whole output gets more rows: what is there stays, what is new comes behind, what differs is refused. */
import assert from 'node:assert/strict'
import {mkdtemp, readFile, rm, stat, symlink, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {
  appendEmbeddings,
  batchOf,
  createEmbeddings,
  formatNames,
  openEmbeddings,
  partialOf,
  type EmbeddingBatch
} from '../../../src/files/embeddings/embeddings.js'
import {meta} from '../../fuzz/parsers.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'append-'))))
after(() => rm(dir, {recursive: true, force: true}))

const rows = (from: number, to: number): EmbeddingBatch =>
  batchOf(
    Array.from({length: to - from}, (_, i) => ({id: `id${from + i}`, vector: Float32Array.of(from + i, 1, 2, 3), fields: {n: from + i}}))
  )

async function read(path: string): Promise<string[]> {
  const opened = await openEmbeddings(path)
  const found: string[] = []
  for await (const {ids, vectors, fields} of opened.rows)
    found.push(...ids.map((id, i) => `${id} ${vectors[i * 4]} ${JSON.stringify(fields[i])}`))
  return found
}

for (const format of formatNames) {
  test(`${format}: new rows come behind those that are there`, async () => {
    const path = join(dir, `a.${format}`)
    const first = await createEmbeddings(path, {meta, force: true})
    await first.write(rows(0, 5))
    await first.commit()
    const output = await appendEmbeddings(path, {meta})
    assert.equal(output.resumed, 5)
    const ids: string[] = []
    for await (const {id} of output.resumedRows()) ids.push(id)
    assert.deepEqual(ids, ['id0', 'id1', 'id2', 'id3', 'id4'])
    await output.write(rows(5, 8))
    assert.equal((await read(path)).length, 5) // the old file stands until the end
    await output.commit()
    assert.deepEqual(
      await read(path),
      Array.from({length: 8}, (_, i) => `id${i} ${i} {"n":${i}}`)
    )
  })

  test(`${format}: nothing new leaves the file as it is`, async () => {
    const path = join(dir, `b.${format}`)
    const first = await createEmbeddings(path, {meta, force: true})
    await first.write(rows(0, 3))
    await first.commit()
    const [bytes, {mtimeMs}] = [await readFile(path), await stat(path)]
    const output = await appendEmbeddings(path, {meta})
    await output.commit()
    assert.deepEqual(await readFile(path), bytes)
    assert.equal((await stat(path)).mtimeMs, mtimeMs)
    await assert.rejects(stat(partialOf(path)), {code: 'ENOENT'})
    await assert.rejects(appendEmbeddings(path, {meta: {...meta, fingerprint: 'e'.repeat(64)}}), {code: 'OUTPUT_EXISTS', exit: 2})
  })
}

test('a whole output gets no rows in another format, and none where its record is missing', async () => {
  const path = join(dir, 'c.npy')
  const first = await createEmbeddings(path, {meta})
  await first.write(rows(0, 3))
  await first.commit()
  for (const format of formatNames.filter(name => name !== 'npy'))
    await assert.rejects(appendEmbeddings(path, {meta, format}), {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      message: new RegExp(`whole, but as npy, not as ${format}`)
    })
  await rm(join(dir, 'c.meta.json'))
  await assert.rejects(appendEmbeddings(path, {meta}), {
    exit: 2,
    message: /does not say how its vectors were made \(.*c\.meta\.json would\)/
  })
})

test('a link in the place of a growing output is not written through', async () => {
  const [path, victim] = [join(dir, 'linked.jsonl'), join(dir, 'victim')]
  await writeFile(victim, 'precious')
  await symlink(victim, partialOf(path))
  await assert.rejects(createEmbeddings(path, {meta, force: true}), {exit: 2, code: 'IS_LINK'})
  assert.equal(await readFile(victim, 'utf8'), 'precious')
})
