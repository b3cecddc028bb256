/** What stands in the place of a partial output, is more than a torn beginning, and cannot be gone on with. */
import {UserError} from '../../config/errors.js'

const cannot = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'CANNOT_RESUME', hint})

/** Something else lies there. */
export const foreignPartial = (partial: string): UserError =>
  cannot(`${partial} is not what an interrupted run of embed left.`, 'Move it away, name another output, or start anew with --force.')

/**
 * Refuses `rows` rows beside which the file is missing or damaged that says how they were made or what they are named.
 * Without rows nothing is lost, and undefined is returned.
 */
export function refuseWithoutSide(partial: string, side: string, rows: number): undefined {
  if (rows < 1) return undefined
  throw cannot(
    `${partial} holds rows, but ${side}, which belongs to them, is missing or damaged.`,
    'Put it back, or start anew with --force, which computes them again.'
  )
}
