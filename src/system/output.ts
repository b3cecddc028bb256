/**
 * The outputs of commands as streams: stdout, or a file that appears whole or not at all.
 *
 * Files are written through `openAtomic`: under a temporary name beside the target, synced and renamed, so that Make
 * never sees half of a file and an interrupted command leaves the old one.
 */
import {readdir, rmdir, type FileHandle} from 'node:fs/promises'
import {dirname, resolve} from 'node:path'
import {Writable} from 'node:stream'
import {finished} from 'node:stream/promises'
import {UserError} from '../config/errors.js'
import {openAtomic} from './atomic.js'
import {writeError} from './write-error.js'
import {makeFolders} from './make-folders.js'

/**
 * An output being written. Call `commit` when it is whole, `discard` when it will not be; both may be called more than
 * once.
 */
export type Output = {
  /** What the user named; `-` is stdout. */
  readonly target: string
  readonly toStdout: boolean
  /** The stream to write to; opened on first use. */
  readonly stream: Writable
  /** Waits for the last write and gives the file its name. Throws where a write failed. */
  commit(): Promise<void>
  discard(): Promise<void>
}

/**
 * Opens the output named by `-o`. `-` is `stdout` where that is given. Devices such as `/dev/null` and
 * `/dev/fd/3` are written to directly.
 * Throws a `UserError` (exit 2) when the target exists and `force` is not set, or its folder is missing.
 */
export async function openOutput(target: string, {force = false, stdout}: {force?: boolean; stdout?: Writable} = {}): Promise<Output> {
  if (target === '-' && stdout) return stdoutOutput(stdout)
  const output = await openAtomic(target, {force})
  let stream: Writable | undefined
  let failure: unknown
  return {
    target,
    toStdout: false,
    get stream(): Writable {
      stream ??= handleStream(output.handle).on('error', error => (failure ??= writeError(target, error)))
      return stream
    },
    async commit() {
      try {
        if (stream && !stream.writableEnded && !failure) {
          const ended = finished(stream)
          stream.end()
          await ended
        }
      } catch (error) {
        failure ??= writeError(target, error)
      }
      if (failure) {
        await output.abort()
        throw failure
      }
      await output.commit()
    },
    async discard() {
      stream?.destroy()
      await output.abort()
    }
  }
}

/**
 * A stream into an open file. The handle stays open behind it: `createWriteStream` of the handle would hold it, and
 * its `close` would wait for the stream's.
 */
const handleStream = (handle: FileHandle): Writable =>
  new Writable({
    highWaterMark: 1 << 20,
    autoDestroy: false,
    write(chunk: Buffer, _encoding, done) {
      handle.appendFile(chunk).then(() => done(), done)
    },
    writev(chunks, done) {
      handle.appendFile(Buffer.concat(chunks.map(({chunk}) => chunk as Buffer))).then(() => done(), done)
    }
  })

const stdoutOutput = (stdout: Writable): Output => ({
  target: '-',
  toStdout: true,
  stream: stdout,
  async commit() {
    await new Promise<void>((done, fail) => stdout.write('', error => (error ? fail(writeError('stdout', error) as Error) : done())))
  },
  async discard() {}
})

/** Refuses a folder that holds files unless it may be replaced or resumed; makes none. */
export async function refuseFilled(
  target: string,
  {force = false, resume = false}: {force?: boolean; resume?: boolean} = {}
): Promise<void> {
  const names = await readdir(target).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    if (error.code === 'ENOTDIR')
      throw new UserError(`${target} is a file, but this output is a folder.`, {exit: 2, code: 'NOT_A_FOLDER', hint: 'Name a folder.'})
    throw error
  })
  if (names.length > 0 && !force && !resume) {
    throw new UserError(`${target} exists and is not empty.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Give --resume to continue it, --force to start anew in it, or name another folder.'
    })
  }
}

/**
 * Makes the folders above an output, then writes it. Where that fails, folders that were made for it and are still
 * empty are removed again. Throws what `write` throws, and `UserError` (exit 2) where a file has the name of a folder.
 */
export async function inFolderOf<T>(path: string, write: () => Promise<T>): Promise<T> {
  const first = await makeFolders(dirname(path)).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST' && error.code !== 'ENOTDIR') throw error
    throw new UserError(`${path} cannot be written: a file has the name of its folder, ${dirname(path)}.`, {
      exit: 2,
      code: 'NAME_CLASH',
      hint: 'Is one id the folder of another? Give the rows ids that can lie beside each other, or name another folder.',
      cause: error
    })
  })
  try {
    return await write()
  } catch (error) {
    if (first !== undefined)
      for (let at = resolve(dirname(path)); at.length >= resolve(first).length; at = dirname(at)) if (!(await removedEmpty(at))) break
    throw error
  }
}

const removedEmpty = (path: string): Promise<boolean> =>
  rmdir(path).then(
    () => true,
    () => false
  )
