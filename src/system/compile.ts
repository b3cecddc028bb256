/**
 * Compiling an addon of ours from C++ once, and keeping it.
 *
 * The result is cached by what its name says (a version of a library, say) and by a hash of the sources and of the
 * command line: a change of any of them compiles anew, and an old addon is never loaded into something new. Every
 * source file has an object of its own, kept by content, so that a change in one file compiles one file. An addon
 * appears under its final name by a rename, whole or not at all; a lock keeps several processes (the ranks of one
 * machine) from compiling the same thing at once, but only saves work: two builders would do no harm.
 */
import {createHash} from 'node:crypto'
import {
  existsSync,
  openSync,
  closeSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
  writeSync
} from 'node:fs'
import {createRequire} from 'node:module'
import {availableParallelism, hostname} from 'node:os'
import {basename, delimiter, dirname, join} from 'node:path'
import {UserError} from '../config/errors.js'
import {cacheFolder, packageFolder} from './paths.js'
import {assertOwn, isOwn, makeOwn} from './own-files.js'
import {lastLines, runCommand} from './run-command.js'
import {makeFoldersSync} from './make-folders.js'

export type Note = (sentence: string) => void

export const noteOnStderr: Note = sentence => void process.stderr.write(`dinov2: ${sentence}\n`)

/** An addon to compile. */
export type Recipe = {
  /** What it is, in messages: `the torch engine`. */
  readonly what: string
  /** The folder of its sources (`.cc`, and `.h` on which all of them depend), below the package's. */
  readonly folder: string
  /** What its cached folder is called, in front of the hash. */
  readonly tag: string
  readonly compile: readonly string[]
  readonly link: readonly string[]
  /** Said when a compilation begins. */
  readonly starting: string
  /** What to try where a source does not compile. */
  readonly hint: string
}

/** The C++ compiler: `CXX`, else g++ (clang++ on macOS). */
export const compiler = (): string => process.env['CXX'] || (process.platform === 'darwin' ? 'clang++' : 'g++')

/** Whether a program can be found, as the shell would find it. */
const isThere = (program: string): boolean =>
  program.includes('/')
    ? existsSync(program)
    : (process.env['PATH'] ?? '').split(delimiter).some(folder => existsSync(join(folder, program)))

/** What every addon is compiled with: Node's own headers, whose warnings are not ours. */
export const nodeFlags = (): string[] => ['-std=c++20', '-O3', '-fPIC', '-Wall', '-DNAPI_VERSION=8', '-isystem', nodeHeaders()]

const nodeRequire = createRequire(import.meta.url)
const nodeHeaders = (): string => (nodeRequire('node-api-headers') as {include_dir: string}).include_dir

/** What every addon is linked with. */
export const sharedFlags = (): string[] => ['-shared', ...(process.platform === 'darwin' ? ['-undefined', 'dynamic_lookup'] : [])]

const digest = (...parts: (string | Buffer)[]): string => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part).update('\0')
  return hash.digest('hex').slice(0, 16)
}

type Plan = {
  readonly sources: readonly {path: string; object: string}[]
  readonly folder: string
  readonly objects: string
}

/** A command line by which a result is filed: Node's headers are of a version, wherever they lie. */
function filed(command: readonly string[]): string {
  const {version} = nodeRequire('node-api-headers/package.json') as {version: string}
  return command.join(' ').replaceAll(nodeHeaders(), `node-api-headers-${version}`)
}

