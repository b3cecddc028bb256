/**
 * Every flag and argument that names a file, taken from the declarations of the commands, so that none is forgotten:
 * an input that is a pipe nobody writes to is refused at once, an output below such a pipe before any work, and both
 * by a sentence in which the name, which would command a terminal, is text.
 */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {existsSync} from 'node:fs'
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {Config} from '../../src/cli/oclif.js'
import {writingFlags} from '../../src/cli/flags.js'
import {visible} from '../../src/cli/visible-text.js'
import {commandLines as lines, drawInputs, short} from '../support/command-lines.js'
import {CommandServer, folder} from '../support/program.js'
import {projectFolder} from '../support/scratch.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4', HF_HUB_OFFLINE: '1'}
const server = new CommandServer({env, cwd: dir, patience: 30_000})
after(() => server.end())

/** What a terminal would take for a colour and an order to turn the writing around. */
const EVIL = '\x1b[31m\u202e'

/** Lines for one flag, where it needs another one; null where the value is only the beginning of names. */
const special: Readonly<Record<string, string | null>> = {
  'curate --model': 'photos --stages outliers -o out.jsonl',
  'curate --cache': 'photos --stages dedup -o out.jsonl',
  'curate --decontaminate-against': 'vectors.jsonl --stages decontaminate -o out.jsonl',
  'curate --retrieve-seeds': 'vectors.jsonl --stages retrieve -o out.jsonl',
  'curate filter --model': 'photos --seeds photos -o out.jsonl',
  'curate filter --cache': 'photos --seeds photos --model tiny.safetensors -o out.jsonl',
  'curate decontaminate --model': 'photos --against photos -o out.jsonl',
  'curate decontaminate --cache': 'photos --against photos --model tiny.safetensors -o out.jsonl',
  'curate retrieve --model': 'photos --seeds photos --per-seed 1 -o out.jsonl',
  'curate retrieve --cache': 'photos --seeds photos --per-seed 1 --model tiny.safetensors -o out.jsonl',
  ...Object.fromEntries(
    ['cluster --levels 2', 'dedup', 'mislabelled', 'outliers', 'sample --levels 2 --target 2'].flatMap(stage => {
      const [name, ...more] = stage.split(' ')
      return ['model', 'cache'].map(flag => [
        `curate ${name} --${flag}`,
        ['photos', ...more, ...(flag === 'cache' ? ['--model', 'tiny.safetensors'] : []), '-o', 'out.jsonl'].join(' ')
      ])
    })
  ),
  'distill --eval-val': 'photos --teacher tiny.safetensors --eval-images photos -o out',
  'pretrain --eval-val': 'photos --eval-images photos -o out',
  'export --head': 'tiny.safetensors --to onnx --size 28 -o out',
  'index --add': '-o vectors.index',
  'index --remove': '-o vectors.index',
  'search --model': 'photos.index photos -o out.jsonl',
  'visualize neighbours --model': 'photos.index photos -o out.html',
  'linear-eval --head': `--val photos ${short}`,
  'seg-eval --head': `--val scenes/images/val --masks scenes/masks ${short}`,
  ...Object.fromEntries(
    ['depth-eval', 'explore', 'knn-eval', 'linear-eval', 'retrieval-eval', 'search', 'seg-eval', 'visualize neighbours', 'report'].map(
      id => [`${id} --root`, null]
    )
  )
}

/** What the value of a flag is called in its help where it is no file; all others are tried. */
const NO_FILES =
  /^(N|X|K|M\?|T|W|RE|ID|IDS|RATE|DECAY|STAGE,…|PIXELS|METRES|GIB|SHARE|SIZE|RATIO|BITS|COSINE|TEXT|URL|KEY=VALUE|WxH|X,Y|I\/N|LIST|N\|LIST|N\|NAMES|N\|P%|(K,)*K,…|N,N,…|auto\|.*)$/
/** Flags whose values are files although their help names them as other flags name numbers. */
const FILES = new Set(['only', 'remove'])

/** Outputs: files and folders that a command makes. */
const outputs = new Set(['output', 'html', 'head-out', 'predictions', 'bad', 'rejected', 'to', 'rows'])

/** How the name of an input ends, by its flag. */
const endings: Readonly<Record<string, string>> = {
  config: '.yaml',
  student: '.yaml',
  model: '.safetensors',
  head: '.safetensors',
  init: '.pth',
  teacher: '.pth',
  index: '.index',
  queries: '.arrow',
  embeddings: '.arrow',
  add: '.arrow',
  seeds: '.npy',
  against: '.npy',
  a: '.png',
  b: '.png',
  golden: '',
  cache: '',
  depths: '',
  masks: ''
}

type Case = {readonly name: string; readonly words: readonly string[]; readonly path: string}

