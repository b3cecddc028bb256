/** `dinov2 schema`: every report has a schema, and that of settings accepts what the program accepts. */
import assert from 'node:assert/strict'
import {readdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {parse} from 'yaml'
import {outputSchema} from '../../src/cli/report-schemas.js'
import {DRAFT, settingsSchema} from '../../src/config/json-schema.js'
import {fits} from '../../src/config/expected.js'
import {recipeFolder} from '../../src/config/recipes.js'
import {settingsByPath} from '../../src/config/settings.js'
import {realBinary, run} from '../support/program.js'
import {assertSchema, validator} from '../support/schemas.js'

test('every command that reports has a schema, and its rows where it writes some', async () => {
  const {stdout} = await run(realBinary, ['schema'])
  const names = stdout.trim().split('\n')
  const {stdout: help} = await run(realBinary, ['completion', 'bash', '--json'])
  const {commands} = JSON.parse(help) as {commands: number}
  // settings, list and error come on top
  assert.equal(names.length, commands + 3)
  const printed = JSON.parse((await run(realBinary, ['schema', 'search', '--rows'])).stdout) as object
  assert.deepEqual(printed, {$schema: DRAFT, title: 'dinov2 search', ...JSON.parse(JSON.stringify(outputSchema('search', 'rows')))})
  const wrong = await run(realBinary, ['schema', 'serach', '--json'])
  assert.equal(wrong.status, 2)
  assert.match(wrong.stderr + wrong.stdout, /There is no schema of the report of serach/)
})

test('recipes are valid by the schema of settings, and name it for editors', () => {
  const file = readFileSync(join(recipeFolder, 'settings.schema.json'), 'utf8')
  const {title: _, ...written} = JSON.parse(file) as {title: string}
  const {title: __, ...made} = JSON.parse(JSON.stringify(settingsSchema())) as {title: string}
  assert.deepEqual(written, made, 'npm run configs writes it')
  const recipes = readdirSync(recipeFolder).filter(name => name.endsWith('.yaml'))
  assert.ok(recipes.length > 10)
  for (const name of recipes) {
    const yaml = readFileSync(join(recipeFolder, name), 'utf8')
    assert.match(yaml, /^# yaml-language-server: \$schema=settings\.schema\.json\n/, name)
    assertSchema('settings', 'report', parse(yaml))
  }
})

test('the schema of settings judges values as the program does', () => {
  const validate = validator('settings')!
  const values = [-1, 0, 0.5, 1, 2.5, 7, 1e12, null, true, 'torch', 'x', [0.1, 0.4], [0, 2], [1], {}]
  let refused = 0
  for (const [path, setting] of settingsByPath) {
    const [section, name] = path.split('.') as [string, string]
    for (const value of values) {
      const accepted = validate({[section]: {[name]: value}})
      // That a range rises, and that a whole number stays below 2³¹, is beyond the schema.
      if (Array.isArray(value) || value === 1e12) continue
      assert.equal(accepted, fits(setting, value), `${path} = ${JSON.stringify(value)}`)
      if (!accepted) refused++
    }
    assert.equal(validate({[section]: {[`${name}x`]: 1}}), false, `${path}x is unknown`)
  }
  assert.ok(refused > 100)
})

test('a report that lacks a field or has one of another type is refused', () => {
  const good = {queries: 1, rows: 2, output: '-', refused: 0}
  assertSchema('search', 'report', good)
  assert.throws(() => assertSchema('search', 'report', {queries: 1}))
  assert.throws(() => assertSchema('search', 'report', {...good, rows: '2'}))
  assert.throws(() => assertSchema('search', 'report', {...good, more: 1}), 'a field that the schema lacks')
  assertSchema('list', 'report', {path: 'a.jpg', label: 'x', anything: [1]})
  assert.throws(() => assertSchema('list', 'report', {label: 'x'}))
})

test('schemas of reports and errors are closed, within too; those of rows are open', async () => {
  /** Objects of a schema that name properties and would take others; stages of curation count what they do. */
  const open = (schema: unknown): number => {
    if (typeof schema !== 'object' || schema === null) return 0
    const {properties, additionalProperties} = schema as {properties?: object; additionalProperties?: unknown}
    const own = properties && additionalProperties !== false && !('before' in properties) ? 1 : 0
    return Object.values(schema).reduce<number>((sum, part) => sum + open(part), own)
  }
  const {stdout} = await run(realBinary, ['schema'])
  for (const name of stdout.trim().split('\n'))
    if (name !== 'settings' && name !== 'list') assert.equal(open(outputSchema(name, 'report')), 0, name)
  assert.ok(open(outputSchema('search', 'rows')) > 0)
  assert.ok(open(outputSchema('list', 'report')) > 0)
})
