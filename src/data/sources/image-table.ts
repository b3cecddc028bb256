/**
 * A long list of images held compactly: for training, which must reach any image at any time.
 *
 * Ten million JavaScript objects cost gigabytes; here an image costs the bytes of its record (paths once, when id
 * and path are the same) and eight more. Encoded images that members of a tar shard bring along are let go: their
 * place in the shard is kept, and they are read again when wanted. Those that have no such place (in compressed
 * shards and Parquet files) are laid down in a temporary file.
 */
import {parseOwnJson} from '../../system/json.js'
import {refOf, type ImageRef} from './image-ref.js'
import {ImageSpool} from './image-spool.js'

/** Images by number; what `ImageTable` and, for small sets, a plain array offer. */
export type ImageList = {readonly length: number; at(index: number): ImageRef | undefined}

const BLOCK = 1 << 20

export class ImageTable implements ImageList {
  readonly #blocks: Buffer[] = []
  #fill = BLOCK
  #starts = new Float64Array(1024)
  #length = 0
  readonly #spool = new ImageSpool()

  get length(): number {
    return this.#length
  }

  /** Adds one image at the end. Records never straddle blocks; one larger than a block gets its own. */
  push(ref: ImageRef): void {
    const record = Buffer.from(plain(ref) ? (ref.path as string) : `\0${JSON.stringify(pack(this.#spool.keep(ref)))}`)
    if (this.#fill + record.length + 4 > BLOCK) {
      this.#blocks.push(Buffer.allocUnsafe(Math.max(BLOCK, record.length + 4)))
      this.#fill = 0
    }
    const block = this.#blocks.at(-1)!
    if (this.#length === this.#starts.length) {
      const longer = new Float64Array(this.#length * 2)
      longer.set(this.#starts)
      this.#starts = longer
    }
    this.#starts[this.#length++] = (this.#blocks.length - 1) * 2 ** 32 + this.#fill
    block.writeUInt32LE(record.length, this.#fill)
    record.copy(block, this.#fill + 4)
    this.#fill += record.length + 4
  }

  at(index: number): ImageRef | undefined {
    if (!(index >= 0 && index < this.#length)) return undefined
    const start = this.#starts[index]!
    const block = this.#blocks[Math.floor(start / 2 ** 32)]!
    const at = start % 2 ** 32
    const text = block.toString('utf8', at + 4, at + 4 + block.readUInt32LE(at))
    return text.startsWith('\0') ? unpack(parseOwnJson(text.slice(1)) as Packed) : refOf(text)
  }
}

/** Whether the path says all there is to say. */
const plain = (ref: ImageRef): boolean =>
  typeof ref.path === 'string' &&
  ref.id === ref.path &&
  ref.path !== '' &&
  Object.keys(ref.fields).length === 0 &&
  !ref.range &&
  !ref.bytes &&
  !ref.copy &&
  ref.row === undefined &&
  ref.problem === undefined &&
  ref.folder === undefined

type Packed = {
  i: string
  p: string | {b: string}
  b?: string
  f?: Record<string, unknown>
  a?: string
  d?: string
  r?: [number, number]
  n?: number
  c?: [string, number, number]
  x?: string
}

function pack({id, path, pathBase64, fields, base, folder, range, row, copy, problem}: ImageRef): Packed {
  return {
    i: id,
    p: typeof path === 'string' ? path : {b: Buffer.from(path).toString('base64')},
    b: pathBase64,
    f: Object.keys(fields).length ? fields : undefined,
    a: base,
    d: folder,
    r: range && [range.offset, range.size],
    n: row,
    c: copy && [copy.path, copy.offset, copy.size],
    x: problem
  }
}

function unpack({i, p, b, f = {}, a, d, r, n, c, x}: Packed): ImageRef {
  return {
    id: i,
    path: typeof p === 'string' ? p : Buffer.from(p.b, 'base64'),
    fields: f,
    ...(b === undefined ? {} : {pathBase64: b}),
    ...(a === undefined ? {} : {base: a}),
    ...(d === undefined ? {} : {folder: d}),
    ...(r ? {range: {offset: r[0], size: r[1]}} : {}),
    ...(n === undefined ? {} : {row: n}),
    ...(c ? {copy: {path: c[0], offset: c[1], size: c[2]}} : {}),
    ...(x === undefined ? {} : {problem: x})
  }
}

/** Collects a stream of images into a table. */
export async function imageTable(refs: AsyncIterable<ImageRef>): Promise<ImageTable> {
  const table = new ImageTable()
  for await (const ref of refs) table.push(ref)
  return table
}
