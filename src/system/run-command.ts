/**
 * Running another program (python3, pip, g++) and keeping what it said, so that a failure can be explained in a
 * sentence with its last lines.
 *
 * The child's stdout never reaches ours: stdout of a command belongs to its result.
 */
import {spawn, type ChildProcess} from 'node:child_process'

export type CommandOutcome = {
  /** Exit status; null when a signal ended it or it never started. */
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
  /** Both streams in the order of arrival. */
  readonly log: string
  /** Set when the program could not be started at all, e.g. `ENOENT`. */
  readonly missing?: string
}

type Options = {
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  /** Called with every full line of either stream, as it comes. */
  readonly onLine?: (line: string) => void
  /** Kills the program after so many milliseconds. */
  readonly timeout?: number
}

/** Runs `program` with `args` and resolves when it has ended; never rejects. */
export function runCommand(program: string, args: readonly string[], {env, cwd, onLine, timeout}: Options = {}): Promise<CommandOutcome> {
  return new Promise(resolve => {
    // without streams where there are too many open files
    const child: ChildProcess = spawn(program, args, {env: env ?? process.env, cwd, timeout, stdio: ['ignore', 'pipe', 'pipe']})
    let [stdout, stderr, log, pending] = ['', '', '', '']
    const hear = (text: string): void => {
      log += text
      if (!onLine) return
      const lines = (pending + text).split(/[\r\n]+/)
      pending = lines.pop() ?? ''
      for (const line of lines) if (line.trim()) onLine(line)
    }
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text
      hear(text)
    })
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr += text
      hear(text)
    })
    child.on('error', (error: NodeJS.ErrnoException) => resolve({status: null, stdout, stderr, log, missing: error.code ?? error.message}))
    child.on('close', status => resolve({status, stdout, stderr, log}))
  })
}

/** The last `count` lines that hold anything, indented for an error message. */
export const lastLines = (text: string, count = 8): string =>
  text
    .split(/\r?\n/)
    .filter(line => line.trim())
    .slice(-count)
    .map(line => `  ${line}`)
    .join('\n')
