/** Replacing an environment: whole or not at all. */
import assert from 'node:assert/strict'
import {existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {renewVenv} from '../../src/engine/venv.js'

const scratch = mkdtempSync(join(tmpdir(), 'dinov2-venv-'))
after(() => rmSync(scratch, {recursive: true}))
const folder = join(scratch, 'torch')
const fill = (text: string) => async (): Promise<void> => {
  mkdirSync(folder, {recursive: true})
  writeFileSync(join(folder, 'version'), text)
  return Promise.resolve()
}
const version = (): string => readFileSync(join(folder, 'version'), 'utf8')

test('what works replaces what was there; what fails leaves it', async () => {
  await renewVenv(folder, fill('1'))
  await renewVenv(folder, fill('2'))
  assert.equal(version(), '2')
  await assert.rejects(
    renewVenv(folder, async () => {
      await fill('3')()
      throw new Error('no download')
    }),
    /no download/
  )
  assert.equal(version(), '2')
  assert.equal(existsSync(`${folder}.before`), false)
})

test('an attempt that was killed half-way is forgotten', async () => {
  mkdirSync(`${folder}.before`)
  writeFileSync(join(`${folder}.before`, 'version'), 'good')
  writeFileSync(join(folder, 'version'), 'half')
  await assert.rejects(
    renewVenv(folder, () => Promise.reject(new Error('again'))),
    /again/
  )
  assert.equal(version(), 'good')
})
