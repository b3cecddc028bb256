/**
 * Lays out a small program of its own (the commands under `fixtures`) in a temporary folder, and runs it, or the real
 * one, as a shell would.
 */
import assert from 'node:assert/strict'
import {spawn, type ChildProcess} from 'node:child_process'
import {once} from 'node:events'
import {mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {assertSchemas} from './schemas.js'

/** The binary that users run. */
export const realBinary = fileURLToPath(new URL('../../../bin/run.js', import.meta.url))

const openFiles = new URL('./open-files.js', import.meta.url).href

/** A temporary folder that is removed when the test file ends. */
export function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'dinov2-test-'))
  if (folders.push(made) === 1) process.on('exit', () => folders.forEach(path => rmSync(path, {recursive: true, force: true})))
  return made
}

const folders: string[] = []

/** Makes the program of the fixtures and returns the path of its binary. */
export function fixtureBinary(): string {
  const root = folder()
  const manifest = {
    name: 'fixture',
    version: '1.2.3',
    type: 'module',
    description: 'A program for tests',
    oclif: {bin: 'fixture', commands: './commands', topicSeparator: ' '}
  }
  writeFileSync(join(root, 'package.json'), JSON.stringify(manifest))
  symlinkSync(fileURLToPath(new URL('./commands', import.meta.url)), join(root, 'commands'))
  const main = new URL('../../src/cli/main.js', import.meta.url).href
  writeFileSync(join(root, 'run.js'), `import {main} from ${JSON.stringify(main)}\nawait main(import.meta.url)\n`)
  return join(root, 'run.js')
}

/** The binary of a copy of the program that says another version of itself. */
export function otherVersion(version: string): string {
  const [root, original] = [folder(), fileURLToPath(new URL('../../../', import.meta.url))]
  const manifest = JSON.parse(readFileSync(join(original, 'package.json'), 'utf8')) as object
  writeFileSync(join(root, 'package.json'), JSON.stringify({...manifest, version}))
  for (const name of ['dist', 'configs', 'native', 'node_modules']) symlinkSync(join(original, name), join(root, name))
  const main = new URL('../../src/cli/main.js', import.meta.url).href
  writeFileSync(join(root, 'run.js'), `import {main} from ${JSON.stringify(main)}\nawait main(import.meta.url)\n`)
  return join(root, 'run.js')
}

export type Ended = {readonly status: number | null; readonly signal: string | null; readonly stdout: string; readonly stderr: string}
export type Options = {readonly env?: Record<string, string>; readonly input?: string | Uint8Array | null; readonly cwd?: string}

/** The environment without what would change the program or its colours. */
const ownEnvironment = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(DINOV2_|NO_COLOR|FORCE_COLOR|NODE_TEST)/.test(name)))

/** Starts `node binary …args`. With `input: null` stdin stays open and silent, as an idle pipe does. */
export function start(
  binary: string,
  args: readonly string[],
  {env = {}, input = '', cwd}: Options = {}
): {child: ChildProcess; ended: Promise<Ended>} {
  const watched = binary === realBinary
  const child = spawn(process.execPath, [...(watched ? ['--import', openFiles] : []), binary, ...args], {
    env: {...ownEnvironment(), ...(watched ? {DINOV2_TEST_OPEN_FILES: '1'} : {}), ...env},
    cwd,
    stdio: ['pipe', 'pipe', 'pipe']
  })
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  child.stdin!.on('error', () => {}) // a program that does not read its input closes it
  if (input !== null) child.stdin!.end(input)
  const ended = new Promise<Ended>((done, fail) =>
    child.on('close', (status, signal) => {
      try {
        if (watched) {
          assert.doesNotMatch(stderr, /^left open: /m, `files left open by ${args.join(' ')}`)
          assertSchemas(args, {status, stdout, stderr})
        }
        done({status, signal, stdout, stderr})
      } catch (error) {
        fail(error as Error)
      }
    })
  )
  return {child, ended}
}

