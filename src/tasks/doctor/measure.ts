/**
 * How many images a second an untrained ViT-S/14 turns into features on this machine: the measurement of `dinov2
 * doctor`.
 */
import {startEngine, type EngineInfo, type EngineRequest} from '../../engine/start.js'
import type {VitConfig} from '../../model/config.js'
import {initVit} from '../../model/init.js'
import {castForInference, clsTokens} from '../../model/vit.js'
import {dispose, zeros} from '../../tensor/tf.js'
import type {Tensor4D} from '../../tensor/tf.js'
import {disposeTree} from '../../tensor/tree.js'

export type Speed = {
  readonly engine: string
  readonly device: string
  readonly precision: string
  readonly threads: number
  /** Images of 224 pixels a second, reading and decoding left out. */
  readonly imagesPerSecond: number
}

const vits14: VitConfig = {
  width: 384,
  depth: 12,
  heads: 6,
  patch: 14,
  ffn: 'mlp',
  hidden: 1536,
  registers: 0,
  grid: 16,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
}

/**
 * Starts the engine and computes batches for so many seconds; the first one, in which kernels are prepared, does not
 * count unless it takes all the time.
 */
export async function measureSpeed(request: EngineRequest, seconds: number): Promise<Speed> {
  const info: EngineInfo = await startEngine(request)
  const {engine, device, precision, threads} = info
  const batch = engine === 'wasm' ? 1 : device === 'cpu' ? 4 : 64
  const whole = initVit(vits14, 0)
  const {params, owned} = castForInference(whole, precision)
  const images: Tensor4D = zeros([batch, 224, 224, 3]) // [B, H, W, 3]
  const pass = async (): Promise<number> => {
    const start = performance.now()
    const tokens = clsTokens(params, images, vits14, precision) // [B, C]
    await tokens.data()
    tokens.dispose()
    return (performance.now() - start) / 1000
  }
  try {
    const first = await pass()
    let [spent, passes] = [0, 0]
    while (spent + first < seconds) {
      spent += await pass()
      passes++
    }
    const imagesPerSecond = passes > 0 ? (passes * batch) / spent : batch / first
    return {engine, device, precision, threads, imagesPerSecond}
  } finally {
    dispose([images, ...owned])
    disposeTree(whole)
  }
}
