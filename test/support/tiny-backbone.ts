/** A backbone small enough for tests: random weights of a fixed seed, saved as the trainer saves them. */
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {saveBackbone} from '../../src/files/checkpoint/backbone.js'
import type {VitConfig} from '../../src/model/config.js'
import {rng} from '../../src/tensor/random.js'

export const tiny: VitConfig = {
  width: 32,
  depth: 3,
  heads: 2,
  patch: 14,
  ffn: 'mlp',
  hidden: 64,
  registers: 0,
  grid: 4,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
}

/** Writes the backbone to `path`. Weights are large enough for images to differ in their features. */
export async function saveTiny(path: string, seed = 0, config: VitConfig = tiny, metadata: Record<string, string> = {}): Promise<void> {
  const tensors = [...expectedShapes(config)].map(([name, shape]) => {
    const random = rng(seed, name)
    const scale = /norm\d?\.weight$/.test(name) ? 0 : name === 'pos_embed' ? 0.1 : 0.2
    const offset = /norm\d?\.weight$|gamma$/.test(name) ? 1 : 0
    const data = Float32Array.from({length: shape.reduce((a, b) => a * b, 1)}, () => offset + scale * random.normal())
    return {name, shape, data}
  })
  await saveBackbone(path, config, tensors, metadata, {force: true})
}
