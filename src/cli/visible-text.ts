/**
 * Text for people, made safe for a terminal: names of files, classes, ids and settings come from others, and may hold
 * sequences that move the cursor, recolor or retitle the terminal, or turn the direction of writing.
 */

/** Control characters but tab and line end, C1 controls, and marks that turn the direction of writing. */
// eslint-disable-next-line no-control-regex
const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g

/** Shows them by their numbers: `\x1b`, `\u202e`. JSON and other data on stdout are not passed through here. */
export const visible = (text: string): string =>
  text.replace(hidden, found => {
    const code = found.charCodeAt(0)
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16).padStart(4, '0')}`
  })
