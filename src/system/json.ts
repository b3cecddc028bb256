/**
 * JSON of foreign files: parsed with a bound on how deep it lies, because what lies deeper overflows the stack of
 * whoever walks it later.
 */

/** No record of ours and no sensible field lies deeper. */
const MAX_DEPTH = 64

/** Parses JSON. Throws `SyntaxError` where it is none, or lies too deep. */
export function parseJson(text: string): unknown {
  let depth = 0
  let inText = false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (inText) {
      if (code === 92) i++
      else if (code === 34) inText = false
    } else if (code === 34) inText = true
    else if (code === 91 || code === 123) {
      if (++depth > MAX_DEPTH) throw new SyntaxError(`it lies more than ${MAX_DEPTH} levels deep`)
    } else if (code === 93 || code === 125) depth--
  }
  return JSON.parse(text)
}

/** Whether a value is an object with named parts: no list, and not null. */
export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
