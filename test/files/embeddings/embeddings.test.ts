/**
 * Embedding files: every format brings back what went in, keeps its record, can be continued where it says so, and
 * refuses what it must.
 */
import assert from 'node:assert/strict'
import {createReadStream} from 'node:fs'
import {appendFile, mkdir, mkdtemp, readFile, rename, rm, stat, truncate, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {PassThrough} from 'node:stream'
import {after, before, describe, test} from 'node:test'
import {
  batchOf,
  createEmbeddings,
  detectFormat,
  formatOf,
  formatNames,
  openAll,
  openEmbeddings,
  partialOf,
  rowsOf,
  type EmbeddingBatch,
  type EmbeddingFormat,
  type EmbeddingMeta,
  type Row
} from '../../../src/files/embeddings/embeddings.js'
import {shortestDecimal} from '../../../src/files/embeddings/jsonl.js'
import {projectFolder} from '../../support/scratch.js'

let dir: string
before(async () => void (dir = await mkdtemp(join(tmpdir(), 'embeddings-'))))
after(() => rm(dir, {recursive: true, force: true}))

const D = 5
const meta: EmbeddingMeta = {
  fingerprint: 'f'.repeat(64),
  architecture: 'ViT 5 wide',
  preprocessing: {resize: 256, crop: 224},
  pooling: 'cls',
  layers: 1,
  normalized: false,
  dim: D,
  precision: 'fp32',
  toolVersion: '0.1.0'
}

/** Numbers that need all of float32: tiny, huge, negative zero aside, and many digits. */
const number = (i: number, d: number): number => Math.fround(Math.sin(i * 7.1 + d * 1.3) * 10 ** (((i + d) % 9) - 4))
const row = (i: number, fields: Row['fields'] = {}): Row => ({
  id: `photos/${i}.jpg`,
  vector: Float32Array.from({length: D}, (_, d) => number(i, d)),
  fields
})

/**
 * Two batches: plain ids and odd ones; fields that fit columns, that come late, that change kind, that are lists, that
 * have our own names.
 */
const batches: EmbeddingBatch[] = [
  batchOf([
    row(0, {label: 'cat', depth: 1.5, ok: true}),
    row(1, {label: 'dög, "quoted"\nline', depth: -3, ok: false}),
    row(2, {label: ''})
  ]),
  batchOf([
    {...row(3, {label: 7, late: 'x', box: [1, 2, {a: null}]}), id: 'a,b "c"\nd\\xE9'},
    row(4, {vector: 'mine', id: 'other', extra: {a: 1}, dinov2: 'no', v0: 'v'}),
    row(5)
  ])
]
const expected = batches.flatMap(batch => [...rowsOf(batch)])

async function write(path: string, {format, more = {}}: {format?: EmbeddingFormat; more?: object} = {}): Promise<void> {
  const output = await createEmbeddings(path, {meta, ...(format ? {format} : {}), force: true, ...more})
  for (const batch of batches) await output.write(batch)
  await output.commit()
}

async function read(source: string | AsyncIterable<Uint8Array>): Promise<{meta: EmbeddingMeta; rows: Row[]; format: string}> {
  const opened = await openEmbeddings(source)
  const rows: Row[] = []
  for await (const batch of opened.rows) rows.push(...rowsOf(batch))
  return {meta: opened.meta, rows, format: opened.format}
}

const all = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const list: T[] = []
  for await (const item of items) list.push(item)
  return list
}

const plain = (rows: readonly Row[]): unknown[] => rows.map(({id, vector, fields}) => ({id, vector: [...vector], fields: {...fields}}))

async function writeAll(path: string, rows: readonly EmbeddingBatch[]): Promise<void> {
  const output = await createEmbeddings(path, {meta, force: true})
  for (const batch of rows) await output.write(batch)
  await output.commit()
}

/** What goes to a pipe. */
async function written(format: EmbeddingFormat, some: readonly EmbeddingBatch[], change: Partial<EmbeddingMeta> = {}): Promise<string> {
  const stdout = new PassThrough()
  const output = await createEmbeddings('-', {meta: {...meta, ...change}, format, stdout})
  for (const batch of some) await output.write(batch)
  await output.commit()
  stdout.end()
  return Buffer.concat(await all(stdout)).toString('utf8')
}

