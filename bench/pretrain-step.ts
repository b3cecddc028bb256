/**
 * A training run on random pixels for `bench/pretrain`: the state, the batch, the techniques that can be taken away,
 * and what a step took.
 */
import {readFileSync} from 'node:fs'
import {startEngine} from '../src/engine/start.js'
import {torch} from '../src/engine/torch/binding.js'
import type {VitConfig} from '../src/model/config.js'
import {sampleDropPath} from '../src/model/drop-path.js'
import {initHead, initVit} from '../src/model/init.js'
import {backwardTrain, castParams, forwardTrain, gridOf} from '../src/model/vit.js'
import type {ImageView} from '../src/model/vit.js'
import type {ParamMap} from '../src/optim/adamw.js'
import {trainStep} from '../src/tasks/train/train-step.js'
import type {StepBatch} from '../src/tasks/train/batch-parts.js'
import type {StepSettings, TrainState} from '../src/tasks/train/step-types.js'
import {rng} from '../src/tensor/random.js'
import {addAll} from '../src/tensor/ops/row-sum.js'
import {dispose, fill, memory, randomNormal, tensor2d, tidy, zerosLike} from '../src/tensor/tf.js'
import type {Tensor, Tensor2D, Tensor4D} from '../src/tensor/tf.js'
import {count, flatten, leaves} from '../src/tensor/tree.js'

/**
 * What can be taken away, and what then stands in its place. The first is a setting; the others are families of native
 * loops, which then say that they are not ready, so that kernels compose libtorch's operators as they do on other
 * devices.
 */
export const techniques = {
  depth: 'every branch computed for all sequences, as stochastic depth by masking does',
  attention: 'attention as two batched products with a softmax between, and its gradient likewise',
  loss: 'cross-entropy, Sinkhorn–Knopp and weight normalization as compositions of operators',
  norm: 'layer normalization and its gradient as libtorch has them, the residual added apart',
  rows: 'rows of kept sequences picked, scaled, rounded and added by an operator each',
  gelu: 'the gradient of GELU as libtorch has it',
  sums: 'gradients of biases and LayerScale by general reductions'
} as const
export type Technique = keyof typeof techniques

export type RunOptions = {
  readonly arch: 's' | 'b' | 'l'
  readonly batch: number
  readonly precision: 'bf16' | 'fp32'
  readonly memory: 'fast' | 'balanced' | 'small'
  /** Parts of a batch, one after the other. */
  readonly accumulate: number
  readonly prototypes: number
  readonly steps: number
  readonly threads: number
  readonly off: readonly Technique[]
  readonly profile: boolean
}

export type Outcome = {
  /** Of each step after one of warm-up. */
  readonly seconds: number[]
  /** CPU seconds of each, all threads together: what others on the machine disturb less. */
  readonly cpu: number[]
  readonly loss: number
  /** Bytes. `tensors` is the most that tensors held at once; `rest` is that without state and copies. */
  readonly memory: {base: number; state: number; copies: number; rest: number; tensors: number}
  /** Table of CPU time by operator, with `profile`. */
  readonly profile: string
}

const sizes = {
  s: {width: 384, depth: 12, heads: 6, patch: 14, local: 98},
  b: {width: 768, depth: 12, heads: 12, patch: 14, local: 98},
  l: {width: 1024, depth: 24, heads: 16, patch: 16, local: 96}
} as const

const configOf = (arch: keyof typeof sizes): VitConfig => {
  const {width, depth, heads, patch} = sizes[arch]
  return {
    ...{width, depth, heads, patch, ffn: 'mlp', hidden: 4 * width, registers: 0, grid: 224 / patch, layerScale: true},
    ...{interpolateOffset: 0.1, interpolateAntialias: false}
  }
}

function freshState(vit: VitConfig, prototypes: number): TrainState {
  const head = initHead({width: vit.width, hidden: 2048, bottleneck: 256, prototypes, layers: 3}, 0, 'dino_head')
  const student = flatten({backbone: initVit(vit, 0), dino_head: head})
  const copy = (make: (x: Tensor) => Tensor): ParamMap => new Map([...student].map(([name, leaf]) => [name, make(leaf)]))
  return {student, teacher: copy(leaf => tidy(() => leaf.add(0))), moments: {m: copy(zerosLike), v: copy(zerosLike)}, step: 0}
}

