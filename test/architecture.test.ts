/**
 * The rules of the house, held by reading the house: who imports whom, no cycles, every setting and flag with its
 * sentence, every command with examples that parse, every file opening with what it is for, and nothing left lying
 * about.
 */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs'
import {dirname, join, posix, relative} from 'node:path'
import {describe, it} from 'node:test'
import {fileURLToPath} from 'node:url'
import {Config} from '@oclif/core'
import ts from 'typescript'
import {cut, type FlagShape} from '../src/cli/argv.js'
import {environmentName} from '../src/cli/flags.js'
import {rows} from '../src/config/table.js'

const root = fileURLToPath(new URL('../../', import.meta.url))

function* walk(folder: string): Generator<string> {
  if (!existsSync(folder)) return
  for (const entry of readdirSync(folder, {withFileTypes: true})) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* walk(path)
    else yield path
  }
}
const under = (folder: string, ending = '.ts'): string[] =>
  [...walk(join(root, folder))]
    .filter(path => path.endsWith(ending))
    .map(path => relative(root, path))
    .sort()

type Import = {readonly from: string; readonly to: string; readonly kind: 'value' | 'type' | 'dynamic'}

/** Every import of a file; relative ones as paths from the root, ending in `.ts`. */
function importsOf(file: string): Import[] {
  const source = ts.createSourceFile(file, readFileSync(join(root, file), 'utf8'), ts.ScriptTarget.Latest, true)
  const found: Import[] = []
  const add = (node: ts.Node, kind: Import['kind']): void => {
    if (!ts.isStringLiteralLike(node)) return
    const to = node.text.startsWith('.') ? posix.normalize(posix.join(dirname(file), node.text)).replace(/\.js$/, '.ts') : node.text
    found.push({from: file, to, kind})
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      const clause = node.importClause
      const names = clause?.namedBindings && ts.isNamedImports(clause.namedBindings) ? clause.namedBindings.elements : undefined
      const typesOnly =
        clause !== undefined && (clause.isTypeOnly || (!clause.name && names !== undefined && names.every(name => name.isTypeOnly)))
      add(node.moduleSpecifier, typesOnly ? 'type' : 'value')
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      const names = node.exportClause && ts.isNamedExports(node.exportClause) ? node.exportClause.elements : undefined
      add(node.moduleSpecifier, node.isTypeOnly || (names !== undefined && names.every(name => name.isTypeOnly)) ? 'type' : 'value')
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node.argument.literal, 'type')
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword && node.arguments[0])
      add(node.arguments[0], 'dynamic')
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

const sources = [...under('src'), ...under('commands')]
const imports = sources.flatMap(importsOf)
const roomOf = (path: string): string => (path.startsWith('commands/') ? 'commands' : path.split('/')[1]!)
const isOurs = (path: string): boolean => path.startsWith('src/') || path.startsWith('commands/')

/** The files of `config` that do no more than compute: any room may use them, not only their types. */
const plainConfig = new Set(['src/config/errors.ts', 'src/config/nearest.ts', 'src/config/derived.ts'])

type Rule = {
  /** Rooms whose values may be imported. */
  readonly rooms: readonly string[]
  /** Rooms of which only types may be imported. */
  readonly types?: readonly string[]
  /** Rooms that may be loaded by `await import()`. */
  readonly later?: readonly string[]
  /** Packages, beside those that `packageHomes` places. */
  readonly node: boolean
}

/**
 * Who may import whom. `config` here means its errors and derived values; other files of it give types only, but to
 * cli and commands.
 */
