/** docs/dependencies.md lists every package that package.json names, as the lock file holds it. */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'

const text = (file: string): string => readFileSync(join(packageFolder(), file), 'utf8')
const {packages} = JSON.parse(text('package-lock.json')) as {packages: Record<string, {version: string; license?: string}>}
const {dependencies, optionalDependencies, devDependencies, peerDependencies} = JSON.parse(text('package.json')) as Record<
  string,
  Record<string, string>
>

/** The rows of the tables by section: name, version, licence, reason, alternative. */
const sections = new Map(
  text('docs/dependencies.md')
    .split(/^## /m)
    .slice(1)
    .map(section => [
      section.split('\n', 1)[0]!,
      [...section.matchAll(/^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$/gm)].map(([, ...cells]) =>
        cells.map(cell => cell.trim())
      )
    ])
)
const rows = [...sections.values()].flat()
const namesIn = (section: string): string[] => sections.get(section)!.map(([name]) => name!)

test('every package stands in the table with the version and licence of the lock file, and nothing else does', () => {
  const named = Object.keys({...dependencies, ...optionalDependencies, ...devDependencies, ...peerDependencies}).sort()
  assert.deepEqual(
    named.map(name => {
      const {version, license} = packages[`node_modules/${name}`]!
      return [name, version, license]
    }),
    rows.map(([name, version, license]) => [name, version, license]).sort(([a], [b]) => (a! < b! ? -1 : 1))
  )
})

test('it stands in the section of its kind, and has a reason', () => {
  assert.deepEqual(namesIn('Installed with the package').sort(), Object.keys(dependencies!).sort())
  assert.deepEqual(namesIn('Optional dependencies').sort(), Object.keys(optionalDependencies!).sort())
  assert.deepEqual(namesIn('Optional peers').sort(), Object.keys(peerDependencies!).sort())
  const bundled = JSON.parse(text('dist/bundled.json')) as string[]
  assert.deepEqual(
    namesIn('Bundled when the package is built').filter(name => !bundled.includes(name)),
    []
  )
  for (const [name, , , reason, instead] of rows) assert.ok(reason!.length > 3 && instead, `${name} has no reason`)
})

test('no package may be had under a licence that ours cannot be given away with', () => {
  const bad = Object.entries(packages).filter(
    ([path, {license}]) => path && /\b(A?GPL|SSPL|BUSL|UNLICENSED)/.test(license ?? '') && !/LGPL/.test(license ?? '')
  )
  assert.deepEqual(
    bad.map(([path, {license}]) => `${path} ${license}`),
    []
  )
})
