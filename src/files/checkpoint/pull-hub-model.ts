/**
 * Fetching a model of the Hugging Face hub into the cache that its own tools keep: `blobs/` by checksum, `snapshots/`
 * of a commit as links to them, and `refs/` with the commit of a branch. `--model` and transformers find it there.
 *
 * Only the configuration, the preprocessing and safetensors are fetched. Each file is held against the length and the
 * checksum that the hub states for it, and the commit is named last, so that a model is there whole or not at all.
 */
import {createHash} from 'node:crypto'
import {mkdtemp, readlink, rename, rm, stat, symlink, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {dirname, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {hubFolder, parseHubId} from './hub-cache.js'
import {download} from '../../system/download.js'
import {isCount, isObject, readJsonObject, type JsonObject} from '../../system/json.js'
import {fileBytes} from '../../system/plain-file.js'
import {awaitOutput} from '../../system/lock.js'
import type {ModelPullReport, PullRequest} from './pull-model.js'
import {makeFolders} from '../../system/make-folders.js'

export type HubPullRequest = Omit<PullRequest, 'name' | 'output' | 'baseUrl'> & {
  readonly id: string
  /** Address of the hub; by default `HF_ENDPOINT`, else huggingface.co. */
  readonly endpoint?: string
}

type HubFile = {readonly name: string; readonly bytes: number; readonly sha256?: string; readonly blob: string}

const WANTED = /^(config\.json|preprocessor_config\.json|model[\w.-]*\.safetensors|model\.safetensors\.index\.json)$/
/** The description of a repository and small files are shorter. */
const MAX_JSON = 16 << 20

/** Whether `HF_HUB_OFFLINE` forbids to fetch. */
export const isOffline = (): boolean => /^(1|true|yes|on)$/i.test(process.env['HF_HUB_OFFLINE'] ?? '')

const unexpected = (id: string, what: string): UserError =>
  new UserError(`The hub's description of ${id} is not as expected: ${what}.`, {
    code: 'BAD_ANSWER',
    hint: 'A proxy or a page to sign in may stand between. Fetch the model by other means and name its folder.'
  })

/** A file of the description, where it is wanted. */
function fileOf(id: string, entry: unknown): HubFile[] {
  const {rfilename: name, size, blobId, lfs} = isObject(entry) ? entry : ({} as JsonObject)
  if (typeof name !== 'string' || !WANTED.test(name)) return []
  const sha256 = isObject(lfs) ? lfs['sha256'] : undefined
  const blob = sha256 ?? blobId
  if (!isCount(size) || typeof blob !== 'string' || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(blob))
    throw unexpected(id, `${name} has no length or no checksum`)
  return [{name, bytes: size, blob, sha256: typeof sha256 === 'string' ? sha256 : undefined}]
}

type HubModel = {readonly commit: string; readonly licence: string; readonly files: readonly HubFile[]}

/**
 * Reads the hub's description of a revision in a file: its commit, its licence, and the files that are wanted. Throws
 * `UserError` where it is not as expected, and where none of the wanted files hold a model.
 */
export async function readDescription(id: string, path: string): Promise<HubModel> {
  const {sha, siblings, cardData} = await readJsonObject(path, 'BAD_ANSWER')
  if (typeof sha !== 'string' || !/^[0-9a-f]{40}$/.test(sha)) throw unexpected(id, 'it names no commit')
  const files = (Array.isArray(siblings) ? siblings : []).flatMap(entry => fileOf(id, entry))
  const names = new Set(files.map(({name}) => name))
  if (!names.has('config.json') || !files.some(({name}) => name.endsWith('.safetensors')))
    throw new UserError(`${id} has no config.json with weights as safetensors, which is what is read.`, {exit: 2, code: 'NO_MODEL'})
  const licence = isObject(cardData) && typeof cardData['license'] === 'string' ? cardData['license'] : 'licence not stated'
  return {commit: sha, licence, files}
}

/** Asks the hub for its description of a revision. */
async function describeModel(id: string, address: string, {signal, onRedirect}: HubPullRequest): Promise<HubModel> {
  const folder = await mkdtemp(join(tmpdir(), 'dinov2-hub-'))
  const temporary = join(folder, 'description.json')
  try {
    await download(address, temporary, {maxBytes: MAX_JSON, force: true, signal, onRedirect})
    return await readDescription(id, temporary)
  } finally {
    await rm(folder, {recursive: true, force: true})
  }
}

/** Refuses a small file whose git checksum is another than the hub stated, and removes it. */
async function assertGitBlob(path: string, {name, blob, bytes}: HubFile): Promise<void> {
  const hash = createHash('sha1').update(`blob ${bytes}\0`)
  for await (const part of fileBytes(path)) hash.update(part)
  if (hash.digest('hex') === blob) return
  await rm(path, {force: true})
  throw new UserError(`${name} has another checksum than the hub states; it was not kept.`, {code: 'CHECKSUM', hint: 'Fetch it again.'})
}

const lengthOf = async (path: string): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size

/**
 * Fetches a model into the cache. Throws `UserError`: offline by `HF_HUB_OFFLINE`, no model of this architecture's
 * files, and as `download`.
 */
export async function pullHubModel(request: HubPullRequest): Promise<ModelPullReport> {
  const {id, dryRun, force, signal, onWait, onBegin} = request
  if (isOffline())
    throw new UserError(`${id} is not fetched, because HF_HUB_OFFLINE is set.`, {
      code: 'OFFLINE',
      hint: 'Unset it, or name a model that is here.'
    })
  const endpoint = (request.endpoint ?? (process.env['HF_ENDPOINT'] || 'https://huggingface.co')).replace(/(?<!\/)\/+$/, '')
  const {owner, name, revision} = parseHubId(id)
  const home = join(hubFolder(), `models--${owner}--${name}`)
  const url = `${endpoint}/${owner}/${name}`
  const description = `${endpoint}/api/models/${owner}/${name}/revision/${encodeURIComponent(revision)}?blobs=true`
  const {commit, licence, files} = await describeModel(id, description, request)
  const total = files.reduce((sum, {bytes}) => sum + bytes, 0)
  const weights = files.filter(file => file.name.endsWith('.safetensors'))
  const path = join(home, 'snapshots', commit)
  const report = {name: id, url, path, licence, bytes: total, sha256: weights.length === 1 ? weights[0]!.sha256 : undefined}
  if (dryRun) return {...report, fetched: false}

  await makeFolders(join(home, 'blobs'))
  await makeFolders(path)
  const lock = await awaitOutput(join(home, 'download'), id, {signal, onWait})
  try {
    const missing: HubFile[] = []
    for (const file of files) if (force || (await lengthOf(join(home, 'blobs', file.blob))) !== file.bytes) missing.push(file)
    if (missing.length > 0) onBegin?.({url, bytes: total})
    await fetchBlobs(missing, {...request, from: `${url}/resolve/${commit}`, folder: join(home, 'blobs'), total})
    for (const file of files) await linkTo(join('..', '..', 'blobs', file.blob), join(path, file.name))
    if (revision !== commit) await nameCommit(join(home, 'refs', ...revision.split('/')), commit)
    return {...report, fetched: missing.length > 0}
  } finally {
    await lock.release()
  }
}

/** Fetches files one after another into `folder`, named by their checksums. Throws as `download`. */
async function fetchBlobs(
  files: readonly HubFile[],
  {from, folder, total, signal, onProgress, onRedirect}: HubPullRequest & {from: string; folder: string; total: number}
): Promise<void> {
  let done = total - files.reduce((sum, {bytes}) => sum + bytes, 0)
  for (const file of files) {
    const before = done
    const blob = join(folder, file.blob)
    await download(`${from}/${file.name}`, blob, {
      expectedBytes: file.bytes,
      sha256: file.sha256,
      force: true,
      signal,
      onRedirect,
      onProgress: ({bytes}) => onProgress?.({bytes: before + bytes, total})
    })
    if (file.sha256 === undefined) await assertGitBlob(blob, file)
    done += file.bytes
  }
}

/** Makes a link; one that is there already is left, for another process may be reading by it. */
async function linkTo(target: string, link: string): Promise<void> {
  if ((await readlink(link).catch(() => undefined)) === target) return
  await rm(link, {force: true})
  await symlink(target, link)
}

/** Writes the commit of a branch, whole or not at all. */
async function nameCommit(ref: string, commit: string): Promise<void> {
  await makeFolders(dirname(ref))
  await writeFile(`${ref}.${process.pid}`, commit)
  await rename(`${ref}.${process.pid}`, ref)
}
