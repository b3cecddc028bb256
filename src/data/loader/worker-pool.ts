/**
 * Worker threads that decode, and the queue in front of each.
 *
 * Requests are posted at once to the worker with the least to do, so workers run ahead on their own while the main
 * thread is held by the engine for seconds. How far ahead is for the caller to bound. With 0 workers the same work is
 * done in this thread, when it is awaited for.
 */
import {availableParallelism} from 'node:os'
import {assertAddressSpace} from '../../system/free-memory.js'
import {Thread} from '../../system/thread.js'
import {reportGround} from '../image/decode.js'
import type {Answer, Item, Setup} from './worker.js'

/** One thread fewer than the machine has, at least one: the engine keeps a core. */
export const defaultWorkers = (): number => Math.max(1, availableParallelism() - 1)

/** A thread, and how many items it was asked for that are not yet answered. */
class Decoder {
  readonly #thread: Thread<readonly Item[], readonly Answer[]>
  load = 0

  constructor(setup: Setup) {
    this.#thread = new Thread(new URL('./worker.js', import.meta.url), {workerData: {images: setup}})
  }

  async run(items: readonly Item[]): Promise<readonly Answer[]> {
    this.load += items.length
    const answers = await this.#thread.ask(items).finally(() => (this.load -= items.length))
    for (const [i, answer] of answers.entries()) if ('data' in answer && answer.ground) reportGround(items[i]!.ref.id, answer.ground)
    return answers
  }

  close(): Promise<void> {
    return this.#thread.close()
  }
}

/** What V8 reserves for a thread, and some for images. */
const THREAD_ADDRESSES = 600e6

export class WorkerPool {
  readonly #threads: Decoder[]
  readonly #setup: Setup
  #inline: Promise<(items: readonly Item[]) => Promise<Answer[]>> | undefined
  #last: Promise<unknown> = Promise.resolve()
  #closed = false

  constructor(setup: Setup, workers: number) {
    this.#setup = setup
    if (workers > 0) assertAddressSpace(workers * THREAD_ADDRESSES, 'Decoding in threads of their own')
    this.#threads = Array.from({length: workers}, () => new Decoder(setup))
  }

  /** Work on some items, in order. Raises Error only for defects: a bad image is an answer. */
  run(items: readonly Item[]): Promise<readonly Answer[]> {
    const free = this.#threads.reduce<Decoder | undefined>((a, b) => (a && a.load <= b.load ? a : b), undefined)
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