const input = (name: string): string => `pipe${EVIL}${endings[name.replace(/^.*-(seeds|against)$/, '$1')] ?? '.jsonl'}`
const output = (name: string): string =>
  `pipe${EVIL}.jsonl/out${name === 'html' ? '.html' : name === 'head-out' ? '.safetensors' : '.jsonl'}`

/** The line of a command with another value of a flag. */
function withFlag(line: readonly string[], flag: string, char: string | undefined, value: string): string[] {
  const at = line.findIndex(word => word === `--${flag}` || (char !== undefined && word === `-${char}`))
  return at < 0 ? [...line, `--${flag}`, value] : [...line.slice(0, at + 1), value, ...line.slice(at + 2)]
}

const config = await Config.load(projectFolder())
const cases: Case[] = []
/** Commands that read files of settings, each with a flag of theirs that names what is written. */
const written: {readonly command: string; readonly flag: string; readonly words: readonly string[]}[] = []
const unknown: string[] = []
/** Switches that let something be replaced, or be gone on with. */
const letsReplace = new Set(['force', 'resume', 'accept-changes', 'replace', 'yes'])
const namesFile = (name: string, helpValue: unknown): boolean => FILES.has(name) || !NO_FILES.test(String(helpValue))

/** The words of a line; each has an output of its own, for the case that a command writes it. */
const wordsOf = (line: string): string[] =>
  line
    .split(' ')
    .filter(Boolean)
    .map(word => word.replace(/^out(?=\.|$)/, `out${cases.length}`))

for (const {id, args, flags, hidden} of config.commands) {
  if (hidden) continue
  const command = id.replaceAll(':', ' ')
  const line = lines[id] ?? ''
  for (const [flag, declared] of Object.entries(flags)) {
    if (declared.type === 'boolean' && flags['config'] && letsReplace.has(flag)) written.push({command, flag, words: wordsOf(line)})
    if (declared.type !== 'option' || declared.options || declared.deprecated) continue
    const {helpValue, char} = declared as {readonly helpValue?: string; readonly char?: string}
    const name = `${command} --${flag}`
    if (!namesFile(flag, helpValue) || special[name] === null) continue
    if (lines[id] === undefined) unknown.push(name)
    const path = outputs.has(flag) ? output(flag) : input(flag)
    if (flags['config'] && (outputs.has(flag) || flag === 'cache')) written.push({command, flag, words: wordsOf(line)})
    const value = helpValue === 'NAME=INPUT' ? `one=${path}` : path
    const words = withFlag(wordsOf(special[name] ?? line), flag, char, value)
    cases.push({name, words: [...command.split(' '), ...words, ...(flag === 'to' ? ['--materialize', 'copy'] : [])], path})
  }
  const given = line.split(' ').findIndex(word => word.startsWith('-'))
  for (const [i, arg] of Object.keys(args).entries())
    if (i < given && !arg.startsWith('name'))
      cases.push({
        name: `${command} ${arg.toUpperCase()}`,
        words: [...command.split(' '), ...wordsOf(line).with(i, input(arg))],
        path: input(arg)
      })
}

before(async () => {
  await drawInputs(dir, server)
  execFileSync(
    'mkfifo',
    [...new Set(['.jsonl', ...Object.values(endings)])].map(ending => join(dir, `pipe${EVIL}${ending}`))
  )
})

describe('what names a file', () => {
  it('is declared by commands that have a line here', () => {
    assert.deepEqual(unknown, [])
    assert.ok(cases.length > 150, `${cases.length} cases`)
  })

  it('and is written is not taken from a file of settings', async () => {
    assert.ok(written.length > 80, `${written.length} flags`)
    for (const {command, flag, words} of written) {
      assert.ok(writingFlags.has(flag), `${command} --${flag}`)
      const file = `${flag}.yaml`
      await writeFile(join(dir, file), `${flag}: ${letsReplace.has(flag) ? 'true' : `evil-${flag}`}\n`)
      const {status, stderr} = await server.run(...command.split(' '), ...words, '--config', file, '-q')
      assert.equal(status, 2, `${command} --${flag}: ${stderr}`)
      assert.match(stderr, /decides what is written or replaced/)
      assert.ok(!existsSync(join(dir, `evil-${flag}`)))
    }
  })

  for (const {name, words, path} of cases)
    it(name, async () => {
      const {status, signal, stdout, stderr, waited} = await server.run(...words, '-q')
      assert.ok(!waited, `it waits: ${stderr}`)
      assert.equal(signal, null)
      assert.ok(status !== null && status >= 1 && status <= 5, `status ${status}: ${stdout}${stderr}`)
      assert.ok(stderr.includes(visible(path.split('/')[0]!)), `${words.join(' ')}: ${stderr}`)
      // eslint-disable-next-line no-control-regex
      assert.doesNotMatch(stderr, /[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]/)
    })
})
