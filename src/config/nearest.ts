/**
 * Finds the name a person most likely meant: used where a flag, a command or a setting is not known. It suggests;
 * nothing ever acts on the guess.
 */

/** Number of single-character insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
export function distance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({length: b.length + 1}, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1
      let best = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + cost)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, before[j - 2]! + 1)
      row.push(best)
    }
    before = last
    last = row
  }
  return last[b.length]!
}

/** What is longer is no name that somebody mistyped. */
const MAX_LENGTH = 200

/**
 * The known name closest to `name`, or undefined when none is close enough to be worth saying (more than about a third
 * of the letters differ).
 */
export function nearestName(name: string, known: Iterable<string>): string | undefined {
  if (name.length > MAX_LENGTH) return undefined
  const wanted = name.toLowerCase()
  const allowed = Math.max(1, Math.floor(wanted.length / 3))
  let best: string | undefined
  let least = Infinity
  for (const candidate of known) {
    const other = candidate.toLowerCase()
    const prefix = wanted.length >= 3 && other.startsWith(wanted)
    const d = prefix ? Math.min(allowed, other.length - wanted.length) : distance(wanted, other)
    if (d < least) [best, least] = [candidate, d]
  }
  return least <= allowed ? best : undefined
}

/** Shorter words begin or end too many names to say what was meant. */
const LEAST_SHARED = 5

/**
 * The name of a command or flag that was probably meant: the closest one, or else one that begins or ends as the word
 * does (`train` and `pretrain`, `--batch-size` and `--batch`).
 */
export function meantName(word: string, known: readonly string[]): string | undefined {
  const bare = (name: string): string => name.toLowerCase().replace(/^--/, '')
  const wanted = bare(word)
  const shares = (other: string): boolean =>
    (wanted.length >= LEAST_SHARED && (other.startsWith(wanted) || other.endsWith(wanted))) ||
    (other.length >= LEAST_SHARED && wanted.startsWith(other))
  return nearestName(word, known) ?? (word.length > MAX_LENGTH ? undefined : known.find(name => shares(bare(name))))
}
