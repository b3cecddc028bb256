/**
 * JSON: the one place of the program where it is parsed.
 *
 * Foreign text is parsed with bounds on its length and on how deep it lies, because what is longer ends in the limits
 * of a string, and what lies deeper overflows the stack of whoever walks it later. What comes out is `unknown`: who
 * reads a record checks its parts.
 */
import {UserError} from '../config/errors.js'
import {readText} from './plain-file.js'

/** No record of ours and no sensible field lies deeper. */
const MAX_DEPTH = 64
/** Fields of a list come to lie a few levels deeper in what is written of them. */
const MAX_FIELD_DEPTH = 56
/** A header of a hundred thousand tensors, or a vector of a million numbers, takes a tenth of this. */
const MAX_LENGTH = 128 << 20

/** A value with named parts. */
export type JsonObject = Readonly<Record<string, unknown>>

/** A name of an object as it stands between its quotes. */
const nameIn = (written: string): string => {
  if (!written.includes('\\')) return written
  try {
    return JSON.parse(`"${written}"`) as string
  } catch {
    return written // JSON.parse says what is wrong
  }
}

const isNumberPart = (code: number): boolean =>
  (code >= 48 && code <= 57) || code === 46 || code === 43 || code === 45 || code === 69 || code === 101

/**
 * Goes over a text once for what parsing does not see. Throws `SyntaxError` where it lies too deep, where an object
 * has a name twice (of two values one is lost, and programs differ in which), and for numbers that no double holds.
 */
function checkText(text: string, depthLimit: number): void {
  const names: (Set<string> | undefined)[] = [] // of the objects that are open; undefined for lists
  let expectsName = false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === 34) {
      const from = i + 1
      for (i = from; i < text.length && text.charCodeAt(i) !== 34; i++) if (text.charCodeAt(i) === 92) i++
      if (!expectsName) continue
      expectsName = false
      const name = nameIn(text.slice(from, i))
      const known = names.at(-1)!
      if (known.has(name)) throw new SyntaxError(`it has the name ${JSON.stringify(name.slice(0, 60))} twice in one object`)
      known.add(name)
    } else if (code === 91 || code === 123) {
      expectsName = code === 123
      names.push(expectsName ? new Set() : undefined)
      if (names.length > depthLimit) throw new SyntaxError(`it lies more than ${depthLimit} levels deep`)
    } else if (code === 93 || code === 125) {
      names.pop()
      expectsName = false
    } else if (code === 44) expectsName = names.at(-1) !== undefined
    else if (code >= 48 && code <= 57) {
      const from = i
      let power = false
      for (; i + 1 < text.length && isNumberPart(text.charCodeAt(i + 1)); i++) power ||= (text.charCodeAt(i + 1) | 32) === 101
      if ((power || i - from > 300) && Number(text.slice(from, i + 1)) === Infinity)
        throw new SyntaxError(`it holds a number that is not finite (${text.slice(from, Math.min(i + 1, from + 20))})`)
    }
  }
}

/** What `JSON.parse` says, as a clause that names the place. */
function explain(error: unknown, text: string): SyntaxError {
  const {message} = error as SyntaxError
  const place = /position (\d+)/.exec(message)?.[1]
  const token = /^Unexpected token '(.)'/su.exec(message)?.[1]
  if (place !== undefined && Number(place) < text.length) {
    const found = JSON.stringify(text.slice(Number(place), Number(place) + 12))
    return new SyntaxError(`it has ${found} at character ${Number(place) + 1}, where JSON has something else`, {cause: error})
  }
  if (token !== undefined) return new SyntaxError(`it has ${JSON.stringify(token)} where JSON has something else`, {cause: error})
  return new SyntaxError(text.trim() === '' ? 'it is empty' : 'it ends early', {cause: error})
}

/**
 * Parses foreign JSON. Throws `SyntaxError`, whose message is a clause, where it is none, is too long, lies too deep,
 * has a name twice in one object, or a number that no double holds.
 */
