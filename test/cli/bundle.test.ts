/** `bin/run.js` starts the bundle of the program where it is newer than the last compilation, else the modules. */
import assert from 'node:assert/strict'
import {copyFileSync, mkdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'
import {folder, run} from '../support/program.js'

const root = packageFolder()

/** A checkout whose two programs say which of them ran; `compiled` and `bundled` are times in seconds. */
function checkout({compiled, bundled}: {compiled?: number; bundled?: number}): string {
  const at = folder()
  for (const name of ['bin', 'dist/src/cli', 'dist/bundle']) mkdirSync(join(at, name), {recursive: true})
  for (const name of ['bin/run.js', 'bin/package.json']) copyFileSync(join(root, name), join(at, name))
  writeFileSync(join(at, 'dist/src/cli/main.js'), `exports.main = from => console.log('compiled', from.endsWith('/package.json'))`)
  writeFileSync(join(at, 'dist/bundle/core.js'), `exports.main = from => console.log('bundle', from.endsWith('/dist/bundle/package.json'))`)
  const dated = (name: string, seconds: number | undefined): void => {
    if (seconds === undefined) return
    writeFileSync(join(at, name), '')
    utimesSync(join(at, name), seconds, seconds)
  }
  dated('dist/.tsbuildinfo', compiled)
  dated('dist/bundle/oclif.manifest.json', bundled)
  return join(at, 'bin/run.js')
}

for (const [what, times, ran] of [
  ['a package', {bundled: 1000}, 'bundle true'],
  ['a checkout after a whole build', {compiled: 1000, bundled: 1001}, 'bundle true'],
  ['a checkout compiled since', {compiled: 1002, bundled: 1001}, 'compiled true'],
  ['a checkout compiled alone', {compiled: 1000}, 'compiled true']
] as const)
  test(`what runs in ${what}`, async () => {
    const {stdout, status} = await run(checkout(times), [])
    assert.equal(status, 0)
    assert.equal(stdout.trim(), ran)
  })

/** The real program as one of the two. */
function program(which: 'bundle' | 'compiled'): string {
  const at = folder()
  mkdirSync(join(at, 'dist'))
  for (const name of ['bin', 'package.json', 'node_modules', 'dist/bundle', 'dist/commands', 'dist/src'])
    if (name === 'bin') {
      mkdirSync(join(at, 'bin'))
      for (const file of ['run.js', 'package.json']) copyFileSync(join(root, 'bin', file), join(at, 'bin', file))
    } else symlinkSync(join(root, name), join(at, name))
  if (which === 'compiled') writeFileSync(join(at, 'dist/.tsbuildinfo'), '')
  return join(at, 'bin/run.js')
}

test('the bundle says and computes what the compiled program does', async () => {
  const [bundle, compiled] = [program('bundle'), program('compiled')]
  const images = folder()
  const few = ['--classes', 'mug', '--per-class', '2', '--val-per-class', '1', '--size', '32', '--quiet']
  assert.equal((await run(bundle, ['samples', 'draw', '-o', join(images, 'drawn'), ...few])).status, 0)
  for (const args of [
    ['--help'],
    ['curate', 'dedup', '--help'],
    ['pretrain', 'nothing', '--config', 'small', '--print-config'],
    ['embed', join(images, 'drawn/train'), '--model', 'starter', '--engine', 'wasm', '--size', '32', '--format', 'jsonl'],
    ['embd']
  ]) {
    const [ours, theirs] = await Promise.all([run(bundle, args), run(compiled, args)])
    assert.equal(ours.stdout, theirs.stdout, args.join(' '))
    assert.equal(ours.status, theirs.status, args.join(' '))
    assert.ok(ours.stdout.length > 0 || ours.stderr.includes('Did you mean'), args.join(' '))
  }
})

test('the bundle loads no package before a module asks for it', () => {
  for (const name of ['core.js', 'program.js']) {
    const text = readFileSync(join(root, 'dist/bundle', name), 'utf8')
    const imported = [...text.matchAll(/(?:^|;)import\b[^;"']*from\s*["']([^"']+)["']/gm)].map(match => match[1]!)
    assert.deepEqual(
      imported.filter(path => !path.startsWith('./') && path !== '../src/cli/oclif.js' && path !== 'node:module' && path !== 'node:url'),
      []
    )
  }
})
