/** Going on behind the rows of an earlier run: which of its images are done. */
import {UserError} from '../../config/errors.js'
import type {Transform} from '../../data/image/geometry.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {ImageRef} from '../../data/sources/source.js'

/**
 * Leaves out the images that an earlier run has done: `ids` are those of its rows, in order.
 *
 * An image that stands between them without a row was refused then, and must be refused again: it is decoded once more
 * and reported to `onRejected`. Where it turns out to be good, or a done image is missing, the list is not the one of
 * the earlier run. Throws `UserError` (exit 2) naming the image.
 */
export async function* leaveOutDone(
  refs: AsyncIterable<ImageRef>,
  ids: AsyncGenerator<string>,
  transform: Transform,
  onRejected: (bad: RejectedImage) => void
): AsyncGenerator<ImageRef> {
  const changed = (sentence: string): UserError =>
    new UserError(sentence, {
      exit: 2,
      code: 'LIST_CHANGED',
      hint: 'Give the inputs of the earlier run in their order, new ones behind them; or --force to start anew.'
    })
  const {loadPixels, RefusedImage} = await import('../../data/image/decode.js')
  let next = await ids.next()
  try {
    for await (const ref of refs) {
      if (next.done) yield ref
      else if (ref.id === next.value) next = await ids.next()
      else {
        const reason = await loadPixels(ref, transform).then(
          () => undefined,
          (error: unknown) => {
            if (error instanceof RefusedImage) return error.message
            throw error
          }
        )
        if (reason === undefined) throw changed(`${ref.id} stands where the earlier run had ${next.value}.`)
        const path = typeof ref.path === 'string' ? ref.path : ref.id
        onRejected({id: ref.id, path, reason, pathBase64: ref.pathBase64})
      }
    }
    if (!next.done) throw changed(`${next.value} has a row of the earlier run, but is not among the inputs.`)
  } finally {
    await ids.return(undefined)
  }
}
