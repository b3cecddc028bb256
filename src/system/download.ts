/**
 * One file from an address to the disk: resumed where an earlier try stopped, checked, and only then given its name.
 *
 * While bytes arrive they lie in `TARGET.part`; what the server said of the file (address, ETag or date, length) lies
 * beside it in `TARGET.part.json`, so that a later call goes on only with bytes of the same version. The target itself
 * is whole or absent at every moment.
 */
import {createHash} from 'node:crypto'
import {createReadStream} from 'node:fs'
import {open, readFile, rename, rm, stat, statfs, writeFile} from 'node:fs/promises'
import {dirname} from 'node:path'
import {setTimeout as pause} from 'node:timers/promises'
import {UserError} from '../config/errors.js'

export type DownloadProgress = {
  /** Bytes on the disk so far, those of an earlier try included. */
  readonly bytes: number
  /** Length of the whole file in bytes, where the server or the caller knows it. */
  readonly total: number | undefined
}

export type DownloadOptions = {
  readonly onProgress?: (progress: DownloadProgress) => void
  /** Length that the file must have; another one is refused. */
  readonly expectedBytes?: number
  /** SHA-256 in hexadecimal; another one is refused and the bytes are thrown away. */
  readonly sha256?: string
  readonly signal?: AbortSignal
  /** Replace a target that is there already. */
  readonly force?: boolean
  /** Tries in all when the connection drops or the server answers 5xx; each goes on where the last stopped. */
  readonly attempts?: number
}

type Note = {url: string; etag?: string; date?: string; total?: number}

/** A connection that broke or a server that asked for patience: worth another try. */
class Interrupted extends Error {}

/**
 * Fetches `url` into `target` and returns its length in bytes.
 *
 * Throws `UserError`: target exists (exit 2), address not found or refused, no network, length or checksum other than
 * stated, no room on the disk (exit 1). An abort of `signal` throws its reason and leaves the part for the next call.
 */
