/**
 * One file from an address to the disk: resumed where an earlier try stopped, checked, and only then given its name.
 *
 * While bytes arrive they lie in `TARGET.part`; what the server said of the file (address, ETag or date, length) lies
 * beside it in `TARGET.part.json`, so that a later call goes on only with bytes of the same version. One process at a
 * time fetches a target; others wait for it. The target itself is whole or absent at every moment.
 */
import {createHash} from 'node:crypto'
import {open, rename, rm, stat, writeFile} from 'node:fs/promises'
import {dirname} from 'node:path'
import {setTimeout as pause} from 'node:timers/promises'
import {UserError} from '../config/errors.js'
import {assertFolderOf, syncFolder} from './atomic.js'
import {jsonObjectOr, type JsonObject} from './json.js'
import {awaitOutput, type Lock, type WaitOptions} from './lock.js'
import {checkRoom, isNoRoom} from './no-room.js'
import {fileBytes, readText, refuseLinksBelow} from './plain-file.js'
import {assertAddress, describe, hasChanged, idleSignal, Interrupted, refusal, request, type LeastRate} from './http-request.js'

export type DownloadProgress = {
  /** Bytes on the disk so far, those of an earlier try included. */
  readonly bytes: number
  /** Length of the whole file in bytes, where the server or the caller knows it. */
  readonly total: number | undefined
}

export type DownloadOptions = WaitOptions & {
  readonly onProgress?: (progress: DownloadProgress) => void
  /** Length that the file must have; another one is refused, and not a byte more is taken from the server. */
  readonly expectedBytes?: number
  /** Most bytes that are taken where neither the caller nor the server knows the length. Default 64 GiB. */
  readonly maxBytes?: number
  /** Seconds without an answer or a byte after which a try is given up. Default 30. */
  readonly idleSeconds?: number
  readonly least?: LeastRate // fewer bytes in a stretch of time end a try as well; by default 60 KiB in a minute
  /** Called before bytes are taken from another host than that of the address. */
  readonly onRedirect?: (host: string) => void
  /** SHA-256 in hexadecimal; another one is refused and the bytes are thrown away. */
  readonly sha256?: string
  readonly lock?: Lock // what `lockDownload` gave; the caller releases it
  /** Replace a target that is there already. */
  readonly force?: boolean
  /** Tries in all when the connection drops or the server answers 5xx; each goes on where the last stopped. */
  readonly attempts?: number
}

type Note = {url: string; etag?: string; date?: string; total?: number}

/**
 * Fetches `url` into `target` and returns its length in bytes and its SHA-256.
 *
 * The server is not trusted: redirections may lead to other hosts (each is reported first) but not from https to http
 * or to another scheme, a body that must be inflated is refused, and the known length, else `maxBytes`, is a cap from
 * the first byte on.
 *
 * Throws `UserError`: target exists, also by another process that was waited for (exit 2), address not found or
 * refused, another length or checksum than stated, no room on the disk (exit 1). An abort of `signal` throws its
 * reason and leaves the part for the next call.
 */
export async function download(url: string, target: string, options: DownloadOptions = {}): Promise<{bytes: number; sha256: string}> {
  assertAddress(url)
  await assertAbsent(target, options)
  assertFolderOf(target)
  const lock = options.lock ?? (await lockDownload(target, options))
  try {
    await assertAbsent(target, options)
    return await fetchAndCheck(url, target, options)
  } finally {
    if (!options.lock) await lock.release()
  }
}

/** Takes `target` for a download, and waits while another process fetches it. Throws as `awaitOutput`. */
export const lockDownload = (target: string, options: WaitOptions): Promise<Lock> => awaitOutput(`${target}.part`, target, options)