const table: Readonly<Record<string, Rule>> = {
  commands: {rooms: ['cli', 'config'], types: ['tasks'], later: ['tasks'], node: true},
  cli: {rooms: ['config', 'system'], types: ['tasks'], node: true},
  tasks: {
    rooms: [
      'model',
      'loss',
      'optim',
      'heads',
      'metrics',
      'curate',
      'data',
      'search',
      'files',
      'render',
      'synthetic',
      'tensor',
      'engine',
      'system',
      'config'
    ],
    node: true
  },
  model: {rooms: ['tensor'], node: false},
  loss: {rooms: ['tensor'], node: false},
  optim: {rooms: ['tensor'], node: false},
  heads: {rooms: ['optim', 'loss', 'model', 'tensor'], node: false},
  metrics: {rooms: ['tensor'], node: false},
  curate: {rooms: ['search', 'tensor', 'config'], node: false},
  data: {rooms: ['system', 'tensor', 'config'], node: true},
  search: {rooms: ['config'], types: ['tensor'], node: true},
  files: {rooms: ['system', 'tensor', 'config'], types: ['model'], node: true},
  render: {rooms: ['data', 'tensor', 'config'], node: true},
  synthetic: {rooms: ['system', 'tensor', 'config'], types: ['data'], node: true},
  config: {rooms: ['system'], types: ['model'], node: true},
  system: {rooms: ['config'], node: true},
  engine: {rooms: ['system', 'tensor', 'config'], node: true},
  tensor: {rooms: [], node: false}
}

