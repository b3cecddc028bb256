/** What of an interrupted Arrow stream is whole. */
import {stat} from 'node:fs/promises'
import {fileBytes} from '../../../system/plain-file.js'
import {ByteReader} from '../bytes.js'
import type {Column} from '../columns.js'
import type {Recovered} from '../format.js'
import {metaFromJson} from '../provenance.js'
import {MessageReader, verifyBatch, type Message} from './messages.js'
import {arrowError} from './read.js'
import {RECORD_KEY} from './rows.js'
import {readSchema, RECORD_BATCH, SCHEMA, type ArrowSchema} from './schema.js'

/** The columns of fields that a stream of ours was begun with: all but id, extra and vector. */
const columnsOf = ({fields}: ArrowSchema): Column[] =>
  fields.slice(1, -2).map(({name, type}) => ({name, kind: type.kind === 'text' ? 'string' : type.kind === 'bool' ? 'boolean' : 'number'}))

/**
 * Finds where the last whole record batch ends, how many rows come before, and with which columns the stream was
 * begun. Throws `UserError` where its beginning is damaged.
 */
export async function recoverArrow(path: string): Promise<Recovered | undefined> {
  const bytes = new ByteReader(fileBytes(path))
  const reader = new MessageReader(bytes, (await stat(path)).size)
  // What is damaged or cut off ends what is whole.
  const next = (): Promise<Message | undefined> => reader.next().catch(() => undefined)
  try {
    const first = await next()
    if (first?.kind !== SCHEMA) return undefined
    const schema = readSchema(first.header)
    const record = schema.metadata.get(RECORD_KEY)
    if (record === undefined) return undefined
    let [end, rows] = [reader.offset, 0]
    for (let message = await next(); message?.kind === RECORD_BATCH; message = await next()) {
      try {
        verifyBatch(first.head, rows, message, false)
        rows += message.header.int64(0)
      } catch {
        break
      }
      end = reader.offset
    }
    return {rows, end, sideEnds: [], columns: columnsOf(schema), meta: metaFromJson(record, path), schema: first.head}
  } catch (error) {
    throw arrowError(path, error)
  } finally {
    await bytes.close()
  }
}
