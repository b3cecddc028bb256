/** Flags whose values are numbers with bounds. */
import {Errors, Flags} from './oclif.js'

/** A number between two others. */
export const real = (low: number, high: number) =>
  Flags.custom<number>({
    parse: async input => {
      const value = Number(input)
      if (input.trim() === '' || !(value >= low && value <= high))
        throw new Errors.CLIError(
          `expected a number ${high === Infinity ? `of at least ${low}` : `from ${low} to ${high}`}, but received ${input}`,
          {exit: 2}
        )
      return value
    }
  })
