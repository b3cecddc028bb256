/** The classes of an evaluation: their order, their numbers, and how often each occurs. */
import {counted} from '../../../config/counted.js'

/** All labels once, sorted. */
export const sortedClasses = (labels: Iterable<string>): string[] => [...new Set(labels)].sort((a, b) => (a < b ? -1 : 1))

/** Class numbers of labels; −1 for a class that is not known. */
export function classNumbers(labels: readonly string[], classes: readonly string[]): Int32Array {
  const places = new Map(classes.map((name, k) => [name, k]))
  return Int32Array.from(labels, label => places.get(label) ?? -1)
}

/** How often each label occurs. */
function countsOf(labels: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>()
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1)
  return counts
}

/** Labels by how often they occur, most often first; of equal ones the first in order. */
export function byFrequency(labels: readonly string[]): string[] {
  const counts = countsOf(labels)
  return [...counts.keys()].sort((a, b) => counts.get(b)! - counts.get(a)! || (a < b ? -1 : 1))
}

/** What to say of classes that a set has and train has not; undefined where there is none. */
export function unseenNote(set: string, unseen: readonly string[]): string | undefined {
  if (unseen.length === 0) return undefined
  const names = `${unseen.slice(0, 5).join(', ')}${unseen.length > 5 ? ', …' : ''}`
  const [are, count] = unseen.length === 1 ? ['is', 'counts'] : ['are', 'count']
  return `${counted(unseen.length, 'class', 'classes')} of ${set} ${are} not in train and ${count} as wrong: ${names}`
}

/** What to say of classes of train that have fewer than the `n` images asked for; undefined where none has. */
export function fewNote(labels: readonly string[], n: number): string | undefined {
  const counts = countsOf(labels)
  const few = [...counts].filter(([, count]) => count < n).sort(([a], [b]) => (a < b ? -1 : 1))
  if (few.length === 0) return undefined
  const names = `${few
    .slice(0, 5)
    .map(([label, count]) => `${label} (${count})`)
    .join(', ')}${few.length > 5 ? ', …' : ''}`
  const [have, theirs] = few.length === 1 ? ['has', 'its own'] : ['have', 'theirs']
  return `${counted(few.length, 'class', 'classes')} of train ${have} fewer than ${n} images, so all of ${theirs} are used: ${names}`
}

export const ONE_CLASS_NOTE = 'there is one class only, so every answer is right and no score means anything'
