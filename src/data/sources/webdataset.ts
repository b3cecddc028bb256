/**
 * Images of a tar shard, by the rules of webdataset: members that share a key belong to one sample.
 *
 * The key of a member is its path up to the first dot of its base name; the rest is its kind. `0001.jpg`, `0001.json`
 * and `0001.cls` are one sample: the picture with its fields (`.json`: an object whose entries are added; `.cls`: the
 * `label`; `.txt`: the `text`). Members of a sample lie side by side. Only headers and side members are read: each
 * image says where in the shard its bytes are, and whoever decodes it reads them there, so a shard of many gigabytes
 * is listed in the time of its headers, and training reaches any image at any time.
 */
import {closeSync, fstatSync, openSync, readSync} from 'node:fs'
import {problemRef, showBytes, type ImageRef, type SourceNote} from './image-ref.js'
import {skipReason} from './ignored-files.js'
import {tarMembers, type TarMember} from './tar.js'

const MAX_MEMBER = 1 << 30
const CHUNK = 256

type Sample = {key: Buffer; image?: {offset: number; size: number}; tooLarge?: number; fields: Record<string, unknown>}

/** `a/b.c/0001.seg.png` → key `a/b.c/0001`, kind `seg.png`. */
export function splitKey(path: Buffer): {key: Buffer; kind: string} {
  const dot = path.indexOf(0x2e, path.lastIndexOf(0x2f) + 1)
  return dot < 0 ? {key: path, kind: ''} : {key: path.subarray(0, dot), kind: path.toString('latin1', dot + 1)}
}

/** Adds what a side member says to the fields; returns what is wrong with it, if anything. */
function addFields(fields: Record<string, unknown>, kind: string, bytes: Buffer): string | undefined {
  const text = bytes.toString('utf8').replace(/^\uFEFF/, '')
  if (kind === 'cls') fields['label'] = text.trim()
  else if (kind === 'txt') fields['text'] = text.trim()
  else {
    try {
      const parsed: unknown = JSON.parse(text)
      if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return 'its JSON is not an object'
      Object.assign(fields, parsed)
    } catch {
      return 'it is not JSON'
    }
  }
  return undefined
}

/** Lets signals and timers have a turn: listing reads synchronously, which is several times as fast. */
const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))

/**
 * Yields the samples of a shard, some at a time; `shown` is its name as given, `open` what to open. A damaged shard
 * ends with a problem that is counted, after the samples in front of the damage.
 */
export async function* readShard(shown: string, open: string, note: (note: SourceNote) => void): AsyncGenerator<ImageRef[]> {
  const finish = (sample: Sample): ImageRef | undefined => {
    const name = showBytes(sample.key)
    const id = `${shown}/${name}`
    if (sample.tooLarge !== undefined)
      return problemRef(id, open, `the member is ${sample.tooLarge} bytes long; more than ${MAX_MEMBER} is not read`)
    if (!sample.image) {
      note({kind: 'skipped', path: id, reason: 'a sample without an image'})
      return undefined
    }
    const odd =
      name === sample.key.toString('utf8') ? {} : {pathBase64: Buffer.concat([Buffer.from(`${shown}/`), sample.key]).toString('base64')}
    return {id, path: open, ...odd, fields: sample.fields, range: sample.image}
  }

  let ready: ImageRef[] = []
  let sample: Sample | undefined
  const close = (): void => {
    const ref = sample && finish(sample)
    sample = undefined
    if (ref) ready.push(ref)
  }
  const take = (file: number, {name, type, offset, size}: TarMember): void => {
    const {key, kind} = splitKey(name)
    const lower = kind.toLowerCase()
    const base = name.subarray(name.lastIndexOf(0x2f) + 1)
    const path = `${shown}/${showBytes(name)}`
    const side = lower === 'json' || lower === 'cls' || lower === 'txt'
    const reason = type !== 'file' ? (type === 'directory' ? '' : `a ${type}, not a file`) : side ? undefined : skipReason(showBytes(base))
    if (reason !== undefined) {
      if (reason) note({kind: 'skipped', path, reason})
      return
    }
    if (sample && !sample.key.equals(key)) close()
    sample ??= {key, fields: {}}
    if (size > MAX_MEMBER) sample.tooLarge = size
    else if (side) {
      const bytes = Buffer.allocUnsafe(size)
      readSync(file, bytes, 0, size, offset)
      const wrong = addFields(sample.fields, lower, bytes)
      if (wrong) note({kind: 'skipped', path, reason: wrong})
    } else if (sample.image) note({kind: 'skipped', path, reason: 'a second image of its sample'})
    else sample.image = {offset, size}
  }

  let file: number | undefined
  try {
    file = openSync(open, 'r')
    const stats = fstatSync(file)
    if (!stats.isFile()) throw new Error('it is no plain file, and shards are read at any place')
    for (const member of tarMembers(file, stats.size)) {
      take(file, member)
      if (ready.length < CHUNK) continue
      yield ready
      ready = []
      await turn()
    }
    close()
  } catch (error) {
    if (sample?.image) close()
    ready.push(problemRef(shown, open, `the shard is damaged or no tar file (${(error as Error).message})`))
  } finally {
    if (file !== undefined) closeSync(file)
  }
  if (ready.length > 0) yield ready
}
