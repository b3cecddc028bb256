/**
 * A hint names only flags that the command has. Hints are read from the source: those of every file that a command
 * reaches by its imports are held against the flags of that command.
 */
import assert from 'node:assert/strict'
import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import ts from 'typescript'
import {Config} from '../../src/cli/oclif.js'
import {report} from '../../src/cli/errors.js'
import {UserError} from '../../src/config/errors.js'
import {filesUnder, importsOf, parse, root} from '../support/source-tree.js'

/**
 * Files that commands import which never run the hint that names this flag: looked at one by one. A hint that holds
 * for one command alone names that command (`dinov2 index --kind exact`).
 */
const reachedElsewhere: Readonly<Record<string, readonly string[]>> = {
  'src/cli/curate-plan.ts': ['target'],
  'src/cli/feature-flags.ts': ['resize', 'size'],
  'src/cli/rejected-inputs.ts': ['bad', 'max-bad'],
  'src/engine/engine.ts': ['precision'],
  'src/engine/tensorflow/start.ts': ['device'],
  'src/engine/torch/install.ts': ['force'],
  'src/engine/wasm/engine.ts': ['engine'],
  'src/engine/wasm/start.ts': ['jitless'], // a flag of node
  'src/files/embeddings/append.ts': ['format'],
  'src/files/embeddings/formats.ts': ['format'],
  'src/files/embeddings/output.ts': ['resume', 'format'],
  'src/files/embeddings/resumable.ts': ['format'],
  'src/files/run/run-folder.ts': ['resume', 'force'],
  'src/system/atomic.ts': ['force'],
  'src/system/download.ts': ['force'],
  'src/system/lock.ts': ['output'],
  'src/system/output.ts': ['resume', 'force'],
  'src/tasks/curate/cluster.ts': ['levels', 'select'],
  'src/tasks/curate/decontaminate.ts': ['against'],
  'src/tasks/curate/features.ts': ['features'],
  'src/tasks/curate/retrieve.ts': ['seeds'],
  'src/tasks/curate/plan.ts': ['features'],
  'src/tasks/embed/transform.ts': ['crop', 'resize', 'size'],
  'src/tasks/search/index-options.ts': ['replace'],
  'src/tasks/train/resume.ts': ['accept-changes', 'config']
}

function hintsOf(file: string): string[] {
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && node.name.getText() === 'hint') found.push(node.initializer.getText())
    ts.forEachChild(node, visit)
  }
  visit(parse(file))
  return found
}

/** The file of a command and all that it imports, at once or later. */
function reached(start: string): Set<string> {
  const seen = new Set([start])
  for (const file of seen)
    for (const {to, kind} of importsOf(file)) if (kind !== 'type' && to.endsWith('.ts') && existsSync(join(root, to))) seen.add(to)
  return seen
}

test('every flag that a hint names is one of the command', async () => {
  const {commands} = await Config.load(root)
  const files = new Set(filesUnder('commands'))
  const wrong = new Set<string>()
  const used = new Set<string>()
  for (const {id, flags} of commands) {
    const place = `commands/${id.replaceAll(':', '/')}`
    const file = [`${place}.ts`, `${place}/index.ts`].find(name => files.has(name))
    assert.ok(file, id)
    const names = new Set(['help', ...Object.keys(flags)])
    for (const source of reached(file))
      for (const hint of hintsOf(source)) {
        // What belongs to another program or to a command that is named does not count.
        const own = hint.replaceAll(/\$\{[^}]*\}/g, 'X').replaceAll(/(?:dinov2|python3|npm|git) [^`'",;]*/g, '')
        for (const [, name] of own.matchAll(/--(?:no-)?([a-z][a-z0-9-]*)/g)) {
          if (names.has(name!)) continue
          if (reachedElsewhere[source]?.includes(name!)) used.add(`${source} ${name}`)
          else wrong.add(`${source} names --${name}, which ${id.replaceAll(':', ' ')} lacks: ${hint.slice(0, 120)}`)
        }
      }
  }
  assert.deepEqual([...wrong], [])
  const listed = Object.entries(reachedElsewhere).flatMap(([file, flags]) => flags.map(flag => `${file} ${flag}`))
  assert.deepEqual(
    listed.filter(entry => !used.has(entry)),
    []
  ) // an exception that is none any more is taken out
})

test('a pipeline names the flags of its stages as it has them; other commands keep theirs', () => {
  const hint = 'Give --levels from many to few, or run dinov2 curate cluster --levels 10,2.'
  const said = (flags: string[]): string => report(new UserError('x', {hint}), {bin: 'dinov2', version: '1', flags}).lines[1]!.trim()
  assert.equal(said(['cluster-levels']), 'Give --cluster-levels from many to few, or run dinov2 curate cluster --levels 10,2.')
  assert.equal(said(['levels', 'cluster-levels']), hint)
})

test('too little memory names only what the command can do about it', () => {
  const said = (...flags: string[]): string =>
    report(new RangeError('Invalid array length: 99999999999'), {bin: 'dinov2', version: '1', flags}).lines[1]!
  assert.match(said('batch', 'size'), /--batch.*--size.*end other programs/)
  assert.doesNotMatch(said('k'), /--/)
})
