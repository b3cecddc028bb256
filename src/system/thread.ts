/**
 * A thread that answers requests one after the other, in their order.
 *
 * Requests are posted at once, so the thread works on them while this one is held by something else. Its module calls
 * `answerRequests` (thread-answers.ts).
 */
import {basename} from 'node:path'
import type {EventLoopUtilization} from 'node:perf_hooks'
import {Worker, type ResourceLimits} from 'node:worker_threads'
import type {Reply} from './thread-answers.js'

type Waiting<Answer> = {resolve: (answer: Answer) => void; reject: (error: Error) => void}

/** What a request ended with in the thread; `kind` is the name of the error's class there. */
export class ThreadError extends Error {
  constructor(
    message: string,
    readonly kind: string,
    stack: string | undefined
  ) {
    super(message)
    if (stack !== undefined) this.stack = stack
  }
}

export class Thread<Request, Answer> {
  readonly #worker: Worker
  readonly #waiting: Waiting<Answer>[] = []
  #ended: Error | undefined
  #closing = false

  /** Starts `module` in a thread, with `workerData`. */
  constructor(module: URL, {workerData, resourceLimits}: {readonly workerData?: unknown; readonly resourceLimits?: ResourceLimits} = {}) {
    this.#worker = new Worker(module, {workerData, resourceLimits})
    this.#worker.unref() // a thread with nothing to do keeps no process alive
    this.#worker.on('message', (reply: Reply<Answer>) => {
      const waiting = this.#waiting.shift()
      if (this.#waiting.length === 0 && !this.#closing) this.#worker.unref()
      if ('answer' in reply) waiting?.resolve(reply.answer)
      else waiting?.reject(new ThreadError(reply.error, reply.kind, reply.stack))
    })
    this.#worker.on('error', error => this.#end(error))
    this.#worker.on('exit', code =>
      this.#end(new Error(`The thread of ${basename(module.pathname)} ended (code ${code}) before its work was done.`))
    )
  }

  /** Whether it takes no more requests: it failed, ended or was closed. */
  get hasEnded(): boolean {
    return this.#ended !== undefined || this.#closing
  }

  /** Requests that are not yet answered. */
  get pending(): number {
    return this.#waiting.length
  }

  /** How long the thread has worked, as against waited, since an earlier answer of this function. */
  utilization(since?: EventLoopUtilization): EventLoopUtilization {
    return this.#worker.performance.eventLoopUtilization(since)
  }

  /** Answers a request. Throws `ThreadError` where the request fails, and what ends the thread where it ends. */
  ask(request: Request): Promise<Answer> {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended)
      this.#waiting.push({resolve, reject})
      this.#worker.ref()
      this.#worker.postMessage(request)
    })
  }

  #end(error: Error): void {
    this.#ended ??= error
    for (const {reject} of this.#waiting.splice(0)) reject(this.#ended)
  }

  /** Ends the thread, whatever it does; what it had to do is not done. */
  async close(): Promise<void> {
    this.#closing = true // from here on its end is waited for: a late answer must not let go of it
    await this.#worker.terminate()
  }
}
