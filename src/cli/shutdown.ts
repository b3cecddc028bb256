/**
 * How the process ends: signals, closed pipes, and the temporary files that must not outlive it.
 *
 * One process runs one command, so this module holds the process's state: which signal came, who listens, what is half
 * written.
 */
import {unlinkSync} from 'node:fs'
import type {Writable} from 'node:stream'

const status = {SIGINT: 130, SIGTERM: 143} as const
type Stop = keyof typeof status

const stopping = new AbortController()
const halfWritten = new Set<string>()
let watched = false
let came: Stop | undefined
let installed = false
let sayStopping: (signal: Stop) => void = () => {}

/** Registers a file to be removed should the process end before `forgetTemporary`. */
export const rememberTemporary = (path: string): void => void halfWritten.add(path)
/** Takes a file off the list: it has been renamed into place or removed. */
export const forgetTemporary = (path: string): void => void halfWritten.delete(path)

function removeTemporaries(): void {
  for (const path of halfWritten) {
    try {
      unlinkSync(path)
    } catch {
      // It is gone already, or its folder is; nothing more can be done while leaving.
    }
  }
  halfWritten.clear()
}

/**
 * Aborts at the first SIGINT or SIGTERM. Asking for it is a promise to watch it: without a watcher the first signal
 * ends the process at once.
 */
export function stopSignal(): AbortSignal {
  watched = true
  return stopping.signal
}

/** The status that the signal which came asks for (130 or 143), or undefined when none came. */
export const stopStatus = (): number | undefined => came && status[came]

/**
 * Says what to do when a closed pipe is written to: stdout's reader has had enough, which is a good end; a closed
 * stderr only silences us.
 */
function leaveQuietlyOnClosedPipe(stream: Writable): void {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error
    process.exit(stopStatus() ?? 0)
  })
}

/** Installs the handlers, once. `say` announces on stderr that the step will be finished. */
export function install(say: (signal: Stop) => void): void {
  sayStopping = say
  if (installed) return
  installed = true
  process.on('exit', removeTemporaries)
  leaveQuietlyOnClosedPipe(process.stdout)
  process.stderr.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'ERR_STREAM_DESTROYED') throw error
  })
  for (const signal of Object.keys(status) as Stop[]) {
    process.on(signal, () => {
      if (came !== undefined || !watched) process.exit(status[signal])
      came = signal
      sayStopping(signal)
      stopping.abort(new Error(signal))
    })
  }
}

let defectReporter: ((error: Error) => Promise<void>) | undefined

/** Lets the command that runs report what nobody caught, so that it goes where its other reports go. */
export const reportDefectsWith = (reporter: (error: Error) => Promise<void>): void => void (defectReporter = reporter)

/** Who reports what nobody caught: the command that runs, if one does. */
export const whoReportsDefects = (): ((error: Error) => Promise<void>) | undefined => defectReporter

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
