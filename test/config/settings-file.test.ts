/** Files of settings that come from others: bounds on length, depth, number and aliases, each with the line. */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {describe, it} from 'node:test'
import {UserError} from '../../src/config/errors.js'
import {readLayers} from '../../src/config/read-layers.js'
import {folder} from '../support/program.js'

const path = join(folder(), 'some.yaml')

/** What is said of a file. */
function refusal(text: string): string {
  writeFileSync(path, text)
  const before = process.cpuUsage()
  let said = ''
  assert.throws(
    () => readLayers([path], [], {flags: ['model'], settings: true}),
    (error: unknown) => {
      said = (error as Error).message
      return error instanceof UserError && error.exit === 2
    }
  )
  const {user, system} = process.cpuUsage(before) // the processor's time: others may share the machine
  assert.ok(user + system < 5e6, `${(user + system) / 1e6} s`)
  return said
}

describe('a file of settings', () => {
  it('that is no UTF-8 or holds two documents is refused in words of ours', () => {
    writeFileSync(path, Buffer.from('model: caf\xe9\n', 'latin1'))
    assert.throws(() => readLayers([path], [], {flags: ['model'], settings: true}), {exit: 2, message: /cannot be read: it is not UTF-8/})
    writeFileSync(path, Buffer.from('\ufeffmodel: a\n', 'utf16le'))
    assert.throws(() => readLayers([path], [], {flags: ['model'], settings: true}), {exit: 2, message: /cannot be read: it is not UTF-8/})
    assert.match(refusal('model: a\n---\nmodel: b\n'), /some\.yaml:2: a second document begins here \(---\); expected one\.$/)
  })

  it('keeps numbers as they are written beside their values, also in lists and by aliases', () => {
    writeFileSync(path, 'model: &m 007\nroot: [1.10, *m, x, 1e3]\n')
    const {flags} = readLayers([path], [], {flags: ['model', 'root'], settings: true})
    assert.deepEqual(
      flags.map(({value, written}) => [value, written]),
      [
        [7, '007'],
        [
          [1.1, 7, 'x', 1000],
          ['1.10', '007', 'x', '1e3']
        ]
      ]
    )
  })

  it('whose aliases unfold without end is refused, with the line', () => {
    const lines = ['a0: &a0 [x,x,x,x,x,x,x,x,x]']
    for (let i = 1; i < 12; i++) lines.push(`a${i}: &a${i} [${Array.from({length: 9}, () => `*a${i - 1}`).join()}]`)
    assert.match(refusal(lines.join('\n')), /some\.yaml:\d+: its aliases unfold/)
  })

  it('whose alias means nothing, or itself, is refused', () => {
    assert.match(refusal('optim:\n  base_lr: *gone\n'), /some\.yaml:2/)
    assert.match(refusal('model: &a [*a]\n'), /some\.yaml/)
  })

  it('with brackets or sections without end is refused, with the line', () => {
    assert.match(refusal(`model: 1\nx: ${'['.repeat(200_000)}`), /some\.yaml:2: brackets lie more than 32/)
    assert.match(refusal(Array.from({length: 40}, (_, i) => `${' '.repeat(i)}a:`).join('\n') + ' 1'), /levels deep/)
    const deep = refusal(Array.from({length: 1200}, (_, i) => `${' '.repeat(i)}- `).join('\n'))
    assert.doesNotMatch(deep, /\n\s+at /)
  })

  it('with lists or sections within one another without end is refused in words of ours', () => {
    const stairs = (mark: string): string => Array.from({length: 1300}, (_, k) => ' '.repeat(k) + mark).join('\n')
    const keys = `${'? '.repeat(31)}\n${'- '.repeat(30)}`
    for (const text of [
      stairs('a:'),
      stairs('-'),
      stairs('? a'),
      keys,
      '? '.repeat(20),
      '- '.repeat(100_000),
      '? '.repeat(100_000),
      `a: ${'!'.repeat(300_000)}`,
      '&a '.repeat(100_000)
    ]) {
      const said = refusal(text)
      assert.doesNotMatch(said, /stack|circular|JSON/i)
      assert.ok(said.length < 10_000, `${said.length} characters`)
    }
    assert.match(refusal('a: &a [*a]'), /one holds itself/)
  })

  it('with names that have no value passes over none of them', () => {
    for (const text of ['!!set {output}', '{output}', '!!set {? nonsense}', '{nonsense}'])
      assert.match(refusal(text), /:1: .*(output|nonsense)/)
  })

  it('with tens of thousands of names, or too long a text, is refused at once', () => {
    assert.match(refusal(Array.from({length: 60_000}, (_, i) => `k${i}: 1`).join('\n')), /more than 2000 values/)
    assert.match(refusal(`model: ${'x'.repeat(2 << 20)}`), /characters/)
    assert.match(refusal(`${'x'.repeat(100_000)}: 1`), /1024 chars/)
    assert.match(refusal(`? ${'x'.repeat(100_000)}\n: 1`), /there is no setting/)
  })

  it('with names of what every object has is refused as any other', () => {
    for (const name of ['constructor', '__proto__', 'toString', 'optim.constructor'])
      assert.match(refusal(`${name}: 1`), /there is no setting|settings/)
  })
})