/** Half of the global crops are masked, by 10 to 50 % in even steps, as the peer does. */
function batchOf(B: number, {patch}: VitConfig, local: number): StepBatch {
  const N = (224 / patch) ** 2
  const random = rng(0, 'masks')
  const masks = new Float32Array(2 * B * N)
  const indices: number[] = []
  const weights: number[] = []
  for (let i = 0; i < B; i++) {
    const hidden = Math.trunc(N * (0.1 + (0.4 * i) / Math.max(B - 1, 1)))
    for (const at of [...random.permutation(N).slice(0, hidden)].sort((a, b) => a - b)) {
      masks[i * N + at] = 1
      indices.push(i * N + at)
      weights.push(1 / hidden)
    }
  }
  return {
    globals: randomNormal([2 * B, 224, 224, 3], 0, 1, 'float32', 1),
    locals: randomNormal([8 * B, local, local, 3], 0, 1, 'float32', 2),
    masks: tensor2d(masks, [2 * B, N]),
    indices: Int32Array.from(indices),
    weights: Float32Array.from(weights)
  }
}

const resident = (): number => Number(/VmRSS:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) * 1024

/** The addon's functions that are watched or changed. */
type Calls = {
  call: (...args: unknown[]) => unknown
  resolve: (name: string, overload: string) => number
  shape: (handle: number) => number[]
}

/** CPU time of the whole process by operator of libtorch, calls counted; the rest is JavaScript. */
function profiler(): {reset: () => void; table: (steps: number) => string} {
  const addon = torch() as unknown as Calls
  const names = new Map<number, string>()
  const [call, resolve] = [addon.call, addon.resolve]
  const spent = new Map<string, {calls: number; micros: number}>()
  let begun = process.cpuUsage()
  addon.resolve = (name, overload) => {
    const id = resolve(name, overload)
    names.set(id, overload ? `${name}.${overload}` : name)
    return id
  }
  addon.call = (...args) => {
    const shapes = args
      .slice(1, 4)
      .map(x => {
        try {
          return typeof x === 'number' && x >= 1 && Number.isInteger(x) ? addon.shape(x).join('×') : ''
        } catch {
          return ''
        }
      })
      .filter(Boolean)
    const before = process.cpuUsage()
    const result = call(...args)
    const {user, system} = process.cpuUsage(before)
    const key = `${names.get(args[0] as number) ?? '?'} ${process.env['SHAPES'] ? shapes.join(' ') : ''}`
    const entry = spent.get(key) ?? {calls: 0, micros: 0}
    spent.set(key, {calls: entry.calls + 1, micros: entry.micros + user + system})
    return result
  }
  return {
    reset: () => {
      spent.clear()
      begun = process.cpuUsage()
    },
    table: steps => {
      const {user, system} = process.cpuUsage(begun)
      const whole = user + system
      const lines = [...spent].sort(([, a], [, b]) => b.micros - a.micros)
      const rest = whole - lines.reduce((sum, [, {micros}]) => sum + micros, 0)
      return [
        `CPU time of a step: ${(whole / steps / 1e3).toFixed(0)} ms; outside of operators ${(rest / steps / 1e3).toFixed(0)} ms`,
        ...lines
          .slice(0, 60)
          .map(
            ([name, {calls, micros}]) =>
              `${(micros / steps / 1e3).toFixed(1).padStart(9)} ms ${((100 * micros) / whole).toFixed(1).padStart(5)} % ${String(calls / steps).padStart(6)} calls  ${name}`
          )
      ].join('\n')
    }
  }
}

