/**
 * Images of a tar shard, by the rules of webdataset: members that share a key belong to one sample.
 *
 * `0001.jpg`, `0001.json` and `0001.cls` are one sample: the image with its fields (`.json`: an object whose entries
 * are added; `.cls`: the `label`; `.txt`: the `text`), in any order and at any distance (`shard-samples.ts`). Only
 * headers and side members are read: each image says where in the shard its bytes are, and whoever decodes it reads
 * them there, so a shard of many gigabytes is listed in the time of its headers. A shard compressed by gzip is
 * unpacked beside the temporary files first, and its images bring their bytes along.
 *
 * Every member is accounted for: it is an image, a part of one, or refused by name. Only folders, hidden files and
 * members of other kinds (sound, arrays) that lie beside an image are passed over.
 */
import {isUtf8} from 'node:buffer'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {closeSync, fstatSync, openSync, readSync, unlinkSync, writeSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {randomUUID} from 'node:crypto'
import {Readable} from 'node:stream'
import {createGunzip} from 'node:zlib'
import {isNoRoom} from '../../system/no-room.js'
import {fileBytes, openPlainSync} from '../../system/plain-file.js'
import {skipReason} from './ignored-files.js'
import {problemRef, showBytes, type ImageRef, type SourceNote} from './image-ref.js'
import {classFolders} from './shard-folders.js'
import {SampleCollector, type LostMember, type ShardSample} from './shard-samples.js'
import {isTarHeader, tarMembers, type TarMember} from './tar.js'

const MAX_MEMBER = 1 << 30
const MAX_SIDE = 1 << 24
const CHUNK = 256

/** Whether a file is compressed by gzip, by its first bytes: names of shards are not always right. */
function isGzipped(path: string): boolean {
  const file = openPlainSync(path)
  try {
    const head = Buffer.alloc(2)
    readSync(file, head, 0, 2, 0)
    return shardByHead(head) === 'gzip'
  } finally {
    closeSync(file)
  }
}

/** Lets signals and timers have a turn: listing reads synchronously, which is several times as fast. */
const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/** A shard that comes through a pipe. */
export type PipedShard = {readonly bytes: AsyncIterable<Uint8Array>; readonly gzipped: boolean}

/** What the first bytes of a stream say it is: a tar file, one compressed by gzip, or neither. */
export function shardByHead(head: Uint8Array): 'tar' | 'gzip' | undefined {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip'
  return isTarHeader(Buffer.from(head.buffer, head.byteOffset, head.length)) ? 'tar' : undefined
}

/** A compressed shard that unpacks to more than this, and to more than so many times its length, is a bomb. */
const [MAX_REPEATED, MAX_RATIO] = [256 << 20, 200]

async function* measured(chunks: AsyncIterable<Uint8Array>, add: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  for await (const chunk of chunks) {
    add(chunk.length)
    yield chunk
  }
}

/** The open shard; `problem` is what is wrong with its compression, where its members up to there can be read. */
type OpenShard = {readonly file: number; readonly size: number; readonly problem?: string}

/**
 * Opens a shard: what is no plain file is refused before it is opened, because opening a pipe waits for a writer. What
 * comes through `piped`, or is compressed, is first written to a temporary file, because members are read by place.
 */
async function openShard(path: string, piped: PipedShard | undefined, gzipped: boolean): Promise<OpenShard> {
  if (!piped && !gzipped) {
    const file = openPlainSync(path)
    return {file, size: fstatSync(file).size}
  }
  const unpacked = join(tmpdir(), `dinov2-shard-${randomUUID()}`)
  let file: number
  try {
    file = openSync(unpacked, 'wx+', 0o600)
  } catch (cause) {
    const {code = ''} = cause as NodeJS.ErrnoException
    throw new UserError(`The folder for temporary files, ${tmpdir()}, cannot be written to (${code}), so ${path} is not unpacked.`, {
      code: 'NO_TEMPORARY_FOLDER',
      hint: 'Name another with TMPDIR.',
      cause
    })
  }
  unlinkSync(unpacked) // it goes with the process, whatever ends it
  let size = 0
  try {
    let read = 0
    const source = Readable.from(measured(piped?.bytes ?? fileBytes(path), bytes => (read += bytes)))
    const packed = createGunzip()
    if (gzipped) source.on('error', error => packed.destroy(error)).pipe(packed)
    for await (const part of (gzipped ? packed : source) as AsyncIterable<Buffer>) {
      size += writeSync(file, part)
      if (gzipped && size > MAX_REPEATED && size > MAX_RATIO * read)
        return {file, size, problem: `it unpacks to more than ${MAX_RATIO} times its length; what follows is not read`}
    }
    return {file, size}
  } catch (error) {
    if (isNoRoom(error)) {
      closeSync(file)
      throw new UserError(`There is no room in ${tmpdir()} to unpack ${path}.`, {
        code: 'DISK_FULL',
        hint: 'TMPDIR names another folder for temporary files.',
        cause: error
      })
    }
    return {file, size, problem: `its gzip data are cut off or damaged (${(error as Error).message})`}
  }
}

/** Sorts one member into the samples, or says why it is none: `lost` counts as refused, `note` is said in passing. */
function sortMember(file: number, {name, type, offset, size}: TarMember, samples: SampleCollector): {lost?: string; note?: string} {
  const base = showBytes(name.subarray(name.lastIndexOf(0x2f) + 1))
  if (type === 'directory') return {}
  if (base.startsWith('.')) return {note: 'a hidden file'}
  if (type !== 'file') return {lost: `it is a ${type}, not a file`}
  const ending = base.slice(base.lastIndexOf('.') + 1).toLowerCase()
  if (base.includes('.') && (ending === 'json' || ending === 'cls' || ending === 'txt')) {
    if (size > MAX_SIDE) return {lost: `it is ${size} bytes long, too many for the fields of an image`}
    const bytes = Buffer.alloc(size)
    readSync(file, bytes, 0, size, offset)
    if (!isUtf8(bytes)) return {lost: 'its text is not UTF-8'}
    samples.addSide({name, kind: ending, text: bytes.toString('utf8')})
    return {}
  }
  const skipped = skipReason(base)
  if (skipped !== undefined) return {note: skipped}
  if (size > MAX_MEMBER) return {lost: `the member is ${size} bytes long; more than ${MAX_MEMBER} is not read`}
  samples.addImage({name, offset, size})
  return {}
}

/** Says which folders inside a shard are labels: nobody named its root. */
const labelNote = (path: string, root: string, first: string): SourceNote => ({
  kind: 'labels',
  path,
  reason: `labels are the folders ${root === '' ? 'at its root' : `in ${root}`}, the first of them ${first}`
})

/**
 * Yields the samples of a shard, some at a time; `shown` is its name as given, `open` what to open. Members that are
 * lost come as problems, which are counted; so does the shard itself where it is damaged or ends without its mark.
 * The images of a shard that is compressed, or comes through `piped`, bring their bytes along.
 */
export async function* readShard(
  shown: string,
  open: string,
  note: (note: SourceNote) => void,
  piped?: PipedShard
): AsyncGenerator<ImageRef[]> {
  const nameOf = (name: Buffer): string => `${shown}/${showBytes(name)}`
  const samples = new SampleCollector()
  let ready: ImageRef[] = []
  let shard: OpenShard | undefined
  let gzipped = false
  let folderIn = classFolders([])
  const toRef = (found: ShardSample | LostMember): ImageRef => {
    if ('reason' in found) return problemRef(nameOf(found.name), open, found.reason)
    const {key, image, fields} = found
    const folder = folderIn(image.name)
    const id = nameOf(key)
    const odd = id.endsWith(key.toString('utf8')) ? {} : {pathBase64: Buffer.concat([Buffer.from(`${shown}/`), key]).toString('base64')}
    const range = {offset: image.offset, size: image.size}
    const plain = {id, path: open, ...odd, fields, folder}
    if (!piped && !gzipped) return {...plain, range}
    const bytes = Buffer.alloc(image.size)
    readSync(shard!.file, bytes, 0, image.size, image.offset)
    // The file itself cannot be read by place: the path goes on inside it, as that of a row that names a member does.
    return {...plain, path: `${open}/${showBytes(key)}`, bytes}
  }
  const problems: ImageRef[] = []
  try {
    gzipped = piped?.gzipped ?? isGzipped(open)
    shard = await openShard(open, piped, gzipped)
    let members = 0
    try {
      for (const member of tarMembers(shard.file, shard.size)) {
        const {lost, note: passed} = sortMember(shard.file, member, samples)
        if (lost !== undefined) problems.push(problemRef(nameOf(member.name), open, lost))
        else if (passed !== undefined) note({kind: 'skipped', path: nameOf(member.name), reason: passed})
        if (++members % CHUNK === 0) await turn()
      }
    } catch (error) {
      const reason = shard.problem ?? (error as Error).message
      problems.push(
        problemRef(
          shown,
          open,
          `the shard is damaged or no tar file (${reason}); ${counted(members, 'member lies', 'members lie')} before that`
        )
      )
    }
    if (shard.problem !== undefined && problems.at(-1)?.id !== shown)
      problems.push(problemRef(shown, open, `the shard is damaged (${shard.problem})`))
    folderIn = classFolders(samples.imageNames())
    let isSaid = false
    for (const found of samples.samples()) {
      const ref = toRef(found)
      ready.push(ref)
      if (!isSaid && ref.folder !== undefined && ref.fields['label'] === undefined) note(labelNote(shown, folderIn.root, ref.folder))
      isSaid ||= ref.folder !== undefined
      if (ready.length < CHUNK) continue
      yield ready
      ready = []
      await turn()
    }
    ready.push(...problems)
  } catch (error) {
    if (error instanceof UserError && (error.code === 'DISK_FULL' || error.code === 'NO_TEMPORARY_FOLDER')) throw error
    ready.push(problemRef(shown, open, `the shard is damaged or no tar file (${(error as Error).message})`))
  } finally {
    if (shard) closeSync(shard.file)
  }
  if (ready.length > 0) yield ready
}
