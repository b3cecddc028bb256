/**
 * Loaded before the program in tests: says at its end which files it opened and did not close. Node closes such files
 * when it happens to collect them, and then writes warnings among the program's own lines.
 */
import type {EventEmitter} from 'node:events'
import {promises} from 'node:fs'
import type {FileHandle} from 'node:fs/promises'
import {syncBuiltinESMExports} from 'node:module'
import {isMainThread} from 'node:worker_threads'

const open = promises.open
const live = new Map<FileHandle, string>()

if (isMainThread && process.env['DINOV2_TEST_OPEN_FILES'] !== undefined) {
  delete process.env['DINOV2_TEST_OPEN_FILES'] // not for the programs that this one starts
  promises.open = async (...args) => {
    const from = new Error().stack?.split('\n').slice(2, 6).join('\n')
    const handle = await open(...args)
    live.set(handle, `${String(args[0])}\n${from}`)
    const events = handle as FileHandle & EventEmitter
    events.on('close', () => live.delete(handle))
    return handle
  }
  syncBuiltinESMExports()
  process.on('exit', code => {
    // A program that was ended by a signal leaves its files to the system.
    if (code < 128) for (const [handle, what] of live) if (handle.fd >= 0) process.stderr.write(`left open: ${what}\n`)
  })
}
