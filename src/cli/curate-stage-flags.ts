/**
 * The flags of each stage of curation, declared once: alone a stage takes them as they are, in the whole pipeline they
 * carry the stage's name in front (`--dedup-threshold`), and in a file of settings they may stand under it
 * (`dedup: {threshold: 0.9}`).
 */
import {Errors, Flags, type Interfaces} from './oclif.js'
import {withDefault} from './curate-flags.js'
import {features, filterFlags, seedsFlag} from './curate-filter-flags.js'
import {countOrShare} from './flags.js'
import {real} from './real-flag.js'

/** Reads `1000,100,10`. Throws a usage error on anything else. */
function parseCounts(text: string): readonly number[] {
  const numbers = text.split(',').map(Number)
  if (!numbers.every(n => Number.isInteger(n) && n > 0))
    throw new Errors.CLIError(`expected whole numbers such as 1000,100,10, but received ${text}`, {exit: 2})
  return numbers
}

const counts = Flags.custom<readonly number[]>({parse: async input => parseCounts(input)})

/** The flags of the two stages that score rows by their neighbours; scores go up to `most`. */
const scoring = (most: number, what: string) => ({
  neighbours: Flags.integer({
    min: 1,
    max: 1000,
    default: 10,
    helpGroup: 'STAGE',
    helpValue: 'K',
    summary: 'Nearest neighbours of an image that are looked at.'
  }),
  'max-score': real(0, most)({helpGroup: 'STAGE', helpValue: 'X', summary: `Leave out ${what} with a larger score; none by default.`}),
  'leave-out': countOrShare({
    helpGroup: 'STAGE',
    helpValue: 'N|P%',
    summary: `Leave out so many ${what}, those with the largest scores; none by default.`
  }),
  features: features('Which features are compared; auto is the model.')
})

