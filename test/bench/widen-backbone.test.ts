/** A backbone of twice the width gives the features of the first one twice, from weights that differ. */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {openBackbone, readBackbone} from '../../src/files/checkpoint/backbone.js'
import {drawnFolder} from '../support/drawn-images.js'
import {folder, realBinary, run} from '../support/program.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const script = fileURLToPath(new URL('../../bench/widen-backbone.js', import.meta.url))

before(async () => {
  await saveTiny(join(dir, 'narrow.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one'], 3)
})

test('widening keeps what the network computes, and lets the copies part', async () => {
  const made = await run(script, ['narrow.safetensors', 'wide.safetensors'], {cwd: dir})
  assert.equal(made.status, 0, made.stderr)
  const [narrow, wide] = await Promise.all(
    ['narrow', 'wide'].map(async name => {
      const args = ['embed', 'photos', '--model', `${name}.safetensors`, '--engine', 'wasm', '--pool', 'cls+mean', '-o', `${name}.jsonl`]
      const {status, stderr} = await run(realBinary, args, {cwd: dir})
      assert.equal(status, 0, stderr)
      const lines = readFileSync(join(dir, `${name}.jsonl`), 'utf8')
        .trim()
        .split('\n')
      return lines.map(line => (JSON.parse(line) as {vector: number[]}).vector)
    })
  )
  for (const [i, vector] of narrow!.entries()) {
    const half = vector.length / 2 // class token, mean of the patch tokens
    const twice = [0, 0, half, half].flatMap(start => vector.slice(start, start + half))
    assert.equal(wide![i]!.length, twice.length)
    for (const [d, value] of twice.entries()) assert.ok(Math.abs(wide![i]![d]! - value) < 1e-4, `row ${i}, number ${d}`)
  }

  const {config, checkpoint} = await openBackbone(join(dir, 'wide.safetensors'))
  try {
    for await (const {name, shape, data} of readBackbone(config, checkpoint)) {
      if (!name.endsWith('mlp.fc1.weight')) continue
      const [rows, columns] = shape as [number, number]
      const first = data.subarray(0, columns)
      const copy = data.subarray((rows / 2) * columns, (rows / 2 + 1) * columns)
      assert.notDeepEqual(first, copy, name)
    }
  } finally {
    await checkpoint.close()
  }
})
