/** What a value of a setting may be, in words and as a check. */
import type {Setting} from './table.js'

/** What the setting wants, in words: `a whole number from 1 to 1024`. */
export function describeExpected(setting: Setting): string {
  const span = (min: number, max: number, above = false): string =>
    max === Infinity || max >= 2 ** 31 - 1
      ? `${above ? 'above' : 'of at least'} ${min}`
      : `${above ? 'above' : 'from'} ${min}${above ? ' up' : ''} to ${max}`
  switch (setting.kind) {
    case 'number':
      return `a number ${span(setting.min, setting.max, setting.above)}`
    case 'integer':
      return `a whole number ${span(setting.min, setting.max)}`
    case 'integer or null':
      return `a whole number ${span(setting.min, setting.max)}, or null`
    case 'switch':
      return 'true or false'
    case 'text':
      return 'a text'
    case 'choice':
      return `one of ${setting.options.join(', ')}`
    case 'range':
      return `two numbers from ${setting.min} to ${setting.max}, the smaller first`
  }
}

/** Whether `value` is what the setting wants. */
export function fits(setting: Setting, value: unknown): boolean {
  const within = (n: unknown, min: number, max: number): n is number => typeof n === 'number' && Number.isFinite(n) && n >= min && n <= max
  switch (setting.kind) {
    case 'number':
      return within(value, setting.min, setting.max) && !(setting.above && value === setting.min)
    case 'integer':
      return within(value, setting.min, setting.max) && Number.isInteger(value)
    case 'integer or null':
      return value === null || (within(value, setting.min, setting.max) && Number.isInteger(value))
    case 'switch':
      return typeof value === 'boolean'
    case 'text':
      return typeof value === 'string'
    case 'choice':
      return typeof value === 'string' && setting.options.includes(value)
    case 'range':
      return (
        Array.isArray(value) &&
        value.length === 2 &&
        value.every((end: unknown) => within(end, setting.min, setting.max)) &&
        (value as [number, number])[0] <= (value as [number, number])[1]
      )
  }
}
