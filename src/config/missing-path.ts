/** What to try where a path that somebody named is not there. */
import {opendirSync} from 'node:fs'
import {basename, dirname, join} from 'node:path'
import {nearestName} from './nearest.js'

/** More entries of a folder than these are not looked through for a guess. */
const MAX_ENTRIES = 10_000

/** The names in a folder, at most `MAX_ENTRIES`; none where it cannot be listed. */
function namesIn(folder: string): string[] {
  const names: string[] = []
  try {
    const open = opendirSync(folder)
    try {
      for (let entry = open.readSync(); entry !== null && names.length < MAX_ENTRIES; entry = open.readSync()) names.push(entry.name)
    } finally {
      open.closeSync()
    }
  } catch {
    // The hint does without.
  }
  return names
}

/**
 * A sentence for the hint of the error: the name that is most like the last part of `path`, of those beside it and of
 * `names` that would have been taken as well; `otherwise` where nothing is like it.
 */
export function missingPathHint(
  path: string,
  {otherwise = 'Check the spelling and the folder you are in.', names = []}: {otherwise?: string; names?: readonly string[]} = {}
): string {
  const beside = namesIn(dirname(path)).filter(name => name !== basename(path)) // a link that leads nowhere is listed
  const guess = nearestName(basename(path), [...beside, ...names])
  if (guess === undefined) return otherwise
  return `Did you mean ${beside.includes(guess) ? join(dirname(path), guess) : guess}?`
}
