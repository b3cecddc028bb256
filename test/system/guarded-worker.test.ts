/** Threads that read foreign files: used for many, ended and replaced where one misbehaves. */
import assert from 'node:assert/strict'
import {fileURLToPath} from 'node:url'
import {describe, test} from 'node:test'
import {GuardedWorker} from '../../src/system/guarded-worker.js'

const module = new URL('../support/unruly-sessions.js', import.meta.url)

const start = (deed: string): Promise<GuardedWorker<'read', number>> =>
  GuardedWorker.start({
    module,
    job: deed,
    path: fileURLToPath(module),
    purpose: 'Reading',
    failure: (why, cause) => Object.assign(new Error(`damaged: ${why}`), {cause})
  })

/** The thread that reads a file of this kind. */
async function read(deed: string): Promise<number> {
  const worker = await start(deed)
  try {
    return await worker.ask('read')
  } finally {
    await worker.close()
  }
}

describe('a guarded thread', () => {
  test('reads one file after the other, also behind a file that its decoder refuses', async () => {
    const first = await read('whole')
    assert.equal(await read('whole'), first)
    await assert.rejects(read('refuse'), {message: 'damaged: the file is cut off'})
    assert.equal(await read('whole'), first)
  })

  for (const [deed, message] of [
    ['trap', 'damaged: its decoder fails (unreachable)'],
    ['leave', 'damaged: its decoder fails (The thread of unruly-sessions.js ended (code 3) before its work was done)'],
    ['spin', /^damaged: its decoder comes to no end \(1\.2 s\)$/]
  ] as const)
    test(`is ended and replaced where its decoder does ${deed}`, async () => {
      const before = await read('whole')
      await assert.rejects(read(deed), {message})
      const after = await read('whole')
      assert.notEqual(after, before)
      assert.equal(await read('whole'), after)
    })

  for (const deed of ['large', 'fail late'])
    test(`reads no other file behind one that is ${deed}`, async () => {
      const before = await read(deed)
      assert.notEqual(await read('whole'), before)
    })

  test('is ended where the reading is given up in the middle', async () => {
    const before = await read('whole')
    const worker = await start('wait')
    const answer = worker.ask('read').catch(() => undefined)
    await worker.close()
    await worker.close()
    await answer
    assert.notEqual(await read('whole'), before)
  })

  test('is replaced after many files', async () => {
    const threads = new Set<number>()
    for (let i = 0; i < 1100; i++) threads.add(await read('whole'))
    assert.equal(threads.size, 2)
  })

  test('has one file at a time: two open files have two threads', async () => {
    const both = [await start('whole'), await start('whole')]
    assert.equal(new Set(await Promise.all(both.map(worker => worker.ask('read')))).size, 2)
    await Promise.all(both.map(worker => worker.close()))
  })
})
