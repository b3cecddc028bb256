/**
 * `dinov2 index`: embeddings become a searchable index, or join or leave one. In a folder of its own, because oclif
 * takes `commands/index.ts` for the whole program.
 */
import {Args} from '../../src/cli/oclif.js'
import {Command} from '../../src/cli/command.js'
import {indexFlags} from '../../src/cli/index-flags.js'
import {planIndex, type IndexPlan} from '../../src/cli/index-plan.js'
import {counted} from '../../src/config/counted.js'
import type {IndexEvent, IndexReport} from '../../src/tasks/search/build-index.js'
import type {LanceReport} from '../../src/tasks/search/lance-index.js'

export default class Index extends Command {
  static override group = 'Features'
  static override summary = 'Make a searchable index of embeddings.'
  static override description =
    'One self-contained file: ids, fields, vectors, and how they were made. Up to 20,000 rows every query is compared with every row, which is exact and as quick; above, a graph (HNSW) is built, and the share of the true neighbours that it finds is measured on rows held back and printed.\n\n--add and --remove change an existing index: name it with -o (it is replaced as a whole, at the end), or as the argument and -o for the result.\n\nWith --backend lance the index is a LanceDB table, in a folder or at the address of an object store (s3://…, gs://…, az://…), written as the rows stream by and searched from the disk: for more rows than memory holds. From 20,000 rows on it has inverted lists with product quantization (IVF-PQ), and what they find is measured in the same way. It needs the optional package @lancedb/lancedb.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos.parquet -o photos.index',
    '<%= config.bin %> embed photos --model vits14.pth | <%= config.bin %> <%= command.id %> - -o photos.index',
    '<%= config.bin %> <%= command.id %> -o photos.index --add more.arrow --replace',
    '<%= config.bin %> <%= command.id %> photos.index --remove gone.txt -o fewer.index',
    '<%= config.bin %> <%= command.id %> photos.parquet --backend lance -o photos.lance'
  ]
  static override args = {
    embeddings: Args.string({
      multiple: true,
      ignoreStdin: true,
      description: 'Files of embeddings, or - for a stream on stdin; or an index to change.'
    })
  }
  static override flags = indexFlags

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Index)
    const {buildIndex, isAddress, isIndex, isLance, streamSink} = await import('../../src/tasks/search/build-index.js')
    const named = (args.embeddings ?? []) as string[] | string
    const request = {...flags, outputGiven: this.sources['output'] !== 'default'}
    const plan = await planIndex(typeof named === 'string' ? [named] : named, request, {isIndex, isLance, isAddress})
    const {sources, base, target} = plan
    if (base === undefined) this.inputs(sources, 'embeddings')
    if (flags['dry-run']) return this.#plan(plan, flags.remove, isAddress)
    const {remove, null: nul, metric, ef, probes, refine, replace, seed, force} = flags
    const shared = {sources, stdin: process.stdin, base, remove, nul, metric, replace, signal: this.signal}
    if (plan.lance) {
      const {indexLance} = await import('../../src/tasks/search/lance-index.js')
      const report = await this.#follow(indexLance({...shared, target, force, kind: plan.kind, seed, probes, refine}))
      this.#summarize(report, plan, foundByLists(report))
      return {output: target, backend: 'lance', ...report}
    }
    const output = await this.output(target, {force: force || target === base})
    const graph = {m: flags.m, efConstruction: flags['ef-construction'], seed}
    const events = buildIndex({...shared, kind: plan.kind, graph, ef, target: target === '-' ? undefined : target})
    const {report, write} = await this.#follow(events)
    await write(streamSink(output.stream))
    await output.commit()
    this.#summarize(report, plan, foundByGraph(report))
    return {output: target, ...report}
  }

  /** What would be read and written. */
  async #plan(
    {sources, base, target, kind}: IndexPlan,
    remove: string | undefined,
    isAddress: (name: string) => boolean
  ): Promise<unknown> {
    const files = [base, remove === '-' ? undefined : remove].filter(name => name !== undefined && !isAddress(name))
    return this.reportPlan(import('../../src/tasks/plan.js'), {
      reads: {embeddings: sources},
      files,
      computes: `an index (${kind})`,
      writes: [target]
    })
  }

  /** Shows how far the work is; its result. */
  async #follow<T>(events: AsyncGenerator<IndexEvent, T>): Promise<T> {
    let progress = this.progress({unit: 'rows', label: 'reading'})
    let step = await events.next()
    for (let label = 'reading'; !step.done; step = await events.next()) {
      const event = step.value
      if (event.kind === 'linked' && label === 'reading')
        progress = this.progress({unit: 'rows', label: (label = 'linking'), total: event.of})
      if (event.kind === 'training') progress = this.progress({unit: 'rows', label: (label = 'training lists on')})
      if (event.kind === 'no-graph') this.note(`${event.reason}; the index of ${event.rows} rows is exact: searched row by row`)
      progress.update(event.rows)
    }
    progress.stop()
    return step.value
  }

  #summarize(
    {rows, dim, added, replaced, removed}: Pick<IndexReport, 'rows' | 'dim' | 'added' | 'replaced' | 'removed'>,
    {base, target}: {readonly base: string | undefined; readonly target: string},
    found: string
  ): void {
    const changed = [
      ...(base !== undefined && added > replaced ? [`${added - replaced} added`] : []),
      ...(replaced > 0 ? [`${replaced} replaced`] : []),
      ...(removed > 0 ? [`${removed} removed`] : [])
    ]
    this.note(
      `${counted(rows, 'row')} of ${counted(dim, 'number')}${changed.length > 0 ? ` (${changed.join(', ')})` : ''}; ${found}${target === '-' ? '' : `; in ${target}`}`
    )
  }
}

const exact = 'exact search, recall@10 1'

/** How well a graph finds the true neighbours, in words. */
function foundByGraph({kind, recall, ef}: IndexReport): string {
  if (kind === 'exact') return exact
  if (recall === null) return 'graph; too few new rows to measure its recall'
  return `graph, recall@${recall.k} ${recall.value.toFixed(3)} on ${counted(recall.queries, 'held row')} with ef ${ef}`
}

/** How well inverted lists find the true neighbours, in words. */
function foundByLists({recall, lists}: LanceReport): string {
  if (lists === undefined) return exact
  const {partitions, probes, refine} = lists
  if (recall === null) return `${counted(partitions, 'inverted list')}; too few new rows to measure their recall`
  return `${counted(partitions, 'inverted list')}, recall@${recall.k} ${recall.value.toFixed(3)} on ${counted(recall.queries, 'held row')} with probes ${probes}, refine ${refine}`
}
