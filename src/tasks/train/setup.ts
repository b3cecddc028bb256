/** What most work begins with: an engine, and the images that were named. */
import {readyNative} from '../../data/augment/native-crops.js'
import {imageTable} from '../../data/sources/image-table.js'
import type {ImageTable} from '../../data/sources/image-table.js'
import {listImages, noImages} from '../../data/sources/source.js'
import type {SourceNote} from '../../data/sources/source.js'
import {startEngine} from '../../engine/start.js'
import type {EngineInfo, EngineRequest} from '../../engine/start.js'

export {openRun} from '../../files/run/run-folder.js'

/**
 * Starts the engine that was asked for, as `engine/start.ts` says. Where that is torch, for which there had to be a
 * C++ compiler, the code that cuts and colours images is compiled too where it is missing, once.
 */
export async function startTrainingEngine(request: EngineRequest = {}): Promise<EngineInfo> {
  const engine = await startEngine(request)
  if (engine.engine === 'torch') await readyNative(request.note)
  return engine
}

/** All images that inputs name, as a compact table. Throws a `UserError` of status 3 where there are none. */
export async function gatherImages(
  inputs: readonly string[],
  {nul, onSkipped}: {nul?: boolean; onSkipped?: (note: SourceNote) => void} = {}
): Promise<ImageTable> {
  const images = await imageTable(listImages(inputs, {nul, onSkipped}))
  if (images.length === 0) throw noImages(inputs)
  return images
}
