/** Groups of images, and who asks for whom. */
import {valueText} from '../../../system/json.js'
import {UserError} from '../../../config/errors.js'
import type {Fields} from '../../../files/embeddings/embeddings.js'
import type {RankQuery} from '../../../search/ranks.js'

/**
 * What makes the group of an image, of its base name: its first letters, or what a pattern finds (its first bracket,
 * else the whole of it).
 */
export type GroupRule = {readonly prefix: number} | {readonly pattern: RegExp}

/** The group of an image. Throws a `UserError` (exit 2) where it has none. */
export function groupOf(id: string, {group}: Fields, label: string | undefined, rule: GroupRule | undefined): string {
  const base = id.split('/').at(-1)!
  const none = (hint: string): UserError => new UserError(`${id} belongs to no group.`, {exit: 2, code: 'NO_GROUP', hint})
  if (rule && 'prefix' in rule) return base.slice(0, rule.prefix)
  if (rule) {
    const found = rule.pattern.exec(base)
    if (!found) throw none(`The pattern ${rule.pattern.source} does not occur in ${base}.`)
    return found[1] ?? found[0]
  }
  const own = group === undefined || group === null || group === '' ? label : valueText(group)
  if (own === undefined)
    throw none(
      'A group is the group field of a list, the folder under the given root (also inside a tar), or part of the name (--group-prefix, --group-regex).'
    )
  return own
}

/** The queries: the first row of each group of two or more, or all of its rows. */
export function queriesOf(labels: readonly string[], query: 'first' | 'all'): RankQuery[] {
  const members = new Map<string, number[]>()
  for (const [row, label] of labels.entries()) {
    const known = members.get(label)
    if (known) known.push(row)
    else members.set(label, [row])
  }
  const queries: RankQuery[] = []
  for (const [row, label] of labels.entries()) {
    const group = members.get(label)!
    if (group.length > 1 && (query === 'all' || group[0] === row)) queries.push({row, relevant: group.filter(other => other !== row)})
  }
  return queries
}
