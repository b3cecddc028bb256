/** The flags of the filter, the first stage of curation, and those that other stages have too. */
import {Flags} from './oclif.js'
import {withDefault} from './curate-flags.js'
import {real} from './real-flag.js'

/** Which features a stage compares. */
export const features = (summary: string) =>
  Flags.option({options: ['auto', 'perceptual', 'model'] as const})({default: 'auto', helpGroup: 'FEATURES', summary})

/** Seeds of retrieval, which the filter may use too. */
export const seedsFlag = Flags.string({
  multiple: true,
  helpGroup: 'STAGE',
  helpValue: 'NAME=INPUT',
  summary: 'Seed images (or embeddings), as a set of that name; repeatable. NAME:sample=… and NAME:cluster=… choose the way for one set.'
})

export const filterFlags = {
  'min-side': Flags.integer({
    min: 0,
    default: 32,
    helpGroup: 'STAGE',
    helpValue: 'PIXELS',
    summary: 'Leave out images whose shorter side is smaller.'
  }),
  'max-aspect': real(
    0,
    Infinity
  )({
    ...withDefault(5, '5'),
    helpGroup: 'STAGE',
    helpValue: 'RATIO',
    summary: 'Leave out images that are longer than this times their width; 0 keeps all.'
  }),
  'min-contrast': real(
    0,
    128
  )({
    ...withDefault(2, '2'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'Leave out images whose grey levels spread less than this (standard deviation, of 255).'
  }),
  'min-entropy': real(
    0,
    8
  )({
    ...withDefault(0, '0'),
    helpGroup: 'STAGE',
    helpValue: 'BITS',
    summary: 'Leave out images whose grey levels hold less information than this.'
  }),
  'min-sharpness': real(
    0,
    Infinity
  )({
    ...withDefault(2, '2'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'Leave out images that are blurred: variance of the Laplacian at 256 pixels. Photographs lie above 10.'
  }),
  'min-brightness': real(
    0,
    255
  )({
    ...withDefault(0, '0'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'Leave out dark images: the mean grey level, of 255. Photographs of the night lie below 20.'
  }),
  'max-overexposed': real(
    0,
    1
  )({
    ...withDefault(1, '1'),
    helpGroup: 'STAGE',
    helpValue: 'SHARE',
    summary:
      'Leave out overexposed images: the share of pixels that are white or nearly so. Pictures of things on a white ground have many, too.'
  }),
  'min-colorfulness': real(
    0,
    Infinity
  )({
    ...withDefault(0, '0'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'Leave out greyscale images: colorfulness is 0 without any colour and above 15 in most photographs; try 3.'
  }),
  'max-noise': real(
    0,
    Infinity
  )({
    ...withDefault(0.7, '0.7'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'Leave out noise: 1 is white noise, photographs lie below 0.5.'
  }),
  'max-hash-distance': Flags.integer({
    min: 0,
    max: 15,
    helpGroup: 'STAGE',
    helpValue: 'BITS',
    summary: 'Leave out images whose 64-bit hash differs from that of another in at most this many bits; not compared by default.'
  }),
  seeds: seedsFlag,
  'min-similarity': real(
    -1,
    1
  )({
    ...withDefault(0, '0'),
    helpGroup: 'STAGE',
    helpValue: 'X',
    summary: 'With --seeds: leave out images that are less like than this to every seed.'
  }),
  features: features('What the distance to seeds is measured by: a model, or perceptual features, which know copies only.')
}