const jsonLines = async (path: string): Promise<unknown[]> =>
  (await readFile(path, 'utf8'))
    .trimEnd()
    .split('\n')
    .map(line => JSON.parse(line) as unknown)

test('csv has a column extra only where its first batch needs it, and files that have it empty are read', async () => {
  const header = (text: string): string => text.slice(0, text.indexOf(',v0'))
  const late = join(dir, 'late.csv')
  const lateBatches = [batchOf([...rowsOf(batches[0]!)].slice(0, 2)), batches[1]!]
  await writeAll(late, lateBatches)
  assert.deepEqual(plain((await read(late)).rows), plain(lateBatches.flatMap(batch => [...rowsOf(batch)])))
  assert.equal(header(await readFile(late, 'utf8')), 'id,label,depth,ok')
  assert.deepEqual(await jsonLines(`${late}.fields.jsonl`), [
    {row: 2, fields: {label: 7, late: 'x', box: [1, 2, {a: null}]}},
    {row: 3, fields: {vector: 'mine', id: 'other', extra: {a: 1}, dinov2: 'no', v0: 'v'}}
  ])
  const early = join(dir, 'early.csv')
  await writeAll(early, [...batches].reverse())
  assert.match(header(await readFile(early, 'utf8')), /,extra$/)
  await assert.rejects(stat(`${early}.fields.jsonl`), {code: 'ENOENT'})
  assert.deepEqual(plain((await read(early)).rows), plain([...batches].reverse().flatMap(batch => [...rowsOf(batch)])))
  // Files of earlier versions have the column always.
  const old = (await written('csv', [batchOf([row(0), row(1)])]))
    .replace('id,dinov2', 'id,extra,dinov2')
    .replaceAll(/^((?!id,)[^,]+),/gm, '$1,,')
  assert.match(old, /^id,extra,dinov2,v0/)
  await writeFile(join(dir, 'old.csv'), old)
  assert.deepEqual(plain((await read(join(dir, 'old.csv'))).rows), plain([row(0), row(1)]))
})

test('csv refuses a later row whose record is neither a checksum nor one with fields', async () => {
  const path = join(dir, 'wrong.csv')
  const text = await written('csv', [batchOf([row(0)]), batches[1]!])
  const wrong = text.replace('""extra"":{', '""extras"":{')
  assert.notEqual(wrong, text)
  await writeFile(path, wrong)
  await assert.rejects(read(path), /neither a checksum nor/)
})

test('JSON Lines say where a number is not finite', async () => {
  const path = join(dir, 'not-finite.jsonl')
  for (const [word, said] of [
    ['NaN', /Line 2 .* not finite \(NaN\)/],
    ['-Infinity', /Line 2 .* not finite \(-Infinity\)/],
    ['null', /line 2 .* not finite \(null at place 1\)/],
    ['"nan"', /line 2 .* not finite \("nan" at place 1\)/]
  ] as const) {
    await writeFile(path, `{"id":"NaN, [NaN]","vector":[1,2]}\n{"id":"b","vector":[1,${word}]}\n`)
    await assert.rejects(read(path), said)
  }
  await writeFile(path, '{"id":"b [NaN]","vector":[1,}\n')
  await assert.rejects(read(path), /is not JSON/)
})

