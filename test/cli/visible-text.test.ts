/** Names made by others reach a terminal as text, never as commands to it; data on stdout stay exact. */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {describe, it} from 'node:test'
import {visible} from '../../src/cli/visible-text.js'
import {folder, realBinary, run} from '../support/program.js'

describe('text for people', () => {
  it('shows what a terminal would obey', () => {
    assert.equal(visible('a\x1b[31mRED\x1b]0;TITLE\x07.png'), 'a\\x1b[31mRED\\x1b]0;TITLE\\x07.png')
    assert.equal(visible('c\rCR \x7f \x9b31m \u202egnp.exe'), 'c\\x0dCR \\x7f \\x9b31m \\u202egnp.exe')
    const plain = 'Grüße, 犬 👩‍🚀\tand\nlines'
    assert.equal(visible(plain), plain)
  })

  it('is all that commands say on stderr, about files, settings and ids', async () => {
    const dir = folder()
    const name = 'a\x1b[31mRED\x1b]0;TITLE\x07\u202e.png'
    writeFileSync(join(dir, name), 'no picture')
    writeFileSync(join(dir, 'bad.yaml'), '"k\\e[31m": 1\n')
    for (const words of [
      ['curate', 'filter', '.', '-v', '--max-bad', '100%'],
      ['embed', '.', '--model', 'x', '--config', 'bad.yaml'],
      ['search', `\x1b[2J`, 'q.arrow'],
      [`cur\x1b[2Jate`]
    ]) {
      const {stderr, status} = await run(realBinary, words, {cwd: dir})
      assert.notEqual(status, 70, stderr)
      // eslint-disable-next-line no-control-regex
      assert.doesNotMatch(stderr, /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]/, `${words.join(' ')}: ${JSON.stringify(stderr)}`)
    }
  })
})