/** Where each package of others may be imported. Anything not named here is not used. */
const packageHomes: readonly (readonly [name: RegExp, home: RegExp])[] = [
  [/^@tensorflow\/tfjs(-core)?$/, /^src\/tensor\/tf\.ts$/],
  [/^@tensorflow\/tfjs-(backend-.*|node.*)$/, /^src\/engine\//],
  [/^sharp$/, /^src\/data\/image\/(decode|encode).*\.ts$/],
  [/^hnswlib-node$/, /^src\/search\/hnsw\.ts$/],
  [/^@lancedb\/lancedb$/, /^src\/files\/search-index\/lance-table\.ts$/],
  [/^@oclif\/core$/, /^(src\/cli|commands)\//],
  [/^cli-progress$/, /^src\/cli\/progress\.ts$/],
  [/^yaml$/, /^src\/config\//],
  [/^(apache-arrow|parquet-wasm|hyparquet|hyparquet-writer|csv-parse(\/.*)?|tar-stream)$/, /^src\/(files|data)\//]
]

describe('imports', () => {
  it('keep to the table of rooms', () => {
    const wrong: string[] = []
    for (const {from, to, kind} of imports) {
      if (!isOurs(to)) continue
      const [room, other] = [roomOf(from), roomOf(to)]
      const rule = table[room]
      if (!rule) wrong.push(`${from}: the room ${room} is not in the table`)
      else if (room !== other) {
        const allowed =
          kind === 'type'
            ? [...rule.rooms, ...(rule.types ?? [])].includes(other)
            : kind === 'dynamic' && rule.later?.includes(other)
              ? true
              : rule.rooms.includes(other) && (other !== 'config' || plainConfig.has(to) || ['cli', 'commands'].includes(room))
        if (!allowed) wrong.push(`${from} imports ${to} (${kind})`)
      } else if (room === 'commands') wrong.push(`${from} imports another command, ${to}`)
    }
    assert.deepEqual(wrong, [])
  })

  it('bring in each package of others in its one place, and node: only where the table says', () => {
    const wrong: string[] = []
    for (const {from, to, kind} of imports) {
      if (isOurs(to) || to.startsWith('.')) continue
      if (to.startsWith('node:')) {
        if (!table[roomOf(from)]?.node) wrong.push(`${from} imports ${to}`)
        continue
      }
      const places = packageHomes.filter(([name]) => name.test(to))
      if (!places.some(([, home]) => home.test(from))) wrong.push(`${from} imports ${to} (${kind})`)
    }
    assert.deepEqual(wrong, [])
  })

  it('lead to files that exist', () => {
    assert.deepEqual(
      imports.filter(({to}) => isOurs(to) && !existsSync(join(root, to))).map(({from, to}) => `${from} -> ${to}`),
      []
    )
  })

  it('make no circle', () => {
    const graph = new Map<string, string[]>()
    for (const {from, to, kind} of imports) if (kind === 'value' && isOurs(to)) graph.set(from, [...(graph.get(from) ?? []), to])
    const done = new Set<string>()
    const circles: string[] = []
    const visit = (file: string, trail: readonly string[]): void => {
      if (trail.includes(file)) return void circles.push([...trail.slice(trail.indexOf(file)), file].join(' -> '))
      if (done.has(file)) return
      for (const next of graph.get(file) ?? []) visit(next, [...trail, file])
      done.add(file)
    }
    for (const file of graph.keys()) visit(file, [])
    assert.deepEqual(circles, [])
  })

  it('leave everything heavy until a command runs', () => {
    const graph = new Map<string, string[]>()
    for (const {from, to, kind} of imports) if (kind === 'value') graph.set(from, [...(graph.get(from) ?? []), to])
    const seen = new Set<string>()
    const visit = (file: string): void => {
      if (seen.has(file)) return
      seen.add(file)
      for (const next of graph.get(file) ?? []) visit(next)
    }
    for (const file of [...under('commands'), 'src/cli/main.ts']) visit(file)
    assert.deepEqual(
      [...seen].filter(name => !isOurs(name) && !name.startsWith('node:') && name !== '@oclif/core'),
      []
    )
  })
})

describe('files', () => {
  it('open with a paragraph saying what they are for', () => {
    const bare = [...sources, ...under('test'), ...under('bench')].filter(file => {
      const text = readFileSync(join(root, file), 'utf8').replace(/^#!.*\n/, '')
      const comment = /^\s*\/\*\*?([\s\S]*?)\*\//.exec(text)?.[1] ?? ''
      return comment.replace(/[\s*]/g, '').length < 20
    })
    assert.deepEqual(bare, [])
  })

  it('are named in kebab-case, and none is a drawer for everything', () => {
    const wrong = sources.filter(file =>
      file.split('/').some(part => !/^[a-z0-9]+(-[a-z0-9]+)*(\.ts)?$/.test(part) || /^(utils?|helpers?|common|misc)(\.ts)?$/.test(part))
    )
    assert.deepEqual(wrong, [])
  })

  it('hold no unfinished mark and no path of a machine', () => {
    const marks = [
      ['TO', 'DO'],
      ['FIX', 'ME'],
      ['XX', 'X'],
      ['HA', 'CK']
    ].map(parts => parts.join(''))
    const paths = ['work', 'root', 'home/[a-z]'].map(name => `(?<![\\w.])/${name}/`)
    const bad = new RegExp(`\\b(${marks.join('|')})\\b|${paths.join('|')}`)
    const folders = ['src', 'commands', 'test', 'bench', 'bin', 'configs', 'native', '.github', '.ci']
    const tops = readdirSync(root).filter(name => /^(README|CHANGELOG|Makefile|package\.json|eslint\.config\.js|tsconfig\.json)/.test(name))
    const texts = [...folders.flatMap(folder => [...walk(join(root, folder))]), ...tops.map(name => join(root, name))].filter(
      path => !path.includes(`${join('test', 'golden')}/`) && !/\/(node_modules|build|dist)\//.test(path) && statSync(path).size < 2 ** 20
    )
    const found = texts.flatMap(path => {
      const text = readFileSync(path, 'utf8')
      if (text.includes('\u0000')) return []
      return text.split('\n').flatMap((line, i) => (bad.test(line) ? [`${relative(root, path)}:${i + 1}: ${line.trim()}`] : []))
    })
    assert.deepEqual(found, [])
  })
})

describe('settings', () => {
  it('each have a sentence', () => {
    for (const [path, {says}] of rows()) assert.ok(says.length > 10 && says.endsWith('.'), path)
  })
})

type CommandClass = {
  readonly summary?: string
  readonly description?: string
  readonly group?: string
  readonly examples?: readonly (string | {command: string; description: string})[]
  readonly flags?: Readonly<
    Record<string, FlagShape & {summary?: string; description?: string; options?: readonly string[]; name?: string}>
  >
  readonly args?: Readonly<Record<string, {description?: string; required?: boolean; multiple?: boolean; ignoreStdin?: boolean}>>
}

const config = await Config.load(root)
const commands = new Map<string, CommandClass>()
for (const command of config.commands) {
  if (command.pluginName === config.pjson.name)
    commands.set(command.id.replaceAll(':', ' '), (await command.load()) as unknown as CommandClass)
}

/** The letters that mean the same in every command. */
const letters: Readonly<Record<string, string>> = {o: 'output', f: 'force', q: 'quiet', v: 'verbose', n: 'dry-run', '0': 'null'}

/** Cuts a line of shell into pipeline stages and words; enough for examples. */
function stages(line: string): string[][] {
  const out: string[][] = [[]]
  for (const [, quoted, single, bare] of line.matchAll(/"([^"]*)"|'([^']*)'|([^\s"']+)/g)) {
    const word = quoted ?? single ?? bare!
    if (bare !== undefined && /^(\||\|\||&&|;)$/.test(bare)) out.push([])
    else out.at(-1)!.push(word)
  }
  return out
}

describe('commands', () => {
  it('are all found, each file under commands one command', () => {
    const files = under('commands').map(file =>
      file
        .replace(/^commands\//, '')
        .replace(/\.ts$/, '')
        .replace(/\/index$/, '')
        .replaceAll('/', ' ')
    )
    assert.deepEqual([...commands.keys()].sort(), files.sort())
  })

  for (const [id, command] of commands) {
    it(`${id}: has a group, a summary, and a sentence for every flag and argument`, () => {
      assert.ok(
        ['Data', 'Training', 'Features', 'Evaluation', 'Results', 'Engine', 'Shell'].includes(command.group ?? ''),
        `group ${command.group}`
      )
      assert.match(command.summary ?? '', /^[A-Z].*\.$/)
      for (const [name, flag] of Object.entries(command.flags ?? {})) {
        assert.ok((flag.summary ?? flag.description ?? '').length > 8, `--${name} has no sentence`)
        assert.match(environmentName(name), /^DINOV2_[A-Z0-9_]+$/)
        if (flag.char && letters[flag.char])
          assert.equal(name, letters[flag.char], `-${flag.char} means --${letters[flag.char]} everywhere`)
      }
      assert.ok(command.flags?.['json'], 'every command has --json')
      for (const [name, arg] of Object.entries(command.args ?? {})) assert.ok((arg.description ?? '').length > 3, `${name} has no sentence`)
    })

    it(`${id}: has examples whose flags parse`, () => {
      const examples = command.examples ?? []
      assert.ok(examples.length > 0, 'no example')
      for (const example of examples) {
        const text = (typeof example === 'string' ? example : example.command)
          .replaceAll(/<%=\s*config\.bin\s*%>/g, config.bin)
          .replaceAll(/<%=\s*command\.id\s*%>/g, id)
          .replaceAll(/[<$]\(|\)/g, ' ') // what runs inside another command counts too
        const lines = text.split('\n').filter(line => line.includes(`${config.bin} `) && !/^[A-Z][^|]*[.:]$/.test(line))
        assert.ok(lines.length > 0, `the example does not call ${config.bin}: ${text}`)
        let called = false
        for (const words of lines.flatMap(stages)) {
          const start = words.indexOf(config.bin)
          if (start < 0) continue
          const redirect = words.findIndex((word, i) => i > start && /^\d?>/.test(word))
          const argv = words.slice(start + 1, redirect < 0 ? undefined : redirect)
          const name = [3, 2, 1].map(n => argv.slice(0, n).join(' ')).find(candidate => commands.has(candidate))
          assert.ok(name, `${text}: there is no such command`)
          called ||= name === id
          const shapes = commands.get(name)!.flags ?? {}
          const {flags, unknown} = cut(argv.slice(name.split(' ').length), shapes)
          assert.deepEqual(unknown, [], text)
          for (const [flag, value] of flags) {
            const {options, type, delimiter} = shapes[flag]!
            if (type === 'option') assert.ok(typeof value === 'string', `${text}: --${flag} wants a value`)
            for (const one of delimiter ? String(value).split(delimiter) : [value])
              if (options) assert.ok(options.includes(one as string), `${text}: --${flag} ${one}`)
          }
        }
        assert.ok(called, `the example of ${id} calls other commands only: ${text}`)
      }
    })
  }
})
