/** What of an interrupted Arrow stream is whole. */
import {stat} from 'node:fs/promises'
import {fileBytes} from '../../../system/plain-file.js'
import {ByteReader} from '../bytes.js'
import type {TableColumns} from '../columns.js'
import type {Recovered} from '../format.js'
import {metaFromJson} from '../provenance.js'
import {MessageReader, verifyBatch, type Message} from './messages.js'
import {arrowError} from './read.js'
import {RECORD_KEY} from './rows.js'
import {readSchema, RECORD_BATCH, SCHEMA, type ArrowSchema} from './schema.js'
import {foreignPartial} from '../unresumable.js'

/** The columns of fields that a stream of ours was begun with: all but id, extra and vector. */
function tableOf({fields}: ArrowSchema): TableColumns {
  const columns = fields
    .slice(1, -1)
    .map(({name, type}) => ({name, kind: type.kind === 'text' ? 'string' : type.kind === 'bool' ? 'boolean' : 'number'}) as const)
  const hasExtra = columns.at(-1)?.name === 'extra'
  return {columns: hasExtra ? columns.slice(0, -1) : columns, hasExtra}
}

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
    if (record === undefined) throw foreignPartial(path)
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
    return {rows, end, sideEnds: [], table: tableOf(schema), meta: metaFromJson(record, path), schema: first.head}
  } catch (error) {
    throw arrowError(path, error)
  } finally {
    await bytes.close()
  }
}
