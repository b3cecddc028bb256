/**
 * Steps whose numbers are no numbers: known before anything is changed, and explained.
 *
 * A loss that is not finite came from the forward pass: the crops go through once more, and the first block whose
 * output is not finite is named. Where losses are finite and gradients are not, it began where the backward pass,
 * which runs from the heads to the patches, met it first.
 */
import type {VitConfig} from '../../model/config.js'
import {castParams, intermediateLayers} from '../../model/vit.js'
import type {Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {normalizePixels} from '../../tensor/ops/patches.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {abs, dispose, max, mul, sum, tidy} from '../../tensor/tf.js'
import type {Tensor, Tensor4D} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'

/** A step that was not taken. The state is as before it. */
export class NotFiniteStep extends Error {
  constructor(
    /** Losses of the step, weighted as they are optimized. */
    readonly losses: Readonly<Record<string, number>>,
    readonly gradNorms: Readonly<Record<string, number>>,
    /** Parameters whose gradient is not finite, in the order of the forward pass. */
    readonly gradients: readonly string[]
  ) {
    super(`not finite: ${nonFiniteTerms({losses, gradNorms}).join(', ')}`)
  }

  /** Whether the forward pass was well, so that smaller gradients might be finite. */
  get isOfGradients(): boolean {
    return Object.values(this.losses).every(Number.isFinite)
  }
}

const nonFiniteTerms = ({losses, gradNorms}: Pick<NotFiniteStep, 'losses' | 'gradNorms'>): string[] =>
  [...Object.entries(losses), ...Object.entries(gradNorms).map(([name, norm]) => [`the gradient of ${name}`, norm] as const)].flatMap(
    ([name, value]) => (Number.isFinite(value) ? [] : [`${name} is ${value}`])
  )

/** Names of the tensors that hold a number that is not finite. */
export const nonFiniteTensors = (named: Iterable<readonly [string, Tensor]>): string[] => {
  const found: string[] = []
  for (const [name, leaf] of named) {
    const nothing = tidy(() => sum(mul(leaf, 0)))
    if (!Number.isFinite(nothing.dataSync()[0])) found.push(name)
    nothing.dispose()
  }
  return found
}

/**
 * What is wrong with a step whose gradients are there and not yet applied; undefined where all is finite. Nothing is
 * freed.
 */
export function checkFinite(
  losses: Readonly<Record<string, number>>,
  gradNorms: Readonly<Record<string, number>>,
  grads: ReadonlyMap<string, Tensor>
): NotFiniteStep | undefined {
  if ([...Object.values(losses), ...Object.values(gradNorms)].every(Number.isFinite)) return undefined
  return new NotFiniteStep(losses, gradNorms, nonFiniteTensors(grads))
}

/** What is known without another pass: where parameters are spread over processes, none can make one alone. */
export const explainBriefly = (error: NotFiniteStep): Explanation => ({
  terms: nonFiniteTerms(error),
  layer: error.gradients[0] ?? 'the forward pass',
  losses: error.losses,
  gradNorms: error.gradNorms,
  gradients: error.gradients,
  activations: {student: [], teacher: []},
  parameters: {student: {layer: 'not looked at', largest: null}, teacher: {layer: 'not looked at', largest: null}}
})

/** How large the numbers of a layer became; `largest` is null where they are not finite. */
export type LayerNumbers = {readonly layer: string; readonly largest: number | null}

export type Explanation = {
  /** What is not finite, in words: `ibot is NaN`. */
  readonly terms: readonly string[]
  /** The layer where it began. */
  readonly layer: string
  readonly losses: Readonly<Record<string, number>>
  readonly gradNorms: Readonly<Record<string, number>>
  readonly gradients: readonly string[]
  /** Outputs of the blocks for the large crops of the batch, whole and unmasked, without stochastic depth. */
  readonly activations: Readonly<Record<'student' | 'teacher', readonly LayerNumbers[]>>
  /** The largest parameter of student and teacher; null where one is not finite. */
  readonly parameters: Readonly<Record<'student' | 'teacher', LayerNumbers>>
}

/**
 * Looks for the layer where a step stopped being finite. `globals` [n, G, G, 3] bytes: the large crops. Passes a few
 * images at a time, so that it needs less memory than a step. Leaves nothing in the engine.
 */
export function explainNonFinite(
  error: NotFiniteStep,
  {student, teacher}: {readonly student: ParamMap; readonly teacher: ParamMap},
  {
    globals,
    side,
    vit,
    precision
  }: {readonly globals: Uint8Array; readonly side: number; readonly vit: VitConfig; readonly precision: Precision}
): Explanation {
  const networks = {student, teacher}
  const each = <T>(make: (named: ParamMap) => T): Record<'student' | 'teacher', T> => ({
    student: make(networks.student),
    teacher: make(networks.teacher)
  })
  const parameters = each(named => largestOf(named))
  const activations = each(named => blockOutputs(named, globals, side, vit, precision))
  const began = (): string => {
    if (Object.values(error.losses).every(Number.isFinite)) return error.gradients.at(-1) ?? 'the norm of all gradients together'
    for (const who of ['teacher', 'student'] as const) {
      if (parameters[who].largest === null) return `${parameters[who].layer} of the ${who}`
      const sick = activations[who].find(({largest}) => largest === null)
      if (sick) return `${sick.layer} of the ${who}`
    }
    return 'the projection head'
  }
  return {
    terms: nonFiniteTerms(error),
    layer: began(),
    losses: error.losses,
    gradNorms: error.gradNorms,
    gradients: error.gradients,
    activations,
    parameters
  }
}

const finite = (value: number): number | null => (Number.isFinite(value) ? value : null)

const largest = (x: Tensor): number => {
  const found = tidy(() => max(abs(x)).add(sum(mul(x, 0)))) // the second term is 0, or not a number: a maximum may pass over those
  const value = found.dataSync()[0]!
  found.dispose()
  return value
}

function largestOf(named: ParamMap): LayerNumbers {
  let most: LayerNumbers = {layer: '', largest: -1}
  for (const [layer, leaf] of named) {
    const value = finite(largest(leaf))
    if (value === null) return {layer, largest: null}
    if (value > most.largest!) most = {layer, largest: value}
  }
  return most
}

/** Images that pass at once. */
const together = 4

function blockOutputs(named: ParamMap, globals: Uint8Array, side: number, vit: VitConfig, precision: Precision): LayerNumbers[] {
  const backbone = unflatten<{backbone: Vit}>([...named].filter(([name]) => name.startsWith('backbone.'))).backbone
  const {params, owned} = castParams(backbone, precision)
  const bytes = 3 * side * side
  const count = globals.length / bytes
  const most = new Array<number>(vit.depth).fill(0)
  for (let from = 0; from < count; from += together) {
    const n = Math.min(together, count - from)
    const images = normalizePixels(globals.slice(from * bytes, (from + n) * bytes), [n, side, side])
    const outputs = intermediateLayers(params, images as Tensor4D, vit, {n: vit.depth, norm: false})
    outputs.forEach(({patches, cls}, i) => {
      const here = [patches, cls].map(largest)
      most[i] = [most[i]!, ...here].some(Number.isNaN) ? NaN : Math.max(most[i]!, ...here)
      dispose([patches, cls])
    })
    images.dispose()
  }
  dispose(owned)
  return most.map((value, i) => ({layer: `blocks.${i}`, largest: finite(value)}))
}
