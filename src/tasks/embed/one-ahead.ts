/** Work over items in their order, of which the next is begun before the one before it is waited for. */
import {deferFailure} from '../../data/loader/chunks.js'
import {worksAhead} from '../../engine/start.js'

/**
 * What `begin` gives for each item, in their order. On a device that computes while the host goes on, the work for an
 * item is begun before the result of the one before it is awaited, so that the device has something to do while the
 * host looks at results; a result that is there is not held back for an item that is not. Elsewhere items are worked
 * on one by one. Once `signal` is aborted nothing is begun. Failures come in order, too.
 */
export async function* oneAhead<T, R>(
  items: AsyncIterator<T, unknown>,
  begin: (item: T) => Promise<R>,
  signal?: AbortSignal
): AsyncGenerator<R, void, undefined> {
  let before: Promise<R> | undefined // computed by a device while the next item is made ready
  try {
    for (;;) {
      const next = deferFailure(items.next())
      const endsOrFails = next.then(({done}) => done === true).catch(() => true)
      if (before && (await Promise.race([before.then(() => true), endsOrFails]))) {
        yield await before // it does not wait for what comes later
        before = undefined
      }
      const result = await next
      const current = result.done || signal?.aborted ? undefined : deferFailure(begin(result.value))
      if (before) yield await before
      if (!current) return
      before = worksAhead() ? current : undefined
      if (!before) yield await current
    }
  } finally {
    await items.return?.()
  }
}
