/** What the processes of a run say of themselves before they train together, and how they differ, in words. */
import {isObject} from '../../system/json.js'

/** What a process says of itself when it joins; all must say the same. */
export type Hello = Readonly<Record<string, unknown>>

/** Something that is not the same in a process and in process 0; values as JSON, or `absent`. */
type Difference = {readonly name: string; readonly here: string; readonly first: string}

/** So many differences are named; the others are counted. */
const NAMED = 8

/** What differs between what a process says and what process 0 says, e.g. `train.seed` of their settings. */
export function differencesBetween(own: unknown, first: unknown, name = ''): Difference[] {
  if (isObject(own) && isObject(first))
    return [...new Set([...Object.keys(own), ...Object.keys(first)])].flatMap(key =>
      differencesBetween(own[key], first[key], name === '' || name === 'settings' ? key : `${name}.${key}`)
    )
  const [here, there] = [JSON.stringify(own) ?? 'absent', JSON.stringify(first) ?? 'absent']
  return here === there ? [] : [{name, here, first: there}]
}

/** Which processes differ from process 0, and the first of them in what; undefined where none does. */
export function describeDifferences(byRank: readonly (readonly Difference[])[]): string | undefined {
  const ranks = byRank.flatMap((differences, rank) => (differences.length > 0 ? [rank] : []))
  const [rank] = ranks
  if (rank === undefined) return undefined
  const differences = byRank[rank]!
  const named = differences.slice(0, NAMED).map(({name, here, first}) => `${name} is ${here} in process ${rank} and ${first} in process 0`)
  const more = differences.length > NAMED ? `; and ${differences.length - NAMED} more` : ''
  const who = ranks.length === 1 ? `Process ${rank} differs` : `Processes ${ranks.slice(0, -1).join(', ')} and ${ranks.at(-1)} differ`
  return `${who} from process 0: ${named.join('; ')}${more}.`
}
