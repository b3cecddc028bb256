/** The flags that all evaluations share, each with one name and one sentence. */
import {UserError} from '../config/errors.js'
import {Errors, Flags} from './oclif.js'
import {configFlags, engineFlags, inputFlags, outputFlags, reportFlags, seedFlag, strictBadFlags} from './flags.js'

/** A set of items; `what` says of which kind and for which purpose. */
export const setFlag = (summary: string) => Flags.string({multiple: true, helpValue: 'SET', summary})
export const requiredSetFlag = (summary: string) => Flags.string({multiple: true, required: true, helpValue: 'SET', summary})

/** The baselines of an evaluation, and `none`. */
export const baselineFlag = <const B extends string>(names: readonly B[], defaults: string) =>
  Flags.option({options: [...names, 'none'] as const, multiple: true as const})({
    summary: `Which baselines to score beside the model; by default ${defaults}. none leaves them out. Repeatable.`
  })

/** Whole numbers above 0, separated by commas; a word among `words` stands for undefined. */
export const wholeNumbers = (words: readonly string[] = []) =>
  Flags.custom<(number | undefined)[]>({
    parse: async input => {
      const list = input.split(',').map(part => (words.includes(part) ? undefined : Number(part)))
      if (list.some(n => n !== undefined && !(Number.isInteger(n) && n > 0)))
        throw new Errors.CLIError(
          `expected whole numbers separated by commas${words.map(word => ` (or ${word})`).join('')}, but received ${input}`,
          {exit: 2}
        )
      return [...new Set(list)]
    }
  })

/** Draws of a limited train set. */
export const repeatsFlag = Flags.integer({
  aliases: ['tries'],
  min: 1,
  max: 1000,
  default: 1,
  helpValue: 'N',
  summary: 'Draws of a limited train set; the mean is reported.'
})

/** Refuses to draw again what nothing limits: all draws would be the same. `limit` is the flag that limits. */
export function assertLimited(repeats: number, limited: boolean, limit: string): void {
  if (repeats > 1 && !limited)
    throw new UserError(`--repeats ${repeats} asks for draws of a limited train set, but nothing limits it.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give ${limit} too.`
    })
}

/** Where the report, the rows and the page go. */
export const evalOutputFlags = {
  output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
  predictions: Flags.string({
    helpValue: 'FILE',
    summary: 'Write what became of each item here, as JSON Lines: id, set, and what was predicted or scored.'
  }),
  html: Flags.string({
    helpGroup: 'PAGE',
    helpValue: 'FILE',
    summary: 'Write a page with scores, differences, and images that went well, badly and as usual.'
  }),
  root: Flags.string({
    helpGroup: 'PAGE',
    helpValue: 'DIR',
    summary: 'Folder that the names of embeddings start from; by default the present one.'
  }),
  force: outputFlags.force
}

/** How the evaluation runs: engine, bad inputs, settings, reports. */
export const evalRunFlags = {
  ...inputFlags,
  ...engineFlags,
  ...strictBadFlags,
  ...seedFlag,
  ...configFlags,
  ...reportFlags
}
