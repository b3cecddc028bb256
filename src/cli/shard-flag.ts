/** `--shard i/n`: which part of its list a process does. */
import {Errors, Flags} from './oclif.js'
import {launchOf} from '../system/launch.js'

export type Part = {readonly index: number; readonly count: number}
type Environment = Readonly<Record<string, string | undefined>>

/** The part by what a scheduler or launcher says: a task of a Slurm array, or one of several processes. */
function partFromEnvironment(environment: Environment): Part {
  const [task, first = 0, last, step = 1] = ['ID', 'MIN', 'MAX', 'STEP'].map(name => {
    const text = environment[`SLURM_ARRAY_TASK_${name}`]
    return text === undefined ? undefined : Number(text)
  })
  if (task !== undefined && last !== undefined) {
    const count = Math.floor((last - first) / step) + 1
    // a part of an array that is run again has other bounds: then the numbers must be given
    return {index: (task - first) / step, count}
  }
  const launch = launchOf(environment)
  if (launch) return {index: launch.rank, count: launch.size}
  throw new Errors.CLIError(
    'auto takes the shard from SLURM_ARRAY_TASK_ID (sbatch --array), or from RANK and WORLD_SIZE (torchrun, mpirun, srun), but none of them is set; give i/n',
    {exit: 2}
  )
}

/** Reads `2/8`, or `auto`. Throws a usage error on anything else. */
export function parseShard(text: string, environment: Environment = process.env): Part {
  const [, index, count] = (/^(\d{1,6})\/(\d{1,6})$/.exec(text) ?? []).map(Number)
  const part = text === 'auto' ? partFromEnvironment(environment) : {index: index!, count: count!}
  if (part.count >= 1 && Number.isInteger(part.index) && part.index >= 0 && part.index < part.count) return part
  throw new Errors.CLIError(`expected i/n with i from 0 to n - 1, such as 0/8, or auto, but received ${text}`, {exit: 2})
}

/** How a flag that names a part is read. */
export const partFlag = {parse: async (input: string) => parseShard(input), helpValue: 'I/N'}

export const shardFlag = Flags.custom<Part>({
  ...partFlag,
  summary:
    'Do the I-th of N parts of the inputs, counted from 0 (auto: from SLURM_ARRAY_TASK_ID, or RANK and WORLD_SIZE); {shard} in the name of the output becomes I. Files of all parts, given together, are read as one.'
})()
