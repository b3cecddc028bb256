/** The flags of commands about depth: how depth maps are read, which range counts, what stands for numbers. */
import {Errors, Flags} from '@oclif/core'

/** Reads `0.5`, `1e-3` or a fraction such as `1/256` as a number above 0. Throws a usage error on anything else. */
function parsePositive(text: string): number {
  const [top, bottom, ...rest] = text.split('/').map(part => (part.trim() === '' ? NaN : Number(part)))
  const value = bottom === undefined ? top! : top! / bottom
  if (rest.length > 0 || !(value > 0 && value < Infinity))
    throw new Errors.CLIError(`expected a number above 0 such as 0.001 or 1/256, but received ${text}`, {exit: 2})
  return value
}

/** A flag whose value is a number above 0. */
export const positive = Flags.custom<number>({parse: async input => parsePositive(input)})

/** A flag whose value is a number of 0 or more. */
export const notNegative = Flags.custom<number>({parse: async input => (Number(input) === 0 ? 0 : parsePositive(input))})

/** Where depth maps are and what they say. */
export const depthFlags = {
  depths: Flags.string({
    helpGroup: 'DEPTH',
    helpValue: 'FOLDER',
    summary:
      'Depth maps under the same relative paths as the images, with any ending (relative to the folder that holds all sets named). Without it, each row of a list names its map in the field depth.'
  }),
  'depth-scale': positive({
    helpGroup: 'DEPTH',
    helpValue: 'METRES',
    summary:
      'Metres that one unit of a map stands for; by default 0.001 (millimetres) for whole numbers and 1 for floating-point ones. KITTI: 1/256.'
  }),
  'min-depth': positive({helpGroup: 'DEPTH', helpValue: 'METRES', summary: 'Least depth that is told and scored; 0.001 by default.'}),
  'max-depth': positive({
    helpGroup: 'DEPTH',
    helpValue: 'METRES',
    summary: 'Largest depth that is told and scored; 10 by default, or what the preset or the head says.'
  })
}
