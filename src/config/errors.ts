/**
 * The one error a user can mend. Everything else that is thrown is a defect of ours and leaves with status 70 and its
 * stack.
 */

export type ErrorOptions = {
  /**
   * Exit status of the process (docs/contract.md#exit-status: 1 run failed, 2 usage or settings, 3 no input, 4 too
   * many bad inputs, 5 engine or memory, 6 training unhealthy).
   */
  readonly exit?: number
  /** Stable word for scripts, e.g. `NO_INPUT`. */
  readonly code?: string
  /** What to try, as a sentence or a command. */
  readonly hint?: string
  readonly cause?: unknown
}

export class UserError extends Error {
  readonly exit: number
  readonly code: string
  readonly hint: string | undefined

  constructor(message: string, {exit = 1, code = 'FAILED', hint, cause}: ErrorOptions = {}) {
    super(message, cause === undefined ? undefined : {cause})
    this.name = 'UserError'
    this.exit = exit
    this.code = code
    this.hint = hint
  }
}