/** Runs to the end. */
export const run = (binary: string, args: readonly string[], options: Options = {}): Promise<Ended> => start(binary, args, options).ended

/**
 * The real program in a process that stays: many commands without starting it for each. One command runs at a time; on
 * stdin it finds the file that `runIn` names, or nothing. A command that has not ended after `patience`
 * milliseconds is killed; `waited` says so.
 */
export class CommandServer {
  #child: ChildProcess | undefined
  #last: Promise<unknown> = Promise.resolve()

  constructor(
    private readonly options: {
      readonly env: Readonly<Record<string, string>>
      readonly cwd: string
      readonly patience?: number
      /** Shell that comes before the process: limits, or a file system of its own. */
      readonly shell?: string
      /** The program that runs that shell, where it is not plain `bash`. */
      readonly launcher?: readonly string[]
    }
  ) {}

  /** The process, while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid
  }

  run(...args: readonly string[]): Promise<Ended & {readonly waited: boolean}> {
    return this.runIn({}, args)
  }

  /** Runs a command in an environment that differs in `env` from here on, with the file `piped` on stdin. */
  runIn(env: Readonly<Record<string, string>>, args: readonly string[], piped?: string): Promise<Ended & {readonly waited: boolean}> {
    const ended = this.#last.then(() => this.#run(env, args, piped))
    this.#last = ended.catch(() => undefined)
    return ended
  }

  async #run(
    env: Readonly<Record<string, string>>,
    args: readonly string[],
    piped: string | undefined
  ): Promise<Ended & {readonly waited: boolean}> {
    const {patience = 300_000} = this.options
    const child = (this.#child ??= await this.#start())
    const settled = new AbortController()
    const answer = once(child, 'message', {signal: settled.signal}) as Promise<[Ended]>
    const ended = once(child, 'exit', {signal: settled.signal}) as Promise<[number | null, string | null]>
    for (const one of [answer, ended]) one.catch(() => undefined) // the other came first
    let waited = false
    const timer = setTimeout(() => {
      waited = true
      child.kill('SIGKILL')
    }, patience)
    child.send({args, env, piped})
    const [found] = await Promise.race([answer, ended.then(([status, signal]) => [{status, signal, stdout: '', stderr: ''}])])
    clearTimeout(timer)
    settled.abort()
    if (child.exitCode !== null || child.signalCode !== null) this.#child = undefined
    else assertSchemas(args, found as Ended)
    return {...(found as Ended), signal: (found as Ended).signal ?? null, waited}
  }

  async #start(): Promise<ChildProcess> {
    const {env, cwd, shell, launcher = []} = this.options
    const words = [process.execPath, fileURLToPath(new URL('./command-server.js', import.meta.url))]
    const all = shell === undefined ? words : [...launcher, 'bash', '-c', `${shell}\nexec "$@"`, 'bash', ...words]
    const child = spawn(all[0]!, all.slice(1), {
      env: {...ownEnvironment(), ...env},
      cwd,
      stdio: ['ignore', 'inherit', 'inherit', 'ipc']
    })
    await once(child, 'message')
    return child
  }

  async end(): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null) return
    const ended = once(child, 'exit')
    child.disconnect()
    await ended
  }
}

/** Runs a line of shell with `$P` standing for the program. */
export function shell(binary: string, line: string, cwd?: string): Promise<Ended> {
  const child = spawn('bash', ['-c', line], {
    env: {...process.env, P: `${process.execPath} ${binary}`},
    cwd,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  return new Promise(done => child.on('close', (status, signal) => done({status, signal, stdout, stderr})))
}

/** Waits until the program has said `text` on stderr. */
export const said = (child: ChildProcess, text: string): Promise<void> =>
  new Promise(done => {
    let all = ''
    child.stderr!.on('data', (more: string) => {
      all += more
      if (all.includes(text)) done()
    })
  })
