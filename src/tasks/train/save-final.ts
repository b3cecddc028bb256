/** The model that a run leaves: `final/` of its folder. */
import {mkdir} from 'node:fs/promises'
import {join} from 'node:path'
import {saveBackbone} from '../../files/checkpoint/backbone.js'
import type {NamedTensor} from '../../files/checkpoint/backbone.js'
import {saveHuggingFace} from '../../files/checkpoint/hugging-face-folder.js'
import {defaultPreprocessing} from '../../files/checkpoint/preprocessing.js'
import {writeSafetensors} from '../../files/checkpoint/safetensors.js'
import {float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import {runNames} from '../../files/run/run-folder.js'
import {cropMetadata} from './resume.js'
import type {RunOptions, Trainer} from './run-types.js'
import type {HostTensor} from './state-dict.js'

/**
 * Writes `final/`: the backbone as safetensors and as a Hugging Face folder, and its heads. Returns the path of the
 * backbone.
 */
export async function saveFinal<Report>(learner: Trainer<Report>, {run, plan, settings, version}: RunOptions): Promise<string> {
  const folder = join(run, runNames.final)
  await mkdir(folder, {recursive: true})
  const model = learner.gatherModel?.() ?? (learner.model() as unknown as ReadonlyMap<string, HostTensor>)
  async function* backbone(): AsyncGenerator<NamedTensor> {
    for (const [name, leaf] of model)
      if (name.startsWith('backbone.'))
        yield {name: name.slice('backbone.'.length), shape: leaf.shape, data: (await leaf.data()) as Float32Array}
  }
  const {resize, crop} = cropMetadata(settings)
  const metadata = {tool: `dinov2 ${version}`, step: String(learner.stepsTaken), seed: String(settings.train.seed), resize, crop}
  const path = join(folder, 'backbone.safetensors')
  await saveBackbone(path, plan.vit, backbone(), metadata, {force: true})
  await saveHuggingFace(join(folder, 'huggingface'), plan.vit, backbone(), {
    force: true,
    metadata,
    preprocessing: {...defaultPreprocessing, resize: Number(resize), crop: Number(crop)}
  })
  const heads = [...model].filter(([name]) => !name.startsWith('backbone.'))
  await writeSafetensors(
    join(folder, 'heads.safetensors'),
    heads.map(([name, leaf]) => ({
      name,
      dtype: 'F32' as const,
      shape: leaf.shape,
      read: async () => float32Bytes((await leaf.data()) as Float32Array)
    })),
    metadata,
    {force: true}
  )
  return path
}
