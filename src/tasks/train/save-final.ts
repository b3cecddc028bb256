/** The model that a run leaves: `final/` of its folder. */
import {rm} from 'node:fs/promises'
import {join} from 'node:path'
import {saveBackbone} from '../../files/checkpoint/backbone.js'
import type {NamedTensor} from '../../files/checkpoint/backbone.js'
import {backboneMark} from '../../files/checkpoint/heads-beside.js'
import {saveHuggingFace} from '../../files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import {openSafetensors, writeSafetensors} from '../../files/checkpoint/safetensors.js'
import {float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import {runNames} from '../../files/run/run-folder.js'
import {cropMetadata} from './resume.js'
import type {RunOptions, Trainer} from './run-types.js'
import type {HostTensor} from './state-dict.js'
import {makeFolders} from '../../system/make-folders.js'

/** The mark of a backbone that was just written. */
async function markOf(path: string): Promise<string> {
  const file = await openSafetensors(path)
  await file.close()
  return backboneMark(file.sums!)
}

/**
 * Writes `final/`: the backbone as safetensors and as a Hugging Face folder, and its heads. Returns the path of the
 * backbone.
 */
export async function saveFinal<Report>(learner: Trainer<Report>, {run, plan, settings, version}: RunOptions): Promise<string> {
  const folder = join(run, runNames.final)
  await makeFolders(folder)
  const model = learner.gatherModel?.() ?? (learner.model() as unknown as ReadonlyMap<string, HostTensor>)
  async function* backbone(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of model)
      if (name.startsWith('backbone.'))
        yield {name: name.slice('backbone.'.length), shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  const {resize, crop} = cropMetadata(settings)
  const metadata = {tool: `dinov2 ${version}`, step: String(learner.stepsTaken), seed: String(settings.train.seed), resize, crop}
  const [path, beside] = [join(folder, 'backbone.safetensors'), join(folder, 'heads.safetensors')]
  await rm(beside, {force: true}) // heads of an earlier end never stand beside this backbone
  await saveBackbone(path, plan.vit, backbone(), metadata, {force: true})
  await saveHuggingFace(join(folder, 'huggingface'), plan.vit, backbone(), {
    force: true,
    metadata,
    preprocessing: {...defaultPreprocessing, resize: Number(resize), crop: Number(crop)}
  })
  const heads = [...model].filter(([name]) => !name.startsWith('backbone.'))
  await writeSafetensors(
    beside,
    heads.map(([name, leaf]) => ({
      name,
      dtype: 'F32' as const,
      shape: leaf.shape,
      read: async () => float32Bytes((await leaf.data()) as Float32Array)
    })),
    {...metadata, backbone: await markOf(path)},
    {force: true}
  )
  return path
}
