/**
 * The flags that commands share, as plain objects to spread into `static flags`, and the argument for image inputs.
 *
 * A flag is declared here once, with its sentence; help, completion and the structural test read it from here. Every
 * flag of every command can also be given by environment variable (`environmentName`) and by its long name in a
 * `--config` file; the base class in `command.ts` sees to that.
 */
import {Args, Errors, Flags} from './oclif.js'
import {simulatedDevice} from '../system/test-device.js'

/** The environment variable of a flag: `--max-bad` is `DINOV2_MAX_BAD`. */
export const environmentName = (flag: string): string => `DINOV2_${flag.toUpperCase().replaceAll('-', '_')}`

/** How many refused inputs a run puts up with: a count, or a share in per cent of all inputs. */
export type MaxBad = {readonly kind: 'count' | 'percent'; readonly value: number}

/** Reads `12` as a count and `5%` as a share. Throws a usage error on anything else. */
export function parseMaxBad(text: string): MaxBad {
  const found = /^(\d+(?:\.\d+)?)(%?)$/.exec(text.trim())
  const value = Number(found?.[1])
  const percent = found?.[2] === '%'
  if (!found || (percent ? value > 100 : !Number.isInteger(value))) {
    throw new Errors.CLIError(`expected a count such as 12 or a share such as 5%, but received ${text}`, {exit: 2})
  }
  return {kind: percent ? 'percent' : 'count', value}
}

/** A count, or a share in per cent. */
export const countOrShare = Flags.custom<MaxBad>({parse: async input => parseMaxBad(input)})

/** Where the result goes. */
export const outputFlags = {
  output: Flags.string({char: 'o', default: '-', helpValue: 'FILE', summary: 'Where the result goes; - is stdout.'}),
  force: Flags.boolean({char: 'f', summary: 'Replace an output that exists.'}),
  resume: Flags.boolean({summary: 'Go on where an interrupted run stopped.', exclusive: ['force']})
}

/** What is said, and how. */
export const reportFlags = {
  json: Flags.boolean({
    helpGroup: 'REPORT',
    summary: 'Give the final report as one JSON object: on stdout, or as the last line of stderr where data goes to stdout.'
  }),
  quiet: Flags.boolean({
    char: 'q',
    helpGroup: 'REPORT',
    summary: 'No progress, no summary; warnings and errors only.',
    exclusive: ['verbose']
  }),
  verbose: Flags.boolean({char: 'v', helpGroup: 'REPORT', summary: 'Say more on stderr.'}),
  'dry-run': Flags.boolean({
    char: 'n',
    helpGroup: 'REPORT',
    summary: 'Report what would be read, computed and written, then stop; nothing is written.'
  })
}

/**
 * Flags that name what is written, or let it be replaced or gone on with: files of settings may be another's and may
 * not set them.
 */
export const writingFlags: ReadonlySet<string> = new Set(
  ['output', 'force', 'resume', 'accept-changes', 'bad', 'head-out', 'predictions', 'maps', 'html', 'rejected', 'materialize', 'to', 'cache', 'replace', 'yes'] // prettier-ignore
)

/** Settings files and single settings. */
export const configFlags = {
  config: Flags.string({
    multiple: true,
    helpGroup: 'SETTINGS',
    helpValue: 'FILE',
    summary: 'YAML with settings, or with flags of this command under their long names. Repeatable; later files win.'
  }),
  set: Flags.string({
    multiple: true,
    helpGroup: 'SETTINGS',
    helpValue: 'KEY=VALUE',
    summary: 'One setting or flag, e.g. optim.epochs=20. Repeatable.'
  }),
  'print-config': Flags.boolean({helpGroup: 'SETTINGS', summary: 'Print what is in force and where each value came from, then stop.'})
}

export const seedFlag = {
  seed: Flags.integer({
    min: 0,
    max: 2 ** 31 - 1,
    helpGroup: 'SETTINGS',
    helpValue: 'N',
    summary: 'Where all draws start: the same seed gives the same bytes.'
  })
}

export const engineChoices = ['auto', 'torch', 'tensorflow', 'wasm'] as const
export type EngineChoice = (typeof engineChoices)[number]
export const precisions = ['auto', 'fp32', 'tf32', 'bf16', 'fp16', 'int8'] as const
export type PrecisionChoice = (typeof precisions)[number]

const device = Flags.custom<string>({
  parse: async input => {
    const known = /^(auto|cpu|cuda(:\d+)?|mps)$/.test(input) || (input === 'sim' && simulatedDevice())
    if (!known) throw new Errors.CLIError(`expected auto, cpu, cuda, cuda:N or mps, but received ${input}`)
    return input
  }
})

/** Where the arithmetic runs. */
export const engineFlags = {
  engine: Flags.option({options: engineChoices})({
    default: 'auto',
    helpGroup: 'ENGINE',
    summary: 'What computes. auto takes the fastest that is installed and says which; one asked for by name is never replaced.'
  }),
  device: device({default: 'auto', helpGroup: 'ENGINE', helpValue: 'auto|cpu|cuda[:N]|mps', summary: 'Where it computes.'}),
  precision: Flags.option({options: precisions})({
    default: 'auto',
    helpGroup: 'ENGINE',
    summary: 'Number format. auto is bf16 where the device multiplies it natively, else fp32.'
  }),
  threads: Flags.integer({min: 1, helpGroup: 'ENGINE', helpValue: 'N', summary: 'Threads on the CPU; by default one a core.'}),
  batch: Flags.integer({
    min: 1,
    helpGroup: 'ENGINE',
    helpValue: 'N',
    summary: 'Images computed at once; by default what suits the model and the device.'
  })
}

/** What happens to inputs that cannot be read; these commands go on past a few. */
export const badFlags = {
  'max-bad': countOrShare({
    default: async () => parseMaxBad('5%'),
    defaultHelp: async () => '5%',
    helpGroup: 'BAD INPUT',
    helpValue: 'N|P%',
    summary: 'How many inputs may be refused, as a count or a share, before the run counts as failed (status 4).'
  }),
  bad: Flags.string({helpGroup: 'BAD INPUT', helpValue: 'FILE', summary: 'Write refused inputs here as JSON Lines: id, path, reason.'})
}

/** The same for evaluations, where a missing image changes the figure: none may be refused unless allowed. */
export const strictBadFlags = {
  ...badFlags,
  'max-bad': countOrShare({
    default: async () => parseMaxBad('0'),
    defaultHelp: async () => '0',
    helpGroup: 'BAD INPUT',
    helpValue: 'N|P%',
    summary: 'How many inputs may be refused, as a count or a share, before the run counts as failed (status 4).'
  })
}

/**
 * How a list on stdin or in a file is cut into entries. oclif's type knows letters only; the digit works, and
 * `find -print0 | … -0` is what people type.
 */
export const inputFlags = {
  null: Flags.boolean({char: '0' as 'z', summary: 'Entries of a list end with NUL instead of a line end, as find -print0 writes them.'})
}

/** The inputs of most commands: `static args = {...imagesArg}`; read them through `this.inputs(args.images)`. */
export const imagesArg = {
  images: Args.string({
    multiple: true,
    ignoreStdin: true,
    description:
      'Folders, image files, lists (lines, JSON Lines, CSV), tar shards, Parquet files of images, or - for a list or a tar shard on stdin.'
  })
}