export function parseJson(text: string, depthLimit = MAX_DEPTH): unknown {
  if (text.length > MAX_LENGTH) throw new SyntaxError(`it is longer than ${MAX_LENGTH} characters`)
  checkText(text, depthLimit)
  try {
    return JSON.parse(text)
  } catch (error) {
    throw explain(error, text)
  }
}

/** Whether a value is an object with named parts: no list, and not null. */
export const isObject = (value: unknown): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Whether a value is a whole number from 0 on. */
export const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Whether a value is a number from 0 to 1. */
export const isShare = (value: unknown): value is number => typeof value === 'number' && value >= 0 && value <= 1

/** Parses foreign JSON that must be an object. Throws `SyntaxError` where it is not. */
export function parseJsonObject(text: string): JsonObject {
  const value = parseJson(text)
  if (!isObject(value)) throw new SyntaxError('it is no JSON object')
  return value
}

/** The object that a text says; undefined where it says none. */
export function jsonObjectOr(text: string | undefined): JsonObject | undefined {
  try {
    return parseJsonObject(text ?? '')
  } catch {
    return undefined
  }
}

/** Whether a whole number that a double does not hold lies in a value. */
const hasRounded = (value: unknown): boolean =>
  typeof value === 'object' && value !== null
    ? Object.values(value).some(hasRounded)
    : Number.isInteger(value) && !Number.isSafeInteger(value)

/** Puts quotes around the whole numbers that a double does not hold, outside of the vector of the outermost object. */
function quoteLongNumbers(text: string): string {
  let depth = 0
  let [vector, last] = [false, '']
  return text.replace(/"(?:[^"\\]|\\.)*"|[[\]{}]|[-+.\w]+/g, token => {
    if (token === '{' || token === '[') {
      depth++
      vector ||= depth === 2 && last === '"vector"'
    } else if (token === '}' || token === ']') {
      depth--
      vector &&= depth > 1
    }
    last = token
    return !vector && /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token
  })
}

/**
 * Parses JSON of a row. Whole numbers that a double does not hold, as ids of 64 bits are, become their digits as a
 * text, as they do in rows of Arrow and Parquet; those of the vector stay numbers. Throws `SyntaxError` where it is no
 * JSON object.
 */
export function parseRow(text: string, depthLimit = MAX_DEPTH): JsonObject {
  const value = parseJson(text, depthLimit)
  if (!isObject(value)) throw new SyntaxError('it is no JSON object')
  const rounded = Object.entries(value).some(([name, part]) => name !== 'vector' && hasRounded(part))
  return rounded ? (JSON.parse(quoteLongNumbers(text)) as JsonObject) : value
}

/** The fields that a row of a list or a member of a shard gives. Throws `SyntaxError` where it is no JSON object. */
export const parseFields = (text: string): Record<string, unknown> => parseRow(text, MAX_FIELD_DEPTH)

/**
 * A foreign value as a text in sentences, pages and names: lists as their parts, objects as JSON. `String` asks an
 * object for its `toString`, which may be anything.
 */
export const valueText = (value: unknown): string =>
  Array.isArray(value)
    ? value.map(part => (part === null || part === undefined ? '' : valueText(part))).join()
    : typeof value === 'object' && value !== null
      ? JSON.stringify(value)
      : String(value)

/** Parses what this process has written itself, or a record whose bytes have been compared with a checksum. */
export const parseOwnJson = (text: string): unknown => JSON.parse(text)

/** A file that must hold one JSON object. Throws `UserError` with this code where it does not. */
export async function readJsonObject(path: string, code: string): Promise<JsonObject> {
  const text = await readText(path)
  try {
    return parseJsonObject(text)
  } catch (cause) {
    throw new UserError(`${path} is not good JSON: ${(cause as Error).message}.`, {code, cause})
  }
}
