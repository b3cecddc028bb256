/**
 * Turns whatever was thrown into what is said on stderr, what `--json` carries, and the exit status.
 *
 * Two kinds only: what the user can mend (a sentence, a way out, no stack) and what is a defect of ours (status 70,
 * the stack, a request to report it). Failures of the system underneath (no space, no permission, no such file) are of
 * the first kind.
 */
import {UserError} from '../config/errors.js'
import {writeError} from '../system/write-error.js'
import {memoryShortage} from './memory-shortage.js'

export {UserError} from '../config/errors.js'

export type Report = {
  readonly exit: number
  /** Lines for stderr. */
  readonly lines: readonly string[]
  /** The object under `error` of `--json`. */
  readonly error: {readonly code: string; readonly message: string; readonly hint?: string}
}

/** Error codes of the system that say something about the user's machine, not about our code. */
const systemCodes = new Set(
  'EACCES EPERM ENOENT ENOSPC EDQUOT EROFS EIO EFBIG EISDIR ENOTDIR ENOTEMPTY EMFILE ENFILE ENAMETOOLONG ELOOP EBUSY ETXTBSY ENODEV ENXIO EXDEV EEXIST EAGAIN ETIMEDOUT ECONNREFUSED ECONNRESET ENOTFOUND EAI_AGAIN'.split(
    ' '
  )
)
const systemHints: Readonly<Record<string, string>> = {
  ENOSPC: 'Free some space, or write elsewhere with --output.',
  EDQUOT: 'Free some space, or write elsewhere with --output.',
  EFBIG: 'The system limits the size of files here: see ulimit -f.',
  EACCES: 'Check who may read or write it.',
  EMFILE: 'Raise the limit on open files: ulimit -n 4096.',
  EROFS: 'The file system is read-only; write elsewhere with --output.'
}

/** Where defects are reported; the address is the one in package.json when there is one. */
const request = (bin: string, version: string): string =>
  `This is a defect of ${bin}, not of your input. Please report it with the lines above, the command line and the version (${bin} ${version}, node ${process.version}).`

/** The command that runs. */
export type Running = {
  readonly stopped?: number | undefined
  readonly bin: string
  readonly version: string
  /** The names of its flags. */
  readonly flags?: readonly string[]
}

/**
 * A hint with the flags named as this command names them: where stages run in one pipeline, `--levels` of a stage is
 * `--cluster-levels`.
 */
const namedAsHere = (hint: string, flags: readonly string[]): string =>
  hint.replaceAll(/(dinov2 [^,;:.]*)?--([a-z][a-z0-9-]*)/g, (all: string, command: string | undefined, name: string) => {
    if (command !== undefined || flags.includes(name)) return all
    const longer = flags.filter(flag => flag.endsWith(`-${name}`) && flag !== `no-${name}`)
    return longer.length > 0 ? longer.map(flag => `--${flag}`).join(' or ') : all
  })

/**
 * What to say of `thrown`. `stopped` is the status of a signal that came before: an interruption is no failure, and
 * its errors are not shown.
 */
export function report(thrown: unknown, {stopped, bin, version, flags = []}: Running): Report {
  const error = originOf(thrown instanceof Error ? thrown : new Error(String(thrown)))
  const {code, oclif} = error as Error & {code?: unknown; oclif?: {exit?: number}}
  if (code === 'EEXIT') return {exit: oclif?.exit ?? 0, lines: [], error: {code: 'EXIT', message: error.message}}
  if (code === 'EPIPE') return {exit: 0, lines: [], error: {code: 'EPIPE', message: error.message}}
  if (stopped !== undefined && isInterruption(error)) {
    return {exit: stopped, lines: [], error: {code: 'STOPPED', message: stopped === 130 ? 'Stopped by SIGINT.' : 'Stopped by SIGTERM.'}}
  }
  if (error instanceof UserError)
    return mendable(stopped ?? error.exit, error.code, error.message, error.hint && namedAsHere(error.hint, flags))
  const {path, syscall} = error as NodeJS.ErrnoException
  const place = path ?? (syscall === 'write' ? 'stdout' : undefined) // all other writers name what they write
  const named = place === undefined ? undefined : writeError(place, error)
  if (named instanceof UserError) return mendable(stopped ?? named.exit, named.code, named.message, named.hint)
  const shortage = memoryShortage(error, flags)
  if (shortage) return mendable(stopped ?? 5, 'NO_MEMORY', shortage.message, shortage.hint)
  if (typeof code === 'string' && systemCodes.has(code))
    return mendable(stopped ?? 1, code, systemSentence(error as NodeJS.ErrnoException), systemHints[code])
  const stack = error.stack ?? error.message
  const because = error.cause instanceof Error ? [`caused by ${error.cause.stack ?? error.cause.message}`] : []
  const hint = request(bin, version)
  return {exit: 70, lines: [stack, ...because, hint], error: {code: 'DEFECT', message: error.message, hint}}
}

/** Where letting go of something failed too, the error that came first. */
function originOf(error: Error): Error {
  const {suppressed} = error as {suppressed?: unknown}
  return error.name === 'SuppressedError' && suppressed instanceof Error ? originOf(suppressed) : error
}

const isInterruption = (error: Error): boolean =>
  error.name === 'AbortError' ||
  error.message === 'SIGINT' ||
  error.message === 'SIGTERM' ||
  ['ABORT_ERR', 'ERR_STREAM_PREMATURE_CLOSE'].includes((error as {code?: string}).code ?? '')

function mendable(exit: number, code: string, message: string, hint: string | undefined): Report {
  const lines = [`error: ${message}`, ...(hint ? [`  ${hint.replaceAll('\n', '\n  ')}`] : [])]
  return {exit, lines, error: {code, message, ...(hint ? {hint} : {})}}
}

/** `ENOENT: no such file or directory, open 'x'` becomes `x: no such file or directory (open)`. */
function systemSentence(error: NodeJS.ErrnoException): string {
  const found = /^\w+: ([^,]+)/.exec(error.message)
  if (!found || !error.path) return error.message
  return `${error.path}: ${found[1]}${error.syscall ? ` (${error.syscall})` : ''}`
}