export async function download(url: string, target: string, options: DownloadOptions = {}): Promise<{bytes: number}> {
  const {sha256, signal, force = false, attempts = 4} = options
  if (!force && (await size(target)) !== undefined)
    throw new UserError(`${target} exists already.`, {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Give another name, or --force to replace it.'})
  if (!/^https?:/.test(url)) throw new UserError(`Expected an http or https address but received ${url}.`, {exit: 2, code: 'BAD_ADDRESS'})
  const part = `${target}.part`
  for (let attempt = 1; ; attempt++) {
    signal?.throwIfAborted()
    try {
      await transfer(url, target, options)
      break
    } catch (error) {
      signal?.throwIfAborted()
      if (!(error instanceof Interrupted)) throw error
      if (attempt < attempts) {
        await pause(Math.min(250 * 4 ** (attempt - 1), 8000), undefined, {signal})
        continue
      }
      const had = await size(part)
      throw new UserError(`${url} could not be fetched: ${error.message}.`, {
        code: 'DOWNLOAD_FAILED',
        hint: had
          ? `${had} bytes are kept in ${part}; the same command goes on from there.`
          : 'Is this machine connected? Or fetch the file by other means and name it instead.',
        cause: error
      })
    }
  }
  const bytes = (await size(part))!
  if (sha256 !== undefined) {
    const found = await checksum(part, signal)
    if (found !== sha256.toLowerCase()) {
      await discard(part)
      throw new UserError(`${url} has SHA-256 ${found}, but ${sha256} was expected; it was not kept.`, {
        code: 'CHECKSUM',
        hint: 'The transfer went wrong or the file has changed at its host. Try again.'
      })
    }
  }
  await rename(part, target)
  await rm(`${part}.json`, {force: true})
  await syncFolder(dirname(target))
  return {bytes}
}

/** One request; the part is complete and synced when this returns. */
async function transfer(url: string, target: string, {onProgress, expectedBytes, sha256, signal}: DownloadOptions): Promise<void> {
  const part = `${target}.part`
  const note = await readNote(part)
  let start = 0
  const headers: Record<string, string> = {'accept-encoding': 'identity', 'user-agent': 'dinov2'}
  const validator = note?.etag ?? note?.date
  if (note?.url === url && (validator !== undefined || sha256 !== undefined)) {
    start = (await size(part)) ?? 0
    const whole = note.total ?? expectedBytes
    if (whole !== undefined && start === whole) return
    if (whole !== undefined && start > whole) start = 0
    if (start > 0) headers.range = `bytes=${start}-`
    if (start > 0 && validator !== undefined) headers['if-range'] = validator
  }

  const response = await fetch(url, {headers, signal}).catch((error: unknown) => {
    throw new Interrupted(describe(error), {cause: error})
  })
  if (response.status === 416) {
    await response.body?.cancel()
    await discard(part)
    throw new Interrupted('the server could not go on where the last try stopped')
  }
  if (!response.ok) {
    await response.body?.cancel()
    throw refusal(url, response)
  }
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
  if (response.status === 206 && Number(range?.[1]) !== start) {
    await response.body?.cancel()
    await discard(part)
    throw new Interrupted('the server sent another piece than was asked for')
  }
  if (response.status !== 206) start = 0
  const length = response.headers.get('content-length')
  const announced = range?.[2] !== undefined && range[2] !== '*' ? Number(range[2]) : length === null ? undefined : start + Number(length)
  if (expectedBytes !== undefined && announced !== undefined && announced !== expectedBytes) {
    await response.body?.cancel()
    await discard(part)
    throw new UserError(`${url} is ${announced} bytes long, but ${expectedBytes} were expected; it was not kept.`, {
      code: 'WRONG_SIZE',
      hint: 'The file has changed at its host, or a proxy answers in its place.'
    })
  }
  const total = announced ?? expectedBytes
  if (total !== undefined) await checkRoom(target, total - start)

  const etag = response.headers.get('etag')
  const next: Note = {
    url,
    etag: etag && !etag.startsWith('W/') ? etag : undefined,
    date: response.headers.get('last-modified') ?? undefined,
    total
  }
  await writeFile(`${part}.json`, JSON.stringify(next)).catch((error: unknown) => writeFailed(part, error))
  const file = await open(part, start > 0 ? 'a' : 'w').catch((error: unknown) => writeFailed(part, error))
  let bytes = start
  try {
    onProgress?.({bytes, total})
    const reader = response.body!.getReader()
    for (;;) {
      const {done, value} = await reader.read().catch((error: unknown) => {
        throw new Interrupted(describe(error), {cause: error})
      })
      if (done) break
      await file.appendFile(value).catch((error: unknown) => writeFailed(part, error))
      bytes += value.byteLength
      onProgress?.({bytes, total})
    }
    await file.sync()
  } finally {
    await file.close()
  }
  if (total === undefined || bytes === total) return
  if (bytes < total) throw new Interrupted(`the connection ended after ${bytes} of ${total} bytes`)
  await discard(part)
  throw new UserError(`${url} sent ${bytes} bytes, but ${total} were expected; it was not kept.`, {code: 'WRONG_SIZE'})
}

function refusal(url: string, {status, statusText}: Response): Error {
  if (status >= 500 || status === 429 || status === 408) return new Interrupted(`the server answered ${status} ${statusText}`.trimEnd())
  if (status === 404 || status === 410)
    return new UserError(`${url} does not exist there (${status}).`, {code: 'NOT_FOUND', hint: 'The host may have moved the file.'})
  return new UserError(`${url} was refused by its host (${status} ${statusText}).`, {
    code: 'REFUSED',
    hint: 'It may need an account, or a proxy stands between.'
  })
}

/** What a failed request says about itself, from the cause that `fetch` wraps. */
function describe(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error
  const code = (cause as {code?: string}).code
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return 'its host name could not be resolved, so there is probably no network'
  if (code === 'ECONNREFUSED') return 'its host refused the connection'
  if (code === 'ECONNRESET' || code === 'UND_ERR_SOCKET') return 'the connection broke off'
  if (code?.includes('TIMEOUT') || code === 'ETIMEDOUT') return 'its host did not answer in time'
  return cause instanceof Error ? cause.message : String(cause)
}

function writeFailed(part: string, error: unknown): never {
  const code = (error as {code?: string}).code
  if (code === 'ENOSPC' || code === 'EDQUOT')
    throw new UserError(`No room left on the disk for ${part}.`, {
      code: 'DISK_FULL',
      hint: 'Free some space; the same command then goes on from there.',
      cause: error
    })
  if (code === 'ENOENT') throw new UserError(`The folder of ${part} does not exist.`, {exit: 2, code: 'NO_FOLDER', cause: error})
  throw new UserError(`${part} could not be written: ${error instanceof Error ? error.message : String(error)}.`, {
    code: 'WRITE',
    cause: error
  })
}

async function checkRoom(target: string, needed: number): Promise<void> {
  const disk = await statfs(dirname(target)).catch(() => undefined)
  const free = disk && disk.bavail * disk.bsize
  if (free !== undefined && free < needed)
    throw new UserError(`${target} needs ${needed} more bytes, but only ${free} are free on its disk.`, {
      code: 'DISK_FULL',
      hint: 'Free some space or choose another place.'
    })
}

async function readNote(part: string): Promise<Note | undefined> {
  try {
    const note: unknown = JSON.parse(await readFile(`${part}.json`, 'utf8'))
    return typeof note === 'object' && note !== null && 'url' in note ? (note as Note) : undefined
  } catch {
    return undefined // absent, or cut short by a kill: start anew
  }
}

async function checksum(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, {highWaterMark: 1 << 20, signal})) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

async function discard(part: string): Promise<void> {
  await rm(part, {force: true})
  await rm(`${part}.json`, {force: true})
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  await folder.sync().catch(() => undefined) // not every file system can sync a folder
  await folder.close()
}

const size = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size
