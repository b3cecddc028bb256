/**
 * A thread that reads a foreign file and may be ended: what makes a decoder fail, trap or run without end, ends this
 * thread and becomes an error of whoever asked.
 *
 * The thread posts any message once it has started, and then one answer for each request.
 */
import {stat} from 'node:fs/promises'
import {Worker} from 'node:worker_threads'
import {assertAddressSpace} from './free-memory.js'

/**
 * A small stretch of rows is decoded in milliseconds; a damaged file may keep the decoder busy for ever. Waiting for
 * the disk does not count.
 */
const MAX_BUSY_MS = 1200
/** More is allowed where the file is large, because a whole page of it may have to be unpacked first. */
const BYTES_PER_MS = 8000

export type GuardedWorkerOptions = {
  /** The module that the thread runs. */
  readonly module: URL
  /** Given to the thread as its `workerData`. */
  readonly workerData: unknown
  /** The file that is read: its length bounds the time of an answer. */
  readonly path: string
  /** What it does, for an error about memory: `Reading Parquet`. */
  readonly purpose: string
  /** Makes the error of a thread that fails, by a clause that says how. */
  readonly failure: (why: string, cause?: unknown) => Error
}

export class GuardedWorker<Request, Answer> {
  readonly #worker: Worker
  readonly #failure: GuardedWorkerOptions['failure']
  readonly #limit: number

  private constructor({module, workerData, purpose, failure}: GuardedWorkerOptions, size: number) {
    this.#failure = failure
    this.#limit = MAX_BUSY_MS + size / BYTES_PER_MS
    assertAddressSpace(1e9, purpose)
    this.#worker = new Worker(module, {workerData, resourceLimits: {maxOldGenerationSizeMb: 2048}})
    this.#worker.unref()
  }

  /** Starts a thread. Throws what `failure` makes, and `UserError` (exit 5) where address space is short. */
  static async start<Request, Answer>(options: GuardedWorkerOptions): Promise<GuardedWorker<Request, Answer>> {
    const worker = new GuardedWorker<Request, Answer>(options, (await stat(options.path)).size)
    await worker.#answer(Infinity)
    return worker
  }

  /** The answer to a request. Throws what `failure` makes where the thread fails, ends or takes too long. */
  ask(request: Request): Promise<Answer> {
    this.#worker.postMessage(request)
    return this.#answer(this.#limit)
  }

  async #answer(limit: number): Promise<Answer> {
    let timer: NodeJS.Timeout | undefined
    const begun = this.#worker.performance.eventLoopUtilization()
    return new Promise<Answer>((resolve, reject) => {
      const fail = (why: string, cause?: unknown): void => reject(this.#failure(why, cause))
      timer = setInterval(() => {
        if (this.#worker.performance.eventLoopUtilization(begun).active > limit)
          fail(`its decoder comes to no end (${Math.round(limit / 100) / 10} s)`)
      }, 100)
      this.#worker
        .removeAllListeners()
        .on('error', (error: Error) => fail(`its decoder fails (${error.message})`, error))
        .on('exit', () => fail('its decoder fails'))
        .on('message', resolve)
    }).finally(() => clearInterval(timer))
  }

  /** Ends the thread, whatever it does. */
  async close(): Promise<void> {
    this.#worker.removeAllListeners()
    await this.#worker.terminate()
  }
}
