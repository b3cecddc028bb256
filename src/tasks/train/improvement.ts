/** Whether training improved the weights that it began with, by the nearest-neighbour scores before and after. */

/** What features were worth before the first step and after the last one. */
export type Improvement = {
  readonly before: Readonly<Record<string, number>>
  readonly after: Readonly<Record<string, number>>
  readonly fell: boolean
  readonly words: string
}

/**
 * Holds the nearest-neighbour scores (`knn_10`, …) of step 0 against the latest; undefined where there are not both.
 */
export function improvementOf(
  lines: readonly {readonly step: number; readonly values: ReadonlyMap<string, number>}[]
): Improvement | undefined {
  const scored = lines.filter(({values}) => [...values.keys()].some(name => name.startsWith('knn_')))
  const [first, last] = [scored.find(({step}) => step === 0), scored.at(-1)]
  if (!first || !last || last.step === 0) return undefined
  const names = [...first.values.keys()].filter(name => name.startsWith('knn_') && last.values.has(name))
  const of = ({values}: {values: ReadonlyMap<string, number>}): Record<string, number> =>
    Object.fromEntries(names.map(name => [name, values.get(name)!]))
  const [before, after] = [of(first), of(last)]
  const change = names.reduce((sum, name) => sum + after[name]! - before[name]!, 0) / names.length
  const percent = (share: number): string => (100 * share).toFixed(1)
  const from = names
    .map(name => `from ${percent(before[name]!)} to ${percent(after[name]!)} % (k = ${name.slice('knn_'.length)})`)
    .join(' and ')
  const fell = change < 0
  const verdict = fell
    ? ': the weights were better before; lower optim.base_lr, train for fewer steps, or give more images'
    : change === 0
      ? ': training changed nothing that these images show'
      : ''
  return {before, after, fell, words: `nearest neighbours ${fell ? 'fell' : change > 0 ? 'rose' : 'went'} ${from}${verdict}`}
}
