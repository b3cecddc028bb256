/**
 * One process at a time in a run folder, or at an output that grows.
 *
 * The lock is a small file, put in place whole by a hard link, which fails where there is one already. It names
 * process, machine and the moment the process began, so that a lock left behind by a process that was killed is known
 * as such and taken over; one of another machine cannot be judged from here and is respected.
 */
import {readFileSync, rmSync} from 'node:fs'
import {link, lstat, readFile, rename, rm, writeFile} from 'node:fs/promises'
import {hostname} from 'node:os'
import {basename, dirname, join} from 'node:path'
import {setTimeout as pause} from 'node:timers/promises'
import {UserError} from '../config/errors.js'
import {writeError} from './write-error.js'
import {isCount, jsonObjectOr} from './json.js'

type Owner = {
  readonly pid: number
  readonly host: string
  /** When the process began, as the system counts, with the machine's present boot; empty where it does not tell. */
  readonly began: string
}

/** The file in a run folder. */
export const lockName = 'run.lock'

/** The moment a process began: a number that is reused has another. Undefined where there is no such process. */
function beginning(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    if (fields[0] === 'Z') return undefined // killed, and not yet buried by its parent
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${fields[19]}`
  } catch {
    try {
      process.kill(pid, 0)
      return ''
    } catch (error) {
      return (error as NodeJS.ErrnoException).code === 'EPERM' ? '' : undefined
    }
  }
}

const alive = ({pid, host, began}: Owner): boolean => {
  if (host !== hostname()) return true // nobody here can tell
  const now = beginning(pid)
  return now !== undefined && (began === '' || now === '' || began === now)
}

export type Lock = {release(): Promise<void>}

/** Takes a run folder. Throws as `takeLock`. */
export const lockRun = (run: string): Promise<Lock> => takeLock(join(run, lockName), run, `at work in ${run}`)

/** Takes an output that grows as the file `partial`. Throws as `takeLock`. */
export const lockOutput = (partial: string, output: string): Promise<Lock> =>
  takeLock(join(dirname(partial), `.${basename(partial)}.lock`), output, `writing ${output}`)

/** Locks that this process is taking. */
const taking = new Set<string>()

const takenBySeveral = (place: string): UserError =>
  new UserError(`${place} is being taken by several processes at once.`, {exit: 2, code: 'RUN_LOCKED', hint: 'Try again.'})

export type WaitOptions = {
  readonly signal?: AbortSignal
  /** Called once where another process has what is waited for, with a sentence that names it. */
  readonly onWait?: (sentence: string) => void
}

/**
 * As `lockOutput`, but waits while another process has it; `onWait` hears once who that is. Throws as `takeLock` where
 * the lock cannot be written, and when `signal` aborts.
 */
export async function awaitOutput(partial: string, output: string, {signal, onWait}: WaitOptions): Promise<Lock> {
  for (let waits = 0; ; waits++) {
    try {
      return await lockOutput(partial, output)
    } catch (error) {
      if (!(error instanceof UserError) || error.code !== 'RUN_LOCKED') throw error
      if (waits === 0) onWait?.(`${error.message} Waiting until it has ended.`)
    }
    await pause(200, undefined, {signal})
  }
}

/**
 * Takes `place` for this process, by the lock file at `path`; `doing` is what another one does there. `release` gives
 * it back; so does the end of the process, short of `kill -9`, after which the next one takes it over. Throws
 * `UserError`: another process has it (exit 2), or its folder cannot be written (exit 1).
 */
async function takeLock(path: string, place: string, doing: string): Promise<Lock> {
  const own = `${path}.${process.pid}`
  if (taking.has(own)) throw takenBySeveral(place)
  taking.add(own)
  const mine = JSON.stringify({pid: process.pid, host: hostname(), began: beginning(process.pid) ?? ''} satisfies Owner) + '\n'
  try {
    await rm(own, {force: true}) // of a process that had this number before
    await writeFile(own, mine, {flag: 'wx'})
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    await rm(own, {force: true}).catch(() => undefined)
    taking.delete(own)
    const full = writeError(place, error)
    if (full instanceof UserError) throw full
    throw new UserError(`${place} cannot be written (${code}), nor a lock beside it.`, {
      code: 'WRITE',
      hint: 'Check the rights of the folder, or name another with --output.',
      cause: error
    })
  }
  try {
    for (let tries = 0; tries < 5; tries++) {
      const taken = await put(own, path, mine)
      if (taken) {
        const leave = (): void => rmSync(path, {force: true})
        process.once('exit', leave)
        let held = true
        return {
          async release() {
            if (!held) return // by now it may be another's
            held = false
            process.off('exit', leave)
            await rm(path, {force: true})
          }
        }
      }
      const text = await lockText(path)
      if (text === undefined) continue // given back meanwhile
      const owner = ownerOf(text)
      if (owner && alive(owner))
        throw new UserError(
          owner.host === hostname()
            ? `Another process (${owner.pid}) is ${doing}.`
            : `A process on another machine (${owner.pid} on ${owner.host}) is ${doing}.`,
          {
            exit: 2,
            code: 'RUN_LOCKED',
            hint:
              owner.host === hostname()
                ? 'Wait until it has ended, or name another output.'
                : `Wait until it has ended, or name another output. If it is gone for good: rm ${path}`
          }
        )
      // Left behind. It is moved aside first, so that of two processes that both see this only one goes on.
      const aside = `${own}.old`
      if (
        !(await rename(path, aside).then(
          () => true,
          () => false
        ))
      )
        continue
      if (((await lockText(aside)) ?? text) !== text) await link(aside, path).catch(() => undefined) // somebody was quicker: theirs stays
      await rm(aside, {force: true})
    }
    throw takenBySeveral(place)
  } finally {
    taking.delete(own)
    await rm(own, {force: true})
  }
}

/**
 * What a lock says; undefined where it is gone. A link says nothing: no lock of ours is one. Throws `UserError` where
 * a folder, a pipe or a device stands in its place.
 */
async function lockText(path: string): Promise<string | undefined> {
  const found = await lstat(path).catch(() => undefined)
  if (!found || found.isSymbolicLink()) return found && ''
  if (!found.isFile())
    throw new UserError(`${path} is no file, but a lock was expected there.`, {
      code: 'WRITE',
      hint: 'Remove it, or name another output.'
    })
  return readFile(path, 'utf8').catch(() => undefined)
}

/** Puts the lock in place; false where there is one. */
async function put(own: string, path: string, text: string): Promise<boolean> {
  try {
    await link(own, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') throw error
      return writeFile(path, text, {flag: 'wx'}) // a file system without hard links
    })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

/** Who holds a lock, by the text of its file; undefined where it is damaged. */
export function ownerOf(text: string): Owner | undefined {
  const {pid, host, began} = jsonObjectOr(text) ?? {}
  return isCount(pid) && pid > 0 && typeof host === 'string' && typeof began === 'string' ? {pid, host, began} : undefined
}
