/** Lists of ids: one a line (NUL-separated with `nul`), or JSON Lines with an `id`. */
import {UserError} from '../../config/errors.js'
import {parseRow} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {ByteReader} from '../embeddings/bytes.js'

/** Reads ids from a file or a stream; empty lines are no ids. Throws `UserError` for a JSON line without an id. */
export async function* readIds(source: string | AsyncIterable<Uint8Array>, {nul = false} = {}): AsyncGenerator<string> {
  const bytes = new ByteReader(typeof source === 'string' ? fileBytes(source) : source)
  const json = !nul && /^\s*\{/.test(Buffer.from(await bytes.peek(64)).toString('utf8'))
  let number = 0
  for await (const line of bytes.lines(nul ? 0 : 10)) {
    number++
    if (line === '') continue
    if (!json) {
      yield line
      continue
    }
    let id: unknown
    try {
      id = parseRow(line)['id']
    } catch {
      id = undefined
    }
    if (typeof id !== 'string' && !(typeof id === 'number' && Number.isFinite(id)))
      throw new UserError(`Line ${number} of the list has no id: ${line.slice(0, 80)}`, {
        exit: 2,
        code: 'NO_ID',
        hint: 'Expected lines of ids, or JSON objects with an "id".'
      })
    yield String(id)
  }
}
