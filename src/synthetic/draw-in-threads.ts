/** Many pictures, drawn in several threads, in the order in which they are named. */
import {memoryLeft} from '../system/free-memory.js'
import {Thread} from '../system/thread.js'
import {draw, type DrawSetup, type Drawn} from './draw-thread.js'
import type {Picture} from './picture.js'

/** Pictures that a thread is asked for ahead of the one that is waited for. */
const AHEAD = 4
/** A thread takes a quarter of a second to start and to become fast: fewer pictures than this are not worth one. */
const WORTH_A_THREAD = 48
/** What V8 reserves for a thread. */
const THREAD_BYTES = 600e6

/**
 * Draws `pictures` in up to `most` threads and gives them in their order: the bytes do not depend on the number of
 * threads. Ending the iteration ends the threads.
 */
export async function* drawInThreads(pictures: readonly Picture[], setup: DrawSetup, most: number): AsyncGenerator<Drawn, void, undefined> {
  const room = Math.floor(memoryLeft() / THREAD_BYTES)
  const count = Math.min(most, room, Math.floor(pictures.length / WORTH_A_THREAD))
  if (count < 2) {
    for (const picture of pictures) yield draw(picture, setup)
    return
  }
  const module = new URL('./draw-thread.js', import.meta.url)
  const threads = Array.from({length: count}, () => new Thread<Picture, Drawn>(module, {workerData: {draws: setup}}))
  const asked: Promise<Drawn>[] = []
  const ask = (index: number): void => {
    if (index >= pictures.length) return
    const drawn = threads[index % count]!.ask(pictures[index]!)
    drawn.catch(() => undefined) // it is thrown where it is waited for
    asked.push(drawn)
  }
  try {
    for (let index = 0; index < AHEAD * count; index++) ask(index)
    for (const index of pictures.keys()) {
      const drawn = await asked.shift()!
      ask(index + AHEAD * count)
      yield drawn
    }
  } finally {
    await Promise.all(threads.map(thread => thread.close()))
  }
}
