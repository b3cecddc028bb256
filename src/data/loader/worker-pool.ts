/**
 * Worker threads that decode, and the queue in front of each.
 *
 * Requests are posted at once to the worker with the least to do, so workers run ahead on their own while the main
 * thread is held by the engine for seconds. How far ahead is for the caller to bound. With 0 workers the same work is
 * done in this thread, when it is awaited for.
 */
import {availableParallelism} from 'node:os'
import {Worker} from 'node:worker_threads'
import {assertAddressSpace} from '../../system/free-memory.js'
import {reportGround} from '../image/decode.js'
import type {Answer, Item, Reply, Request, Setup} from './worker.js'

/** One thread fewer than the machine has, at least one: the engine keeps a core. */
export const defaultWorkers = (): number => Math.max(1, availableParallelism() - 1)

type Waiting = {resolve: (answers: readonly Answer[]) => void; reject: (error: Error) => void; ids: readonly string[]}

class Thread {
  readonly #worker: Worker
  readonly #waiting = new Map<number, Waiting>()
  #next = 0
  #broken: Error | undefined
  #closing = false
  /** Items asked for and not yet answered. */
  load = 0

  constructor(setup: Setup) {
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {workerData: {images: setup}})
    this.#worker.unref() // an idle worker keeps no process alive
    this.#worker.on('message', (reply: Reply) => {
      const waiting = this.#waiting.get(reply.job)
      if (!waiting) return
      this.#waiting.delete(reply.job)
      this.load -= waiting.ids.length
      if (this.#waiting.size === 0 && !this.#closing) this.#worker.unref()
      if ('defect' in reply) waiting.reject(new Error(reply.defect))
      else {
        reply.answers.forEach((answer, i) => {
          if ('data' in answer && answer.ground) reportGround(waiting.ids[i]!, answer.ground)
        })
        waiting.resolve(reply.answers)
      }
    })
    this.#worker.on('error', error => this.#fail(error))
    this.#worker.on('exit', code =>
      this.#fail(new Error(`A worker thread that decodes images ended (code ${code}) before its work was done.`))
    )
  }

  run(items: readonly Item[]): Promise<readonly Answer[]> {
    return new Promise((resolve, reject) => {
      if (this.#broken) return reject(this.#broken)
      const job = this.#next++
      this.#waiting.set(job, {resolve, reject, ids: items.map(({ref}) => ref.id)})
      this.load += items.length
      this.#worker.ref()
      this.#worker.postMessage({job, items} satisfies Request)
    })
  }

  #fail(error: Error): void {
    this.#broken ??= error
    for (const {reject} of this.#waiting.values()) reject(this.#broken)
    this.#waiting.clear()
  }

  async close(): Promise<void> {
    this.#closing = true // from here on its end is waited for: a late answer must not let go of it
    await this.#worker.terminate()
  }
}

/** What V8 reserves for a thread, and some for images. */
const THREAD_ADDRESSES = 600e6

export class WorkerPool {
  readonly #threads: Thread[]
  readonly #setup: Setup
  #inline: Promise<(items: readonly Item[]) => Promise<Answer[]>> | undefined
  #last: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(setup: Setup, workers: number) {
    this.#setup = setup
    if (workers > 0) assertAddressSpace(workers * THREAD_ADDRESSES, 'Decoding in threads of their own')
    this.#threads = Array.from({length: workers}, () => new Thread(setup))
  }

  /** Work on some items, in order. Raises Error only for defects: a bad image is an answer. */
  run(items: readonly Item[]): Promise<readonly Answer[]> {
    const free = this.#threads.reduce<Thread | undefined>((a, b) => (a && a.load <= b.load ? a : b), undefined)
    if (free) return free.run(items)
    this.#inline ??= import('./worker.js').then(({makeHandler}) => makeHandler(this.#setup))
    const inline = this.#inline
    const mine = this.#last.then(async () => {
      if (this.#closed) throw new Error('The pool of workers was closed.')
      return (await inline)(items)
    })
    this.#last = mine.catch(() => undefined)
    return mine
  }

  /** Ends the threads; what they had to do is not done. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all(this.#threads.map(thread => thread.close()))
  }
}
