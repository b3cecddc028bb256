/**
 * Small public photo sets that a person may fetch from the host that publishes them. Nothing of them is part of this
 * project: the table says where each lies, how long it is, under which licence, and how the names inside become
 * `{train,val}/<class>/<file>`.
 */
import {createHash} from 'node:crypto'
import {createReadStream} from 'node:fs'
import {readFile} from 'node:fs/promises'
import {join} from 'node:path'
import {createGunzip} from 'node:zlib'
import {extract} from 'tar-stream'
import {UserError} from '../config/errors.js'

export type Archive = {readonly url: string; readonly bytes: number; readonly sha256: string}

/** Where a member of the archives belongs below the set's folder; undefined leaves it out. */
export type Place = (member: string) => string | undefined

export type PhotoSet = {
  readonly name: string
  readonly about: string
  /** What the pictures may be used for, in one sentence. */
  readonly licence: string
  /** The page of those who made it. */
  readonly home: string
  /** Gzipped tar archives; the first holds the pictures. */
  readonly archives: readonly [Archive, ...Archive[]]
  /** Makes the rule of places; `folder` holds the archives that come after the first, unpacked. */
  readonly places: (folder: string) => Promise<Place>
}

/** A fifth of the files, always the same ones: the split of a set that comes without one. */
const heldBack = (name: string): boolean => createHash('sha256').update(name).digest()[0]! % 5 === 0

const WORDS: Readonly<Record<string, string>> = {
  n01440764: 'tench',
  n02102040: 'english-springer',
  n02979186: 'cassette-player',
  n03000684: 'chain-saw',
  n03028079: 'church',
  n03394916: 'french-horn',
  n03417042: 'garbage-truck',
  n03425413: 'gas-pump',
  n03445777: 'golf-ball',
  n03888257: 'parachute'
}

/** The sets by name; lengths and checksums are those under which the archives have been published for years. */
export const PHOTO_SETS: readonly PhotoSet[] = [
  {
    name: 'flowers',
    about: '3,670 photos of flowers in 5 classes, about 320 × 240; one in five becomes val',
    licence: 'CC BY 2.0: free to use and change with credit; the photographers are named in LICENSE.txt, which comes along',
    home: 'https://www.tensorflow.org/datasets/catalog/tf_flowers',
    archives: [
      {
        url: 'https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz',
        bytes: 228_813_984,
        sha256: '4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c'
      }
    ],
    places: async () => member => {
      const [, kind, file] = /^flower_photos\/([a-z]+)\/([\w.-]+\.jpg)$/.exec(member) ?? []
      if (member === 'flower_photos/LICENSE.txt') return 'LICENSE.txt'
      return kind && `${heldBack(file!) ? 'val' : 'train'}/${kind}/${file}`
    }
  },
  {
    name: 'imagenette',
    about: '13,394 photos of 10 easily separated classes of ImageNet, shorter side 160, with its own train and val',
    licence: 'Collection Apache-2.0; the photos are of ImageNet, whose terms allow non-commercial research and teaching',
    home: 'https://github.com/fastai/imagenette',
    archives: [
      {
        url: 'https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz',
        bytes: 99_003_388,
        sha256: '64d0c4859f35a461889e0147755a999a48b49bf38a7e0f9bd27003f10db02fe5'
      }
    ],
    places: async () => member => {
      const [, split, kind, file] = /^imagenette2-160\/(train|val)\/(n\d{8})\/([\w.-]+\.JPEG)$/.exec(member) ?? []
      return split && `${split}/${WORDS[kind!] ?? kind}/${file}`
    }
  },
  {
    name: 'pets',
    about: '7,349 photos of cats and dogs in 37 breeds, about 500 × 375; trainval becomes train, test becomes val',
    licence: 'CC BY-SA 4.0: free to use and change with credit and under the same licence',
    home: 'https://www.robots.ox.ac.uk/~vgg/data/pets/',
    archives: [
      {
        url: 'https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz',
        bytes: 791_918_971,
        sha256: '67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d'
      },
      {
        url: 'https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz',
        bytes: 19_173_078,
        sha256: '52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91'
      }
    ],
    places: async folder => {
      const names = async (list: string): Promise<Set<string>> =>
        new Set((await readFile(join(folder, 'annotations', list), 'utf8')).split('\n').map(line => line.split(' ')[0]!))
      const [train, val] = [await names('trainval.txt'), await names('test.txt')]
      return member => {
        const [, name, kind] = /^images\/((\w+?)_\d+)\.jpg$/.exec(member) ?? []
        if (name === undefined) return undefined
        const split = train.has(name) ? 'train' : val.has(name) ? 'val' : undefined
        return split && `${split}/${kind!.toLowerCase()}/${name}.jpg`
      }
    }
  }
]

/** The set of that name. Throws a `UserError` that lists the names. */
export function photoSet(name: string, sets: readonly PhotoSet[] = PHOTO_SETS): PhotoSet {
  const found = sets.find(set => set.name === name)
  if (found) return found
  throw new UserError(`There is no photo set ${name}.`, {
    exit: 2,
    code: 'NO_SET',
    hint: `There are: ${sets.map(set => set.name).join(', ')}.`
  })
}

/**
 * Reads a gzipped tar from front to back and hands each file of it to `take`; others than plain files are passed over.
 * Throws a `UserError` when the archive is damaged.
 */
export async function untar(path: string, take: (member: string, bytes: Uint8Array) => Promise<void>, signal?: AbortSignal): Promise<void> {
  const members = extract()
  const source = createReadStream(path, {highWaterMark: 1 << 20})
  const unzipped = createGunzip()
  for (const stream of [source, unzipped]) stream.on('error', (error: Error) => members.destroy(error))
  source.pipe(unzipped).pipe(members)
  let refused: unknown // what `take` threw: not the archive's fault
  try {
    for await (const member of members) {
      signal?.throwIfAborted()
      const {name, type} = member.header
      const pieces: Buffer[] = []
      for await (const piece of member) pieces.push(piece as Buffer)
      if (type !== 'file') continue
      await take(name.replace(/^\.\//, ''), Buffer.concat(pieces)).catch((error: unknown) => {
        refused = error
        throw error
      })
    }
  } catch (error) {
    signal?.throwIfAborted()
    if (error === refused || (error as NodeJS.ErrnoException).syscall !== undefined) throw error
    throw new UserError(`${path} is damaged: ${error instanceof Error ? error.message : String(error)}.`, {
      code: 'BAD_ARCHIVE',
      hint: 'Remove it and try again.',
      cause: error
    })
  } finally {
    source.destroy()
    unzipped.destroy()
  }
}
