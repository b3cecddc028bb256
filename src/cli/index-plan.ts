/** What `dinov2 index` is to do: which inputs are embeddings, which index is changed, and which backend keeps it. */
import {UserError} from '../config/errors.js'

/** The flags that decide it. */
export type IndexRequest = {
  readonly output: string
  /** Whether `--output` was given, and not left at its default. */
  readonly outputGiven: boolean
  readonly add?: readonly string[]
  readonly remove?: string
  readonly backend?: 'file' | 'lance'
  readonly kind: 'auto' | 'exact' | 'hnsw' | 'ivf-pq'
  readonly m?: number
  readonly 'ef-construction'?: number
  readonly ef?: number
  readonly probes?: number
  readonly refine?: number
}

export type IndexPlan = {
  readonly sources: readonly string[]
  /** The index that is changed; absent for a new one. */
  readonly base: string | undefined
  readonly target: string
} & ({readonly lance: false; readonly kind: 'auto' | 'exact' | 'hnsw'} | {readonly lance: true; readonly kind: 'auto' | 'exact' | 'ivf-pq'})

/** Ways to distinguish an index from embeddings. */
export type IndexProbes = {
  readonly isIndex: (name: string) => Promise<boolean>
  readonly isLance: (name: string) => Promise<boolean>
  readonly isAddress: (name: string) => boolean
}

const usage = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})

/** Sorts the named inputs. Throws a `UserError` (exit 2) for combinations that make no sense. */
export async function planIndex(
  given: readonly string[],
  flags: IndexRequest,
  {isIndex, isLance, isAddress}: IndexProbes
): Promise<IndexPlan> {
  const {add = [], remove, output, outputGiven} = flags
  const indexes: string[] = []
  const sources: string[] = []
  for (const name of given) (name !== '-' && ((await isIndex(name)) || (await isLance(name))) ? indexes : sources).push(name)
  sources.push(...add)
  const changes = add.length > 0 || remove !== undefined || indexes.length > 0
  if (indexes.length > 1)
    throw usage(`${indexes.join(' and ')} are indexes; one can be changed at a time.`, 'Keep the embeddings, and index them together.')
  if ([...sources, remove].filter(name => name === '-').length > 1) throw usage('stdin (-) is named twice; it can be read once.')
  const base = changes ? (indexes[0] ?? (outputGiven && output !== '-' ? output : undefined)) : undefined
  if (changes && base === undefined)
    throw usage(
      '--add and --remove change an index, but none was named.',
      'Name it with -o, e.g. dinov2 index -o photos.index --add more.arrow'
    )
  if (changes && sources.length === 0 && remove === undefined && flags.kind === 'auto')
    throw usage(`What is to be done with ${base!}?`, 'Give --add EMBEDDINGS, --remove LIST, or --kind.')
  // An index that is changed is its own output, unless another is named.
  const target = base !== undefined && !outputGiven ? base : output
  if (target === '-' && process.stdout.isTTY)
    throw new UserError('An index is not written to a terminal.', {exit: 2, code: 'TERMINAL', hint: 'Give -o FILE.'})
  const lance = base === undefined ? flags.backend === 'lance' || isAddress(target) : await isLance(base)
  refuseOtherBackend(flags, lance, base)
  const {kind} = flags
  if (!lance) {
    if (kind === 'ivf-pq')
      throw usage('Inverted lists (--kind ivf-pq) are kept in a LanceDB table.', 'Give --backend lance, or --kind hnsw.')
    return {sources, base, target, lance, kind}
  }
  if (target === '-') throw usage('A LanceDB table is a folder, and cannot go to stdout.', 'Name a folder or an address with -o.')
  if (kind === 'hnsw') throw usage('A graph (--kind hnsw) is kept in one file.', 'Leave --backend lance out, or give --kind ivf-pq.')
  return {sources, base, target, lance, kind}
}

/** Refuses flags of one backend with the other. */
function refuseOtherBackend(flags: IndexRequest, lance: boolean, base: string | undefined): void {
  if (base !== undefined && flags.backend !== undefined && (flags.backend === 'lance') !== lance)
    throw usage(
      `${base} is ${lance ? 'a LanceDB table' : 'a file'}, and changing does not make it another kind.`,
      'Leave --backend out, or index the embeddings again.'
    )
  const wrong = (lance ? (['m', 'ef-construction', 'ef'] as const) : (['probes', 'refine'] as const)).find(
    flag => flags[flag] !== undefined
  )
  if (wrong !== undefined)
    throw usage(
      `--${wrong} belongs to ${lance ? 'a graph, which an index in one file has' : 'the inverted lists of a LanceDB table'}; ${base ?? 'the index'} is none.`,
      lance ? 'Give --probes and --refine instead.' : 'Give --ef instead, or --backend lance.'
    )
}
