/**
 * Runs the real program's command lines one after the other in one process, for tests that try many commands: each
 * request is a list of words with what it changes of the environment, each answer what a shell would have seen. The
 * process of `CommandServer`.
 */
import {createReadStream} from 'node:fs'
import type {Readable} from 'node:stream'
import {fileURLToPath} from 'node:url'
import {main} from '../../src/cli/main.js'

const manifest = new URL('../../../package.json', import.meta.url).href
const ENDED = Symbol('ended')
let said = {stdout: '', stderr: ''}

for (const name of ['stdout', 'stderr'] as const)
  process[name].write = (chunk: string | Uint8Array, encoding?: unknown, done?: unknown): boolean => {
    said[name] += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString('utf8')
    const callback = (typeof encoding === 'function' ? encoding : done) as (() => void) | undefined
    if (callback) setImmediate(callback)
    return true
  }
const exit = process.exit.bind(process)
process.exit = (() => {
  throw ENDED
}) as typeof process.exit

let input: Readable | undefined
const stdin = process.stdin
Object.defineProperty(process, 'stdin', {configurable: true, get: () => input ?? stdin})

process.on('message', ({args, env, piped}: {args: string[]; env: Record<string, string>; piped?: string}) => {
  void (async () => {
    said = {stdout: '', stderr: ''}
    input = piped === undefined ? undefined : createReadStream(piped)
    process.exitCode = undefined
    delete process.env['NO_COLOR']
    Object.assign(process.env, env)
    try {
      await main(manifest, args)
    } catch (error) {
      if (error !== ENDED) throw error
    }
    process.removeAllListeners('uncaughtException')
    process.send!({status: Number(process.exitCode ?? 0), ...said})
  })()
})
process.on('disconnect', () => exit(0)) // what is left behind is removed as at the end of any process
process.send!(fileURLToPath(manifest))