describe('formats', () => {
  for (const format of formatNames) {
    test(`${format}: rows, fields and record come back`, async () => {
      const path = join(dir, `round.${format}`)
      await write(path)
      const found = await read(path)
      assert.equal(found.format, format)
      assert.deepEqual(plain(found.rows), plain(expected))
      assert.deepEqual(JSON.parse(JSON.stringify(found.meta, keysSorted(meta))), JSON.parse(JSON.stringify(meta, keysSorted(meta))))
    })

    test(`${format}: the same bytes twice`, async () => {
      const [a, b] = [join(dir, `a.${format}`), join(dir, `b.${format}`)]
      await write(a)
      await write(b)
      assert.deepEqual(await readFile(a), await readFile(b))
    })

    test(`${format}: read from a pipe`, async () => {
      const path = join(dir, `pipe.${format}`)
      await write(path)
      const found = await read(createReadStream(path, {highWaterMark: 7}))
      assert.deepEqual(
        found.rows.map(({vector}) => [...vector]),
        expected.map(({vector}) => [...vector])
      )
      // An array alone names its rows by number; all others carry their ids.
      assert.deepEqual(
        found.rows.map(({id}) => id),
        format === 'npy' ? expected.map((_, i) => String(i)) : expected.map(({id}) => id)
      )
    })

    test(`${format}: no rows`, async () => {
      const path = join(dir, `none-${format}.${format}`)
      const output = await createEmbeddings(path, {meta})
      await output.commit()
      if (format === 'jsonl') return assert.equal((await stat(path)).size, 0)
      const found = await read(path)
      assert.deepEqual(found.rows, [])
      if (format !== 'csv' && format !== 'npy') assert.equal(found.meta.fingerprint, meta.fingerprint)
      assert.equal(found.meta.dim, D)
    })
  }
  for (const format of ['arrow', 'parquet', 'jsonl', 'csv'] as const) {
    test(`${format}: written to a pipe`, async () => {
      const stdout = new PassThrough()
      const got = read(stdout)
      const output = await createEmbeddings('-', {meta, format, stdout})
      for (const batch of batches) await output.write(batch)
      await output.commit()
      stdout.end()
      assert.deepEqual(plain((await got).rows), plain(expected))
    })
  }
  for (const format of ['npy', 'safetensors'] as const) {
    test(`${format} refuses a pipe and says what to do`, async () => {
      await assert.rejects(createEmbeddings('-', {meta, format, stdout: new PassThrough()}), {code: 'NEEDS_FILE', exit: 2})
    })
  }
})

const keysSorted = (value: object): string[] => [...Object.keys(value), 'resize', 'crop'].sort()

