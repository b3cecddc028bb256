/** What a step of training works on: networks, state, settings and rates. B images, K prototypes. */
import type {MemoryLevel} from '../../model/block.js'
import type {VitConfig} from '../../model/config.js'
import type {Head} from '../../model/head.js'
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {GroupRules} from '../../optim/groups.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import type {Tensor2D} from '../../tensor/tf.js'
import type {RegularizerWeights} from './gradient-sums.js'
import type {NetworkAccess, Sharding} from './sharding.js'

/** A network with its heads, keys as in Meta's training checkpoints. */
export type Network = {backbone: Vit; dino_head: Head; ibot_head?: Head}

/** Everything that training changes. Parameters and moments are float32, by path. */
export type TrainState = {
  student: ParamMap
  teacher: ParamMap
  moments: {m: ParamMap; v: ParamMap}
  /** Running centres [1, K], where targets are centred. */
  centers?: {dino: Tensor2D; ibot: Tensor2D}
  /** Steps taken. */
  step: number
}

/** What stays the same for a whole run. */
export type StepSettings = {
  readonly vit: VitConfig
  readonly precision: Precision
  readonly centering: 'centering' | 'sinkhorn_knopp'
  readonly dinoWeight: number
  readonly ibotWeight: number
  /** Weights of the terms on class tokens alone. */
  readonly regularizers: RegularizerWeights
  readonly studentTemp: number
  /** Stochastic depth of each block; empty for none. */
  readonly dropPath: readonly number[]
  /** Largest gradient norm of each sub-module; 0: no clipping. */
  readonly clipGrad: number
  readonly betas: readonly [number, number]
  readonly eps: number
  readonly rules: GroupRules
  /** What the student's forward pass keeps; `fast` where not said. */
  readonly memory?: MemoryLevel
  /** In how many parts a batch goes through the networks; 1 where not said. */
  readonly accumulate?: number
  /** First steps in which the heads learn and the backbone stands still; none where not said. */
  readonly headWarmup?: number
  /** The processes that share a batch; this one alone where not said. */
  readonly processes?: Processes
  /** Lends networks whose parameters are spread over the processes; absent where each process holds them whole. */
  readonly sharding?: Sharding
  /** Blocks and heads of teacher and student while a step borrows them. */
  readonly access?: {readonly teacher?: NetworkAccess; readonly student: NetworkAccess}
  /** Where KoLeo looks for neighbours: within a process, or among all; within a process where not said. */
  readonly koleo?: 'process' | 'global'
  /** By what losses are multiplied before the backward pass, and gradients divided after it; 1 where not said. */
  readonly lossScale?: number
  /** Leaves the gradients of the backbone out; `trainStep` says so while the backbone stands still. */
  readonly headsOnly?: boolean
}

/** What a schedule says about one step. */
export type StepRates = {
  readonly lr: number
  /** Of the backbone, where it is not that of the heads. */
  readonly backboneLr?: number
  readonly lastLayerLr: number
  readonly wd: number
  readonly momentum: number
  readonly teacherTemp: number
}
