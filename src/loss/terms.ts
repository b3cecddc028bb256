/**
 * The terms of the training losses, as data: one row each. Step reports, metrics, TensorBoard tags, charts, the
 * progress line and the cost estimate follow from these rows.
 *
 * A new regularizer of class tokens is one file beside this one, one row here, and one setting that weighs it.
 * B images, C width.
 */
import type {Scalar, Tensor2D} from '../tensor/tf.js'
import {koleoLoss} from './koleo.js'

/** A term on the class tokens of one global crop, x [B, C]: its loss, and the gradient [B, C]. */
export type Regularizer = (x: Tensor2D) => {loss: Scalar; gradient: Tensor2D}

export type LossTerm = {
  /** Its name in step reports, `metrics.jsonl` and TensorBoard. */
  readonly name: string
  /** The setting that weighs it. */
  readonly weight: string
  /** The heading of its chart. */
  readonly title: string
  readonly unit: string
  /** Its label in the progress line, where terms of one label are added up, and the digits shown there. */
  readonly progress: {readonly label: string; readonly digits: number}
  /** How it is computed, where it looks at class tokens alone. */
  readonly regularizer?: Regularizer
  /** Floating-point operations of a regularizer for B images of width C, both global crops, forward and backward. */
  readonly flops?: (images: number, width: number) => number
}

/** In the order in which they are added up to the total. */
const rows = [
  {
    name: 'dino_local',
    weight: 'dino.loss_weight',
    title: 'DINO loss, local crops',
    unit: 'nats',
    progress: {label: 'dino', digits: 3}
  },
  {
    name: 'dino_global',
    weight: 'dino.loss_weight',
    title: 'DINO loss, global crops',
    unit: 'nats',
    progress: {label: 'dino', digits: 3}
  },
  {
    name: 'cls_loss',
    weight: 'dino.loss_weight',
    title: 'Feature loss, class tokens',
    unit: '1',
    progress: {label: 'cls', digits: 3}
  },
  {
    name: 'patch_loss',
    weight: 'ibot.loss_weight',
    title: 'Feature loss, patch tokens',
    unit: '1',
    progress: {label: 'patch', digits: 3}
  },
  {
    name: 'koleo',
    weight: 'dino.koleo_loss_weight',
    title: 'KoLeo loss',
    unit: 'nats',
    progress: {label: 'koleo', digits: 4},
    regularizer: koleoLoss,
    flops: (images, width) => 4 * images * images * width
  },
  {
    name: 'ibot',
    weight: 'ibot.loss_weight',
    title: 'iBOT loss',
    unit: 'nats',
    progress: {label: 'ibot', digits: 3}
  }
] as const satisfies readonly LossTerm[]

export const lossTerms: readonly LossTerm[] = rows

type Row = (typeof rows)[number]

export type RegularizerName = Extract<Row, {readonly regularizer: Regularizer}>['name']

/** The terms on class tokens alone, with their functions. */
export const regularizers = rows.filter((row): row is Extract<Row, {readonly regularizer: Regularizer}> => 'regularizer' in row)

/** Losses of a step by term, and their sum. */
export type Losses<Name extends string> = Readonly<Record<Name | RegularizerName | 'total', number>>

/** Losses with `total`, the sum of the terms in the order of the rows. */
export function withTotal<Name extends string>(losses: Readonly<Record<Name | RegularizerName, number>>): Losses<Name> {
  let total = 0
  for (const {name} of rows) total += (losses as Readonly<Record<string, number>>)[name] ?? 0
  return {...losses, total} as Losses<Name>
}

/** What a progress line shows of losses, by label. */
export function progressOf(losses: Readonly<Record<string, number>>): Record<string, number> {
  const sums = new Map<string, {value: number; digits: number}>()
  for (const {name, progress} of rows) {
    const value = losses[name]
    if (value !== undefined) sums.set(progress.label, {value: (sums.get(progress.label)?.value ?? 0) + value, digits: progress.digits})
  }
  return Object.fromEntries([...sums].map(([label, {value, digits}]) => [label, Number(value.toFixed(digits))]))
}
