/**
 * Ending the process without taking it down piece by piece: the system frees memory and threads faster than
 * destructors do.
 */
import * as nodeModule from 'node:module'

let end: ((status: number) => void) | undefined

/** Gives what ends the process at once with a status. */
export const leaveBy = (given: (status: number) => void): void => void (end = given)

/** Node measures or keeps something that it writes when it is taken down. */
const isObserved = (): boolean =>
  process.env['NODE_V8_COVERAGE'] !== undefined ||
  /-prof|--inspect|--trace|--report/.test([process.env['NODE_OPTIONS'], ...process.execArgv].join(' '))

/**
 * From here on `process.exit` ends the process as soon as all who listen for its end were called. To be called when
 * everything is written; without anything to end it by, the end stays as it is.
 */
export function leaveAtOnce(): void {
  const {enableCompileCache, flushCompileCache} = nodeModule as {enableCompileCache?: unknown; flushCompileCache?: () => void}
  if (!end || isObserved() || (enableCompileCache && !flushCompileCache)) return
  const now = end
  process.on('exit', status => {
    flushCompileCache?.()
    now(status)
  })
}
