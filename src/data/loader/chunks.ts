/** How streams of images use their workers: how many images go at once, and how the two threads share time. */
import type {ImageRef} from '../sources/image-ref.js'
import type {WireRef} from './worker.js'

/** The part of an image's reference that a worker needs. */
export const wireRef = ({id, path, bytes, range, copy, problem}: ImageRef): WireRef => ({id, path, bytes, range, copy, problem})

export const seconds = (): number => performance.now() / 1000

/** Work that may fail before anybody awaits it: the failure waits until then. */
export function deferFailure<T>(work: Promise<T>): Promise<T> {
  work.catch(() => undefined)
  return work
}

/** How many images are sent to a worker at once: enough to save messages, few enough to spread a batch over all. */
export const chunkSize = (batch: number, workers: number): number => Math.max(1, Math.min(8, Math.ceil(batch / (2 * Math.max(1, workers)))))

/** Lets waiting messages and the feeding loop run before the engine takes the thread. */
export const nextTurn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
