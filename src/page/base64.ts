/** Arrays that came as base64 text. */

/** The bytes of a base64 text, in a buffer of their own. */
function bytesOf(text: string): ArrayBuffer {
  const raw = atob(text)
  const out = new Uint8Array(raw.length)
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i)
  return out.buffer
}

export const floats = (text: string): Float32Array<ArrayBuffer> => new Float32Array(bytesOf(text))
export const integers = (text: string): Int32Array<ArrayBuffer> => new Int32Array(bytesOf(text))
export const flags = (text: string): Uint8Array<ArrayBuffer> => new Uint8Array(bytesOf(text))