describe('a table of text and the record beside it', () => {
  for (const format of ['csv', 'jsonl'] as const) {
    test(`${format}: no row carries the record; rows may be reordered and labels edited, numbers and rows may not go`, async () => {
      const path = join(dir, `beside.${format}`)
      await write(path)
      const text = await readFile(path, 'utf8')
      const record = JSON.parse(await readFile(`${path}.meta.json`, 'utf8')) as {dinov2: EmbeddingMeta; rows: number}
      assert.deepEqual([record.dinov2.fingerprint, record.rows], [meta.fingerprint, 6])
      assert.doesNotMatch(text.slice(0, text.indexOf('\n')), /dinov2|crc32/)
      const lines = text.trimEnd().split('\n')
      const change = async (to: string): Promise<{meta: EmbeddingMeta; rows: Row[]}> => {
        await writeFile(path, to)
        return read(path)
      }
      assert.equal((await change(text.replace('cat', 'lynx'))).rows[0]!.fields['label'], 'lynx')
      await assert.rejects(change(lines.slice(0, -1).join('\n') + '\n'), {
        code: 'EMBEDDINGS_DAMAGED',
        message: /has 5 rows, but .*meta\.json counts 6/
      })
      const number = shortestDecimal(expected[5]!.vector[D - 1]!)
      await assert.rejects(change(text.replace(number, '0.125')), {message: /vectors of .* are not those/})
      if (format === 'jsonl') assert.equal((await change([...lines].reverse().join('\n') + '\n')).rows[0]!.id, expected[5]!.id)
      await rm(`${path}.meta.json`)
      const bare = await change(lines.slice(0, -1).join('\n') + '\n')
      assert.deepEqual([bare.meta.fingerprint, bare.rows.length], [null, 5])
      // What a shell wrote over the file carries its own record, whatever stands beside it.
      await write(path)
      assert.deepEqual((await change(await written(format, [batches[0]!], {fingerprint: '3'.repeat(64)}))).meta.fingerprint, '3'.repeat(64))
    })
  }
  test('csv: fields beside it that are gone, or belong to other rows, are noticed', async () => {
    const path = join(dir, 'fields.csv')
    await writeAll(path, [batchOf([row(0)]), batches[1]!])
    const late = await readFile(`${path}.fields.jsonl`, 'utf8')
    await writeFile(`${path}.fields.jsonl`, late.replace('"row":2', '"row":9'))
    await assert.rejects(read(path), {code: 'EMBEDDINGS_DAMAGED', message: /goes on behind its last row/})
    await rm(`${path}.fields.jsonl`)
    await assert.rejects(read(path), {
      code: 'EMBEDDINGS_DAMAGED',
      message: /fields\.jsonl, which holds fields of 2 of its rows, is not there/
    })
    // A run without such fields leaves none of an earlier one.
    await writeFile(`${path}.fields.jsonl`, late)
    await writeAll(path, [batchOf([row(0)])])
    await assert.rejects(stat(`${path}.fields.jsonl`), {code: 'ENOENT'})
  })
  test('a changed field that stands beside the columns of Arrow and Parquet is noticed', async () => {
    for (const format of ['arrow', 'parquet']) {
      const path = join(dir, `late.${format}`)
      await writeAll(path, [batchOf([row(0)]), batchOf([row(1, {late: 'first'})])])
      assert.deepEqual((await read(path)).rows[1]!.fields, {late: 'first'})
      const bytes = await readFile(path)
      const at = bytes.indexOf('first')
      bytes[at] = 70
      await writeFile(path, bytes)
      await assert.rejects(read(path), {code: 'EMBEDDINGS_DAMAGED'}, format)
    }
  })
  test('a Parquet file that lost its record, its writer and the name of its checksum is noticed by what is left', async () => {
    const path = join(dir, 'bare.parquet')
    await writeAll(path, [batchOf([row(0), row(1)])])
    const whole = (await readFile(path)).toString('latin1')
    const changes: readonly [RegExp, string][] = [
      [/dinov2(?=[^ ]\D{1,3}\{"fingerprint)/g, 'minov2'], // the key
      [/dinov2 (?=\d)/g, 'other- '], // the writer
      [/"check":"rows=/g, '"chuck":"rows=']
    ]
    const bare = changes.reduce((text, [what, other]) => text.replace(what, other), whole)
    for (const [what] of changes) assert.match(whole, what)
    await writeFile(path, bare, 'latin1')
    await assert.rejects(read(path), {code: 'EMBEDDINGS_DAMAGED', message: /record of how its vectors were made is gone/})
  })
})

test('files of earlier versions are read', async () => {
  const files = JSON.parse(await readFile(join(projectFolder(), 'test/files/embeddings/earlier.json'), 'utf8')) as Record<string, string>
  const old = join(dir, 'earlier')
  await mkdir(old)
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(old, name), Buffer.from(bytes, 'base64'))
  await rename(join(old, 'v.npy'), join(old, 'n.npy'))
  for (const name of ['v.arrow', 'v.parquet', 'v.csv', 'v.jsonl', 'v.safetensors', 'n.npy']) {
    const found = await read(join(old, name))
    assert.deepEqual([found.meta.fingerprint, found.meta.preprocessing], ['a'.repeat(64), {resize: 256, crop: 224}], name)
    assert.deepEqual(
      plain(found.rows),
      [
        {id: 'img/0.jpg', vector: [0, 0.5], fields: {label: 'cat', size: 3}},
        {id: 'img/1.jpg', vector: [1, -0.5], fields: {label: 'dog'}},
        {id: 'img/2.jpg', vector: [2, -1.5], fields: {late: [1, 'x'], dinov2: 'mine'}}
      ],
      name
    )
  }
})

describe('an interrupted output', () => {
  for (const format of ['arrow', 'jsonl', 'csv', 'npy', 'safetensors'] as const) {
    test(`${format}: continued behind its last whole row, to the same bytes`, async () => {
      const [whole, broken] = [join(dir, `whole-${format}.${format}`), join(dir, `broken-${format}.${format}`)]
      const side =
        format === 'npy' ? join(dir, 'broken-npy.jsonl.partial') : format === 'safetensors' ? `${broken}.rows.partial` : partialOf(broken)
      await write(whole)
      const first = await createEmbeddings(broken, {meta, batch: 3})
      await first.write(batches[0]!)
      const {size} = await stat(side)
      await first.write(batches[1]!)
      assert.equal(await first.keep(), true)
      await assert.rejects(stat(broken), {code: 'ENOENT'})
      await assert.rejects(createEmbeddings(broken, {meta}), {code: 'PARTIAL_EXISTS', exit: 2})
      await truncate(side, size + 3) // as if the process had died in the middle of the second batch

      const second = await createEmbeddings(broken, {meta, resume: true, batch: 3})
      assert.equal(second.resumed, 3)
      const resumed = await all(second.resumedRows())
      assert.deepEqual(
        resumed.map(({id}) => id),
        batches[0]!.ids
      )
      assert.deepEqual(
        resumed.map(({fields}) => ({...fields})),
        batches[0]!.fields
      )
      await second.write(batches[1]!)
      await second.commit()
      assert.deepEqual(await readFile(broken), await readFile(whole))
      assert.deepEqual(plain((await read(broken)).rows), plain(expected))
      await assert.rejects(stat(partialOf(broken)), {code: 'ENOENT'})
    })

    test(`${format}: not continued in another format`, async () => {
      const path = join(dir, `kept-${format}`)
      const first = await createEmbeddings(path, {meta, format, batch: 3})
      await first.write(batches[0]!)
      await first.keep()
      for (const other of (['arrow', 'jsonl', 'csv', 'npy', 'safetensors'] as const).filter(one => one !== format))
        await assert.rejects(createEmbeddings(path, {meta, format: other, resume: true, batch: 3}), {
          exit: 2,
          code: 'CANNOT_RESUME',
          message: new RegExp(`was begun as ${format}, so it cannot be continued as ${other}`)
        })
      const second = await createEmbeddings(path, {meta, format, resume: true, batch: 3})
      assert.equal(second.resumed, 3)
      await second.keep()
    })

    test(`${format}: cut off before the first row`, async () => {
      const path = join(dir, `early-${format}.${format}`)
      const first = await createEmbeddings(path, {meta, batch: 3})
      await first.write(batches[0]!)
      await first.keep()
      await truncate(partialOf(path), 5)
      const second = await createEmbeddings(path, {meta, resume: true, batch: 3})
      assert.equal(second.resumed, 0)
      for (const batch of batches) await second.write(batch)
      await second.commit()
      assert.deepEqual(plain((await read(path)).rows), plain(expected))
    })
  }

  for (const format of ['arrow', 'jsonl', 'csv', 'npy', 'safetensors'] as const)
    test(`${format}: what no interrupted run left is not written over`, async () => {
      const path = join(dir, `foreign-${format}.${format}`)
      const refused = (content: string): Promise<void> =>
        assert.rejects(createEmbeddings(path, {meta, resume: true, batch: 3}), {exit: 2, code: 'CANNOT_RESUME'}, content)
      const whole = join(dir, `complete-${format}.${format}`)
      await write(whole)
      // Text is a beginning of CSV; bytes are of no format; the last has rows, but not what tells how they were made.
      const foreign = [
        Buffer.alloc(600, 'words and more words, '),
        Buffer.from(Uint8Array.from({length: 600}, (_, i) => 128 + (i % 100))),
        ...(format === 'arrow' ? [] : [await readFile(whole)])
      ]
      for (const bytes of foreign) {
        await writeFile(partialOf(path), format === 'csv' ? Buffer.concat([bytes, Buffer.from('\n1\n2\n')]) : bytes)
        const before = await readFile(partialOf(path))
        await refused(`${bytes.subarray(0, 20).toString('latin1')}…`)
        assert.deepEqual(await readFile(partialOf(path)), before)
      }
      await writeFile(partialOf(path), Buffer.alloc(100)) // what a machine that lost power leaves
      const anew = await createEmbeddings(path, {meta, resume: true, batch: 3})
      assert.equal(anew.resumed, 0)
      await anew.keep()
    })

  test('a name that is too long is said to be so', async () => {
    for (const name of ['L'.repeat(249) + '.arrow', 'L'.repeat(245) + '.parquet'])
      await assert.rejects(createEmbeddings(join(dir, name), {meta}), {exit: 2, code: 'NAME_TOO_LONG'})
  })

  test('nothing written leaves nothing behind', async () => {
    const output = await createEmbeddings(join(dir, 'nothing.arrow'), {meta})
    assert.equal(await output.keep(), false)
    await assert.rejects(stat(join(dir, 'nothing.arrow.partial')), {code: 'ENOENT'})
  })

  test('another model may not continue it', async () => {
    const path = join(dir, 'other.arrow')
    const first = await createEmbeddings(path, {meta})
    await first.write(batches[0]!)
    await first.keep()
    await assert.rejects(createEmbeddings(path, {meta: {...meta, fingerprint: 'e'.repeat(64)}, resume: true}), {
      code: 'MIXED_EMBEDDINGS',
      message: /ffffffffffff.*eeeeeeeeeeee/s
    })
  })

  test('parquet says that it cannot be continued', async () => {
    await assert.rejects(createEmbeddings(join(dir, 'x.parquet'), {meta, resume: true}), {code: 'CANNOT_RESUME', exit: 2})
  })

  test('an existing output is refused without force, and stays', async () => {
    const path = join(dir, 'there.npy')
    await writeFile(path, 'old')
    await assert.rejects(createEmbeddings(path, {meta}), {code: 'OUTPUT_EXISTS', exit: 2})
    const output = await createEmbeddings(path, {meta, force: true})
    await output.write(batches[0]!)
    await output.keep()
    assert.equal(await readFile(path, 'utf8'), 'old')
  })
})

describe('mixing', () => {
  const other = async (name: string, change: Partial<EmbeddingMeta>): Promise<string> => {
    const path = join(dir, name)
    const output = await createEmbeddings(path, {meta: {...meta, ...change}, force: true})
    await output.write(batches[0]!)
    await output.commit()
    return path
  }
  const drain = async (sources: string[], options = {}): Promise<number> => {
    let n = 0
    for await (const {ids} of (await openAll(sources, options)).rows) n += ids.length
    return n
  }
  test('two models, two preprocessings, two poolings are refused with both named', async () => {
    const [a, model, pixels, pool] = [
      await other('m0.arrow', {}),
      await other('m1.arrow', {fingerprint: '1'.repeat(64)}),
      await other('m2.jsonl', {preprocessing: {resize: 256, crop: 112}}),
      await other('m3.csv', {pooling: 'mean'})
    ]
    await assert.rejects(drain([a, model]), {
      exit: 2,
      code: 'MIXED_EMBEDDINGS',
      message: /two models.*m0\.arrow.*ffffffffffff.*m1\.arrow.*111111111111/s
    })
    await assert.rejects(drain([a, pixels]), {message: /two preprocessings.*crop 224.*crop 112/s})
    await assert.rejects(drain([a, pool]), {message: /two poolings/})
  })
  test('what differs only in tool version or number format passes, whatever the order of keys', async () => {
    const [a, b] = [
      await other('n0.arrow', {}),
      await other('n1.parquet', {toolVersion: '9', precision: 'bf16', preprocessing: {crop: 224, resize: 256}})
    ]
    assert.equal(await drain([a, b]), 6)
  })
  test('normalized and plain vectors meet only where directions alone count', async () => {
    const [a, b] = [await other('l0.arrow', {}), await other('l1.npy', {normalized: true})]
    await assert.rejects(drain([a, b]), {message: /normalized and plain/})
    assert.equal(await drain([a, b], {ignoreLength: true}), 6)
  })
  test('two JSON Lines files put together by cat are noticed at the line', async () => {
    const a = join(dir, 'c0.jsonl')
    await writeFile(a, (await written('jsonl', [batches[0]!])) + (await written('jsonl', [batches[0]!], {fingerprint: '2'.repeat(64)})))
    await assert.rejects(drain([a]), {message: /beginning of .*c0\.jsonl.*line 4/s})
  })
})

test('an Arrow stream whose writer was stopped is not taken for a whole one; two put together by cat are read as one', async () => {
  const path = join(dir, 'stopped.arrow')
  await write(path)
  const bytes = await readFile(path)
  await writeFile(path, Buffer.concat([bytes, bytes]))
  assert.deepEqual(plain((await read(createReadStream(path, {highWaterMark: 100}))).rows), plain([...expected, ...expected]))
  await writeFile(path, bytes.subarray(0, -8))
  await assert.rejects(read(path), {code: 'EMBEDDINGS_DAMAGED', message: /breaks off after 6 rows/})
})

describe('files of other programs', () => {
  test('JSON Lines with id and vector only', async () => {
    const path = join(dir, 'foreign.jsonl')
    await writeFile(path, '{"id":1,"vector":[1,2],"extra":"mine"}\n\n{"id":2,"vector":[3,4]}\n')
    const {rows, meta: record} = await read(path)
    assert.deepEqual(plain(rows), [
      {id: '1', vector: [1, 2], fields: {extra: 'mine'}},
      {id: '2', vector: [3, 4], fields: {}}
    ])
    assert.equal(record.fingerprint, null)
  })
  test('CSV without a record', async () => {
    const path = join(dir, 'foreign.csv')
    await writeFile(path, 'label,v1,v0,id\r\nx,2,1,"a ""b"""\r\n')
    assert.deepEqual(plain((await read(path)).rows), [{id: 'a "b"', vector: [1, 2], fields: {label: 'x'}}])
  })
  test('a NumPy array of float64 in a version 2 header, without a list', async () => {
    const head = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }".padEnd(128 - 12 - 1) + '\n'
    const bytes = Buffer.concat([
      Buffer.from('\x93NUMPY\x02\x00', 'latin1'),
      Buffer.from(Uint32Array.of(head.length).buffer),
      Buffer.from(head),
      Buffer.from(Float64Array.of(1, 2, 3, 4).buffer)
    ])
    const path = join(dir, 'array.npy')
    await writeFile(path, bytes)
    assert.deepEqual(plain((await read(path)).rows), [
      {id: '0', vector: [1, 2], fields: {}},
      {id: '1', vector: [3, 4], fields: {}}
    ])
  })
})

describe('damage', () => {
  test('an array and a list of different lengths', async () => {
    const path = join(dir, 'pair.npy')
    await write(path)
    await appendFile(join(dir, 'pair.jsonl'), '{"id":"one more"}\n')
    await assert.rejects(read(path), {code: 'EMBEDDINGS_DAMAGED', message: /6 rows.*more lines/})
    const list = (await readFile(join(dir, 'pair.jsonl'), 'utf8')).trimEnd().split('\n').slice(0, -2)
    await writeFile(join(dir, 'pair.jsonl'), list.join('\n') + '\n')
    await assert.rejects(read(path), {message: /6 rows.*5 lines/})
  })
  for (const format of ['arrow', 'parquet', 'npy', 'safetensors'] as const) {
    test(`${format}: cut off`, async () => {
      const path = join(dir, `cut.${format}`)
      await write(path)
      await truncate(path, Math.floor((await stat(path)).size * 0.6))
      await assert.rejects(read(path), {name: 'UserError', code: 'EMBEDDINGS_DAMAGED'})
    })
  }
  test('a picture, an empty file and a folder are named as what they are', async () => {
    const path = join(dir, 'picture.arrow')
    await writeFile(path, Buffer.from([0xff, 0xd8, 0xff, 0xe0, 0, 16, 74, 70]))
    await assert.rejects(read(path), {code: 'NOT_EMBEDDINGS', exit: 2})
    await writeFile(path, '')
    await assert.rejects(read(path), {code: 'NO_INPUT', exit: 3})
    await assert.rejects(read(dir), {code: 'NOT_EMBEDDINGS', message: /folder/})
    await assert.rejects(read(join(dir, 'absent')), {code: 'NO_INPUT', exit: 3})
  })
})

test('the format follows the ending, the flag, or is Arrow on stdout', () => {
  assert.equal(formatOf('a.parquet').name, 'parquet')
  assert.equal(formatOf('a.bin', 'csv').name, 'csv')
  assert.equal(formatOf('-').name, 'arrow')
  assert.throws(() => formatOf('a.bin'), {code: 'UNKNOWN_FORMAT', exit: 2})
})

test('no bytes, text and JSON are distinguished', () => {
  assert.equal(detectFormat(new Uint8Array(0)), undefined)
  assert.equal(detectFormat(Buffer.from('id,v0\na,1\n'))?.name, 'csv')
  assert.equal(detectFormat(Buffer.from('{"id":1}'))?.name, 'jsonl')
})

test('decimals are the shortest that name the same float32', () => {
  assert.equal(shortestDecimal(Math.fround(0.1)), '0.1')
  for (let i = 0; i < 2000; i++) {
    const x = number(i, i % 7)
    assert.equal(Math.fround(Number(shortestDecimal(x))), x)
  }
})
