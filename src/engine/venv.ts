/** Python environments of our own (`python3 -m venv`), which hold the libraries that the engines stand on. */
import {existsSync, readdirSync, renameSync, rmSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {UserError} from '../config/errors.js'
import type {Note} from '../system/compile.js'
import {lastLines, runCommand, type CommandOutcome} from '../system/run-command.js'
import {makeFoldersSync} from '../system/make-folders.js'

/** Python's `site-packages` folders of an environment `venv`. */
export function sitePackages(venv: string): string[] {
  return ['lib', 'lib64'].flatMap(lib => {
    const folder = join(venv, lib)
    if (!existsSync(folder)) return []
    const versions = readdirSync(folder).filter(name => name.startsWith('python3'))
    return versions.map(name => join(folder, name, 'site-packages')).filter(path => existsSync(path))
  })
}

/**
 * Makes the environment `folder` if its interpreter is not there; → the interpreter. Errors of status 5 name what is
 * missing.
 */
export async function ensureVenv(folder: string): Promise<string> {
  const python = join(folder, 'bin', 'python')
  if (existsSync(python) && (await runCommand(python, ['-m', 'pip', '--version'])).status === 0) return python
  rmSync(folder, {recursive: true, force: true})
  makeFoldersSync(dirname(folder))
  const {status, log, missing} = await runCommand('python3', ['-m', 'venv', folder])
  if (missing)
    throw new UserError('python3 is not here; it brings the library', {
      exit: 5,
      code: 'NO_PYTHON',
      hint: 'sudo apt install python3 python3-venv'
    })
  if (status !== 0) {
    rmSync(folder, {recursive: true, force: true})
    throw new UserError(`python3 could not make an environment in ${folder}:\n${lastLines(log)}`, {
      exit: 5,
      code: 'NO_VENV',
      hint: 'sudo apt install python3-venv'
    })
  }
  return python
}

/**
 * Makes the environment `folder` anew by `work`; what was there before comes back when `work` fails, also when an
 * earlier attempt was killed half-way.
 */
export async function renewVenv<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const aside = `${folder}.before`
  const restore = (): void => {
    if (!existsSync(aside)) return
    rmSync(folder, {recursive: true, force: true})
    renameSync(aside, folder)
  }
  restore()
  if (existsSync(folder)) renameSync(folder, aside)
  try {
    const result = await work()
    rmSync(aside, {recursive: true, force: true})
    return result
  } catch (error) {
    restore()
    throw error
  }
}

/** Runs `pip install` in the environment of `python`; lines that tell of progress go to `note`. */
export const pipInstall = (python: string, args: readonly string[], note: Note): Promise<CommandOutcome> =>
  runCommand(python, ['-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', ...args], {
    onLine: line => {
      if (/^\s*(Downloading|Installing collected|Successfully)/.test(line)) note(line.trim())
    }
  })
