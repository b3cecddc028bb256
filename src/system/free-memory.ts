/** What memory this process may still take: of the machine or its container, and of its own limits (`ulimit`). */
import {readFileSync} from 'node:fs'
import {UserError} from '../config/errors.js'

/** A limit of this process; infinite where there is none, or the system does not tell. */
function allowed(limit: 'Max address space' | 'Max data size' | 'Max open files'): number {
  try {
    return Number(new RegExp(`^${limit} +(\\d+)`, 'm').exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)
  } catch {
    return Infinity
  }
}

/** What is left of one limit of this process; infinite where there is none, or the system does not tell. */
function left(limit: 'Max address space' | 'Max data size', taken: 'VmSize' | 'VmData'): number {
  try {
    const status = readFileSync('/proc/self/status', 'utf8')
    return Math.max(0, allowed(limit) - 1024 * Number(new RegExp(`^${taken}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0))
  } catch {
    return Infinity
  }
}

/** Bytes. */
export const memoryLeft = (): number =>
  Math.min(process.availableMemory(), left('Max address space', 'VmSize'), left('Max data size', 'VmData'))

/** `1.25 GB`, `12 MB`. */
export const bytesInWords = (bytes: number): string => (bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : `${Math.ceil(bytes / 1e6)} MB`)

/**
 * Refuses what would end the process without a word where addresses are short: a thread of V8 and a large library
 * reserve them at once. Throws `UserError` (exit 5).
 */
export function assertAddressSpace(needed: number, what: string): void {
  assertLeft('address space', left('Max address space', 'VmSize'), needed, what, 'ulimit -v unlimited')
}

/** Files that are open at once where a model computes, images are decoded in threads and a table is searched. */
const FILES_NEEDED = 64

/**
 * Refuses limits in which JavaScript itself, or a native library, would be ended by the system. Throws `UserError`
 * (exit 5).
 */
export function assertRoomToRun(): void {
  const files = allowed('Max open files')
  if (files < FILES_NEEDED)
    throw new UserError(`A command has up to ${FILES_NEEDED} files open at once, but the limit of this process is ${files}.`, {
      exit: 5,
      code: 'TOO_FEW_FILES',
      hint: 'Raise the limit on open files: ulimit -n 4096.'
    })
  assertAddressSpace(0.8e9, 'A command')
  assertLeft('memory', left('Max data size', 'VmData'), 0.5e9, 'A command', 'ulimit -d unlimited')
}

function assertLeft(kind: string, free: number, needed: number, what: string, remedy: string): void {
  if (free >= needed) return
  throw new UserError(`${what} needs ${bytesInWords(needed)} of ${kind}, but the limit of this process leaves ${bytesInWords(free)}.`, {
    exit: 5,
    code: 'NO_MEMORY',
    hint: `Raise or lift the limit: ${remedy}.`
  })
}