async function assertAbsent(target: string, {force = false}: DownloadOptions): Promise<void> {
  if (!force && (await size(target)) !== undefined)
    throw new UserError(`${target} exists already.`, {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Give another name, or --force to replace it.'})
}

async function fetchAndCheck(url: string, target: string, options: DownloadOptions): Promise<{bytes: number; sha256: string}> {
  const {sha256, signal, attempts = 4} = options
  const part = `${target}.part`
  for (const path of [part, `${part}.json`]) await refuseLinksBelow(dirname(path), path)
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
  const found = await checksum(part, signal)
  if (sha256 !== undefined && found !== sha256.toLowerCase()) {
    await discard(part)
    throw new UserError(`${url} has SHA-256 ${found}, but ${sha256} was expected; it was not kept.`, {
      code: 'CHECKSUM',
      hint: 'The transfer went wrong or the file has changed at its host. Try again.'
    })
  }
  await rename(part, target)
  await rm(`${part}.json`, {force: true})
  await syncFolder(dirname(target))
  return {bytes, sha256: found}
}

/** One try; the part is complete and synced when this returns. */
async function transfer(url: string, target: string, options: DownloadOptions): Promise<void> {
  const idle = idleSignal(options.idleSeconds ?? 30, options.signal, options.least)
  try {
    const {response, start} = await askFor(url, target, idle.signal, options)
    idle.alive()
    await receive(response, start, url, target, options, idle.alive)
  } finally {
    idle.stop()
  }
}

/** Asks for the file from where the part ends; → the answer, whose status was checked, and the offset it begins at. */
async function askFor(
  url: string,
  target: string,
  signal: AbortSignal,
  options: DownloadOptions
): Promise<{response: Response | undefined; start: number}> {
  const {expectedBytes, sha256} = options
  const part = `${target}.part`
  const note = await readNote(part)
  let start = 0
  const headers: Record<string, string> = {'accept-encoding': 'identity', 'user-agent': 'dinov2'}
  const validator = note?.etag ?? note?.date
  if (note?.url === url && (validator !== undefined || sha256 !== undefined)) {
    start = (await size(part)) ?? 0
    const whole = note.total ?? expectedBytes
    if (whole !== undefined && start === whole) return {response: undefined, start}
    if (whole !== undefined && start > whole) start = 0
    if (start > 0) headers['range'] = `bytes=${start}-`
    if (start > 0 && validator !== undefined) headers['if-range'] = validator
  }
  const response = await request(url, {headers, signal}, options.onRedirect).catch((error: unknown) => {
    throw error instanceof UserError ? error : new Interrupted(describe(error), {cause: error})
  })
  if (response.status === 416) {
    await response.body?.cancel()
    await discard(part)
    throw new Interrupted('the server could not go on where the last try stopped')
  }
  if (!response.ok || response.body === null) {
    await response.body?.cancel()
    throw refusal(url, response)
  }
  if (start > 0 && note && hasChanged(note, response)) {
    await response.body.cancel()
    await discard(part)
    throw new Interrupted('the file has changed at its host since the last try')
  }
  const coding = response.headers.get('content-encoding') ?? 'identity'
  if (coding !== 'identity') {
    await response.body?.cancel()
    throw new UserError(`${url} was sent compressed (${coding.slice(0, 40)}) although it was asked for as it is; it was not kept.`, {
      code: 'WRONG_ENCODING',
      hint: 'A proxy may stand between. Fetch the file by other means and name it instead.'
    })
  }
  return {response, start}
}

/** Writes the body of an answer behind the part; the known length, else the cap, holds from the first byte. */
async function receive(
  response: Response | undefined,
  asked: number,
  url: string,
  target: string,
  {onProgress, expectedBytes, maxBytes = 2 ** 36}: DownloadOptions,
  alive: (bytes: number) => void
): Promise<void> {
  if (response === undefined) return
  const part = `${target}.part`
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '')
  if (response.status === 206 && Number(range?.[1]) !== asked) {
    await response.body?.cancel()
    await discard(part)
    throw new Interrupted('the server sent another piece than was asked for')
  }
  const start = response.status === 206 ? asked : 0
  const length = response.headers.get('content-length')
  const announced = range?.[2] !== undefined && range[2] !== '*' ? Number(range[2]) : length === null ? undefined : start + Number(length)
  if (announced !== undefined && announced !== (expectedBytes ?? announced)) {
    await response.body?.cancel()
    await discard(part)
    throw new UserError(`${url} is ${announced} bytes long, but ${expectedBytes} were expected; it was not kept.`, {
      code: 'WRONG_SIZE',
      hint: 'The file has changed at its host, or a proxy answers in its place.'
    })
  }
  const total = expectedBytes ?? announced
  const cap = Math.min(total ?? maxBytes, maxBytes)
  const tooLong = async (found: string): Promise<never> => {
    await response.body?.cancel().catch(() => undefined)
    await discard(part)
    throw new UserError(`${url} ${found}; it was not kept.`, {
      code: 'WRONG_SIZE',
      hint: 'The file has changed at its host, or a proxy answers in its place.'
    })
  }
  if (total !== undefined && total > cap) await tooLong(`is ${total} bytes long, but at most ${cap} were expected`)
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
      alive(value.byteLength)
      if (bytes + value.byteLength > cap) {
        await reader.cancel().catch(() => undefined)
        reader.releaseLock()
        await tooLong(`sent more than the ${cap} bytes that were expected`)
      }
      await file.appendFile(value).catch((error: unknown) => writeFailed(part, error))
      bytes += value.byteLength
      onProgress?.({bytes, total})
    }
    await file.sync()
  } finally {
    await file.close()
  }
  if (total !== undefined && bytes < total) throw new Interrupted(`the connection ended after ${bytes} of ${total} bytes`)
}

function writeFailed(part: string, error: unknown): never {
  if (isNoRoom(error))
    throw new UserError(`No room left on the disk for ${part}.`, {
      code: 'DISK_FULL',
      hint: 'Free some space; the same command then goes on from there.',
      cause: error
    })
  if ((error as {code?: string}).code === 'ENOENT')
    throw new UserError(`The folder of ${part} does not exist.`, {exit: 2, code: 'NO_FOLDER', cause: error})
  throw new UserError(`${part} could not be written: ${(error as Error).message}.`, {code: 'WRITE', cause: error})
}

const isNote = (note: JsonObject): note is Note =>
  typeof note['url'] === 'string' &&
  ['etag', 'date'].every(key => note[key] === undefined || typeof note[key] === 'string') &&
  (note['total'] === undefined || Number.isSafeInteger(note['total']))

/** What is noted beside a part of a file of where it comes from; undefined where that is absent or damaged. */
export async function readNote(part: string): Promise<Note | undefined> {
  const note = jsonObjectOr(await readText(`${part}.json`).catch(() => undefined))
  return note && isNote(note) ? note : undefined
}

async function checksum(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of fileBytes(path)) {
    signal?.throwIfAborted()
    hash.update(chunk)
  }
  return hash.digest('hex')
}

async function discard(part: string): Promise<void> {
  await rm(part, {force: true})
  await rm(`${part}.json`, {force: true})
}

const size = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size
