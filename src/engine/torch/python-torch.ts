/**
 * The torch that `python3` would import, asked once and kept in the cache folder.
 *
 * Python's answer takes 0.05 s, and 0.3 s where `python3` is a script of pyenv, at every start of the engine. It is
 * kept together with all that it depends on: the program and the variables of Python and pyenv, the folders that
 * Python searches with their `.pth` files, and pyenv's files of versions. A change of any of them asks anew. Of other
 * scripts named `python3` nothing is kept, since nobody can say what they look at.
 */
import {createHash} from 'node:crypto'
import {accessSync, closeSync, constants, readSync, readdirSync, realpathSync, statSync} from 'node:fs'
import {basename, delimiter, dirname, join} from 'node:path'
import {isObject, jsonObjectOr} from '../../system/json.js'
import {keepAnswers, keptFile, readKeptAnswers} from '../../system/kept-answers.js'
import {isOwn} from '../../system/own-files.js'
import {cacheFolder} from '../../system/paths.js'
import {openPlainSync} from '../../system/plain-file.js'
import {runCommand} from '../../system/run-command.js'

/** Where a torch lies, and the interpreter that imports it. */
export type PythonTorch = {readonly root: string; readonly python: string}

/** `torch`: what Python would import; null where it imports none. `watched`: what the answer depends on. */
type Answer = {readonly python: string; readonly root: string | null; readonly watched: readonly string[]}
type Kept = {readonly python: string; readonly root: string | null; readonly watched: readonly (readonly [string, number | null])[]}

const PROBE = `import json, sys
sys.path = [p for p in sys.path if p]
from importlib.util import find_spec
import site
spec = find_spec('torch')
print(json.dumps({'torch': spec.origin if spec and spec.origin else None, 'python': sys.executable, 'prefix': sys.prefix,
  'path': sys.path + [site.getusersitepackages()]}))`

/** Answers that are kept at once: one for each Python, folder and set of variables. */
const MOST_KEPT = 32

const FILE = 'python-torch.json'

/**
 * Asks `python3` where its torch lies, without importing it; undefined where there is no `python3` or it fails. With
 * `fresh` it is asked whatever is kept.
 */
export async function torchOfPython({fresh = false} = {}): Promise<
  {readonly python: string; readonly torch: PythonTorch | null} | undefined
> {
  const places = placesOf()
  const known = fresh || !places ? undefined : knownAnswer(places.key)
  const answer = known ?? (await ask())
  if (!answer) return undefined
  if (places && answer !== known) keep(places.key, {...answer, watched: [...new Set([...places.watched, ...(answer as Answer).watched])]})
  const {python, root} = answer
  return {python, torch: root === null ? null : {root, python}}
}

async function ask(): Promise<Answer | undefined> {
  const {status, stdout} = await runCommand('python3', ['-c', PROBE], {timeout: 20_000})
  const said = status === 0 ? jsonObjectOr(stdout.trim()) : undefined
  if (typeof said?.['python'] !== 'string' || !Array.isArray(said['path'])) return undefined
  const {torch, python, prefix, path} = said
  const folders = path.filter(one => typeof one === 'string')
  const own = [python, join(String(prefix), 'pyvenv.cfg'), ...folders, ...folders.flatMap(pathFiles)]
  return typeof torch === 'string' ? {python, root: dirname(torch), watched: [...own, torch]} : {python, root: null, watched: own}
}

/** The files by which packages add folders to Python's path. */
function pathFiles(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter(name => name.endsWith('.pth'))
      .map(name => join(folder, name))
  } catch {
    return []
  }
}

/** What is known before Python is asked; undefined where `python3` is not there, or is a script of unknown kind. */
function placesOf(): {key: string; watched: string[]} | undefined {
  const program = programOnPath('python3')
  if (program === undefined) return undefined
  const environment = Object.entries(process.env).filter(([name]) => /^(PYTHON|PYENV|CONDA|VIRTUAL_ENV)/.test(name) || name === 'HOME')
  const watched = [program, realpathSync(program)]
  const script = scriptHead(program)
  if (script !== undefined) {
    const root = dirname(dirname(program))
    if (basename(dirname(program)) !== 'shims' || !script.includes('pyenv')) return undefined
    watched.push(join(root, 'version'), join(root, 'versions'), ...upwards(process.cwd()).map(folder => join(folder, '.python-version')))
  }
  const parts = [program, script !== undefined ? process.cwd() : '', JSON.stringify(environment.sort())]
  return {key: createHash('sha256').update(parts.join('\0')).digest('hex').slice(0, 32), watched}
}

function programOnPath(name: string): string | undefined {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(folder || '.', name)
    try {
      accessSync(path, constants.X_OK)
      if (statSync(path).isFile()) return path
    } catch {
      continue
    }
  }
  return undefined
}

/** The first lines of a script; undefined of a program. */
function scriptHead(path: string): string | undefined {
  const bytes = Buffer.alloc(1024)
  const fd = openPlainSync(path)
  try {
    const text = bytes.toString('latin1', 0, readSync(fd, bytes, 0, bytes.length, 0))
    return text.startsWith('#!') ? text : undefined
  } finally {
    closeSync(fd)
  }
}

function upwards(folder: string): string[] {
  const up = dirname(folder)
  return up === folder ? [folder] : [folder, ...upwards(up)]
}

/** When a file or folder was changed last; null where it is not there. */
const mtime = (path: string): number | null => statSync(path, {throwIfNoEntry: false})?.mtimeMs ?? null

/** What is kept under a key, if all that it depends on is as it was. */
function knownAnswer(key: string): Kept | undefined {
  try {
    const kept = readKept()[key]
    return kept?.watched.every(([path, when]) => mtime(path) === when) ? kept : undefined
  } catch {
    return undefined // a folder that may not be looked into
  }
}

/** All that is kept; nothing where others could have written it, or it is damaged. */
function readKept(): Record<string, Kept> {
  if (mtime(keptFile(FILE)) === null || !isOwn([keptFile(FILE), cacheFolder()])) return {}
  const whole = (one: unknown): one is Kept =>
    isObject(one) &&
    typeof one['python'] === 'string' &&
    (one['root'] === null || typeof one['root'] === 'string') &&
    Array.isArray(one['watched']) &&
    one['watched'].every(pair => Array.isArray(pair) && typeof pair[0] === 'string')
  return Object.fromEntries(Object.entries(readKeptAnswers(FILE)).flatMap(([key, one]) => (whole(one) ? [[key, one]] : [])))
}

/** Keeps an answer; what cannot be written is asked for again by the next process. */
function keep(key: string, {python, root, watched}: Answer): void {
  try {
    const others = Object.entries(readKept()).filter(([other]) => other !== key)
    const kept: Kept = {python, root, watched: watched.map(path => [path, mtime(path)])}
    keepAnswers(FILE, Object.fromEntries([...others.slice(1 - MOST_KEPT), [key, kept]]))
  } catch {
    return
  }
}
