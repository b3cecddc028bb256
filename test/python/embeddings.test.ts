/**
 * Embedding files in the hands of Python users: pyarrow, NumPy and safetensors open them and find the same numbers,
 * ids, fields and record.
 */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {promisify} from 'node:util'
import {openEmbeddings, rowsOf, type Row} from '../../src/files/embeddings/embeddings.js'
import {scriptOf, testPython} from '../support/python.js'
import {testMeta, writeEmbeddings} from '../support/vectors.js'

const run = promisify(execFile)
let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'pyarrow-'))))
after(() => rm(dir, {recursive: true, force: true}))

const D = 12
const meta = testMeta(D)
const rows = Array.from({length: 2500}, (_, i): Row => {
  const fields = {...(i % 3 === 2 ? {} : {label: `klasse ${i % 7} é`}), depth: i / 4, good: i % 2 === 0, ...(i > 2400 ? {late: [i]} : {})}
  return {id: `bilder/${i}.jpg`, vector: Float32Array.from({length: D}, (_, d) => Math.fround(Math.sin(i * D + d))), fields}
})

test('pyarrow, NumPy and safetensors open what we write', async () => {
  const names = ['v.arrow', 'v.parquet', 'v.npy', 'v.jsonl', 'v.safetensors', 't.csv', 't.jsonl']
  const paths = names.map(name => join(dir, name))
  for (const path of paths.filter(name => !name.endsWith('v.jsonl'))) {
    await writeEmbeddings(path, rows, meta, 100)
  }
  const {stdout} = await run(testPython(), [scriptOf('open_embeddings.py'), ...paths], {maxBuffer: 1 << 28})
  const found = JSON.parse(stdout) as Record<string, unknown>
  const vectors = rows.map(row => [...row.vector])
  const ids = rows.map(row => row.id)
  for (const name of ['arrow', 'parquet']) {
    const table = found[name] as Record<string, unknown>
    assert.equal(table['type'], `fixed_size_list<item: float not null>[${D}]`, name)
    assert.deepEqual(table['ids'], ids, name)
    assert.deepEqual(
      table['labels'],
      rows.map(row => row.fields['label'] ?? null),
      name
    )
    assert.deepEqual(
      table['depths'],
      rows.map(row => row.fields['depth']),
      name
    )
    assert.deepEqual(
      table['good'],
      rows.map(row => row.fields['good']),
      name
    )
    assert.deepEqual(table['columns'], ['id', 'label', 'depth', 'good', 'vector'], name)
    assert.deepEqual(table['vectors'], vectors, name)
  }
  // No column but ids, fields and numbers: records stand apart, and nothing stands for fields that only come late.
  assert.deepEqual(found['csv_columns'], ['id', 'label', 'depth', 'good', ...Array.from({length: D}, (_, d) => `v${d}`)])
  assert.deepEqual([...(found['jsonl_columns'] as string[])].sort(), ['depth', 'good', 'id', 'label', 'late', 'vector'])
  assert.deepEqual([...(found['npy_columns'] as string[])].sort(), ['depth', 'good', 'id', 'label', 'late'])
  assert.deepEqual(found['list_columns'], ['depth', 'good', 'id', 'label', 'late'])
  assert.equal(found['row_groups'], 2)
  assert.equal(found['npy_type'], 'float32')
  for (const name of ['npy', 'safetensors']) {
    assert.deepEqual(found[name], vectors, name)
    assert.deepEqual(found[`${name}_ids`], ids, name)
  }
  const {check, ...parquetMeta} = found['parquet_meta'] as Record<string, unknown>
  assert.match(String(check), /^rows=0+2500 names=[0-9a-f]{8} vectors=[0-9a-f]{8} record=[0-9a-f]{8}$/)
  assert.deepEqual(parquetMeta, meta)
  for (const name of ['arrow', 'npy', 'safetensors']) assert.deepEqual(found[`${name}_meta`], meta, name)
})

test('we open what pyarrow writes', async () => {
  const script = `
import pyarrow as pa, pyarrow.parquet as pq, pyarrow.feather as feather, numpy as np, sys
ids = pa.array(["a", "b", "c"]).dictionary_encode()
flat = np.arange(6, dtype=np.float64)
table = pa.table({"id": ids, "label": pa.array([1, None, 3]), "vector": pa.ListArray.from_arrays([0, 2, 4, 6], pa.array(flat))})
pq.write_table(table, sys.argv[1] + "/p.parquet", compression="snappy")
feather.write_feather(table, sys.argv[1] + "/p.feather", compression="uncompressed")
fixed = pa.table({"id": pa.array([7, 8, 9]), "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(np.float32)), 2)}).slice(1)
with pa.ipc.new_stream(sys.argv[1] + "/p.arrow", fixed.schema) as sink:
    sink.write_table(fixed)
`
  await writeFile(join(dir, 'write.py'), script)
  await run(testPython(), [join(dir, 'write.py'), dir])
  const read = async (name: string): Promise<unknown[]> => {
    const list: unknown[] = []
    const {meta: found, rows: batches} = await openEmbeddings(join(dir, name))
    assert.equal(found.dim, 2)
    for await (const batch of batches) for (const {id, vector, fields} of rowsOf(batch)) list.push([id, [...vector], {...fields}])
    return list
  }
  const expected = [
    ['a', [0, 1], {label: 1}],
    ['b', [2, 3], {}],
    ['c', [4, 5], {label: 3}]
  ]
  assert.deepEqual(await read('p.parquet'), expected)
  assert.deepEqual(await read('p.feather'), expected)
  assert.deepEqual(await read('p.arrow'), [
    ['8', [2, 3], {}],
    ['9', [4, 5], {}]
  ])
})
