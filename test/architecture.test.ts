/**
 * The rules of the source tree, held by reading it: who imports whom, no circles, sizes of functions and files, one
 * home for every exported name, citations that resolve, every setting and flag with its sentence, every command with
 * examples that parse, and nothing left lying about.
 *
 * The rules of imports stand in support/import-rules.ts, the measurements in support/measure.ts.
 */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {describe, it} from 'node:test'
import {Config} from '../src/cli/oclif.js'
import {cut, type FlagShape} from '../src/cli/argv.js'
import {environmentName} from '../src/cli/flags.js'
import {settingRows} from '../src/config/table.js'
import {folders, openConfig, packageHomes, taskFolders, withTables} from './support/import-rules.js'
import * as measure from './support/measure.js'
import {circles, filesUnder, importsOf, readText, root, type Import} from './support/source-tree.js'

const sources = [...filesUnder('src'), ...filesUnder('commands')]
const imports = sources.flatMap(importsOf)
const folderOf = (path: string): string => (path.startsWith('commands/') ? 'commands' : path.split('/')[1]!)
const isOurs = (path: string): boolean => path.startsWith('src/') || path.startsWith('commands/')
/** The folder of `src/tasks` that holds a file; '' for a file beside those folders. */
const taskFolderOf = (path: string): string => dirname(path).split('/').slice(2).join('/')

/** How an import breaks the rules, or undefined. */
function fault({from, to, kind}: Import): string | undefined {
  const [folder, other] = [folderOf(from), folderOf(to)]
  const rule = folders[folder]
  if (!rule) return `${from}: the folder ${folder} is not in test/support/import-rules.ts`
  if (folder === other) return folder === 'commands' ? `${from} imports another command, ${to}` : undefined
  const isAllowed =
    kind === 'type'
      ? [...rule.imports, ...(rule.types ?? [])].includes(other)
      : (kind === 'dynamic' && rule.later?.includes(other)) ||
        (rule.imports.includes(other) && (other !== 'config' || openConfig.has(to) || ['cli', 'commands'].includes(folder)))
  return isAllowed ? undefined : `${from} imports ${to} (${kind})`
}

describe('imports', () => {
  it('keep to the rules', () => {
    assert.deepEqual(
      imports.filter(({to}) => isOurs(to)).flatMap(found => fault(found) ?? []),
      []
    )
  })

  it('keep to the rules among the folders of tasks', () => {
    const wrong = imports
      .filter(({from, to}) => from.startsWith('src/tasks/') && to.startsWith('src/tasks/'))
      .filter(({from, to, kind}) => {
        const [folder, other] = [taskFolderOf(from), taskFolderOf(to)]
        return folder !== other && kind !== 'type' && !taskFolders[folder]?.imports.includes(other)
      })
    assert.deepEqual(
      wrong.map(({from, to}) => `${from} imports ${to}`),
      []
    )
  })

  it('bring in each package of others in its one place, and node: only where the table says', () => {
    const wrong: string[] = []
    for (const {from, to, kind} of imports) {
      if (isOurs(to) || to.startsWith('.')) continue
      if (to.startsWith('node:')) {
        if (!folders[folderOf(from)]?.node) wrong.push(`${from} imports ${to}`)
        continue
      }
      const places = packageHomes.filter(([name]) => name.test(to))
      if (!places.some(([, home]) => home.test(from))) wrong.push(`${from} imports ${to} (${kind})`)
    }
    assert.deepEqual(wrong, [])
  })

  it('lead to files that exist', () => {
    assert.deepEqual(
      // Of the bundles that `npm run build` makes (scripts/bundle.js) the sources hold types only.
      imports
        .filter(({to}) => isOurs(to) && !existsSync(join(root, to)) && !existsSync(join(root, to.replace(/\.ts$/, '.d.ts'))))
        .map(({from, to}) => `${from} -> ${to}`),
      []
    )
  })

  it('make no circle of values', () => {
    const values = imports.filter(({to, kind}) => kind === 'value' && isOurs(to)).map(({from, to}) => [from, to] as const)
    assert.deepEqual(circles(values), [])
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
    for (const file of [...filesUnder('commands'), 'src/cli/main.ts']) visit(file)
    assert.deepEqual(
      [...seen].filter(name => !isOurs(name) && !name.startsWith('node:')),
      []
    )
  })
})

/** Every file of text that we write, from the root: code, documents, scripts, settings. */
function texts(): string[] {
  const named = ['src', 'commands', 'test', 'bench', 'bin', 'configs', 'docs', 'native', 'scripts', '.github', '.ci'].flatMap(folder =>
    filesUnder(folder, '')
  )
  const tops = readdirSync(root).filter(name => /^(README|CHANGELOG|Makefile|package\.json|eslint\.config\.js|tsconfig\.json)/.test(name))
  return [...named, ...tops].filter(file => statSync(join(root, file)).size < 2 ** 20 && !readFileSync(join(root, file)).includes(0))
}

