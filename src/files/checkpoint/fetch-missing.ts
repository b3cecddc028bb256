/** Downloading a model that was named and is not on this machine, where the command that runs permits it. */
import {mkdir, stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {lockOutput} from '../../system/lock.js'
import {permittedDownloads, type PermittedDownloads} from '../../system/permitted-downloads.js'
import {hubFolder, isHubId} from './hub-cache.js'
import {findReleased, modelsFolder} from './model-zoo.js'
import type {ModelPullReport, PullRequest} from './pull-model.js'

/**
 * Fetches a released file or a model of the hub as `models pull` does; → whether it is there now. Nothing is fetched
 * without permission, under `HF_HUB_OFFLINE`, or where the first part of the name is a folder here: that is the path
 * of a file that was mistyped, which should not be sent to the hub. Throws as `pullModel` and `pullHubModel`.
 */
export async function fetchMissing(name: string): Promise<boolean> {
  const downloads = permittedDownloads()
  if (!downloads) return false
  const {isOffline} = await import('./pull-hub-model.js')
  if (isOffline()) return false
  const released = findReleased(name)
  if (!released && (!isHubId(name) || (await stat(name.split('/')[0]!).catch(() => undefined)))) return false
  const {pullModel} = await import('./pull-model.js')
  const folder = released ? modelsFolder() : hubFolder()
  if (downloads.dryRun)
    throw new UserError(
      `${name} is not on this machine; without --dry-run it would be downloaded first (${length(released?.bytes)}) to ${folder}.`,
      {
        exit: 3,
        code: 'NO_INPUT',
        hint: `To see the rest of the plan, fetch it with \`dinov2 models pull ${name}\`.`
      }
    )
  await mkdir(folder, {recursive: true})
  const lock = await lockOutput(join(folder, name.replaceAll('/', '--')), name)
  try {
    await downloads.whileStoppable(signal => fetchNow(name, folder, downloads, signal))
    return true
  } finally {
    await lock.release()
  }
}

async function fetchNow(name: string, folder: string, {note, show}: PermittedDownloads, signal: AbortSignal): Promise<void> {
  const baseUrl = process.env['DINOV2_BASE_URL'] || undefined
  const onRedirect = (host: string): void => note(`${name} is redirected to ${host}`)
  const {pullModel} = await import('./pull-model.js')
  const {pullHubModel} = await import('./pull-hub-model.js')
  const pull = (more: Partial<PullRequest>): Promise<ModelPullReport> =>
    findReleased(name)
      ? pullModel({name, baseUrl, signal, onRedirect, ...more})
      : pullHubModel({id: name, signal, onRedirect, ...more}).catch((error: unknown) => notFetched(name, error))
  const {url, bytes} = await pull({dryRun: true})
  note(`${name} is not on this machine: it is downloaded from ${url} (${length(bytes)}) to ${folder}`)
  const bar = show(name)
  await pull({onProgress: ({bytes: done, total}) => bar.update(done, total)}).finally(() => bar.stop())
}

/** Bytes as people say them. */
const length = (bytes: number | undefined): string =>
  bytes === undefined ? 'length unknown' : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`

/** Says of a name that may be a mistyped path that it is no file either. Throws the error, with that in front. */
function notFetched(name: string, error: unknown): never {
  if (!(error instanceof UserError)) throw error
  throw new UserError(`${name} is no file or folder here, and could not be fetched from the Hugging Face hub: ${error.message}`, {
    exit: error.exit,
    code: error.code,
    hint: error.hint ?? 'Check the spelling, or name a file.',
    cause: error
  })
}