/** What would be compiled and where it would lie; reads the sources, runs nothing. */
function plan({folder: below, tag, compile, link}: Recipe): Plan {
  const native = join(packageFolder(), below)
  const files = readdirSync(native).sort()
  const headers = files.filter(name => name.endsWith('.h')).map(name => readFileSync(join(native, name)))
  const recipe = filed([compiler(), ...compile])
  const objects = join(cacheFolder(), 'native', 'objects', tag)
  const sources = files
    .filter(name => name.endsWith('.cc'))
    .map(name => ({
      path: join(native, name),
      object: join(objects, `${basename(name, '.cc')}-${digest(recipe, readFileSync(join(native, name)), ...headers)}.o`)
    }))
  if (sources.length === 0) throw new Error(`No C++ sources in ${native}`)
  const folder = join(cacheFolder(), 'native', `${tag}-${digest(...sources.map(source => basename(source.object)), ...link)}`)
  return {sources, folder, objects}
}

const sleep = (milliseconds: number): Promise<void> => new Promise(done => setTimeout(done, milliseconds))

/** Milliseconds without a sign of life after which a lock counts as left behind. */
const STALE = 30_000

/**
 * Takes the lock, or waits until `done()` holds or the lock is free; → the release, or null when there is nothing left
 * to do.
 */
async function lock(path: string, done: () => boolean): Promise<(() => void) | null> {
  for (;;) {
    if (done()) return null
    try {
      const file = openSync(path, 'wx')
      writeSync(file, `${process.pid} ${hostname()}\n`)
      closeSync(file)
      const heartbeat = setInterval(() => {
        const now = new Date()
        try {
          utimesSync(path, now, now)
        } catch {
          // Somebody removed the lock; the rename at the end is right all the same.
        }
      }, STALE / 6)
      heartbeat.unref()
      return () => {
        clearInterval(heartbeat)
        rmSync(path, {force: true})
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    if (leftBehind(path)) rmSync(path, {force: true})
    else await sleep(300)
  }
}

/** Whether the holder of the lock is gone: silent for long, or a process of this machine that no longer runs. */
function leftBehind(path: string): boolean {
  try {
    if (Date.now() - statSync(path).mtimeMs > STALE) return true
    const [pid, host] = readFileSync(path, 'utf8').trim().split(' ')
    if (!pid || host !== hostname()) return false
    process.kill(Number(pid), 0)
    return false
  } catch (error) {
    // ESRCH: the process is gone. ENOENT: the lock is, and the next round takes it.
    return (error as NodeJS.ErrnoException).code === 'ESRCH'
  }
}

/** Runs `work` over `items`, at most `width` at a time; the first failure is thrown after the others have ended. */
async function inParallel<T>(items: readonly T[], width: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items]
  const failures: unknown[] = []
  const worker = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined && failures.length === 0; item = queue.shift())
      await work(item).catch(error => failures.push(error))
  }
  await Promise.all(Array.from({length: Math.min(width, items.length)}, worker))
  if (failures.length > 0) throw failures[0]
}

/** Runs the compiler; a failure becomes an error of status 5 with the last lines and the path of the whole log. */
async function compileStep(args: readonly string[], part: string, folder: string, {what, hint: otherwise}: Recipe): Promise<void> {
  const {status, log, missing} = await runCommand(compiler(), args)
  if (missing) {
    const hint =
      process.platform === 'darwin' ? 'xcode-select --install' : 'sudo apt install g++   (or set CXX to a compiler that knows C++20)'
    throw new UserError(
      `${what[0]!.toUpperCase()}${what.slice(1)} has to be compiled once, but the C++ compiler \`${compiler()}\` cannot be started (${missing})`,
      {
        exit: 5,
        code: 'NO_COMPILER',
        hint
      }
    )
  }
  if (status === 0) return
  const file = join(folder, `failed-${part}.log`)
  writeFileSync(file, `${compiler()} ${args.join(' ')}\n\n${log}`)
  const killed = status === null || /Killed|fatal error: Killed|cannot allocate memory/i.test(log)
  const hint = killed ? 'the compiler was ended from outside, most often for want of memory: each file needs about 1.5 GB' : otherwise
  throw new UserError(`Compiling ${part} of ${what} failed:\n${lastLines(log)}\nThe whole log is ${file}`, {
    exit: 5,
    code: 'COMPILE_FAILED',
    hint
  })
}

