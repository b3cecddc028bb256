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

/** Parses foreign JSON. Throws `SyntaxError` where it is none, is too long, or lies too deep. */
export function parseJson(text: string, depthLimit = MAX_DEPTH): unknown {
  if (text.length > MAX_LENGTH) throw new SyntaxError(`it is longer than ${MAX_LENGTH} characters`)
  let depth = 0
  let inText = false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (inText) {
      if (code === 92) i++
      else if (code === 34) inText = false
    } else if (code === 34) inText = true
    else if (code === 91 || code === 123) {
      if (++depth > depthLimit) throw new SyntaxError(`it lies more than ${depthLimit} levels deep`)
    } else if (code === 93 || code === 125) depth--
  }
  return JSON.parse(text)
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

/** Puts quotes around the whole numbers right inside the outermost object that a double does not hold. */
function quoteLongNumbers(text: string): string {
  let depth = 0
  return text.replace(/"(?:[^"\\]|\\.)*"|[[\]{}]|[-+.\w]+/g, token => {
    if (token === '{' || token === '[') depth++
    else if (token === '}' || token === ']') depth--
    return depth === 1 && /^-?\d+$/.test(token) && !Number.isSafeInteger(Number(token)) ? `"${token}"` : token
  })
}

/**
 * Parses JSON of a row. Whole numbers that a double does not hold, as ids of 64 bits are, become their digits as a
 * text, as they do in rows of Arrow and Parquet. Throws `SyntaxError` where it is no JSON object.
 */
export function parseRow(text: string, depthLimit = MAX_DEPTH): JsonObject {
  const value = parseJson(text, depthLimit)
  if (!isObject(value)) throw new SyntaxError('it is no JSON object')
  const rounded = Object.values(value).some(part => Number.isInteger(part) && !Number.isSafeInteger(part))
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
