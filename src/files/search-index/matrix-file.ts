/**
 * Rows of float32 numbers that may be larger than memory: collected in memory as long as they fit into a budget,
 * beyond it in a temporary file, and read at any place. An array of NumPy's is read where it lies. What the system
 * keeps of such a file in its cache is its own affair; this process holds one stretch.
 */
import {closeSync, openSync, readSync, rmSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {writeError} from '../../system/write-error.js'
import {openPlainSync} from '../../system/plain-file.js'

/** Rows [N, D] that are read in stretches or one by one. */
export type MatrixRows = {
  readonly dim: number
  readonly count: number
  /** Rows `from` … `from + n - 1`, [n, D]; may be a view that is good until the next call. */
  block(from: number, n: number): Float32Array
  /** Chosen rows, [n, D], as a copy. */
  gather(rows: ArrayLike<number>): Float32Array
  /** Lets go of the file, and removes it where it was temporary. */
  close(): void
}

/** Rows of a file from byte `at` on. `made` is done to rows after reading, in place. */
export function fileRows(
  path: string,
  at: number,
  count: number,
  dim: number,
  {made: afterRead, temporary = false}: {made?: (rows: Float32Array) => void; temporary?: boolean} = {}
): MatrixRows {
  const file = openPlainSync(path)
  const rowBytes = dim * 4
  const fill = (out: Float32Array, to: number, from: number, n: number): void => {
    const bytes = new Uint8Array(out.buffer, out.byteOffset + to * rowBytes, n * rowBytes)
    for (let done = 0; done < bytes.length;) {
      const got = readSync(file, bytes, done, bytes.length - done, at + from * rowBytes + done)
      if (got === 0) throw new Error(`${path} ends within row ${from + Math.floor(done / rowBytes)}.`)
      done += got
    }
  }
  let held = new Float32Array(0)
  return {
    dim,
    count,
    block(from, n) {
      if (held.length < n * dim) held = new Float32Array(n * dim)
      const out = held.subarray(0, n * dim)
      fill(out, 0, from, n)
      afterRead?.(out)
      return out
    },
    gather(rows) {
      const out = new Float32Array(rows.length * dim)
      for (let i = 0; i < rows.length;) {
        let n = 1 // neighbours are read together
        while (i + n < rows.length && rows[i + n] === rows[i]! + n) n++
        fill(out, i, rows[i]!, n)
        i += n
      }
      afterRead?.(out)
      return out
    },
    close() {
      closeSync(file)
      if (temporary) rmSync(path, {force: true})
    }
  }
}

let spillCount = 0

/**
 * Collects rows; beyond `budget` bytes they go to a temporary file, which is removed when the rows are closed or the
 * process ends.
 */
export class MatrixBuilder {
  readonly #blocks: Float32Array[] = []
  #fill = 0
  #count = 0
  #file: {handle: number; path: string; bytes: number} | undefined
  readonly #blockRows: number

  constructor(
    readonly dim: number,
    readonly budget: number
  ) {
    this.#blockRows = Math.max(1, Math.floor((4 << 20) / Math.max(1, dim)))
  }

  get count(): number {
    return this.#count
  }

  get spilled(): boolean {
    return this.#file !== undefined
  }

  /** Adds rows [n, D] at the end. */
  append(rows: Float32Array): void {
    const D = this.dim
    const n = rows.length / D
    this.#count += n
    if (this.#file) return this.#write(rows)
    for (let at = 0; at < n;) {
      if (this.#blocks.length === 0 || this.#fill === this.#blockRows) {
        this.#blocks.push(new Float32Array(this.#blockRows * D))
        this.#fill = 0
      }
      const some = Math.min(n - at, this.#blockRows - this.#fill)
      this.#blocks.at(-1)!.set(rows.subarray(at * D, (at + some) * D), this.#fill * D)
      this.#fill += some
      at += some
    }
    if (this.#blocks.length * this.#blockRows * D * 4 > this.budget && this.#blocks.length > 1) this.#spill()
  }

  #spill(): void {
    const path = join(tmpdir(), `dinov2-${process.pid}-${++spillCount}.rows`)
    this.#file = {handle: openSync(path, 'wx', 0o600), path, bytes: 0}
    process.once('exit', () => rmSync(path, {force: true}))
    const blocks = this.#blocks.splice(0)
    for (const [i, block] of blocks.entries()) this.#write(i === blocks.length - 1 ? block.subarray(0, this.#fill * this.dim) : block)
  }

  #write(rows: Float32Array): void {
    const file = this.#file!
    const bytes = new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength)
    try {
      for (let done = 0; done < bytes.length;) {
        const wrote = writeSync(file.handle, bytes, done, bytes.length - done, file.bytes)
        done += wrote
        file.bytes += wrote
      }
    } catch (error) {
      throw writeError(file.path, error)
    }
  }

  /** The rows; the builder is not used afterwards. */
  finish(): MatrixRows {
    const {dim: D} = this
    if (this.#file) {
      closeSync(this.#file.handle)
      return fileRows(this.#file.path, 0, this.#count, D, {temporary: true})
    }
    const [blocks, per] = [this.#blocks, this.#blockRows]
    const row = (i: number): Float32Array => {
      const at = (i % per) * D
      return blocks[Math.floor(i / per)]!.subarray(at, at + D)
    }
    return {
      dim: D,
      count: this.#count,
      block(from, n) {
        const at = from % per
        if (n === 0) return new Float32Array(0)
        if (at + n <= per) return blocks[Math.floor(from / per)]!.subarray(at * D, (at + n) * D)
        const out = new Float32Array(n * D)
        for (let i = 0; i < n; i++) out.set(row(from + i), i * D)
        return out
      },
      gather(rows) {
        const out = new Float32Array(rows.length * D)
        for (let i = 0; i < rows.length; i++) out.set(row(rows[i]!), i * D)
        return out
      },
      close: () => undefined
    }
  }
}