/** Objects of other sources that nobody has used for two weeks. */
function forgetOldObjects({objects, sources}: Plan): void {
  const kept = new Set(sources.map(source => source.object))
  for (const name of readdirSync(objects)) {
    const path = join(objects, name)
    if (!kept.has(path) && Date.now() - statSync(path).mtimeMs > 14 * 24 * 3600_000) rmSync(path, {force: true})
  }
}

/** What must be the user's own before an addon is loaded: itself, and the folders in which it could be replaced. */
const placesOf = (addon: string): string[] => [addon, dirname(addon), dirname(dirname(addon)), cacheFolder()]

/**
 * The path of the addon; compiles it when it is not in the cache, saying so by `note`.
 * Errors of status 5: no compiler, or a compilation that fails.
 */
export async function compileAddon(recipe: Recipe, note: Note = noteOnStderr): Promise<string> {
  const what = plan(recipe)
  const addon = join(what.folder, 'addon.node')
  if (existsSync(addon)) {
    assertOwn(placesOf(addon))
    return addon
  }
  makeFoldersSync(what.folder, 0o755)
  makeFoldersSync(what.objects, 0o755)
  const [, ...folders] = placesOf(addon)
  makeOwn(folders)
  assertOwn(folders)
  const release = await lock(`${what.folder}.lock`, () => existsSync(addon))
  if (!release) return addon
  try {
    const missing = what.sources.filter(({object}) => !existsSync(object))
    if (missing.length > 0 && isThere(compiler())) note(recipe.starting)
    await inParallel(missing, Math.max(1, Math.min(availableParallelism(), 8)), async ({path, object}) => {
      const half = `${object}.${process.pid}`
      await compileStep([...recipe.compile, '-c', path, '-o', half], basename(path), what.folder, recipe)
      renameSync(half, object)
    })
    const half = join(what.folder, `addon.${process.pid}.node`)
    await compileStep([...what.sources.map(({object}) => object), ...recipe.link, '-o', half], 'the link', what.folder, recipe)
    makeOwn([half])
    renameSync(half, addon)
    forgetOldObjects(what)
  } finally {
    release()
  }
  return addon
}

/** The addon's path if it is compiled already and nobody else could have written it, else null. */
export function compiledAddon(recipe: Recipe): string | null {
  const addon = join(plan(recipe).folder, 'addon.node')
  return existsSync(addon) && isOwn(placesOf(addon)) ? addon : null
}

const prebuiltFolder = (): string => join(packageFolder(), 'prebuilt')

/**
 * Where an addon lies that was compiled when the package was packed; its name carries a hash of the sources, so that
 * one of other sources is never taken for it.
 */
export function prebuiltAddon({folder, tag}: Recipe): string {
  const native = join(packageFolder(), folder)
  const sources = readdirSync(native).sort()
  const texts = sources.flatMap(name => [name, readFileSync(join(native, name))])
  return join(prebuiltFolder(), `${tag}-${digest(...texts)}.node`)
}

/**
 * Compiles an addon for other machines of this kind into `folder`, without symbols; it asks for the C++ library of GCC
 * 4.9 (2014).
 */
export async function prebuildAddon(recipe: Recipe, folder = prebuiltFolder()): Promise<string> {
  const addon = join(folder, basename(prebuiltAddon(recipe)))
  const native = join(packageFolder(), recipe.folder)
  const sources = readdirSync(native).filter(name => name.endsWith('.cc'))
  makeFoldersSync(dirname(addon))
  const half = `${addon}.${process.pid}`
  const inside = process.platform === 'linux' ? ['-static-libgcc', '-s'] : []
  const command = [...recipe.compile, ...sources.map(name => join(native, name)), ...recipe.link, ...inside, '-o', half]
  await compileStep(command, 'the prebuilt addon', dirname(addon), recipe)
  renameSync(half, addon)
  return addon
}