/** Takes steps on random pixels and measures them. */
export async function onePretrainRun(options: RunOptions): Promise<Outcome> {
  const {arch, precision, steps, threads} = options
  await startEngine({engine: 'torch', device: 'cpu', precision, threads, note: () => undefined})
  const vit = configOf(arch)
  takeAway(options.off)
  const profile = options.profile ? profiler() : undefined
  const base = resident()
  let state = freshState(vit, options.prototypes)
  const bytes = (): {held: number; peak: number} => memory() as unknown as {held: number; peak: number}
  const stateBytes = bytes().held
  const batch = batchOf(options.batch, vit, sizes[arch].local)
  const settings: StepSettings = {
    ...{vit, precision, centering: 'sinkhorn_knopp', dinoWeight: 1, ibotWeight: 1, regularizers: {koleo: 0.1}, studentTemp: 0.1},
    dropPath: new Array<number>(vit.depth).fill(options.off.includes('depth') ? 0 : 0.3),
    ...(options.memory === 'fast' ? {} : {memory: options.memory}),
    ...(options.accumulate > 1 ? {accumulate: options.accumulate} : {}),
    ...{clipGrad: 3, betas: [0.9, 0.999], eps: 1e-8},
    rules: {depth: vit.depth, layerwiseDecay: 0.9, patchEmbedLrMult: 0.2}
  }
  const rates = {lr: 1e-4, lastLayerLr: 1e-4, wd: 0.04, momentum: 0.99, teacherTemp: 0.05}
  const seconds: number[] = []
  const cpu: number[] = []
  let loss = 0
  for (let step = 0; step <= steps; step++) {
    if (step === 1) profile?.reset()
    const begun = performance.now()
    const before = process.cpuUsage()
    const next = trainStep(state, batch, rates, settings, rng(0, 'drop path', step))
    const spent = process.cpuUsage(before)
    if (step > 0) {
      seconds.push((performance.now() - begun) / 1e3)
      cpu.push((spent.user + spent.system) / 1e6)
    }
    state = next.state
    loss = next.report.losses.total
  }
  const linear = [...state.student].filter(([name, {shape}]) => shape.length > 1 && !/token|pos_embed|weight_g/.test(name))
  const copies = precision === 'bf16' ? 2 * count(linear.map(([, leaf]) => leaf)) : 0
  const {peak} = bytes()
  return {
    seconds,
    cpu,
    loss,
    memory: {base, state: stateBytes, copies, rest: peak - stateBytes - copies, tensors: peak},
    profile: profile?.table(steps) ?? ''
  }
}

export type Passes = {packed: {seconds: number; cpu: number}; separate: {seconds: number; cpu: number}}

/**
 * The student's backbone alone, forward and backward: global and local crops in one packed pass, and in a pass each
 * whose gradients are added up; the best of `steps`, by turns.
 */
export async function packedAndSeparate({arch, batch: B, precision, steps, threads}: RunOptions): Promise<Passes> {
  await startEngine({engine: 'torch', device: 'cpu', precision, threads, note: () => undefined})
  const vit = configOf(arch)
  const params = initVit(vit, 0)
  const batch = batchOf(B, vit, sizes[arch].local)
  const views: ImageView[] = [{images: batch.globals, masks: batch.masks}, {images: batch.locals as Tensor4D}]
  const once = (together: readonly ImageView[][]): void => {
    const {params: low, owned} = castParams(params, precision)
    const passes = together.map(some => {
      const groups = some.map(view => {
        const {count, rows, columns} = gridOf(view, vit)
        return {count, length: 1 + rows * columns}
      })
      const random = rng(0, 'drop path')
      const options = Array.from({length: vit.depth}, () => ({
        heads: vit.heads,
        attn: sampleDropPath(groups, 0.3, random),
        mlp: sampleDropPath(groups, 0.3, random)
      }))
      return {options, ...forwardTrain(low, some, vit, options)}
    })
    const grads = passes.map(({y, trace}) => {
      const dy = fill(y.shape, 1e-3) as Tensor2D
      const found = backwardTrain(dy, low, trace, vit)
      dispose([dy, y])
      return [...leaves(found)].map(([, leaf]) => leaf)
    })
    const sums = grads.reduce((a, b) => addAll(a, b))
    dispose([...sums, ...owned])
    for (const {attn, mlp} of passes.flatMap(({options}) => options))
      for (const {rows, factor} of [attn, mlp]) dispose(typeof factor === 'number' ? [rows] : [rows, factor])
  }
  const best = {packed: {seconds: Infinity, cpu: Infinity}, separate: {seconds: Infinity, cpu: Infinity}}
  const ways = {packed: [views], separate: views.map(view => [view])}
  for (let step = 0; step <= steps; step++)
    for (const way of ['packed', 'separate'] as const) {
      const [begun, before] = [performance.now(), process.cpuUsage()]
      once(ways[way])
      const {user, system} = process.cpuUsage(before)
      if (step === 0) continue
      best[way].seconds = Math.min(best[way].seconds, (performance.now() - begun) / 1e3)
      best[way].cpu = Math.min(best[way].cpu, (user + system) / 1e6)
    }
  return best
}

/** Makes families of native loops say that they do not serve here. */
function takeAway(families: readonly string[]): void {
  const addon = torch() as unknown as Calls
  const [call, resolve] = [addon.call, addon.resolve]
  const refused = new Set<number>()
  addon.resolve = (name, overload) => {
    const id = resolve(name, overload)
    if (families.some(family => name === `dinov2::${family}_ready`)) refused.add(id)
    return id
  }
  addon.call = (...args) => (refused.has(args[0] as number) ? false : call(...args))
}
