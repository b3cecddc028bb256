/** Pipes laid down in temporary files, for the formats that are read at any place of a file. */
import {open, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {writeError} from '../../system/write-error.js'
import {fileSink} from './bytes.js'
import type {OpenedRows, Source} from './format.js'

let spoolCount = 0

/** Lays a stream down in a temporary file, for the formats that are read from their end. `remove` deletes it. */
async function spool(source: AsyncIterable<Uint8Array>): Promise<{path: string; remove(): Promise<void>}> {
  const path = join(tmpdir(), `dinov2-${process.pid}-${++spoolCount}.spool`)
  const handle = await open(path, 'wx', 0o600)
  const remove = (): Promise<void> => rm(path, {force: true})
  try {
    const sink = fileSink(handle)
    for await (const chunk of source) await sink.write(chunk)
  } catch (error) {
    await remove()
    throw writeError(path, error)
  } finally {
    await handle.close()
  }
  return {path, remove}
}

/**
 * Opens a format that is read at any place of a file: a pipe is laid down in a temporary file first, which goes with
 * the rows.
 */
export async function withPath({path, bytes}: Source, open: (path: string) => Promise<OpenedRows>): Promise<OpenedRows> {
  const spooled = path === undefined ? await spool(bytes.chunks()) : undefined
  if (!spooled) await bytes.close()
  const release = async (): Promise<void> => spooled?.remove()
  try {
    const opened = await open(spooled?.path ?? path!)
    const close = async (): Promise<void> => {
      await opened.close?.()
      await release()
    }
    return {...opened, rows: withCleanup(opened.rows, release), close}
  } catch (error) {
    await release()
    throw error
  }
}

async function* withCleanup<T>(rows: AsyncGenerator<T>, release: () => Promise<void>): AsyncGenerator<T> {
  try {
    yield* rows
  } finally {
    await release()
  }
}
