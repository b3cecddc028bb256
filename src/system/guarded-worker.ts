/**
 * Threads that read foreign files and may be ended: what makes a decoder trap or run without end, ends its thread and
 * becomes an error of whoever asked.
 *
 * A thread is used for one file after the other, because starting one and loading its decoder takes longer than
 * reading a small file. It is ended and replaced where the decoder traps, takes too long or holds much memory, and
 * after many files in any case.
 */
import {stat} from 'node:fs/promises'
import {assertAddressSpace} from './free-memory.js'
import type {SessionRequest} from './guarded-sessions.js'
import {Thread, ThreadError} from './thread.js'

/**
 * A small stretch of rows is decoded in milliseconds; a damaged file may keep the decoder busy for ever. Waiting for
 * the disk does not count.
 */
const MAX_BUSY_MS = 1200
/** More is allowed where the file is large, because a whole page of it may have to be unpacked first. */
const BYTES_PER_MS = 8000
/** Files that one thread reads, so that what a decoder fails to give back stays small. */
const MAX_FILES = 1000
/** So many threads wait for another file, for so long. */
const MAX_IDLE = 4
const MAX_IDLE_MS = 5000

export type GuardedWorkerOptions = {
  /** The module that the thread runs; it calls `serveSessions`. */
  readonly module: URL
  /** What the module's sessions begin with. */
  readonly job: unknown
  /** The file that is read: its length bounds the time of an answer. */
  readonly path: string
  /** What it does, for an error about memory: `Reading Parquet`. */
  readonly purpose: string
  /** Makes the error of a file that cannot be read, by a clause that says how. */
  readonly failure: (why: string, cause?: unknown) => Error
}

type Running = {readonly thread: Thread<SessionRequest, unknown>; files: number}

/** Threads without a file, by their module. */
const idle = new Map<string, Running[]>()

/** A thread for another file: one that has read others, or a new one. */
function takeThread({module, purpose}: GuardedWorkerOptions): Running {
  const waiting = idle.get(module.href) ?? []
  for (let known = waiting.pop(); known; known = waiting.pop()) if (!known.thread.hasEnded) return known
  assertAddressSpace(1e9, purpose)
  return {thread: new Thread(module, {resourceLimits: {maxOldGenerationSizeMb: 2048}}), files: 0}
}

/** Lets a thread wait for another file for a while. */
async function rest(running: Running, module: URL): Promise<void> {
  const waiting = idle.get(module.href) ?? []
  idle.set(module.href, waiting)
  if (running.files >= MAX_FILES || waiting.length >= MAX_IDLE) return running.thread.close()
  waiting.push(running)
  const {files} = running
  setTimeout(() => {
    const at = waiting.indexOf(running)
    if (at < 0 || running.files !== files) return // it reads another file, or has read one since
    waiting.splice(at, 1)
    void running.thread.close()
  }, MAX_IDLE_MS).unref()
}

class TooLong extends Error {}

/** The reading of one file in a thread. */
export class GuardedWorker<Request, Answer> {
  readonly #running: Running
  readonly #options: GuardedWorkerOptions
  readonly #limit: number
  #closed = false

  private constructor(options: GuardedWorkerOptions, size: number) {
    this.#options = options
    this.#limit = MAX_BUSY_MS + size / BYTES_PER_MS
    this.#running = takeThread(options)
    this.#running.files++
  }

  /** Begins with a file. Throws what `failure` makes, and `UserError` (exit 5) where address space is short. */
  static async start<Request, Answer>(options: GuardedWorkerOptions): Promise<GuardedWorker<Request, Answer>> {
    const worker = new GuardedWorker<Request, Answer>(options, (await stat(options.path)).size)
    await worker.#answer({open: options.job}, Infinity)
    return worker
  }

  /** The answer to a request. Throws what `failure` makes where it fails, the thread ends or takes too long. */
  ask(request: Request): Promise<Answer> {
    return this.#answer({ask: request}, this.#limit) as Promise<Answer>
  }

  async #answer(request: SessionRequest, limit: number): Promise<unknown> {
    const {thread} = this.#running
    const begun = thread.utilization()
    let timer: NodeJS.Timeout | undefined
    const tooLong = new Promise<never>((_, reject) => {
      timer = setInterval(() => {
        if (thread.utilization(begun).active > limit) reject(new TooLong(`its decoder comes to no end (${Math.round(limit / 100) / 10} s)`))
      }, 100)
    })
    try {
      return await Promise.race([thread.ask(request), tooLong])
    } catch (error) {
      // A decoder that says by an error of its own what is wrong with a file is sound; one that trapped is not.
      const isSound = error instanceof ThreadError && error.kind === 'Error'
      if (!isSound) await this.#end()
      const why = (error as Error).message.split('\n')[0]!.replace(/\.$/, '')
      throw this.#options.failure(isSound || error instanceof TooLong ? why : `its decoder fails (${why})`, error)
    } finally {
      clearInterval(timer)
    }
  }

  async #end(): Promise<void> {
    this.#closed = true
    await this.#running.thread.close()
  }

  /** Ends the reading, whatever the thread does. */
  async close(): Promise<void> {
    if (this.#closed) return
    const {thread} = this.#running
    if (thread.pending > 0 || thread.hasEnded) return this.#end()
    this.#closed = true
    try {
      const isSound = await this.#answer('close', MAX_BUSY_MS)
      if (isSound === true) await rest(this.#running, this.#options.module)
      else await thread.close()
    } catch {
      await thread.close()
    }
  }
}
