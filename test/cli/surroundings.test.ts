/** What a process is started in and with: a folder that is gone, texts that are no UTF-8, a stdout that is closed. */
import assert from 'node:assert/strict'
import {existsSync, readdirSync} from 'node:fs'
import {describe, it} from 'node:test'
import {fixtureBinary, folder, shell} from '../support/program.js'

const program = fixtureBinary()

describe('surroundings', {concurrency: 2, skip: !existsSync('/proc/self/cmdline')}, () => {
  it('a working directory that is gone is named, with status 2', async () => {
    const {stderr} = await shell(program, `cd ${folder()} && mkdir gone && cd gone && rmdir ../gone && $P probe x; echo $? >&2`)
    assert.match(stderr, /error: The working directory is not there any more\.[^]*\n2\n$/)
  })

  it('a working directory whose name is no UTF-8 is refused, an image in it is not', async () => {
    const dir = folder()
    const {stderr} = await shell(program, `cd ${dir} && mkdir $'bad\\xfe' && cd $'bad\\xfe' && $P probe x; echo $? >&2`)
    assert.match(stderr, /The name of the working directory is not UTF-8[^]*\n2\n$/)
  })

  for (const [what, line] of [
    ['argument', "$P probe x -o $'out\\xff.jsonl'"],
    ['environment variable', "DINOV2_OUTPUT=$'out\\xff.jsonl' $P probe x"]
  ] as const)
    it(`an ${what} that is no UTF-8 is refused, and nothing is written under another name`, async () => {
      const dir = folder()
      const {stderr} = await shell(program, `cd ${dir} && ${line}; echo $? >&2`)
      assert.match(stderr, new RegExp(`The ${what} .*out\\\\xff\\.jsonl is not UTF-8[^]*\\n2\\n$`))
      assert.deepEqual(readdirSync(dir), [])
    })

  it('the character that stands for broken bytes is a letter like any other', async () => {
    const dir = folder()
    const {stderr} = await shell(program, `cd ${dir} && $P probe x -q -o $'out\\xef\\xbf\\xbd.jsonl'; echo $? >&2`)
    assert.match(stderr, /0\n$/)
    assert.deepEqual(readdirSync(dir), ['out\uFFFD.jsonl'])
  })

  it('too few open files are refused before anything is begun', async () => {
    const {stderr} = await shell(program, 'ulimit -n 40; $P probe x; echo $? >&2')
    assert.match(stderr, /up to 64 files open at once, but the limit of this process is 40[^]*ulimit -n 4096[^]*\n5\n$/)
  })

  it('rows for a stdout that is closed are said to be lost, for /dev/null they are not', async () => {
    const closed = await shell(program, '$P probe x >&-')
    assert.equal(closed.status, 0)
    assert.equal(closed.stderr.split('warning: stdout is closed').length, 2, closed.stderr)
    const thrownAway = await shell(program, '$P probe x > /dev/null')
    assert.doesNotMatch(thrownAway.stderr, /stdout/)
    const file = await shell(program, `cd ${folder()} && $P probe x -o rows >&-`)
    assert.doesNotMatch(file.stderr, /stdout is closed/)
  })
})