export const stageFlags = {
  filter: filterFlags,
  dedup: {
    threshold: real(
      -1,
      1
    )({
      helpGroup: 'STAGE',
      helpValue: 'X',
      summary:
        'Similarity from which on two images are near-duplicates; by default 0.9 for perceptual features and 0.95 for models, which --calibrate improves on.'
    }),
    calibrate: Flags.boolean({
      helpGroup: 'STAGE',
      summary: 'Find the threshold on copies made of the pool’s own images (re-encoded, resized, cut), and print what it finds.'
    }),
    'wanted-precision': real(
      0,
      1
    )({
      ...withDefault(0.99, '0.99'),
      helpGroup: 'STAGE',
      helpValue: 'SHARE',
      summary:
        'With --calibrate: share of pairs above the threshold that are to be copies, among the copies that it makes. On copies of another kind the share differs; look at --html.'
    }),
    'calibration-images': Flags.integer({
      min: 2,
      max: 100_000,
      default: 200,
      helpGroup: 'STAGE',
      helpValue: 'N',
      summary: 'With --calibrate: images that copies are made of.'
    }),
    neighbours: Flags.integer({
      min: 1,
      max: 10_000,
      default: 64,
      helpGroup: 'STAGE',
      helpValue: 'K',
      summary: 'Nearest neighbours of an image that are looked at.'
    }),
    method: Flags.option({options: ['auto', 'exact', 'lists', 'graph'] as const})({
      default: 'auto',
      helpGroup: 'STAGE',
      summary:
        'exact compares all with all; lists compares within clusters; graph is HNSW. auto is exact up to 100,000 rows, then lists, with the share that was found.'
    }),
    probes: Flags.integer({
      min: 1,
      max: 65_536,
      helpGroup: 'STAGE',
      helpValue: 'N',
      summary: 'Clusters (lists; 8) or candidates (graph; 128) looked at for each row.'
    }),
    features: features('perceptual features know near-copies without a model; a model’s know more and cost more.')
  },
  decontaminate: {
    against: Flags.string({
      multiple: true,
      helpGroup: 'STAGE',
      helpValue: 'INPUT',
      summary: 'Benchmark images (or embeddings) to keep out; repeatable.'
    }),
    threshold: real(
      -1,
      1
    )({
      helpGroup: 'STAGE',
      helpValue: 'X',
      summary: 'Similarity from which on an image counts as near; by default three quarters of the one of dedup.'
    }),
    features: features('perceptual features know near-copies without a model; a model’s know more and cost more.')
  },
  outliers: scoring(2, 'images'),
  mislabelled: scoring(1, 'labels'),
  retrieve: {
    seeds: seedsFlag,
    method: Flags.option({options: ['auto', 'sample', 'cluster'] as const})({
      default: 'auto',
      helpGroup: 'STAGE',
      summary:
        'sample: the nearest images of each seed; cluster: images drawn from clusters that seeds fall into. auto: sample for sets of more than 1,000 seeds.'
    }),
    'per-seed': Flags.integer({
      min: 1,
      max: 100_000,
      default: 4,
      helpGroup: 'STAGE',
      helpValue: 'N',
      summary: 'sample: images of its own for each seed.'
    }),
    'min-similarity': real(-1, 1)({helpGroup: 'STAGE', helpValue: 'X', summary: 'Take no image that is less like its seed.'}),
    clusters: Flags.integer({
      min: 1,
      max: 10_000_000,
      helpGroup: 'STAGE',
      helpValue: 'K',
      summary: 'cluster: clusters of the pool; by default about one for 100 images.'
    }),
    'more-than': Flags.integer({
      min: 0,
      default: 3,
      helpGroup: 'STAGE',
      helpValue: 'T',
      summary: 'cluster: a cluster counts when more seeds than this fall into it.'
    }),
    'per-cluster': Flags.integer({
      min: 1,
      default: 10_000,
      helpGroup: 'STAGE',
      helpValue: 'M',
      summary: 'cluster: images drawn from each such cluster at most.'
    }),
    cap: Flags.integer({min: 1, helpGroup: 'STAGE', helpValue: 'N', summary: 'cluster: images for each seed set at most.'}),
    features: features('Which features are compared; auto is the model.')
  },
  cluster: {
    levels: counts({
      helpGroup: 'STAGE',
      helpValue: 'K,K,…',
      summary: 'Clusters of each level, from the images upwards; by default about one for 20 images, then an eighth of it, and so on.'
    }),
    resample: Flags.integer({
      min: 0,
      max: 100,
      helpGroup: 'STAGE',
      helpValue: 'N',
      summary:
        'How often each level is clustered again from the rows near its centroids, which spreads clusters evenly; 0 is plain k-means. 3 by default, 0 for perceptual features, whose clusters it would empty.'
    }),
    nearest: counts({
      helpGroup: 'STAGE',
      helpValue: 'N,N,…',
      summary: 'Rows of each cluster that are taken for that, by level; by default half a cluster.'
    }),
    iterations: Flags.integer({
      min: 1,
      max: 100_000,
      helpGroup: 'STAGE',
      helpValue: 'N',
      summary: 'Rounds of k-means at most: 20, or 200 mini-batches.'
    }),
    init: Flags.option({options: ['k-means++', 'random'] as const})({
      aliases: ['start'],
      default: 'k-means++',
      helpGroup: 'STAGE',
      summary: 'How the first centroids are chosen.'
    }),
    'mini-batch': Flags.integer({min: 1, helpGroup: 'STAGE', helpValue: 'N', summary: 'Rows of a round; by default all.'}),
    features: features('Which features are compared; auto is the model.')
  },
  sample: {
    target: Flags.integer({min: 1, helpGroup: 'STAGE', helpValue: 'N', summary: 'Images to keep, exactly.'}),
    select: Flags.option({options: ['random', 'nearest', 'farthest'] as const})({
      aliases: ['draw'],
      default: 'random',
      helpGroup: 'STAGE',
      summary: 'Which images of a cluster: random ones, or those nearest to or farthest from its centroid.'
    })
  }
} as const

export type StageFlagName = keyof typeof stageFlags

/** Values of the flags of each stage. */
export type StageFlagValues = {readonly [Name in StageFlagName]: Interfaces.InferredFlags<(typeof stageFlags)[Name]>}

type Prefixed<P extends string, T> = {[K in keyof T & string as `${P}-${K}`]: T[K]}

/** The flags of a stage under its name: `threshold` becomes `dedup-threshold`. */
export const prefixed = <P extends string, T extends object>(name: P, flags: T): Prefixed<P, T> =>
  Object.fromEntries(
    Object.entries(flags).map(([key, flag]) => [
      `${name}-${key}`,
      {
        ...(flag as object),
        aliases: (flag as {aliases?: string[]}).aliases?.map(old => `${name}-${old}`),
        helpGroup: name.toUpperCase()
      }
    ])
  ) as Prefixed<P, T>

/** The values of a stage's flags without its name in front. */
export function unprefixed<Name extends StageFlagName>(name: Name, values: Readonly<Record<string, unknown>>): StageFlagValues[Name] {
  const start = `${name}-`
  return Object.fromEntries(
    Object.entries(values).flatMap(([key, value]) => (key.startsWith(start) ? [[key.slice(start.length), value]] : []))
  ) as StageFlagValues[Name]
}
