/** The set of ids that have come: says of every name whether it is new, through many doublings. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {IdSet} from '../../src/search/id-set.js'

test('a name is new once, and no two of two hundred thousand are taken for one another', () => {
  const set = new IdSet()
  const n = 200_000
  for (let i = 0; i < n; i++) assert.equal(set.add(`photos/${i}.jpg`), false, `photos/${i}.jpg`)
  assert.equal(set.size, n)
  for (let i = 0; i < n; i += 7) assert.equal(set.add(`photos/${i}.jpg`), true)
  assert.equal(set.size, n)
  for (const name of ['', 'é', '\u0000', '\u0000\u0000', 'ab', 'ba']) assert.equal(set.add(name), false, JSON.stringify(name))
})
