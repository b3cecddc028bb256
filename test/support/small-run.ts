/**
 * A training state, a batch and settings small enough for tests; everything is drawn anew on whichever engine runs.
 */
import type {VitConfig} from '../../src/model/config.js'
import {initHead} from '../../src/model/init.js'
import type {ParamMap} from '../../src/optim/adamw.js'
import type {StepBatch} from '../../src/tasks/train/batch-parts.js'
import type {StepRates, StepSettings, TrainState} from '../../src/tasks/train/step-types.js'
import {rng} from '../../src/tensor/random.js'
import {dispose, tensor, tidy, zerosLike} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {flatten} from '../../src/tensor/tree.js'
import {normal, put} from './engine.js'
import {configs, smallVit} from './small-vit.js'

export type Variant = {
  readonly vit: VitConfig
  readonly separate: boolean
  readonly centering: StepSettings['centering']
  /** Local crops of an image. */
  readonly locals: number
  readonly dropPath: number
  /** Share of patches hidden in every other global crop. */
  readonly masked: number
}

/** As the two recorded runs, with stochastic depth, and the corners: no local crops, nothing masked. */
export const variants: Readonly<Record<string, Variant>> = {
  'shared head, Sinkhorn': {vit: configs.plain, separate: false, centering: 'sinkhorn_knopp', locals: 2, dropPath: 0, masked: 0.4},
  'own head, centring, registers': {vit: configs.registers, separate: true, centering: 'centering', locals: 2, dropPath: 0, masked: 0.4},
  'stochastic depth': {vit: configs.plain, separate: false, centering: 'sinkhorn_knopp', locals: 3, dropPath: 0.4, masked: 0.4},
  'no local crops': {vit: configs.unscaled, separate: false, centering: 'sinkhorn_knopp', locals: 0, dropPath: 0, masked: 0.4},
  'nothing masked': {vit: configs.plain, separate: false, centering: 'centering', locals: 2, dropPath: 0, masked: 0},
  'nothing masked, own head': {vit: configs.plain, separate: true, centering: 'sinkhorn_knopp', locals: 2, dropPath: 0, masked: 0}
}

/** Images a batch. */
export const images = 3
const prototypes = 16
const [large, small] = [12, 8]

export const settingsOf = ({vit, centering, dropPath}: Variant, more: Partial<StepSettings> = {}): StepSettings => ({
  vit,
  precision: 'fp32',
  centering,
  dinoWeight: 1,
  ibotWeight: 0.8,
  regularizers: {koleo: 0.1},
  studentTemp: 0.1,
  dropPath: dropPath > 0 ? new Array<number>(vit.depth).fill(dropPath) : [],
  clipGrad: 3,
  betas: [0.9, 0.999],
  eps: 1e-8,
  rules: {depth: vit.depth, layerwiseDecay: 0.9, patchEmbedLrMult: 0.2},
  ...more
})

export const rates: StepRates = {lr: 1e-3, lastLayerLr: 5e-4, wd: 0.1, momentum: 0.9, teacherTemp: 0.06}

/** Student and teacher, not alike, and all else at its start. */
export function stateOf({vit, separate, centering}: Variant): TrainState {
  const network = (seed: number): ParamMap => {
    const head = (name: string) => initHead({width: vit.width, hidden: 16, bottleneck: 8, prototypes, layers: 3}, seed, name)
    const fresh = flatten({
      backbone: smallVit(vit, seed),
      dino_head: head('dino_head'),
      ...(separate ? {ibot_head: head('ibot_head')} : {})
    })
    // Fresh heads say almost the same of all images; these say more.
    for (const [name, leaf] of fresh)
      if (/head\.mlp.*weight$/.test(name)) {
        fresh.set(
          name,
          tidy(() => leaf.mul(10))
        )
        leaf.dispose()
      }
    return fresh
  }
  const student = network(1)
  const still = (): ParamMap => new Map([...student].map(([name, leaf]) => [name, zerosLike(leaf)]))
  const center = (name: string): Tensor2D => put(normal(name, [1, prototypes], 0.1))
  return {
    student,
    teacher: network(2),
    moments: {m: still(), v: still()},
    step: 0,
    ...(centering === 'centering' ? {centers: {dino: center('dino'), ibot: center('ibot')}} : {})
  }
}

/** Crops and masks of step `step`. */
export function batchOf({vit, locals, masked}: Variant, step = 0, count = images): StepBatch {
  const N = (large / vit.patch) ** 2
  const random = rng(9, 'masks', step)
  const masks = new Float32Array(2 * count * N)
  const [indices, weights]: [number[], number[]] = [[], []]
  for (let image = 0; image < 2 * count; image += 2) {
    const hidden = [...random.permutation(N)].slice(0, Math.round(masked * N)).sort((a, b) => a - b)
    for (const patch of hidden) {
      masks[image * N + patch] = 1
      indices.push(image * N + patch)
      weights.push(1 / hidden.length)
    }
  }
  return {
    globals: put(normal(`globals ${step}`, [2 * count, large, large, 3])),
    ...(locals > 0 ? {locals: put(normal(`locals ${step}`, [locals * count, small, small, 3]))} : {}),
    masks: tensor(masks, [2 * count, N]),
    indices: Int32Array.from(indices),
    weights: Float32Array.from(weights)
  }
}

export const freeBatch = ({globals, locals, masks}: StepBatch): void => dispose([globals, masks, ...(locals ? [locals] : [])])
export const freeState = ({student, teacher, moments, centers}: TrainState): void => {
  for (const named of [student, teacher, moments.m, moments.v]) dispose([...named.values()])
  if (centers) dispose([centers.dino, centers.ibot])
}