describe('foreign bytes', () => {
  /** Files of `src` and `commands` that hold a call, but those where it belongs. */
  const callers = (call: RegExp, home: readonly string[]): string[] =>
    sources.filter(file => !home.includes(file) && call.test(readText(file)))

  it('are parsed as JSON in one place, with bounds', () => {
    // the page of similarities reads what it carries itself, in the browser
    assert.deepEqual(callers(/\bJSON\.parse\(/, ['src/system/json.ts', 'src/tasks/visualize/similarity.ts']), [])
  })

  it('are read as YAML in one place, with bounds', () => {
    assert.deepEqual(callers(/\bparseDocument\(/, ['src/config/settings-file.ts']), [])
  })

  it('are opened where pipes and devices are refused', () => {
    // what this program wrote a moment before, beside or below its own temporary names, and files of the system
    const own = [
      'src/cli/surroundings.ts',
      'src/system/plain-file.ts',
      'src/config/settings-file.ts',
      'src/data/image/read-bytes.ts',
      'src/files/photo-sets.ts',
      'src/tasks/search/graph-index.ts',
      'src/tasks/train/memory-usage.ts',
      'src/tasks/train/metrics-log.ts',
      'src/tasks/samples.ts',
      'src/engine/machine.ts',
      'src/system/free-memory.ts',
      'src/engine/tensorflow/find.ts',
      'src/engine/torch/find.ts',
      'src/system/kept-answers.ts',
      'src/system/lock.ts',
      'src/system/compile.ts'
    ]
    assert.deepEqual(callers(/\b(createReadStream|readFile|readFileSync)\(/, own), [])
  })
})

describe('files', () => {
  it('open with a paragraph saying what they are for', () => {
    const bare = [...sources, ...filesUnder('test'), ...filesUnder('bench')].filter(file => {
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

  it('called index.ts are barrels', () => {
    const barrels = filesUnder('src').filter(file => file.endsWith('/index.ts'))
    assert.deepEqual(
      barrels.filter(
        file => !/^(\s*(\/\*[\s\S]*?\*\/|\/\/.*|(import|export (type )?(\*|\{[^}]*\}) from) '[^']+'))+\s*$/.test(readText(file))
      ),
      []
    )
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
    const found = texts().flatMap(file =>
      readText(file)
        .split('\n')
        .flatMap((line, i) => (bad.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : []))
    )
    assert.deepEqual(found, [])
  })
})

/**
 * What may not grow. Each number is what the tree holds today where that is more than the aim; lower it with every
 * change that shrinks it. `npm run measure` lists what is counted.
 */
const limits = {
  manyParameters: 0,
  fileCircles: 0,
  folderCircles: 0,
  sharedNames: 0,
  deadExports: 0,
  conditionalSpreads: 114,
  commandLines: 71
}

const atMost = (limit: number, found: readonly string[]): void =>
  assert.ok(found.length <= limit, `${found.length}, at most ${limit}:\n${found.join('\n')}`)

/** Functions that may have more than 80 lines, and why; at most 12. */
const longFunctions: Readonly<Record<string, string>> = {
  'src/files/checkpoint/pickle.ts unpickleFirst': 'It is one switch over the opcodes of pickle, of a few lines each.'
}

/** Files of `src` that may have more than 300 lines, and why; at most 8. */
const longFiles: Readonly<Record<string, string>> = {
  'src/cli/command.ts': 'The base of all commands: parsing, output, errors and ending share its private state.',
  'src/files/checkpoint/pickle.ts': 'It holds the switch over the opcodes of pickle.',
  'src/model/vit.ts': 'The forward and the backward pass stand in one file, so that each step can be read beside its gradient.',
  'src/engine/torch/kernels/image.ts': 'A table of kernels of TensorFlow.js, one short function each.',
  'src/tasks/train/teacher.ts': 'Opening a teacher, its passes over a batch and its targets share one state.',
  'src/tasks/train/student-pass.ts': 'The pass of the student and its gradients share what is kept between them.',
  'src/config/table.ts': 'The table of settings, one row each.'
}

/** Fails where something too long is not in the list, or something in the list is not too long any more. */
function listed(list: Readonly<Record<string, string>>, most: number, found: readonly string[]): void {
  assert.ok(Object.keys(list).length <= most, `${Object.keys(list).length} are listed, at most ${most}`)
  const names = found.map(line => line.replace(/: \d+ lines$/, ''))
  assert.deepEqual(
    names.filter(name => list[name] === undefined),
    [],
    'split these, or list them with a reason'
  )
  assert.deepEqual(
    Object.keys(list).filter(name => !names.includes(name)),
    [],
    'these are short enough now: take them off the list'
  )
}

describe('sizes', () => {
  it('of functions: at most 80 lines', () => listed(longFunctions, 12, measure.longFunctions()))
  it('of functions: at most 6 parameters', () => atMost(limits.manyParameters, measure.manyParameters()))
  it('of files: at most 300 lines', () => listed(longFiles, 8, measure.longFiles()))
  it('of commands: near 60 lines', () => assert.ok(measure.commandLines() <= limits.commandLines, `${measure.commandLines()}`))
})

describe('names and ties', () => {
  it('no two files need each other, types included', () => atMost(limits.fileCircles, measure.fileCircles()))
  it('no two folders need each other', () => atMost(limits.folderCircles, measure.folderCircles()))
  it('an exported name has one home', () => atMost(limits.sharedNames, measure.sharedNames()))
  it('an export is used', () => atMost(limits.deadExports, measure.deadExports()))
  it('options pass as they are', () =>
    assert.ok(measure.conditionalSpreads() <= limits.conditionalSpreads, `${measure.conditionalSpreads()}`))
})

describe('packages', () => {
  type Package = {
    dependencies: Record<string, string>
    optionalDependencies: Record<string, string>
    devDependencies: Record<string, string>
    peerDependencies: Record<string, string>
  }
  const {dependencies, optionalDependencies, devDependencies, peerDependencies} = JSON.parse(readText('package.json')) as Package
  const nameOf = (module: string): string =>
    module
      .split('/')
      .slice(0, module.startsWith('@') ? 2 : 1)
      .join('/')

  it('are listed where they are imported', () => {
    const used = imports.filter(({to, kind}) => !isOurs(to) && !to.startsWith('.') && !to.startsWith('node:') && kind !== 'type')
    const wrong = used.filter(({to}) => !dependencies[nameOf(to)] && !optionalDependencies[nameOf(to)] && !peerDependencies[nameOf(to)])
    assert.deepEqual(
      wrong.map(({from, to}) => `${from} imports ${to}`),
      []
    )
  })

  it('are used where they are listed', () => {
    const code = texts().filter(file => /\.(ts|js)$/.test(file) || file === 'package.json' || file === 'Makefile')
    const text = code
      .map(file => (file === 'package.json' ? JSON.stringify((JSON.parse(readText(file)) as {scripts: object}).scripts) : readText(file)))
      .join('\n')
    const unused = Object.keys({...dependencies, ...optionalDependencies, ...devDependencies, ...peerDependencies}).filter(
      name => !name.startsWith('@types/') && !new RegExp(`['"\\s(]${name}(['"/\\s)]|$)`, 'm').test(text)
    )
    assert.deepEqual(unused, [])
  })
})

describe('documents', () => {
  it('src/README.md has the tables of the import rules', () => {
    const text = readText('src/README.md')
    assert.equal(text, withTables(text), 'run `npm run readme`')
  })

  /** Section numbers of docs/spec.md, and the anchors of every other document. */
  const sections = new Set([...readText('docs/spec.md').matchAll(/^#+ (\d+(?:\.\d+)?)[. ]/gm)].map(([, number]) => number!))
  const anchors = (file: string): Set<string> =>
    new Set(
      [...readText(file).matchAll(/^#+ (.+)$/gm)].map(([, title]) =>
        title!
          .toLowerCase()
          .replace(/[^\p{L}\p{N} _-]/gu, '')
          .replaceAll(' ', '-')
      )
    )

  it('that are cited exist, with the section that is cited', () => {
    const wrong: string[] = []
    for (const file of texts()) {
      if (file === 'test/architecture.test.ts') continue
      const text = readText(file).replace(/\n\s*(\*|\/\/|#)? ?/g, ' ')
      for (const [cited, path, anchor] of text.matchAll(/\b(docs\/[\w/.-]+\.md)(#[\w-]+)?/g)) {
        if (!existsSync(join(root, path!))) wrong.push(`${file}: there is no ${cited}`)
        else if (anchor && !anchors(path!).has(anchor.slice(1))) wrong.push(`${file}: ${path} has no section ${anchor}`)
      }
      for (const [, list] of text.matchAll(/docs\/spec\.md ((?:§[\d.]*\d(?:, | and )?)+)/g))
        for (const [, number] of list!.matchAll(/§([\d.]*\d)/g))
          if (!sections.has(number!)) wrong.push(`${file}: docs/spec.md has no section ${number}`)
      for (const [cited] of text.matchAll(/(?<!docs\/)\b[Ss]pec(\.md)? §?\d[\d.]*|(?<!docs\/spec\.md )\(spec §/g))
        wrong.push(`${file}: "${cited}" names no document`)
    }
    assert.deepEqual(wrong, [])
  })
})

describe('settings', () => {
  it('each have a sentence', () => {
    for (const [path, {description: says}] of settingRows()) assert.ok(says.length > 10 && says.endsWith('.'), path)
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
    const files = filesUnder('commands').map(file =>
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
