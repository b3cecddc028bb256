/** Many pictures, drawn in several threads, in the order in which they are named. */
import {Worker} from 'node:worker_threads'
import {memoryLeft} from '../system/free-memory.js'
import {draw, type DrawSetup, type Drawn} from './draw-thread.js'
import type {Picture} from './picture.js'

/** Pictures that a thread is asked for ahead of the one that is waited for. */
const AHEAD = 4
/** A thread takes a quarter of a second to start and to become fast: fewer pictures than this are not worth one. */
const WORTH_A_THREAD = 48
/** What V8 reserves for a thread. */
const THREAD_BYTES = 600e6

/**
 * Draws `pictures` in up to `threads` threads and gives them in their order: the bytes do not depend on the number of
 * threads. Ending the iteration ends the threads.
 */
export async function* drawInThreads(
  pictures: readonly Picture[],
  setup: DrawSetup,
  threads: number
): AsyncGenerator<Drawn, void, undefined> {
  const room = Math.floor(memoryLeft() / THREAD_BYTES)
  const count = Math.min(threads, room, Math.floor(pictures.length / WORTH_A_THREAD))
  if (count < 2) {
    for (const picture of pictures) yield draw(picture, setup)
    return
  }
  const started = Array.from({length: count}, () => new Thread(setup))
  try {
    const ask = (index: number): void => {
      if (index < pictures.length) started[index % count]!.ask(pictures[index]!)
    }
    for (let index = 0; index < AHEAD * count; index++) ask(index)
    for (const index of pictures.keys()) {
      const drawn = await started[index % count]!.answer()
      ask(index + AHEAD * count)
      yield drawn
    }
  } finally {
    await Promise.all(started.map(thread => thread.close()))
  }
}

/** A thread with the answers that have come and are not yet fetched. */
class Thread {
  readonly #worker: Worker
  readonly #answers: Drawn[] = []
  #failed: Error | undefined
  #wake = (): void => undefined

  constructor(setup: DrawSetup) {
    this.#worker = new Worker(new URL('./draw-thread.js', import.meta.url), {workerData: {draws: setup}})
    this.#worker.on('message', (drawn: Drawn) => {
      this.#answers.push(drawn)
      this.#wake()
    })
    this.#worker.on('error', error => {
      this.#failed = error
      this.#wake()
    })
  }

  ask(picture: Picture): void {
    this.#worker.postMessage(picture)
  }

  /** The next answer. Throws what ended the thread. */
  async answer(): Promise<Drawn> {
    while (this.#answers.length === 0) {
      if (this.#failed) throw this.#failed
      await new Promise<void>(resolve => (this.#wake = resolve))
    }
    return this.#answers.shift()!
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
