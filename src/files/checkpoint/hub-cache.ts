/**
 * Models of the Hugging Face hub by their id (`facebook/dinov2-small`), from the cache that its own tools keep:
 * `refs/` names the commit of a branch, and `snapshots/` holds the files of a commit, as links or as files. Nothing is
 * fetched here; `models pull` does.
 */
import {stat} from 'node:fs/promises'
import {homedir} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {readText} from '../../system/plain-file.js'

type Environment = Readonly<Record<string, string | undefined>>

/** The folder of the cache: `HF_HUB_CACHE`, else `hub` below `HF_HOME`, by default `~/.cache/huggingface`. */
export function hubFolder(env: Environment = process.env): string {
  if (env['HF_HUB_CACHE']) return env['HF_HUB_CACHE']
  return join(env['HF_HOME'] || join(env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'huggingface'), 'hub')
}

/** An id of the hub, with a branch, tag or commit behind an @ where it is not `main`. */
const ID = /^([\w][\w.-]*)\/([\w][\w.-]*)(?:@([\w][\w./-]*))?$/

/** Whether a name that is no file could be an id of the hub. */
export const isHubId = (name: string): boolean => ID.test(name) && !/\.(pth|pt|safetensors|bin)$/.test(name) && !name.includes('..')

/** The parts of an id; `main` is the revision where it names none. */
export function parseHubId(id: string): {owner: string; name: string; revision: string} {
  const [, owner, name, revision = 'main'] = ID.exec(id) as unknown as [string, string, string, string?]
  return {owner, name, revision}
}

/**
 * The folder of a model in the cache. Throws `UserError` (exit 3) where the cache does not hold it, and (exit 1) where
 * a file of the cache does not name a commit.
 */
export async function hubSnapshot(id: string, env: Environment = process.env): Promise<string> {
  const {owner, name, revision} = parseHubId(id)
  const home = join(hubFolder(env), `models--${owner}--${name}`)
  const ref = join(home, 'refs', revision)
  const named = (await stat(ref).catch(() => undefined))?.isFile() ? (await readText(ref)).trim() : revision
  if (named !== revision && !/^[0-9a-f]{7,64}$/.test(named))
    throw new UserError(`${ref} does not name a commit: expected 40 hexadecimal digits.`, {
      code: 'BAD_CACHE',
      hint: 'Remove the file and download the model anew.'
    })
  const snapshot = join(home, 'snapshots', named)
  if ((await stat(join(snapshot, 'config.json')).catch(() => undefined))?.isFile()) return snapshot
  throw new UserError(`${id} does not exist, neither as a file nor in the cache of the Hugging Face hub (${hubFolder(env)}).`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: `Fetch it with \`dinov2 models pull ${id}\`. HF_HOME and HF_HUB_CACHE name another cache.`
  })
}
