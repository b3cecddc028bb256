/**
 * Files for fuzzing: the calls of `node:fs` that otherwise go to another thread and back answer at once, and the file
 * that is tried lies in memory. Both take longer than most parsers need for a file of a few kilobytes.
 *
 * What the calls do, and the errors that they end with, are the same. A file in memory is laid down on the disk as
 * soon as it is used in another way than to be read.
 */
import fs, {type PathLike, type Stats} from 'node:fs'
import promises, {type FileHandle} from 'node:fs/promises'
import {syncBuiltinESMExports} from 'node:module'

/** Descriptors of files in memory; those of the system are smaller. */
const FIRST = 1 << 24

type InMemory = {readonly bytes: Uint8Array; readonly stats: Stats; readonly position: {at: number}}

const {openSync, readSync, closeSync, fstatSync, statSync, lstatSync, readFileSync, writeFileSync} = fs
let held: {readonly path: string; readonly file: Omit<InMemory, 'position'>} | undefined
const opened = new Map<number, InMemory>()
let next = FIRST
let template: Stats | undefined

/** Puts a file in memory, over one on the disk that other calls find; its folder must be there. */
export function putFile(path: string, bytes: Uint8Array): void {
  if (path !== held?.path) writeFileSync(path, bytes)
  template ??= statSync(path)
  held = {path, file: {bytes, stats: Object.create(template, {size: {value: bytes.length, enumerable: true}}) as Stats}}
}

/** Lays the file in memory down on the disk, where it is `path`, or any. */
export function spill(path?: unknown): void {
  if (!held || (path !== undefined && path !== held.path)) return
  const {path: place, file} = held
  held = undefined
  writeFileSync(place, file.bytes)
}

const readOnly = (flags: string | number): boolean => flags === 'r' || (typeof flags === 'number' && (flags & 3) === fs.constants.O_RDONLY)

const calls = {
  openSync(path: PathLike, flags: string | number = 'r', mode?: number): number {
    if (path !== held?.path) return openSync(path, flags, mode)
    if (!readOnly(flags)) {
      spill()
      return openSync(path, flags, mode)
    }
    opened.set(next, {...held.file, position: {at: 0}})
    return next++
  },
  closeSync(fd: number): void {
    if (!opened.delete(fd)) closeSync(fd)
  },
  fstatSync: (fd: number): Stats => opened.get(fd)?.stats ?? fstatSync(fd),
  statSync: (path: PathLike, options?: object): unknown => (path === held?.path ? held.file.stats : statSync(path, options)),
  lstatSync: (path: PathLike, options?: object): unknown => (path === held?.path ? held.file.stats : lstatSync(path, options)),
  readFileSync(path: PathLike | number, options?: BufferEncoding): unknown {
    if (path !== held?.path) return readFileSync(path, options)
    const bytes = Buffer.from(held.file.bytes)
    const encoding = typeof options === 'object' ? (options as {encoding?: BufferEncoding}).encoding : options
    return encoding ? bytes.toString(encoding) : bytes
  },
  readSync(fd: number, to: NodeJS.ArrayBufferView, ...rest: unknown[]): number {
    const file = opened.get(fd)
    if (!file) return (readSync as (...args: unknown[]) => number)(fd, to, ...rest)
    const given = typeof rest[0] === 'object' ? (rest[0] as {offset?: number; length?: number; position?: number | null}) : undefined
    const [offset = 0, length = to.byteLength - offset, position] = given
      ? [given.offset, given.length, given.position]
      : (rest as [number?, number?, (number | null)?])
    const at = Number(position ?? file.position.at)
    const piece = file.bytes.subarray(at, at + length)
    new Uint8Array(to.buffer, to.byteOffset, to.byteLength).set(piece, offset)
    if (position === null || position === undefined) file.position.at += piece.length
    return piece.length
  }
}

type ReadOptions = {readonly buffer: Uint8Array; readonly offset?: number; readonly length?: number; readonly position?: number | null}

/** An open file: what the readers and writers of this project use of a `FileHandle`. */
class Handle {
  constructor(public fd: number) {}

  async stat(): Promise<Stats> {
    return fs.fstatSync(this.fd)
  }

  async read(to: Uint8Array | ReadOptions, ...rest: [offset?: number, length?: number, position?: number | null]): Promise<object> {
    const options = to instanceof Uint8Array ? {buffer: to, offset: rest[0], length: rest[1], position: rest[2]} : to
    const {buffer, offset = 0, length = buffer.byteLength - offset, position = null} = options
    return {bytesRead: fs.readSync(this.fd, buffer, offset, length, position), buffer}
  }

  async write(from: Uint8Array, offset = 0, length = from.byteLength - offset, position: number | null = null): Promise<object> {
    return {bytesWritten: fs.writeSync(this.fd, from, offset, length, position), buffer: from}
  }

  async writeFile(data: Uint8Array | string): Promise<void> {
    fs.writeFileSync(this.fd, data)
  }

  async appendFile(data: Uint8Array | string): Promise<void> {
    fs.appendFileSync(this.fd, data)
  }

  async truncate(length = 0): Promise<void> {
    fs.ftruncateSync(this.fd, length)
  }

  async sync(): Promise<void> {} // a file of a test need not outlast the machine

  async datasync(): Promise<void> {}

  async close(): Promise<void> {
    const {fd} = this
    this.fd = -1
    if (fd >= 0) fs.closeSync(fd) // a second time does nothing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

async function* pieces(path: PathLike, {fd, start = 0}: {fd?: number; start?: number} = {}): AsyncGenerator<Uint8Array> {
  const file = fd ?? fs.openSync(path, 'r')
  try {
    for (let at = start; ;) {
      const piece = Buffer.alloc(64 << 10)
      const length = fs.readSync(file, piece, 0, piece.length, at)
      if (length === 0) return
      at += length
      yield piece.subarray(0, length)
    }
  } finally {
    fs.closeSync(file)
  }
}

type Call = (...args: unknown[]) => unknown

/** Makes all files answer at once, from here on and in the whole process. */
export function answerAtOnce(): void {
  Object.assign(fs, calls, {createReadStream: pieces})
  const sync = fs as unknown as Readonly<Record<string, Call>>
  for (const name of ['stat', 'lstat', 'readFile'])
    Object.assign(promises, {[name]: async (...args: unknown[]) => sync[`${name}Sync`]!(...args)})
  for (const name of ['writeFile', 'readdir', 'realpath', 'access', 'mkdir', 'rename', 'rm', 'truncate', 'link'])
    Object.assign(promises, {
      async [name](...args: unknown[]) {
        spill(args[0])
        return sync[`${name}Sync`]!(...args)
      }
    })
  const open = async (path: PathLike, flags: string | number = 'r', mode?: number): Promise<FileHandle> =>
    new Handle(fs.openSync(path, flags, mode)) as unknown as FileHandle
  Object.assign(promises, {open})
  syncBuiltinESMExports()
}
