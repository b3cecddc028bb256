/** The length of a run that is to take so many minutes on this machine. */
import type {Precision} from '../../tensor/ops/precision.js'
import {UserError} from '../../config/errors.js'
import type {Derived} from '../../config/derived.js'
import type {ResolvedSettings} from '../../config/settings.js'
import {counted} from '../../config/counted.js'
import type {ImageTable} from '../../data/sources/image-table.js'
import type {EngineInfo} from '../../engine/start.js'
import {estimateCost} from './cost-estimate.js'

/** Fewer steps than this hardly leave the start. */
const FEW = 200

/** The width of `tiny`: below it no recipe is smaller. */
const LEAST_WIDTH = 128

/**
 * Throws a usage error where `--minutes` cannot decide the number of steps: another setting does, or several processes
 * share the work.
 */
export function assertMinutesDecide({sources}: ResolvedSettings, processes: number): void {
  const usage = (sentence: string, hint: string): UserError => new UserError(sentence, {exit: 2, code: 'USAGE', hint})
  const source = sources.get('train.steps') ?? 'default'
  if (source !== 'default' && /--set/.test(source))
    throw usage('--minutes and --set train.steps both say how long the run is.', 'Leave one of them out.')
  if (processes > 1) throw usage('--minutes is measured by one process, but several train together.', 'Give --set train.steps=N instead.')
}

/**
 * Takes the first steps of the run to measure them, and gives the number that fits into `minutes`, with the sentence
 * that says so. Schedules given in epochs shrink or stretch with the number of steps. Throws what reading images
 * throws, and a `UserError` (exit 2) where not even ten steps fit.
 */
export async function stepsForMinutes(
  begun: {
    readonly settings: ResolvedSettings['settings']
    readonly plan: Derived
    readonly precision: Precision
    readonly images: ImageTable
    readonly engine: EngineInfo
  },
  minutes: number
): Promise<{steps: number; words: string}> {
  const {secondsPerStep, checkpointSeconds} = await estimateCost({...begun, probe: {warm: 4, least: 4, most: 40, seconds: 10}})
  const each = secondsPerStep + checkpointSeconds / begun.settings.train.checkpoint_every
  const steps = Math.floor((60 * minutes) / each)
  const isSmallest = begun.plan.vit.width <= LEAST_WIDTH
  const step = `a step of ${counted(begun.plan.batch, 'image')} takes ${secondsPerStep.toPrecision(2)} s here`
  if (steps < 10)
    throw new UserError(`${steps === 0 ? 'No step' : `Only ${counted(steps, 'step')}`} would fit into ${minutes} minutes: ${step}.`, {
      exit: 2,
      code: 'TOO_SHORT',
      hint: `Give more minutes${isSmallest ? '' : ', a smaller recipe (--config tiny)'} or a smaller --batch.`
    })
  const smaller = isSmallest ? '' : ', or a smaller recipe (--config tiny)'
  const few = steps < FEW ? `. Fewer than ${FEW} steps hardly leave the start: give more minutes${smaller}` : ''
  return {steps, words: `--minutes ${minutes}: ${counted(steps, 'step')}, for ${step}${few}`}
}
