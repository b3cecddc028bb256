/** Downloading a model that was named and is not on this machine, where the command that runs permits it. */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {bytesText, permittedDownloads, PlannedDownload, type PermittedDownloads} from '../../system/permitted-downloads.js'
import {hubFolder, isHubId} from './hub-cache.js'
import {findReleased, modelsFolder, type Released} from './model-zoo.js'
import type {ModelPullReport, PullRequest} from './pull-model.js'

/** Whether a name that is not here may be fetched now. */
export async function mayFetch(name: string): Promise<boolean> {
  if (!permittedDownloads()) return false
  const {isOffline} = await import('./pull-hub-model.js')
  if (isOffline()) return false
  return findReleased(name) !== undefined || (isHubId(name) && !(await stat(name.split('/')[0]!).catch(() => undefined)))
}

/**
 * Fetches a released file or a model of the hub as `models pull` does; → whether it is there now. Nothing is fetched
 * without permission, under `HF_HUB_OFFLINE`, or where the first part of the name is a folder here: that is the path
 * of a file that was mistyped, which should not be sent to the hub. Throws as `pullModel` and `pullHubModel`, and
 * `PlannedDownload` under `--dry-run`.
 */
export async function fetchMissing(name: string): Promise<boolean> {
  const downloads = permittedDownloads()
  if (!downloads || !(await mayFetch(name))) return false
  await downloads.whileStoppable(signal => fetchNow(name, downloads, signal))
  return true
}

/**
 * The file that a name means: a file of that name, else a released one of the wanted kinds where pulled models lie,
 * which is fetched where it is missing. → undefined where it is neither. Throws `UserError` (exit 3) where a released
 * file is missing and may not be fetched, and as `fetchMissing`.
 */
export async function findModelFile(name: string, kinds: readonly Released['kind'][]): Promise<string | undefined> {
  if (await stat(name).catch(() => undefined)) return name
  const released = findReleased(name)
  if (!released || !kinds.includes(released.kind)) return undefined
  const pulled = join(modelsFolder(), released.file)
  if ((await stat(pulled).catch(() => undefined)) || (await fetchMissing(name))) return pulled
  const what = released.kind === 'backbone' ? 'model' : 'head'
  throw new UserError(`The released ${what} ${released.name} is not on this machine.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: `Fetch it with \`dinov2 models pull ${released.name}\`.`
  })
}

/** Fetches, or under `--dry-run` throws what would be fetched. */
async function fetchNow(name: string, {note, show, dryRun}: PermittedDownloads, signal: AbortSignal): Promise<void> {
  const {pullModel} = await import('./pull-model.js')
  const {pullHubModel} = await import('./pull-hub-model.js')
  const baseUrl = process.env['DINOV2_BASE_URL'] || undefined
  const pull = (more: Partial<PullRequest>): Promise<ModelPullReport> =>
    findReleased(name)
      ? pullModel({name, baseUrl, signal, ...more})
      : pullHubModel({id: name, signal, ...more}).catch((error: unknown) => notFetched(name, error))
  const folder = findReleased(name) ? modelsFolder() : hubFolder()
  if (dryRun) {
    const {url, bytes} = await pull({dryRun})
    throw new PlannedDownload({model: name, url, bytes, folder})
  }
  let bar: ReturnType<PermittedDownloads['show']> | undefined
  await pull({
    onBegin({url, bytes}) {
      note(`${name} is not on this machine: it is downloaded from ${url} (${bytesText(bytes)}) to ${folder}`)
      bar = show(name)
    },
    onRedirect: host => note(`${name} is redirected to ${host}`),
    onWait: note,
    onProgress: ({bytes, total}) => bar?.update(bytes, total)
  }).finally(() => bar?.stop())
}

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
