/** Going on behind the rows of an earlier run: which of its images are done. */
import {isDeepStrictEqual} from 'node:util'
import {UserError} from '../../config/errors.js'
import type {Transform} from '../../data/image/geometry.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {Fields, NamedRow} from '../../files/embeddings/embeddings.js'
import {fieldsOf} from './embedder.js'
import {plainFields} from './plain-fields.js'

/** The first field that a row has otherwise than its image has it now; a path that only one of them names is none. */
function changedField(row: Fields, image: Fields): {readonly name: string; readonly had: unknown; readonly has: unknown} | undefined {
  const [had, has] = [plainFields(row), plainFields(image)]
  for (const name of new Set([...Object.keys(had), ...Object.keys(has)])) {
    const oneSided = !Object.hasOwn(had, name) || !Object.hasOwn(has, name)
    if (name === 'path' && oneSided) continue
    if (!isDeepStrictEqual(had[name], has[name])) return {name, had: had[name], has: has[name]}
  }
  return undefined
}

const shown = (value: unknown): string => (value === undefined ? 'none' : JSON.stringify(value))

/**
 * Leaves out the images that an earlier run has done: `done` are its rows, in order.
 *
 * An image that stands between them without a row was refused then, and must be refused again: it is decoded once more
 * and reported to `onRejected`. Where it turns out to be good, a done image is missing, or has other fields now (a
 * label that was corrected), the list is not the one of the earlier run. Throws `UserError` (exit 2) naming the image.
 */
export async function* leaveOutDone(
  refs: AsyncIterable<ImageRef>,
  done: AsyncGenerator<NamedRow>,
  transform: Transform,
  onRejected: (bad: RejectedImage) => void
): AsyncGenerator<ImageRef> {
  const changed = (
    sentence: string,
    hint = 'Give the inputs of the earlier run in their order, new ones behind them; or embed the new ones to a file of their own, since dinov2 index takes several; --force starts anew.'
  ): UserError => new UserError(sentence, {exit: 2, code: 'LIST_CHANGED', hint})
  const {loadPixels, RefusedImage} = await import('../../data/image/decode.js')
  let next = await done.next()
  try {
    for await (const ref of refs) {
      if (next.done) yield ref
      else if (ref.id === next.value.id) {
        const other = changedField(next.value.fields, fieldsOf(ref))
        if (other)
          throw changed(
            `${ref.id} had ${shown(other.had)} as its ${other.name} in the earlier run, and has ${shown(other.has)} now.`,
            'Give the list of the earlier run, or --force to start anew.'
          )
        next = await done.next()
      } else {
        const reason = await loadPixels(ref, transform).then(
          () => undefined,
          (error: unknown) => {
            if (error instanceof RefusedImage) return error.message
            throw error
          }
        )
        if (reason === undefined) throw changed(`${ref.id} stands where the earlier run had ${next.value.id}.`)
        const path = typeof ref.path === 'string' ? ref.path : ref.id
        onRejected({id: ref.id, path, reason, pathBase64: ref.pathBase64})
      }
    }
    if (!next.done) throw changed(`${next.value.id} has a row of the earlier run, but is not among the inputs.`)
  } finally {
    await done.return(undefined)
  }
}
