/** Short forms for JSON Schemas (draft 2020-12), and the schema of settings files, made from the settings table. */
import {describeExpected} from './expected.js'
import {settingRows, type Setting} from './table.js'

export type JsonSchema = {readonly [key: string]: unknown}

export const DRAFT = 'https://json-schema.org/draft/2020-12/schema'

export const text: JsonSchema = {type: 'string'}
export const whole: JsonSchema = {type: 'integer', minimum: 0}
export const number: JsonSchema = {type: 'number'}
export const flag: JsonSchema = {type: 'boolean'}
export const anything: JsonSchema = {}
export const maybe = (schema: JsonSchema): JsonSchema => ({anyOf: [schema, {type: 'null'}]})
export const list = (items: JsonSchema, description?: string): JsonSchema => ({type: 'array', items, description})
export const either = (...anyOf: readonly JsonSchema[]): JsonSchema => ({anyOf})
export const mapOf = (additionalProperties: JsonSchema): JsonSchema => ({type: 'object', additionalProperties})
export const said = (schema: JsonSchema, description: string): JsonSchema => ({...schema, description})

/** An object with `required` properties and those of `optional`; others may stand beside them. */
export const object = (
  required: Readonly<Record<string, JsonSchema>>,
  optional: Readonly<Record<string, JsonSchema>> = {},
  description?: string
): JsonSchema => ({type: 'object', description, properties: {...required, ...optional}, required: Object.keys(required)})

/** The bounds of a number; those without an end are left out. */
function bounds({min, max, above}: {readonly min: number; readonly max: number; readonly above?: boolean}): JsonSchema {
  return {[above ? 'exclusiveMinimum' : 'minimum']: min, maximum: max === Infinity || max >= 2 ** 31 - 1 ? undefined : max}
}

function valueSchema(setting: Setting): JsonSchema {
  switch (setting.kind) {
    case 'number':
    case 'integer':
      return {type: setting.kind, ...bounds(setting)}
    case 'integer or null':
      return {type: ['integer', 'null'], ...bounds(setting)}
    case 'switch':
      return flag
    case 'text':
      return text
    case 'choice':
      return {enum: setting.options}
    case 'range':
      return {type: 'array', items: {type: 'number', ...bounds(setting)}, minItems: 2, maxItems: 2}
  }
}

/**
 * The schema of settings files and recipes. Flags of a command may stand beside the sections, so unknown names are
 * refused within a section only.
 */
export function settingsSchema(): JsonSchema {
  const sections: Record<string, Record<string, JsonSchema>> = {}
  for (const [path, setting] of settingRows()) {
    const [section, name] = path.split('.') as [string, string]
    const description = `${setting.description} Expects ${describeExpected(setting)}.`
    ;(sections[section] ??= {})[name] = {...valueSchema(setting), default: setting.default, description}
  }
  const properties = Object.fromEntries(
    Object.entries(sections).map(([section, rows]) => [section, {type: 'object', properties: rows, additionalProperties: false}])
  )
  return {
    $schema: DRAFT,
    title: 'Settings of dinov2',
    description: 'Recipes and files for --config of pretrain and distill.',
    type: 'object',
    properties
  }
}
