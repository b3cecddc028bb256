/** The flags of commands that train. */
import {Errors, Flags} from './oclif.js'
import {badFlags, configFlags, engineFlags, inputFlags, outputFlags, reportFlags, seedFlag} from './command.js'

const batchSize = Flags.custom<number | 'auto'>({
  parse: async input => {
    if (input === 'auto') return input
    if (/^[1-9]\d*$/.test(input)) return Number(input)
    throw new Errors.CLIError(`expected a number of images or auto, but received ${input}`, {exit: 2})
  }
})

const positive = Flags.custom<number>({
  parse: async input => {
    const value = Number(input)
    if (value > 0 && Number.isFinite(value)) return value
    throw new Errors.CLIError(`expected a number above 0, but received ${input}`, {exit: 2})
  }
})

/** Where a run goes, and how one is gone on with. */
export const runFlags = {
  output: Flags.string({char: 'o', helpValue: 'FOLDER', summary: 'The run folder; only --dry-run can do without.'}),
  force: Flags.boolean({char: 'f', summary: 'Begin anew in the folder of a run. What that run wrote is removed; other files stay.'}),
  resume: outputFlags.resume,
  'accept-changes': Flags.boolean({
    dependsOn: ['resume'],
    summary: 'Go on although settings or images differ from those of the run; its checkpoints record from which step on.'
  })
}

/** How long a run is to take. */
export const minutesFlag = positive({
  helpValue: 'N',
  summary:
    'Take about so many minutes on this machine: the first steps are measured, and train.steps is set to what fits. Evaluations while training come on top. A run that goes on (--resume) keeps its number of steps.'
})

/** What every command that trains takes besides. */
export const trainingFlags = {
  ...inputFlags,
  'eval-images': Flags.string({
    multiple: true,
    helpGroup: 'EVALUATION',
    helpValue: 'SET',
    summary:
      'Labelled images (a folder of folders, or a list with labels) on which the model is scored while it learns: k-nearest neighbours, each image by the others. Repeatable.'
  }),
  'eval-val': Flags.string({
    multiple: true,
    dependsOn: ['eval-images'],
    helpGroup: 'EVALUATION',
    helpValue: 'SET',
    summary: 'Labelled images to be classified by those of --eval-images. Repeatable.'
  }),
  'eval-every': Flags.integer({min: 1, default: 500, helpGroup: 'EVALUATION', helpValue: 'N', summary: 'Steps between two such scores.'}),
  ...configFlags,
  ...seedFlag,
  ...engineFlags,
  batch: batchSize({
    helpGroup: 'ENGINE',
    helpValue: 'N|auto',
    summary: 'Images a step; auto takes as many as the memory allows and says how many. By default train.batch_size_per_gpu.'
  }),
  tflops: positive({
    dependsOn: ['dry-run'],
    helpGroup: 'ENGINE',
    helpValue: 'N',
    summary:
      'With --dry-run: hours on a device that achieves N TFLOP/s, counted and not tried. Devices that share a step take as long as one.'
  }),
  processes: Flags.integer({
    min: 1,
    dependsOn: ['dry-run'],
    helpGroup: 'ENGINE',
    helpValue: 'N',
    summary:
      'With --dry-run: memory and traffic of each of N processes too, for ddp and fsdp. By default as many as a launcher has started.'
  }),
  ...badFlags,
  ...reportFlags
}
