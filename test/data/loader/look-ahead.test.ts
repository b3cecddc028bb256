/** The head of a stream is looked at without losing anything of the stream. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {lookAhead} from '../../../src/data/loader/look-ahead.js'

async function* numbers(count: number, {failAt, onEnd}: {failAt?: number; onEnd?: () => void} = {}): AsyncGenerator<number> {
  try {
    for (let i = 0; i < count; i++) {
      if (i === failAt) throw new Error('gone')
      yield i
    }
  } finally {
    onEnd?.()
  }
}

test('a stream is read whole behind its head, and says whether it ended there', async () => {
  for (const [count, ended] of [
    [0, true],
    [2, true],
    [3, false],
    [7, false]
  ] as const) {
    const looked = await lookAhead(numbers(count), 3)
    assert.equal(looked.ended, ended, `${count} items`)
    const read: number[] = []
    for await (const one of looked.all) read.push(one)
    assert.deepEqual(
      read,
      Array.from({length: count}, (_, i) => i)
    )
  }
})

test('no more than the head is asked for', async () => {
  let asked = 0
  const endless = async function* (): AsyncGenerator<number> {
    for (;;) yield asked++
  }
  await lookAhead(endless(), 3)
  assert.equal(asked, 3)
})

test('a failure comes in its place, behind the items before it', async () => {
  const {all, ended} = await lookAhead(numbers(5, {failAt: 2}), 4)
  assert.equal(ended, true)
  const seen: number[] = []
  await assert.rejects(async () => {
    for await (const one of all) seen.push(one)
  }, /gone/)
  assert.deepEqual(seen, [0, 1])
})

test('who stops reading ends the stream', async () => {
  let ended = false
  const {all} = await lookAhead(numbers(9, {onEnd: () => (ended = true)}), 2)
  for await (const one of all) if (one === 3) break
  assert.equal(ended, true)
})
