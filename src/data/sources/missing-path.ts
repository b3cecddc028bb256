/** What to try where a path that somebody named is not there. */
import {opendir} from 'node:fs/promises'
import {basename, dirname, join} from 'node:path'
import {nearestName} from '../../config/nearest.js'

/** More entries of a folder than these are not looked through for a guess. */
const MAX_ENTRIES = 10_000

/** The names in a folder, at most `MAX_ENTRIES`; none where it cannot be listed. */
async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = []
  try {
    for await (const {name} of await opendir(folder)) if (names.push(name) === MAX_ENTRIES) break
  } catch {
    // The hint does without.
  }
  return names
}

/** A sentence for the hint of the error: the name beside it that is most like it, or the general advice. */
export async function missingPathHint(path: string): Promise<string> {
  const guess = nearestName(basename(path), await namesIn(dirname(path)))
  return guess === undefined ? 'Check the spelling and the folder you are in.' : `Did you mean ${join(dirname(path), guess)}?`
}
