/**
 * Members of a shard gathered into samples, in whatever order they lie: an image, the fields that stand beside it, and
 * a reason for every member that belongs to no image.
 *
 * By the rules of webdataset the key of a member is its path up to the first dot of its base name. Names with dots of
 * their own (`Track 0.0.jpg`, `Track 0.1.jpg`) would share a key: where no member of a key is an image without a
 * further dot, each image is a sample of its own, named up to its last dot. Side members go to the image of the same
 * name up to the last dot, else to the image of their key.
 */

import {parseFields} from '../../system/json.js'

/** `a/b.c/0001.seg.png` → key `a/b.c/0001`, kind `seg.png`. */
export function splitKey(path: Buffer): {key: Buffer; kind: string} {
  const dot = path.indexOf(0x2e, path.lastIndexOf(0x2f) + 1)
  return dot < 0 ? {key: path, kind: ''} : {key: path.subarray(0, dot), kind: path.toString('latin1', dot + 1)}
}

/** The path up to the last dot of its base name. */
function stemOf(path: Buffer): Buffer {
  const dot = path.lastIndexOf(0x2e)
  return dot > path.lastIndexOf(0x2f) ? path.subarray(0, dot) : path
}

/** A side member: the fields that it gives, by the ending of its name. */
export type SideMember = {readonly name: Buffer; readonly kind: 'json' | 'cls' | 'txt'; readonly text: string}
/** An image, by the place of its bytes. */
export type ImageMember = {readonly name: Buffer; readonly offset: number; readonly size: number}

export type ShardSample = {
  readonly key: Buffer
  readonly image: ImageMember
  readonly fields: Readonly<Record<string, unknown>>
}
/** A member that is no part of a sample, and why. */
export type LostMember = {readonly name: Buffer; readonly reason: string}

/** Names of fields that the program gives itself; those of a side file are kept with `json_` in front. */
const OWN_FIELDS = new Set(['id', 'path', 'path_base64', 'range', 'folder', 'reason'])

/** The fields of a side member, or what is wrong with it. */
function sideFields({kind, text}: SideMember): Record<string, unknown> | string {
  const plain = text.replace(/^\uFEFF/, '')
  if (kind === 'cls') return plain.trim() === '' ? 'it is empty' : {label: plain.trim()}
  if (kind === 'txt') return {text: plain.trim()}
  let parsed: Record<string, unknown>
  try {
    parsed = parseFields(plain)
  } catch (error) {
    return error instanceof SyntaxError && error.message.startsWith('it') ? error.message : 'it is not JSON'
  }
  return Object.fromEntries(Object.entries(parsed).map(([name, value]) => [OWN_FIELDS.has(name) ? `json_${name}` : name, value]))
}

type Group = {readonly images: ImageMember[]; readonly sides: SideMember[]}

/**
 * Gathers members by key and gives the samples once all are there. Memory: a record a member, the side files'
 * text.
 */
export class SampleCollector {
  readonly #groups = new Map<string, Group>()

  addImage(member: ImageMember): void {
    this.#group(member.name).images.push(member)
  }

  addSide(member: SideMember): void {
    this.#group(member.name).sides.push(member)
  }

  #group(name: Buffer): Group {
    const key = splitKey(name).key.toString('latin1') // bytes as they are: a name need not be UTF-8
    const known = this.#groups.get(key)
    if (known) return known
    const made: Group = {images: [], sides: []}
    this.#groups.set(key, made)
    return made
  }

  /** The paths of all images so far. */
  *imageNames(): Generator<Buffer> {
    for (const {images} of this.#groups.values()) for (const {name} of images) yield name
  }

  /** The samples in the order of their first members, and the members that belong to none. */
  *samples(): Generator<ShardSample | LostMember> {
    for (const [key, group] of this.#groups) yield* samplesOf(Buffer.from(key, 'latin1'), group)
  }
}

/**
 * Fields of one image: those of its label and text files count before those of its JSON, whatever lies first; what
 * the JSON says else is kept with `json_` in front, so that it is not lost. Of two members of one name the first
 * counts, as of two images.
 */
function joinFields(sides: readonly SideMember[], lost: LostMember[]): Record<string, unknown> {
  const order = {json: 0, txt: 1, cls: 2}
  const fields: Record<string, unknown> = {}
  const names = new Set<string>()
  for (const side of [...sides].sort((a, b) => order[a.kind] - order[b.kind])) {
    const name = side.name.toString('latin1')
    const found = names.has(name) ? 'it is a second member of this name' : sideFields(side)
    names.add(name)
    if (typeof found === 'string') lost.push({name: side.name, reason: found})
    else
      for (const [field, value] of Object.entries(found)) {
        const said = Object.hasOwn(fields, field) ? fields[field] : undefined
        if (said !== undefined && said !== null && String(said) !== value) fields[`json_${field}`] ??= said
        fields[field] = value
      }
  }
  return fields
}

function* samplesOf(key: Buffer, {images, sides}: Group): Generator<ShardSample | LostMember> {
  const shown = key.toString('utf8')
  const plain = images.filter(({name}) => !splitKey(name).kind.includes('.'))
  const own = plain.length > 0 ? [plain[0]!] : images // the images that are samples
  const lost: LostMember[] = []
  const stems = new Set<string>()
  for (const image of images) {
    const stem = stemOf(image.name).toString('latin1')
    if (!own.includes(image)) {
      const first = own[0]!.name.toString('utf8')
      lost.push({name: image.name, reason: `it is a second image of the key ${shown}, whose image is ${first}`})
    } else if (stems.has(stem))
      lost.push({name: image.name, reason: `it is a second image of the key ${stemOf(image.name).toString('utf8')}`})
    else {
      stems.add(stem)
      const alone = own.length === 1
      const mine = sides.filter(({name}) => alone || stemOf(name).toString('latin1') === stem)
      yield {key: alone ? key : stemOf(image.name), image, fields: joinFields(mine, lost)}
    }
  }
  for (const {name} of sides)
    if (images.length === 0) lost.push({name, reason: `there is no image of its key, ${shown}`})
    else if (own.length > 1 && !stems.has(stemOf(name).toString('latin1')))
      lost.push({name, reason: `the key ${shown} has ${own.length} images, and none of them is called ${stemOf(name).toString('utf8')}`})
  yield* lost
}
