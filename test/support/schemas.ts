/** Holds what the program writes against the JSON Schemas that `dinov2 schema` prints. */
import assert from 'node:assert/strict'
import {Ajv2020, type ValidateFunction} from 'ajv/dist/2020.js'
import {outputSchema} from '../../src/cli/report-schemas.js'
import {settingsSchema} from '../../src/config/json-schema.js'

const ajv = new Ajv2020({strict: true, allErrors: true, allowUnionTypes: true})
const compiled = new Map<string, ValidateFunction>()

/** A function that says whether a value is as the schema of a name wants it; undefined where there is no schema. */
export function validator(name: string, kind: 'report' | 'rows' = 'report'): ValidateFunction | undefined {
  const key = `${kind} of ${name}`
  const schema = name === 'settings' ? settingsSchema() : outputSchema(name, kind)
  if (!schema) return undefined
  // Only what JSON can say counts, as `dinov2 schema` prints it.
  if (!compiled.has(key)) compiled.set(key, ajv.compile(JSON.parse(JSON.stringify(schema)) as object))
  return compiled.get(key)
}

/** Throws where a value is not as its schema wants it. */
export function assertSchema(name: string, kind: 'report' | 'rows', value: unknown): void {
  const validate = validator(name, kind)
  assert.ok(validate, `there is a schema of the ${kind} of ${name}`)
  assert.ok(validate(value), `the ${kind} of ${name}: ${ajv.errorsText(validate.errors)}\n${JSON.stringify(value).slice(0, 2000)}`)
}

const parsed = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}
const lastLine = (text: string): string => text.trim().split('\n').at(-1) ?? ''

/** Checks the report of a command that was asked for one, and the rows of one that wrote them to stdout. */
export function assertSchemas(
  args: readonly string[],
  {status, stdout, stderr}: {status: number | null; stdout: string; stderr: string}
): void {
  const name = [args.slice(0, 2).join(' '), args[0] ?? ''].find(id => outputSchema(id, 'report') !== undefined)
  if (name === undefined || status === null || args.includes('--help')) return
  if (args.includes('--json')) {
    const value = parsed(lastLine(stderr)) ?? parsed(stdout) // where rows go to stdout, the report is the last line of stderr
    if (value === undefined || JSON.stringify(value) === '{}') return
    if (status === 0) assertSchema(name, 'report', value)
    else if (typeof value === 'object' && value !== null && 'error' in value) assertSchema('error', 'report', value)
  }
  if (status !== 0 || !stdout.startsWith('{') || args.includes('--json') || !validator(name, 'rows')) return
  for (const line of stdout.trim().split('\n').slice(0, 20)) assertSchema(name, 'rows', parsed(line))
}
