/**
 * Proving agreement with recorded tensors of the reference implementation.
 *
 * Everything is computed anew from the weights and inputs of a folder, by the modules that training and embedding use,
 * and compared with what is recorded beside them. Another recording in the same layout works unchanged, and a
 * falsified one fails. How exact one can be, and by what each thing is judged, stands in the README of the recording.
 */
import {existsSync} from 'node:fs'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {packageFolder} from '../../system/paths.js'
import {startEngine, type EngineInfo, type EngineRequest} from '../../engine/start.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {engineOf} from '../../engine/registry.js'
import {verifyBackbone} from './backbone.js'
import type {Check} from './checks.js'
import {verifyDistillation} from './distillation.js'
import {openGolden} from './golden.js'
import {verifyLosses} from './losses.js'
import {verifySchedules} from './schedules.js'
import {verifyTraining} from './training.js'

export type {Check} from './checks.js'

export type VerifyRequest = Omit<EngineRequest, 'precision'> & {
  /** Folder of the recording. */
  readonly golden: string
  /**
   * `auto`: every precision that the engine computes in; fp32 is judged against the recording's limits, bf16 by
   * cosines.
   */
  readonly precision?: string
}

/**
 * The recording that comes with the source. Throws a `UserError` of status 3 where the package was installed without
 * it.
 */
export function defaultGolden(): string {
  const folder = join(packageFolder(), 'test', 'golden')
  if (existsSync(join(folder, 'golden.json'))) return folder
  throw new UserError('This installation comes without a recording.', {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Name a folder of recorded tensors with --golden; the source repository has one in test/golden.'
  })
}

/** Formats that need no device of their own. */
const everywhere = ['fp32', 'bf16'] as const

/**
 * Starts the engine and yields one verdict after the other. Errors: those of `startEngine`; a `UserError` where the
 * recording is not one.
 */
export async function* verify({golden: folder, precision = 'auto', ...request}: VerifyRequest): AsyncGenerator<Check, EngineInfo> {
  const golden = await openGolden(folder)
  const info = await startEngine({...request, precision})
  await engineOf(info.engine).checkForms?.() // `engine list` shows what was found
  const precisions: readonly Precision[] =
    precision === 'auto' ? everywhere.filter(one => engineOf(info.engine).precisions.includes(one)) : [info.precision]
  const backbones = Object.keys(golden.index.vit)
  if (precisions.includes('fp32')) {
    for (const name of backbones) yield* verifyBackbone(golden, name, 'fp32')
    yield* verifyLosses(golden)
    yield* verifySchedules(golden)
    yield* verifyTraining(golden, 'train')
    yield* verifyTraining(golden, 'train_untied')
    yield* verifyDistillation(golden)
  }
  for (const rounded of ['tf32', 'bf16', 'fp16'] as const)
    if (precisions.includes(rounded)) for (const name of backbones) yield* verifyBackbone(golden, name, rounded)
  return info
}
