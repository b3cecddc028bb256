/** Which column names the rows of a table that other programs wrote. */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {Field, FixedSizeList, Float32, Table, tableToIPC, Utf8, vectorFromArray} from 'apache-arrow'
import {openEmbeddings} from '../../../src/files/embeddings/embeddings.js'
import {scratch} from '../../support/scratch.js'

async function idsOf(path: string): Promise<{ids: string[]; fields: object}> {
  const {rows, close} = await openEmbeddings(path)
  const ids: string[] = []
  let first: object = {}
  try {
    for await (const batch of rows) {
      ids.push(...batch.ids)
      first = batch.fields[0]!
    }
  } finally {
    await close()
  }
  return {ids, fields: first}
}

const cases: [columns: Record<string, string[]>, ids: string[] | RegExp, rest: string[]][] = [
  [{ID: ['x', 'y']}, ['x', 'y'], []],
  [{Id: ['x', 'y'], filename: ['f', 'g']}, ['x', 'y'], ['filename']],
  [{FileName: ['f', 'g'], label: ['p', 'q']}, ['f', 'g'], ['label']],
  [{image_path: ['f', 'g']}, ['f', 'g'], []],
  [{id: ['a', 'b'], ID: ['x', 'y']}, ['a', 'b'], ['ID']],
  [
    {filename: ['f', 'g'], image: ['i', 'j']},
    /^Several columns of .* could name its rows: filename, image; expected one that is called id\.$/,
    []
  ],
  [{ID: ['x', 'y'], Id: ['a', 'b']}, /could name its rows: ID, Id; expected/, []],
  [{label: ['p', 'q']}, ['0', '1'], ['label']]
]

for (const [columns, ids, rest] of cases) {
  test(`columns ${Object.keys(columns).join(', ')}: ${ids instanceof RegExp ? 'refused' : `rows are called ${ids.join(', ')}`}`, async t => {
    const folder = await scratch(t)
    const names = Object.keys(columns)
    const csv = join(folder, 'a.csv')
    const lines = [0, 1].map(i => [...names.map(name => columns[name]![i]), i + 0.5, 2].join(','))
    writeFileSync(csv, [[...names, 'v0', 'v1'].join(','), ...lines, ''].join('\n'))
    const arrow = join(folder, 'a.arrow')
    const vector = vectorFromArray(
      [
        [0.5, 2],
        [1.5, 2]
      ],
      new FixedSizeList(2, new Field('item', new Float32()))
    )
    const mapped = Object.fromEntries(names.map(name => [name, vectorFromArray(columns[name]!, new Utf8())]))
    writeFileSync(arrow, tableToIPC(new Table({...mapped, vector}), 'file'))
    for (const path of [csv, arrow]) {
      if (ids instanceof RegExp) {
        await assert.rejects(idsOf(path), {code: 'NO_IDS', message: ids}, path)
        continue
      }
      const found = await idsOf(path)
      assert.deepEqual(found.ids, ids, path)
      assert.deepEqual(Object.keys(found.fields).sort(), [...rest].sort(), path)
    }
  })
}
