/** Fetching one released model to where `--model` finds it by name. */
import {rm, stat, writeFile} from 'node:fs/promises'
import {basename, dirname, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {assertFolderOf, atomicFile} from '../../system/atomic.js'
import {download, lockDownload, type DownloadProgress} from '../../system/download.js'
import {openReader} from '../../system/file-reader.js'
import {statedLength} from '../../system/http-request.js'
import {refuseLinksBelow} from '../../system/plain-file.js'
import {byteLimit, findReleased, modelsFolder, RELEASED_BASE, type Released} from './model-zoo.js'
import {makeFolders} from '../../system/make-folders.js'

/** Where a released file lies on its host. */
export const addressOf = (entry: Released, baseUrl: string): string => `${baseUrl.replace(/(?<!\/)\/+$/, '')}/${entry.path}`

export type PullRequest = {
  readonly name: string
  /**
   * A file, or a folder that exists; by default the folder of pulled models, where a model that is there already is
   * not fetched again.
   */
  readonly output?: string
  readonly baseUrl?: string
  readonly force?: boolean
  readonly dryRun?: boolean
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: DownloadProgress) => void
  /** Called before bytes are taken from another host than that of the address. */
  readonly onRedirect?: (host: string) => void
  /** Called once where another process is fetching the same file, which is waited for. */
  readonly onWait?: (sentence: string) => void
  /** Called before the first byte of a file that is not here is asked for. */
  readonly onBegin?: (file: {readonly url: string; readonly bytes: number | undefined}) => void
}

export type ModelPullReport = {
  readonly name: string
  readonly url: string
  readonly path: string
  readonly licence: string
  /** Unknown under dry run where neither this program nor the server states it. */
  readonly bytes: number | undefined
  /** False when it was here already, or under dry run. */
  readonly fetched: boolean
  /** SHA-256 of what was fetched. */
  readonly sha256?: string
  /**
   * Whether the checksum was written down at this download because none was known beforehand, so that it proves
   * nothing yet.
   */
  readonly recorded?: boolean
}

/**
 * Fetches one released file; what was fetched is checked for length, for its checksum where that is known, and for
 * being a file of torch.save at all.
 *
 * Throws `UserError`: no such model (exit 2), the named output exists without `force` (exit 2), and as `download`.
 */
export async function pullModel(request: PullRequest): Promise<ModelPullReport> {
  const {name, output, baseUrl = RELEASED_BASE, force, dryRun, signal, onProgress, onRedirect, onWait, onBegin} = request
  const entry = findReleased(name)
  if (!entry) throw new UserError(`${name} is no released model.`, {exit: 2, code: 'NO_MODEL', hint: 'Their names: dinov2 models list'})
  const folder = output === undefined ? modelsFolder() : (await isFolder(output)) ? output : undefined
  const path = folder === undefined ? output! : join(folder, entry.file)
  const url = addressOf(entry, baseUrl)
  const report = {name: entry.name, url, path, licence: entry.licence}
  const findHere = async (): Promise<ModelPullReport | undefined> => {
    const found = await stat(path).catch(() => undefined)
    if (found?.isFile() && output === undefined && !force) return {...report, bytes: found.size, fetched: false}
    if (found && !force)
      throw new UserError(`${path} exists already.`, {
        exit: 2,
        code: 'OUTPUT_EXISTS',
        hint: 'Give another name, or replace it: dinov2 models pull … --force'
      })
    return undefined
  }
  const here = await findHere()
  if (here) return here
  if (output !== undefined) assertFolderOf(path)
  const length = (): Promise<number | undefined> => (entry.bytes === undefined ? statedLength(url, signal) : Promise.resolve(entry.bytes))
  if (dryRun) return {...report, bytes: await length(), fetched: false}

  if (output === undefined) await makeFolders(modelsFolder())
  await refuseLinksBelow(dirname(path), `${path}.sha256`)
  const lock = await lockDownload(path, {signal, onWait})
  try {
    const meanwhile = await findHere() // another process has fetched it
    if (meanwhile) return meanwhile
    if (onBegin) onBegin({url, bytes: await length()})
    const {bytes, sha256} = await download(url, path, {
      lock,
      onProgress,
      onRedirect,
      force,
      expectedBytes: entry.bytes,
      maxBytes: byteLimit(entry),
      sha256: entry.sha256,
      signal
    })
    await checkKind(path, url)
    const recorded = entry.sha256 === undefined
    if (recorded) await atomicFile(`${path}.sha256`, file => writeFile(file, `${sha256}  ${basename(path)}\n`), {force: true})
    return {...report, bytes, sha256, recorded, fetched: true}
  } finally {
    await lock.release()
  }
}

export const isFolder = async (path: string): Promise<boolean> => (await stat(path).catch(() => undefined))?.isDirectory() ?? false

/** A host may answer with a page of its own in place of the file; such a thing is not kept. */
async function checkKind(path: string, url: string): Promise<void> {
  const file = await openReader(path)
  const head = await file.read(0, Math.min(file.size, 4)).finally(() => file.close())
  const known = Buffer.from(head).toString('latin1') === 'PK\x03\x04' || head[0] === 0x80 // zip, or a pickle of before PyTorch 1.6
  if (known) return
  await rm(path, {force: true})
  throw new UserError(`${url} answered with something that is no ${basename(path)}; it was not kept.`, {
    code: 'NOT_A_MODEL',
    hint: 'A proxy or a page to sign in may stand between. Fetch the file by other means and name it instead.'
  })
}
