/** Looking at the head of a stream before its work is laid out. */

export type LookedAt<T> = {
  /** The whole stream, its head included; to be read once. */
  readonly all: AsyncIterable<T>
  /** Whether the stream has ended within the head. */
  readonly ended: boolean
}

/** Reads the first `count` of a stream. A failure among them is thrown by `all`, in its place. */
export async function lookAhead<T>(stream: AsyncIterable<T>, count: number): Promise<LookedAt<T>> {
  const iterator = stream[Symbol.asyncIterator]()
  const head: T[] = []
  let end: (() => void) | undefined
  while (!end && head.length < count) {
    try {
      const next = await iterator.next()
      if (next.done) end = () => undefined
      else head.push(next.value)
    } catch (error) {
      end = () => {
        throw error
      }
    }
  }
  const all = async function* (): AsyncGenerator<T> {
    try {
      yield* head
      if (end) return end()
      for (let next = await iterator.next(); !next.done; next = await iterator.next()) yield next.value
    } finally {
      await iterator.return?.()
    }
  }
  return {all: all(), ended: end !== undefined}
}
