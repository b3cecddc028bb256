/**
 * Images of a tar shard, by the rules of webdataset: members that share a key belong to one sample.
 *
 * The key of a member is its path up to the first dot of its base name; the rest is its kind. `0001.jpg`, `0001.json` and `0001.cls` are one sample:
 * the picture with its fields (`.json`: an object whose entries are added; `.cls`: the `label`; `.txt`: the `text`). Members of a sample lie
 * side by side. The shard is read front to back, one sample in memory at a time, and each image says where in the shard its bytes are.
 */
import {createReadStream} from 'node:fs'
import {extract} from 'tar-stream'
import {problemRef, showBytes, type ImageRef, type SourceNote} from './ref.js'
import {skipReason} from './names.js'

const MAX_MEMBER = 1 << 30

/** Names stay bytes, one character each; the published types do not know the option. */
const LATIN1 = {filenameEncoding: 'latin1'} as Parameters<typeof extract>[0]

/** What tar-stream says of a member, beyond its published types: where its bytes begin, and the extended header. */
type MemberHeader = {name: string; type: string; size?: number; byteOffset: number; pax?: {path?: string}}

type Sample = {key: Buffer; image?: {bytes: Uint8Array; offset: number}; tooLarge?: number; fields: Record<string, unknown>}

/** `a/b.c/0001.seg.png` → key `a/b.c/0001`, kind `seg.png`. */
export function splitKey(path: string): {key: string; kind: string} {
  const dot = path.indexOf('.', path.lastIndexOf('/') + 1)
  return dot < 0 ? {key: path, kind: ''} : {key: path.slice(0, dot), kind: path.slice(dot + 1)}
}

async function collect(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = []
  for await (const part of stream) parts.push(part)
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts)
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

/** Yields the samples of a shard; `shown` is its name as given, `open` what to open. A damaged shard ends with a problem that is counted. */
export async function* readShard(shown: string, open: string, note: (note: SourceNote) => void): AsyncGenerator<ImageRef> {
  const finish = (sample: Sample): ImageRef | undefined => {
    const name = showBytes(sample.key)
    const id = `${shown}/${name}`
    if (sample.tooLarge !== undefined)
      return problemRef(id, open, `the member is ${sample.tooLarge} bytes long; more than ${MAX_MEMBER} is not read`)
    if (!sample.image) {
      note({kind: 'skipped', path: id, reason: 'a sample without an image'})
      return undefined
    }
    const {bytes, offset} = sample.image
    const odd =
      name === sample.key.toString('utf8') ? {} : {pathBase64: Buffer.concat([Buffer.from(`${shown}/`), sample.key]).toString('base64')}
    return {id, path: open, ...odd, fields: sample.fields, bytes, range: {offset, size: bytes.length}}
  }

  let sample: Sample | undefined
  const source = createReadStream(open, {highWaterMark: 1 << 20})
  const tar = extract(LATIN1)
  source.on('error', error => tar.destroy(error))
  source.pipe(tar)
  try {
    for await (const member of tar) {
      const header = member.header as unknown as MemberHeader
      const isFile = header.type === 'file' || header.type === 'contiguous-file'
      const encoding = header.pax?.path === undefined ? 'latin1' : 'utf8'
      const {key, kind} = splitKey(header.name)
      const path = `${shown}/${showBytes(Buffer.from(header.name, encoding))}`
      const lower = kind.toLowerCase()
      const side = lower === 'json' || lower === 'cls' || lower === 'txt'
      const base = header.name.slice(header.name.lastIndexOf('/') + 1)
      const reason = !isFile ? (header.type === 'directory' ? '' : `a ${header.type}, not a file`) : side ? undefined : skipReason(base)
      if (reason !== undefined) {
        if (reason) note({kind: 'skipped', path, reason})
        member.resume()
        continue
      }
      const keyBytes = Buffer.from(key, encoding)
      if (sample && !sample.key.equals(keyBytes)) {
        const ref = finish(sample)
        sample = undefined
        if (ref) yield ref
      }
      sample ??= {key: keyBytes, fields: {}}
      if (header.size !== undefined && header.size > MAX_MEMBER) {
        sample.tooLarge = header.size
        member.resume()
      } else if (side) {
        const wrong = addFields(sample.fields, lower, await collect(member as unknown as AsyncIterable<Buffer>))
        if (wrong) note({kind: 'skipped', path, reason: wrong})
      } else if (sample.image) {
        note({kind: 'skipped', path, reason: 'a second image of its sample'})
        member.resume()
      } else sample.image = {bytes: await collect(member as unknown as AsyncIterable<Buffer>), offset: header.byteOffset}
    }
    const last = sample && finish(sample)
    if (last) yield last
  } catch (error) {
    const last = sample?.image && finish(sample)
    if (last) yield last
    yield problemRef(shown, open, `the shard is damaged or no tar file (${(error as Error).message})`)
  } finally {
    source.destroy()
    tar.destroy()
  }
}
