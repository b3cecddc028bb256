/** Progress: what a log gets, what a terminal gets, and how figures are said. The clock is the test's own. */
import assert from 'node:assert/strict'
import {Writable} from 'node:stream'
import {describe, it} from 'node:test'
import {duration, Progress, rate} from '../../src/cli/progress.js'

function screen(isTTY: boolean): {stream: NodeJS.WriteStream; text: () => string} {
  let all = ''
  const stream = Object.assign(new Writable({write: (chunk: Buffer, _, done) => ((all += chunk.toString()), done())}), {
    isTTY,
    columns: 120,
    rows: 24
  })
  return {stream: stream as unknown as NodeJS.WriteStream, text: () => all}
}

describe('progress', () => {
  it('writes one plain line every few seconds where there is no terminal', () => {
    const {stream, text} = screen(false)
    let clock = 0
    const progress = new Progress({total: 100, every: 10, stream, now: () => clock})
    for (let i = 1; i <= 50; i++) {
      clock = i * 1000
      progress.update(i * 2, {loss: 1.23456, waiting: '3%'})
    }
    progress.stop()
    const lines = text().trimEnd().split('\n')
    assert.equal(lines.length, 5)
    assert.equal(lines[1], '40/100 images  2.00 images/s  30s left  loss 1.235  waiting 3%')
  })

  it('is silent under --quiet', () => {
    const {stream, text} = screen(false)
    let clock = 0
    const progress = new Progress({quiet: true, stream, now: () => (clock += 60_000)})
    progress.add(5)
    progress.stop()
    assert.equal(text(), '')
  })

  it('draws a bar on a terminal and takes it away', async () => {
    const {stream, text} = screen(true)
    const progress = new Progress({total: 10, stream})
    progress.add()
    await import('cli-progress')
    await new Promise(done => setTimeout(done, 300))
    progress.add()
    progress.write('a line above the bar')
    progress.stop()
    assert.match(text(), /█|░/)
    assert.match(text(), /a line above the bar\n/)
    assert.ok(text().includes('\u001B[?25h'), 'the cursor is back')
  })

  it('does not count for the rate what a resumed run found finished', () => {
    let clock = 0
    const progress = new Progress({total: 100, stream: screen(false).stream, now: () => clock})
    progress.startAt(50)
    clock = 10_000
    progress.update(60)
    assert.match(progress.line(), /^60\/100 images {2}1\.00 images\/s {2}40s left/)
    assert.equal(progress.speed, 1)
  })

  it('passes rows through untouched', async () => {
    const progress = new Progress({quiet: true, stream: screen(false).stream})
    const rows = (async function* () {
      yield* [1, 2, 3]
    })()
    const seen: number[] = []
    for await (const row of progress.through(rows)) seen.push(row)
    assert.deepEqual(seen, [1, 2, 3])
  })

  it('says times and rates with as many digits as mean something', () => {
    assert.deepEqual([4.4, 59, 60, 3599, 3600, 7620, 200_000].map(duration), ['4s', '59s', '1m00s', '59m59s', '1h00m', '2h07m', '2d07h'])
    assert.deepEqual([0.123, 9.87, 43.21, 1234.5].map(rate), ['0.12', '9.87', '43.2', '1235'])
  })
})
