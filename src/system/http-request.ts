/**
 * One request to a host that is not trusted: redirections are followed by hand, silence has an end, and every failure
 * is either worth another try (`Interrupted`) or a sentence.
 */
import {UserError} from '../config/errors.js'

/** Redirections that are followed, as browsers and curl limit them. */
const MAX_REDIRECTS = 10

/** A connection that broke or a server that asked for patience: worth another try. */
export class Interrupted extends Error {}

const isAddress = ({protocol, username, password}: URL): boolean => /^https?:$/.test(protocol) && username === '' && password === ''

/** Refuses what is no address of a file on a host, or carries a name and a password (`UserError`, exit 2). */
export function assertAddress(url: string): void {
  if (URL.canParse(url) && /^https?:\/\//.test(url) && isAddress(new URL(url))) return
  throw new UserError(
    `Expected an http or https address without a name and a password but received ${JSON.stringify(url.slice(0, 200))}.`,
    {
      exit: 2,
      code: 'BAD_ADDRESS',
      hint: 'For example https://host.example/folder.'
    }
  )
}

/**
 * Asks for `url` and follows redirections by hand, so that each host is known before a byte of its body is read.
 */
export async function request(
  url: string,
  {headers, signal, method}: {readonly headers: Record<string, string>; readonly signal: AbortSignal; readonly method?: 'HEAD'},
  onRedirect?: (host: string) => void
): Promise<Response> {
  let at = new URL(url)
  for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
    const response = await fetch(at.href, {headers, signal, method, redirect: 'manual'})
    const location = response.headers.get('location')
    if (response.status < 300 || response.status > 399 || response.status === 304 || location === null) return response
    await response.body?.cancel()
    const next = URL.canParse(location, at.href) ? new URL(location, at.href) : undefined
    if (next === undefined || !isAddress(next) || (at.protocol === 'https:' && next.protocol === 'http:'))
      throw new UserError(`${url} is redirected to ${JSON.stringify(location.slice(0, 200))}, which is not followed.`, {
        code: 'REDIRECT',
        hint: 'Expected an http or https address, and https where the first was https. Fetch the file by other means and name it instead.'
      })
    if (next.host !== at.host) onRedirect?.(next.host)
    at = next
  }
  throw new UserError(`${url} is redirected more than ${MAX_REDIRECTS} times.`, {
    code: 'REDIRECT',
    hint: 'Its host is set up wrongly. Fetch the file by other means and name it instead.'
  })
}

/** The bytes that a host states for a file; undefined where it states none or does not answer in 10 seconds. */
export async function statedLength(url: string, outer?: AbortSignal): Promise<number | undefined> {
  const {signal, stop} = idleSignal(10, outer)
  try {
    const headers = {'accept-encoding': 'identity', 'user-agent': 'dinov2'}
    const response = await request(url, {headers, signal, method: 'HEAD'})
    const length = response.ok ? response.headers.get('content-length') : null
    return length !== null && /^\d+$/.test(length) ? Number(length) : undefined
  } catch {
    outer?.throwIfAborted()
    return undefined
  } finally {
    stop()
  }
}

/** Fewer bytes than `bytes` in `seconds` are as good as none. */
export type LeastRate = {readonly bytes: number; readonly seconds: number}

type IdleSignal = {readonly signal: AbortSignal; alive(bytes?: number): void; stop(): void}

/**
 * A signal that aborts after so many seconds without `alive()`, where fewer bytes than `least` have been told to it in
 * a stretch of that length, counted from the first call on, or when `outer` does.
 */
export function idleSignal(seconds: number, outer?: AbortSignal, least: LeastRate = {bytes: 60 << 10, seconds: 60}): IdleSignal {
  const controller = new AbortController()
  const give = (): void => controller.abort(new Interrupted(`its host sent nothing for ${seconds} seconds`))
  let timer = setTimeout(give, 1000 * seconds)
  let [stretch, came] = [undefined as NodeJS.Timeout | undefined, 0]
  const judge = (): void => {
    if (came < least.bytes) controller.abort(new Interrupted(`its host sent only ${came} bytes in ${least.seconds} seconds`))
    came = 0
  }
  return {
    signal: outer ? AbortSignal.any([outer, controller.signal]) : controller.signal,
    alive(bytes = 0) {
      clearTimeout(timer)
      timer = setTimeout(give, 1000 * seconds)
      stretch ??= setInterval(judge, 1000 * least.seconds)
      came += bytes
    },
    stop() {
      clearTimeout(timer)
      clearInterval(stretch)
    }
  }
}

export function refusal(url: string, {status, statusText, ok}: Response): Error {
  if (ok)
    return new UserError(`${url} was answered without a file (${status} ${statusText}).`, {
      code: 'REFUSED',
      hint: 'Expected 200 and its bytes. A proxy may stand between; fetch the file by other means and name it instead.'
    })
  if (status >= 500 || status === 429 || status === 408) return new Interrupted(`the server answered ${status} ${statusText}`.trimEnd())
  if (status === 404 || status === 410)
    return new UserError(`${url} does not exist there (${status}).`, {code: 'NOT_FOUND', hint: 'The host may have moved the file.'})
  return new UserError(`${url} was refused by its host (${status} ${statusText}).`, {
    code: 'REFUSED',
    hint: 'It may need an account, or a proxy stands between.'
  })
}

/**
 * Whether the rest of a file that a host sends belongs to another version than the part that is there: hosts may pass
 * over `If-Range`. A whole file is no rest.
 */
export function hasChanged(
  {etag, date, total}: {readonly etag?: string | undefined; readonly date?: string | undefined; readonly total?: number | undefined},
  {status, headers}: Response
): boolean {
  if (status !== 206) return false
  const length = /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1]
  if (total !== undefined && length !== undefined && Number(length) !== total) return true
  const [newTag, newDate] = [headers.get('etag'), headers.get('last-modified')]
  if (etag !== undefined && newTag !== null) return etag !== newTag
  return date !== undefined && newDate !== null && date !== newDate
}

/** What a failed request says about itself, from the cause that `fetch` wraps. */
export function describe(error: unknown): string {
  if (error instanceof Interrupted) return error.message
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const code = (cause as {code?: string}).code
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return 'its host name could not be resolved, so there is probably no network'
  if (code === 'ECONNREFUSED') return 'its host refused the connection'
  if (code === 'ECONNRESET' || code === 'UND_ERR_SOCKET') return 'the connection broke off'
  if (code?.includes('TIMEOUT') || code === 'ETIMEDOUT') return 'its host did not answer in time'
  return cause instanceof Error ? cause.message : String(cause)
}
