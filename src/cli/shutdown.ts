/**
 * How the process ends: signals, closed pipes, and the last writes.
 *
 * One process runs one command, so this module holds the process's state: which signal came, and who listens.
 */
import {writeSync} from 'node:fs'
import type {Writable} from 'node:stream'
import {isStdoutClosed} from './surroundings.js'
import {UserError} from '../config/errors.js'

const status = {SIGINT: 130, SIGTERM: 143} as const
type Stop = keyof typeof status

const stopping = new AbortController()
let isWatched = false
let received: Stop | undefined
let isInstalled = false
let announceStop: (signal: Stop) => void = () => {}

/**
 * Aborts at the first SIGINT or SIGTERM. Asking for it is a promise to watch it: without a watcher the first signal
 * ends the process at once.
 */
export function stopSignal(): AbortSignal {
  isWatched = true
  return stopping.signal
}

/** Watches for the first signal while `work` is done; afterwards it counts again whether the command watches. */
export async function whileStoppable<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const before = isWatched
  isWatched = true
  try {
    return await work(stopping.signal)
  } finally {
    isWatched = before
  }
}

/** The exit status that the signal received asks for (130 or 143), or undefined when there was none. */
export const signalExitCode = (): number | undefined => received && status[received]

/**
 * Says what to do when a closed pipe is written to: stdout's reader has had enough, which is a good end; a closed
 * stderr only silences us.
 */
function exitOnClosedPipe(stream: Writable): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error
    process.exit(signalExitCode() ?? 0)
  })
}

/** Whether a stream of the process was given open for reading only, as stderr is by a shell script without one. */
function isUnwritable(descriptor: 1 | 2): boolean {
  try {
    writeSync(descriptor, '')
    return false
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBADF'
  }
}

/** A stderr that cannot be written to silences us; a stdout that cannot is a fault of who gave it. */
function refuseUnwritable(): void {
  if (isUnwritable(2))
    process.stderr.write = (...args: unknown[]) => {
      const after = args.at(-1)
      if (typeof after === 'function') (after as () => void)()
      return true
    }
  if (isUnwritable(1))
    process.stdout.write = () => {
      throw new UserError('Stdout cannot be written to: it is open for reading only.', {
        code: 'OUTPUT',
        hint: 'Redirect it with > instead of <, or name a file with -o where the command has it.'
      })
    }
  else if (isStdoutClosed()) warnOnWriting()
}

/** Says once that what goes to a stdout that is closed is lost. */
function warnOnWriting(): void {
  const write = process.stdout.write.bind(process.stdout) as (...args: unknown[]) => boolean
  let isSaid = false
  process.stdout.write = (...args: unknown[]) => {
    if (!isSaid && (args[0] as {length: number}).length > 0) {
      isSaid = true
      process.stderr.write(
        'warning: stdout is closed, or throws away what it is given: this result is lost; redirect it with >, or name a file with -o\n'
      )
    }
    return write(...args)
  }
}

/** Installs the handlers, once. `announce` says on stderr that the present step will be finished. */
export function installSignalHandlers(announce: (signal: Stop) => void): void {
  announceStop = announce
  if (isInstalled) return
  isInstalled = true
  refuseUnwritable()
  exitOnClosedPipe(process.stdout)
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error
  })
  for (const signal of Object.keys(status) as Stop[]) {
    process.on(signal, () => {
      if (received !== undefined || !isWatched) process.exit(status[signal])
      received = signal
      announceStop(signal)
      stopping.abort(new Error(signal))
    })
  }
}

let reporter: ((error: Error) => Promise<void>) | undefined

/** Lets the command that runs report uncaught errors, so that they go where its other reports go. */
export const reportDefectsWith = (report: (error: Error) => Promise<void>): void => void (reporter = report)

/** What reports uncaught errors: the command that runs, if one does. */
export const defectReporter = (): ((error: Error) => Promise<void>) | undefined => reporter

/**
 * Waits until both ends have been written out. A write to a file or device fails at once, but says so only at the next
 * turn of the event loop, so one turn is waited for: else the last write on a full disk would end with status 0.
 */
export async function flush(): Promise<void> {
  for (const stream of [process.stdout, process.stderr]) {
    if (stream.writableLength > 0 && !stream.destroyed) await new Promise<void>(done => stream.write('', () => done()))
  }
  await new Promise<void>(done => setImmediate(done))
}

/** Ends a generator before its end, so that its own `finally` frees what it holds. */
export const endEarly = async (generator: AsyncGenerator<unknown, unknown>): Promise<void> => void (await generator.return(undefined))
