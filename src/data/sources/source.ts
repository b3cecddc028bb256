/**
 * Where images come from: folders, files, lists, stdin, tar shards and Parquet files become one stream of `ImageRef`.
 *
 * Nothing is decoded here and nothing is held: a folder costs the names of one folder at a time, a list one block, a
 * shard some headers. The order is that of the inputs; within a folder, that of the bytes of the paths.
 */
import {closeSync, promises as fs, readSync} from 'node:fs'
import {isAbsolute, dirname, join, resolve} from 'node:path'
import type {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {missingPathHint} from '../../config/missing-path.js'
import {assertPlain, fileBytes, isOpenPipe, openPlainSync} from '../../system/plain-file.js'
import {containerOf, isParquetName, isShardName} from './container-names.js'
import {walkFolder} from './folder.js'
import {isNulList, type ListFormat} from './list-format.js'
import {readList, type ListOptions} from './list.js'
import {refOf, type ImageRef, type SourceNote} from './image-ref.js'
import {readParquetImages} from './parquet.js'
import {withParquetRows} from './parquet-rows.js'
import {readShard, shardByHead} from './webdataset.js'
import {withShardMembers} from './shard-rows.js'
import {memberAlone} from './member-input.js'
import {IdWatch} from './duplicate-ids.js'

export {LABEL_HINT, folderOf, labelIn, labelOf, type ImageRef, type SourceNote} from './image-ref.js'

export type SourceOptions = {
  /** What `-` reads; the process's own stdin if absent. */
  readonly stdin?: Readable
  /** Lists on stdin and `.txt`, `.lst` files are NUL-separated (`find -print0`). */
  readonly nul?: boolean
  /** What relative inputs, and relative paths on stdin, are relative to; the process's own folder if absent. */
  readonly cwd?: string
  /** Told of every file that is passed over and of ids that come twice. */
  readonly onSkipped?: (note: SourceNote) => void
}

const LISTS: Readonly<Record<string, ListFormat | 'plain'>> = {
  '.txt': 'plain',
  '.lst': 'plain',
  '.list': 'plain',
  '.jsonl': 'jsonl',
  '.ndjson': 'jsonl',
  '.csv': 'csv',
  '.tsv': 'tsv'
}

/** Bytes of the header of a tar file. */
const HEADER = 512

const endingOf = (path: string): string => /\.[^./]*$/.exec(path)?.[0]?.toLowerCase() ?? ''

/**
 * `shard-{008..011}.tar` → the four names; several ranges multiply; zeros in front are kept. A name without a range is
 * itself.
 */
export function expandBraces(name: string): string[] {
  const range = /\{(\d+)\.\.(\d+)\}/.exec(name)
  if (!range) return [name]
  const [whole, from, to] = range as unknown as [string, string, string]
  const [first, last] = [Number(from), Number(to)]
  if (last < first || last - first >= 1_000_000)
    throw new UserError(`The range ${whole} in ${name} runs backwards or is too long.`, {
      exit: 2,
      code: 'BAD_RANGE',
      hint: 'Write it as {000..012}.'
    })
  const width = from.startsWith('0') || to.startsWith('0') ? Math.max(from.length, to.length) : 0
  const names: string[] = []
  for (let i = first; i <= last; i++)
    names.push(...expandBraces(name.slice(0, range.index) + String(i).padStart(width, '0') + name.slice(range.index + whole.length)))
  return names
}

type InputKind = 'stdin' | 'folder' | 'list' | 'shard' | 'parquet' | 'member' | 'file'
type Input = {readonly given: string; readonly open: string; readonly kind: InputKind}

const isMissing = (error: unknown): boolean => ['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')

/**
 * What each input is, before any of them is read: a name that does not exist ends the command at once, not after an
 * hour.
 */
async function classify(inputs: readonly string[], cwd: string | undefined): Promise<Input[]> {
  const place = (name: string): string => (cwd === undefined || isAbsolute(name) ? name : join(cwd, name))
  const exists = (name: string): Promise<boolean> =>
    fs.lstat(place(name)).then(
      () => true,
      () => false
    )
  const isFile = async (path: string): Promise<boolean> => (await fs.stat(path).catch(() => undefined))?.isFile() === true
  const found: Input[] = []
  const missing: string[] = []
  let stdins = 0
  for (const input of inputs) {
    if (input === '-') {
      if (++stdins > 1) throw new UserError('The input - (stdin) is named twice; it can be read once.', {exit: 2, code: 'STDIN_TWICE'})
      found.push({given: '-', open: '', kind: 'stdin'})
      continue
    }
    const names = (isShardName(input) || isParquetName(input)) && !(await exists(input)) ? expandBraces(input) : [input]
    for (const given of names) {
      const open = place(given)
      const ending = endingOf(given)
      try {
        const stats = await fs.stat(open)
        const kind = stats.isDirectory()
          ? 'folder'
          : isShardName(given)
            ? 'shard'
            : isParquetName(given)
              ? 'parquet'
              : ending in LISTS
                ? 'list'
                : 'file'
        if (/\.(tar\.(bz2|xz|zst)|tbz|txz)$/i.test(given))
          throw new UserError(`${given} is a compressed tar; shards are read uncompressed or compressed by gzip.`, {
            exit: 2,
            code: 'COMPRESSED_TAR',
            hint: 'Unpack it first.'
          })
        if (kind === 'parquet' || (kind === 'list' && !isOpenPipe(open))) assertPlain(given, stats)
        found.push({given, open, kind})
      } catch (error) {
        if (error instanceof UserError) throw error
        const container = containerOf(given)
        if (container !== undefined && (await isFile(place(container))))
          found.push({given, open: place(container) + given.slice(container.length), kind: 'member'})
        else if (isMissing(error) && !(await exists(given))) missing.push(given)
        else found.push({given, open, kind: 'file'}) // a dangling link, a folder without permission: named when it is to be decoded
      }
    }
  }
  if (missing.length > 0)
    throw new UserError(
      `There is no ${missing.length > 1 ? 'file or folder of these names' : 'file or folder'}: ${missing.slice(0, 5).join(', ')}${missing.length > 5 ? ', …' : ''}.`,
      {
        exit: 3,
        code: 'NO_INPUT',
        hint: /^https?:/.test(missing[0]!) ? 'Addresses are not fetched; download the images first.' : missingPathHint(missing[0]!)
      }
    )
  return found
}

/** Whether a plain file of any name holds names separated by NUL; an image never does. */
function isNulListFile(path: string): boolean {
  let file: number | undefined
  try {
    file = openPlainSync(path)
    const head = Buffer.alloc(4096)
    return isNulList(head.subarray(0, readSync(file, head, 0, head.length, 0)))
  } catch {
    return false // named when it is to be decoded
  } finally {
    if (file !== undefined) closeSync(file)
  }
}

/** The rows of a list, with the bytes of those that lie inside other files. */
const withPacked = (list: AsyncGenerator<ImageRef[]>): AsyncGenerator<ImageRef[]> => withShardMembers(withParquetRows(list))

async function* read(input: Input, {stdin, nul, cwd}: SourceOptions, note: (note: SourceNote) => void): AsyncGenerator<ImageRef[]> {
  const {given, open, kind} = input
  if (kind === 'folder') yield* walkFolder(given, open, note)
  else if (kind === 'stdin')
    yield* readPiped(stdin ?? process.stdin, {base: cwd === undefined ? '' : resolve(cwd), format: nul ? 'nul' : undefined}, note)
  else if (kind === 'list') {
    const format = LISTS[endingOf(given)]!
    const list = readList(fileBytes(open) as AsyncIterable<Buffer>, {
      name: given,
      base: dirname(resolve(open)),
      ...(format !== 'plain' ? {format} : nul ? {format: 'nul' as const} : {})
    })
    yield* withPacked(list)
  } else if (kind === 'parquet') yield* readParquetImages(given, open, note)
  else if (kind === 'shard') yield* readShard(given, open, note)
  else if (kind === 'member') yield* withPacked(memberAlone(given, open))
  else if (isNulListFile(open))
    yield* withPacked(readList(fileBytes(open) as AsyncIterable<Buffer>, {name: given, base: dirname(resolve(open)), format: 'nul'}))
  else yield [refOf(given, open)]
}

/** What comes through stdin: a list, or a tar shard, which is known by its first bytes. */
async function* readPiped(
  stdin: Readable,
  list: Pick<ListOptions, 'base' | 'format'>,
  note: (note: SourceNote) => void
): AsyncGenerator<ImageRef[]> {
  const chunks = stdin[Symbol.asyncIterator]() as AsyncIterator<Buffer | string>
  const head: Buffer[] = []
  let length = 0
  let ended = false
  // The first line of a list is enough to tell it from a tar file, whose header has no line end.
  while (!ended && length < HEADER && !head.at(-1)?.includes(0x0a)) {
    const next = await chunks.next()
    if (next.done) ended = true
    else length += head[head.push(Buffer.from(next.value)) - 1]!.length
  }
  const whole = async function* (): AsyncGenerator<Buffer> {
    yield* head.splice(0)
    for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield Buffer.from(next.value)
  }
  const kind = list.format === undefined ? shardByHead(Buffer.concat(head)) : undefined
  try {
    if (!kind && list.format === undefined) assertNoOther(Buffer.concat(head))
    if (kind) yield* readShard('stdin', 'stdin', note, {bytes: whole(), gzipped: kind === 'gzip'})
    else if (isParquet(head[0])) throw parquetPiped()
    else yield* withPacked(readList(whole(), {...list, name: 'stdin'}))
  } finally {
    stdin.destroy() // so that nobody waits for more of it, also where the images are not read to their end
  }
}

/** What is neither a list nor a shard that is read, by its first bytes. */
const OTHERS: readonly (readonly [begin: RegExp, what: string, hint: string])[] = [
  [/^BZh[1-9]1AY&SY/, 'compressed by bzip2', 'Unpack it on the way: bzip2 -dc FILE | dinov2 …'],
  [/^\xfd7zXZ/, 'compressed by xz', 'Unpack it on the way: xz -dc FILE | dinov2 …'],
  [/^\x28\xb5\x2f\xfd/, 'compressed by zstd', 'Unpack it on the way: zstd -dc FILE | dinov2 …'],
  [/^PK(?=[^ -~\r\n]{2})/, 'a zip archive', 'Unpack it into a folder, and name the folder.'],
  [/^(\x89PNG|\xff\xd8\xff|GIF8[79]a.{4}[\x80-\xff]|RIFF.{4}WEBP|II\*\0|MM\0\*)/s, 'an image itself', 'Name the file, or pipe its name.']
]

/** Throws a `UserError` where stdin holds what would be read as a list of names that are none. */
function assertNoOther(head: Buffer): void {
  const found = OTHERS.find(([begin]) => begin.test(head.toString('latin1', 0, 16)))
  if (!found) return
  const [, what, hint] = found
  throw new UserError(`What comes through stdin is ${what}; a list of names or a tar, plain or compressed by gzip, was expected.`, {
    exit: 2,
    code: 'PIPED_OTHER',
    hint
  })
}

const isParquet = (head: Uint8Array | undefined): boolean => Buffer.from(head ?? []).toString('latin1', 0, 4) === 'PAR1'

const parquetPiped = (): UserError =>
  new UserError('A Parquet file of images cannot be read from stdin, because its table of contents stands at its end.', {
    exit: 2,
    code: 'PIPED_PARQUET',
    hint: 'Name the file instead.'
  })

/** As `listImages`, some at a time: no await for each image. Chunks are never empty. */
export async function* listChunks(inputs: readonly string[], options: SourceOptions = {}): AsyncGenerator<ImageRef[]> {
  const note = options.onSkipped ?? (() => undefined)
  const watch = options.onSkipped ? new IdWatch() : undefined
  for (const input of await classify(inputs, options.cwd)) {
    for await (const chunk of read(input, options, note)) {
      if (watch)
        for (const {id} of chunk) if (watch.again(id)) note({kind: 'duplicate', path: id, reason: 'its id was there before; both are kept'})
      yield chunk
    }
  }
}

/**
 * The images of the inputs, one by one, in order.
 *
 * An input is a folder (all images below it; which files count: `names.ts`; links to folders at most once), an image
 * file, `-` (a list or a tar shard on stdin), a list file (`.txt`, `.lst`: a path a line, or NUL-separated with
 * `nul`; `.jsonl`, `.csv`, `.tsv`: with a `path` column, other fields ride along), a tar shard (`.tar`, `.tgz`, also
 * `name-{000..012}.tar`; webdataset keys) or a Parquet file. Paths in a list file are relative to it, on stdin to
 * `cwd`; lists on stdin and in `.txt` may be JSON Lines or CSV too, known by their first line. Rows that name no
 * image are yielded with a `problem`, never dropped. Ids may repeat: each is reported once, as far as the first
 * million ids go. An image under a folder gets `folder`, the first folder under the given root, for `labelOf`.
 *
 * Raises UserError (exit 3) where an input does not exist, before anything is read; (exit 2) where one cannot be such
 * an input. An empty result is no error here: the caller throws `noImages(inputs)`.
 */
export async function* listImages(inputs: readonly string[], options: SourceOptions = {}): AsyncGenerator<ImageRef> {
  for await (const chunk of listChunks(inputs, options)) yield* chunk
}

/**
 * How many images the inputs name (decodable or not), for `--dry-run`; reads the lists and folders, opens no image.
 */
export async function countImages(inputs: readonly string[], options: SourceOptions = {}): Promise<number> {
  let count = 0
  for await (const chunk of listChunks(inputs, options)) count += chunk.length
  return count
}

/** The error for inputs that hold no image at all (exit 3). */
export function noImages(inputs: readonly string[]): UserError {
  const names = inputs.length === 0 ? 'no input was named' : `none in ${inputs.slice(0, 3).join(', ')}${inputs.length > 3 ? ', …' : ''}`
  return new UserError(`There is no image to work on: ${names}.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint:
      inputs.length === 0
        ? 'Name a folder, image files, a list, a tar shard or a Parquet file, or - for a list on stdin.'
        : 'Hidden files and files that are no images by their ending are skipped; -v names them. A list on stdin is read with -, NUL-separated with -0.'
  })
}
