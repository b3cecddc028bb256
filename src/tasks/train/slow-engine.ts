/** What a run on the WebAssembly engine is warned of before its first step: how long it takes, and what is faster. */
import {counted} from '../../config/counted.js'
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/settings.js'
import type {EngineInfo} from '../../engine/start.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {countCost, type TeacherCost} from './cost-counts.js'
import {throughputOf} from './cost-estimate.js'

/** More operations a second than WebAssembly achieves on a few cores; runs that are short even so are not measured. */
const MOST_FLOPS = 4e10
/** Runs that take fewer seconds are not worth a warning. */
const SHORT = 60

type Job = {readonly settings: Settings; readonly plan: Derived; readonly teacher?: TeacherCost | undefined}

/**
 * The warning, for all models that a run trains; undefined on other engines and for runs of less than a minute. The
 * time is the arithmetic of a step over what one block of this width achieves here, which is measured in about a
 * second.
 */
export function slowEngineWarning(
  jobs: readonly Job[],
  {engine, precision}: {readonly engine: Pick<EngineInfo, 'engine'>; readonly precision: Precision},
  measure: typeof throughputOf = throughputOf
): string | undefined {
  if (engine.engine !== 'wasm') return undefined
  const flops = jobs.map(({settings, plan, teacher}) => countCost(settings, plan, precision, teacher).flops)
  const {plan, settings} = jobs[0]!
  if ((flops.reduce((a, b) => a + b, 0) / MOST_FLOPS) * plan.steps < SHORT) return undefined
  const pixels = settings.crops.global_crops_size
  const rates = new Map<number, number>() // by width: blocks of one width are as fast
  for (const {vit} of jobs.map(job => job.plan))
    if (!rates.has(vit.width)) rates.set(vit.width, measure(vit, precision, {seconds: 0.5, pixels, images: plan.batch}))
  const each = jobs.map((job, i) => flops[i]! / rates.get(job.plan.vit.width)!)
  const secondsPerStep = each.reduce((a, b) => a + b, 0)
  const hours = (secondsPerStep * plan.steps) / 3600
  if (hours * 3600 < SHORT) return undefined
  const whole = hours < 1 ? `${Math.ceil(60 * hours)} minutes` : `${hours.toPrecision(2)} hours`
  return (
    `The WebAssembly engine is slow for training: a step takes about ${secondsPerStep.toPrecision(2)} s here, ` +
    `${counted(plan.steps, 'step')} about ${whole}. The torch engine is many times faster: dinov2 engine install torch`
  )
}
