/**
 * Rows that may lie in memory or in a file: the same whatever the budget, read at any place, and nothing is left
 * behind.
 */
import assert from 'node:assert/strict'
import {readdirSync} from 'node:fs'
import {writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {npyMatrix} from '../../../src/files/embeddings/npy.js'
import {fileRows, MatrixBuilder} from '../../../src/files/search-index/matrix-file.js'
import {npyHeader} from '../../../src/files/embeddings/npy-header.js'
import {rng} from '../../../src/tensor/random.js'
import {folder} from '../../support/program.js'

const [N, D] = [5000, 900] // more than one block
const random = rng(1)
const data = Float32Array.from({length: N * D}, () => random.uniform())
const temporary = (): string[] => readdirSync(tmpdir()).filter(name => name.startsWith(`dinov2-${process.pid}-`) && name.endsWith('.rows'))

for (const [where, budget] of [
  ['memory', Infinity],
  ['a file', 1000]
] as const)
  test(`rows collected in ${where} are read in stretches and one by one`, () => {
    const builder = new MatrixBuilder(D, budget)
    for (let at = 0; at < N; at += 333) builder.append(data.subarray(at * D, Math.min(N, at + 333) * D))
    assert.equal(builder.spilled, where === 'a file')
    const rows = builder.finish()
    assert.equal(rows.count, N)
    for (const [from, n] of [
      [0, 10],
      [4650, 350],
      [4600, 200],
      [0, 0],
      [N - 1, 1]
    ] as const)
      assert.deepEqual(rows.block(from, n), data.subarray(from * D, (from + n) * D))
    const chosen = [7, 8, 9, 4999, 0, 4660]
    const got = rows.gather(chosen)
    for (const [i, row] of chosen.entries()) assert.deepEqual(got.subarray(i * D, (i + 1) * D), data.subarray(row * D, (row + 1) * D))
    rows.close()
    assert.deepEqual(temporary(), [])
  })

test('an array of NumPy is read where it lies, other kinds are not', async () => {
  const dir = folder()
  const path = join(dir, 'a.npy')
  await writeFile(path, Buffer.concat([npyHeader(20, D), new Uint8Array(data.buffer, 0, 20 * D * 4)]))
  const found = (await npyMatrix(path))!
  assert.deepEqual({count: found.count, dim: found.dim}, {count: 20, dim: D})
  const rows = fileRows(path, found.at, found.count, found.dim, {made: block => block.forEach((x, i) => (block[i] = 2 * x))})
  assert.deepEqual(
    rows.block(5, 2),
    data.slice(5 * D, 7 * D).map(x => 2 * x)
  )
  rows.close()
  await writeFile(join(dir, 'b.npy'), 'x')
  assert.equal(await npyMatrix(join(dir, 'b.npy')), undefined)
})
