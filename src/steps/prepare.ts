/** What most work begins with: an engine, and the images that were named. */
import {imageTable} from '../data/table.js'
import type {ImageTable} from '../data/table.js'
import {listImages, noImages} from '../data/source.js'
import type {SourceNote} from '../data/source.js'

export {startEngine} from '../engine/start.js'

/** All images that inputs name, as a compact table. Throws a `UserError` of status 3 where there are none. */
export async function gatherImages(
  inputs: readonly string[],
  {nul, onSkip}: {nul?: boolean; onSkip?: (note: SourceNote) => void} = {}
): Promise<ImageTable> {
  const images = await imageTable(listImages(inputs, {...(nul ? {nul} : {}), ...(onSkip ? {onSkip} : {})}))
  if (images.length === 0) throw noImages(inputs)
  return images
}
