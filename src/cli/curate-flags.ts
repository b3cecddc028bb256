/** The flags that every command of curation takes; those of single stages stand in `curate-stage-flags.ts`. */
import {Args, Errors, Flags, type Interfaces} from './oclif.js'
import {badFlags, configFlags, engineFlags, inputFlags, outputFlags, reportFlags, seedFlag} from './flags.js'
import {partFlag, type Part} from './shard-flag.js'
import {modelForImagesFlag, pixelFlags, vectorFlags} from './feature-flags.js'

/** Reads `512M`, `4G` or a number of bytes. Throws a usage error on anything else. */
function parseBytes(text: string): number {
  const found = /^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$/i.exec(text.trim())
  if (!found || Number(found[1]) === 0) throw new Errors.CLIError(`expected a size such as 512M or 4G, but received ${text}`, {exit: 2})
  return Math.floor(Number(found[1]) * 1024 ** ' kmgt'.indexOf(found[2]!.toLowerCase() || ' '))
}

const bytes = Flags.custom<number>({parse: async input => parseBytes(input)})

/** A default value, and how help writes it. */
export const withDefault = <T>(value: T, help: string) => ({default: async () => value, defaultHelp: async () => help})

/** What every command of curation takes. */
export const curateFlags = {
  output: outputFlags.output,
  force: outputFlags.force,
  ...inputFlags,
  only: Flags.string({
    helpGroup: 'POOL',
    helpValue: 'LIST',
    summary: 'Only the ids of this list take part, e.g. what an earlier stage kept; its fields ride along.'
  }),
  since: Flags.string({
    helpGroup: 'POOL',
    helpValue: 'KEPT',
    summary: 'What an earlier run kept: these rows stay, and only what is new is judged, against them and among itself.'
  }),
  rejected: Flags.string({
    helpGroup: 'RESULT',
    helpValue: 'FILE',
    summary: 'Write rejected rows here, each with its stage and reason: with the kept ones they are the whole pool.'
  }),
  html: Flags.string({
    helpGroup: 'RESULT',
    helpValue: 'FILE',
    summary: 'Also write a page with counts, clusters and pictures; it holds all its pictures.'
  }),
  materialize: Flags.option({options: ['links', 'copy', 'tar'] as const})({
    helpGroup: 'RESULT',
    dependsOn: ['to'],
    summary: 'Also lay the kept images down in a folder: symbolic links, copies, or tar shards (webdataset) with their rows.'
  }),
  to: Flags.string({helpGroup: 'RESULT', helpValue: 'DIR', dependsOn: ['materialize'], summary: 'The folder for --materialize.'}),
  'shard-size': Flags.integer({min: 1, default: 1000, helpGroup: 'RESULT', helpValue: 'N', summary: 'Images of a tar shard.'}),
  model: modelForImagesFlag,
  cache: Flags.string({
    helpGroup: 'FEATURES',
    helpValue: 'DIR',
    summary: 'Keep features of images in this folder and take them from there the next time.'
  }),
  shard: Flags.custom<Part>({
    ...partFlag,
    dependsOn: ['cache'],
    exclusive: ['rejected', 'html', 'materialize'],
    helpGroup: 'FEATURES',
    summary:
      'Only compute the features of the I-th of N parts of the pool, counted from 0, and keep them in --cache (auto: from SLURM_ARRAY_TASK_ID, or RANK and WORLD_SIZE). The same command without --shard takes them from there.'
  })(),
  memory: bytes({
    ...withDefault(2 * 2 ** 30, '2G'),
    helpGroup: 'FEATURES',
    helpValue: 'SIZE',
    summary: 'Memory for vectors; more go to a temporary file. Arrays of NumPy (.npy) are read where they lie.'
  }),
  pool: vectorFlags.pool,
  layers: vectorFlags.layers,
  ...pixelFlags,
  ...engineFlags,
  ...badFlags,
  ...configFlags,
  ...seedFlag,
  json: reportFlags.json,
  quiet: reportFlags.quiet,
  verbose: reportFlags.verbose,
  'dry-run': reportFlags['dry-run']
}

/** Values of the flags that every command of curation takes. */
export type CurateFlagValues = Interfaces.InferredFlags<typeof curateFlags>

/** The pool. */
export const poolArg = {
  images: Args.string({
    multiple: true,
    ignoreStdin: true,
    description:
      'Folders, image files, lists, tar shards, Parquet files of images, or files of embeddings; - is a list or a stream of embeddings on stdin.'
  })
}
