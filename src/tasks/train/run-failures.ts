/** Why a run ends before its plan: what is not finite, or cannot be written, with the last good checkpoint. */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import {runNames} from '../../files/run/run-folder.js'
import {atomicFile} from '../../system/atomic.js'
import type {Explanation} from './non-finite.js'

/** The error of a checkpoint that could not be written. */
export const unwritten = (failure: UserError, lastGood: string): UserError =>
  new UserError(failure.message, {exit: 1, code: failure.code, hint: `${lastGood}Free some space and go on from there with --resume.`})

/** Names what is not finite and where it began, for the error of status 6; all of it goes into a file. */
export async function refuseStep(run: string, why: Explanation, {step, ids}: CropBatch, lastGood: string): Promise<UserError> {
  const saved = await saveDiagnosis(run, {step: step + 1, images: ids, ...why})
  return new UserError(
    `Step ${step + 1} is not finite: ${why.terms.join(', ')}; it began in ${why.layer}. Its images: ${ids.slice(0, 8).join(', ')}${ids.length > 8 ? `, and ${ids.length - 8} more` : ''}.`,
    {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${lastGood}${saved}Try a lower optim.base_lr, a longer optim.warmup_epochs, or --precision fp32; --resume --accept-changes goes on from a checkpoint with them.`
    }
  )
}

/** The same for weights that a step left not finite: they are never written as a checkpoint. */
export async function refuseState(run: string, step: number, names: readonly string[], last: string | undefined): Promise<UserError> {
  const saved = await saveDiagnosis(run, {step, notFinite: names})
  return new UserError(
    `After step ${step} ${names[0]} is not finite${names.length > 1 ? `, nor are ${names.length - 1} other tensors` : ''}.`,
    {
      exit: 6,
      code: 'NOT_FINITE',
      hint: `${last ? `The last good checkpoint is ${last}. ` : ''}${saved}Try a lower optim.base_lr, a longer optim.warmup_epochs, or --precision fp32.`
    }
  )
}

async function saveDiagnosis(run: string, what: object): Promise<string> {
  const path = join(run, runNames.notFinite)
  const text = JSON.stringify(
    what,
    (_, value: unknown) => (typeof value === 'number' && !Number.isFinite(value) ? String(value) : value),
    1
  )
  return atomicFile(path, async to => writeFile(to, text + '\n'), {force: true}).then(
    () => `More in ${path}. `,
    () => ''
  )
}
