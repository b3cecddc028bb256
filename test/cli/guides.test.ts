/** The guides of docs/guides: each has its page, and the program takes every command line that stands in them. */
import assert from 'node:assert/strict'
import {cpSync, mkdirSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {Config} from '../../src/cli/oclif.js'
import {exportModel} from '../../src/tasks/export.js'
import {expectedPages, guides} from '../support/command-pages.js'
import {drawnFolder} from '../support/drawn-images.js'
import {CommandServer, folder} from '../support/program.js'
import {root} from '../support/source-tree.js'
import {saveTiny, tiny} from '../support/tiny-backbone.js'

const dir = folder()
const at = (...names: string[]): string => join(dir, ...names)
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', HF_HUB_CACHE: at('hub'), HF_HUB_OFFLINE: '1'}
const server = new CommandServer({env, cwd: dir})
after(() => server.end())

/** The files that the guides speak of, small. */
before(async () => {
  await saveTiny(at('tiny.safetensors'), 0, {...tiny, width: 64, hidden: 256, depth: 2, heads: 1})
  await exportModel({model: at('tiny.safetensors'), to: 'hf', output: at('run'), toolVersion: '0'})
  const [commit, home] = ['0'.repeat(40), at('hub', 'models--facebook--dinov2-small')]
  for (const name of ['snapshots', 'refs']) mkdirSync(join(home, name), {recursive: true})
  symlinkSync(at('run'), join(home, 'snapshots', commit))
  writeFileSync(join(home, 'refs', 'main'), commit)
  symlinkSync(at('run'), at('student'))
  const images = await drawnFolder(at('photos'), ['mug', 'wheel'], 2)
  for (const name of ['labelled/train', 'labelled/val', 'rooms/train', 'rooms/val', 'streets/train', 'streets/val', 'new', 'holidays']) {
    mkdirSync(at(name, '..'), {recursive: true})
    symlinkSync(at('photos'), at(name))
  }
  cpSync(images[0]!, at('query.png'))
  for (const name of ['classes', 'depth', 'seg']) writeFileSync(at(`${name}.safetensors`), 'a head')
  writeFileSync(at('gone.txt'), 'photos/mug/000.png\n')
  for (const line of [
    'embed photos --model run --size 28 -o photos.parquet',
    'index photos.parquet -o photos.index',
    'curate filter photos -o train.jsonl'
  ])
    // prettier-ignore
    assert.equal((await server.run(...line.split(' '))).status, 0, line)
})

const lines = [...guides()].flatMap(([name, text]) =>
  [...text.matchAll(/```sh\n([\s\S]*?)```/g)].flatMap(([, block]) =>
    block!
      .trim()
      .split('\n')
      .map(line => ({name, line}))
  )
)

/** Words of a line of shell without substitutions; quotes group. */
const wordsOf = (text: string): string[] => [...text.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!)

test('every guide stands in the page of its command, and has a line of shell, what to look at and mistakes', async () => {
  const pages = await expectedPages()
  assert.ok(guides().size >= 16)
  for (const [name, text] of guides()) {
    assert.ok(pages.get(name)?.includes(text.trim()), `${name} has a page`)
    for (const part of ['**What for.**', '```sh\n', '**What to look at.**', '**Common mistakes.**'])
      assert.ok(text.includes(part), `${name}: ${part}`)
    assert.ok(
      lines.some(one => one.name === name && one.line.includes(`dinov2 ${name.replace('.md', '').split('-')[0]}`)),
      name
    )
  }
})

test('the program takes every command line of the guides', async () => {
  const config = await Config.load(root)
  const commands = new Map(config.commands.map(command => [command.id.replaceAll(':', ' '), command]))
  const tried = {planned: 0, parsed: 0, named: 0}
  for (const {name, line} of lines) {
    const segments = line.split(/\s\|\s/).map(wordsOf)
    const ours = segments.filter(([program]) => program === 'dinov2')
    assert.ok(ours.length > 0, `${name}: ${line}`)
    for (const [, ...words] of ours) {
      const command = commands.get(words.slice(0, 2).join(' ')) ?? commands.get(words[0]!)
      assert.ok(command, `${name}: ${line}`)
      const flags = Object.keys(command.flags)
      for (const word of words.filter(one => one.startsWith('--'))) assert.ok(flags.includes(word.slice(2).replace(/^no-(?!crop|self)/, '')) || flags.includes(word.slice(5)), `${line}: ${word}`) // prettier-ignore
      const isSlow = /^(embed|pretrain|distill)/.test(command.id) // their plans measure
      const force = flags.includes('force') ? ['--force'] : []
      if (segments.length === 1 && !isSlow && flags.includes('dry-run') && !command.id.startsWith('models')) {
        const {status, stderr} = await server.run(...words, ...force, ...(words.includes('--dry-run') ? [] : ['--dry-run']))
        assert.equal(status, 0, `${name}: ${line}\n${stderr}`)
        tried.planned++
      } else if (flags.includes('print-config')) {
        const {status, stderr} = await server.run(...words, '--print-config')
        assert.equal(status, 0, `${name}: ${line}\n${stderr}`)
        tried.parsed++
      } else tried.named++
    }
  }
  assert.ok(tried.planned > 25 && tried.parsed > 10 && tried.named < 12, JSON.stringify(tried))
})
