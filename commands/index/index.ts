/**
 * `dinov2 index`: embeddings become a searchable index, or join or leave one. In a folder of its own, because oclif
 * takes `commands/index.ts` for the whole program.
 */
import {counted} from '../../src/config/counted.js'
import {Args, Flags, type Interfaces} from '@oclif/core'
import {Command, inputFlags, outputFlags, reportFlags, settingsFlags} from '../../src/cli/command.js'
import {UserError} from '../../src/config/errors.js'

export default class Index extends Command {
  static override group = 'Features'
  static override summary = 'Make a searchable index of embeddings.'
  static override description =
    'One self-contained file: ids, fields, vectors, and how they were made. Up to 20,000 rows every query is compared with every row, which is exact and as quick; above, a graph (HNSW) is built, and the share of the true neighbours that it finds is measured on rows held back and printed.\n\n--add and --remove change an existing index: name it with -o (it is replaced as a whole, at the end), or as the argument and -o for the result.\n\nWith --backend lance the index is a LanceDB table, in a folder or at the address of an object store (s3://…, gs://…, az://…), written as the rows stream by and searched from the disk: for more rows than memory holds. From 20,000 rows on it has inverted lists with product quantisation (IVF-PQ), and what they find is measured in the same way. It needs the optional package @lancedb/lancedb.'
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
  static override flags = {
    output: outputFlags.output,
    force: outputFlags.force,
    add: Flags.string({
      multiple: true,
      helpGroup: 'CHANGING',
      helpValue: 'EMBEDDINGS',
      summary: 'Add these rows to the index. Repeatable; - is stdin.'
    }),
    remove: Flags.string({
      helpGroup: 'CHANGING',
      helpValue: 'LIST',
      summary: 'Take out the ids of this list (one a line, or JSON Lines with an id); - is stdin.'
    }),
    replace: Flags.boolean({
      helpGroup: 'CHANGING',
      summary: 'A row whose id is there already takes the place of the other; without it, that is an error.'
    }),
    ...inputFlags,
    backend: Flags.option({options: ['file', 'lance'] as const})({
      helpGroup: 'INDEX',
      summary:
        'One file that is loaded to be searched, or a LanceDB table that is searched where it lies. An index that is changed stays what it is, and an address is a table.'
    }),
    kind: Flags.option({options: ['auto', 'exact', 'hnsw', 'ivf-pq'] as const})({
      default: 'auto',
      helpGroup: 'INDEX',
      summary: 'auto is exact below 20,000 rows, and above a graph (file) or inverted lists (lance).'
    }),
    metric: Flags.option({options: ['cosine', 'ip', 'l2'] as const})({
      helpGroup: 'INDEX',
      summary: 'cosine (the default; vectors are normalised), inner product, or Euclidean distance.'
    }),
    m: Flags.integer({
      min: 2,
      max: 128,
      helpGroup: 'INDEX',
      helpValue: 'N',
      summary: 'Links of a node in the graph; 16 by default. More find more and need more memory.'
    }),
    'ef-construction': Flags.integer({
      min: 4,
      max: 4096,
      helpGroup: 'INDEX',
      helpValue: 'N',
      summary: 'Candidates looked at while building; 200 by default.'
    }),
    ef: Flags.integer({
      min: 1,
      max: 65_536,
      helpGroup: 'INDEX',
      helpValue: 'N',
      summary: 'Candidates looked at by a search; by default as many as give a measured recall of 0.98.'
    }),
    probes: Flags.integer({
      min: 1,
      max: 65_536,
      helpGroup: 'INDEX',
      helpValue: 'N',
      summary: 'Inverted lists that a search reads; by default as many as give a measured recall of 0.98.'
    }),
    refine: Flags.integer({
      min: 1,
      max: 1000,
      helpGroup: 'INDEX',
      helpValue: 'N',
      summary:
        'Candidates for each neighbour that are measured again with their whole vectors; by default 10, or 40 where that is needed for the recall.'
    }),
    seed: settingsFlags.seed,
    config: settingsFlags.config,
    set: settingsFlags.set,
    'print-config': settingsFlags['print-config'],
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    verbose: reportFlags.verbose,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Index)
    const {buildIndex, isAddress, isIndex, isLance, streamSink} = await import('../../src/tasks/search/build-index.js')
    const named = (args.embeddings ?? []) as string[] | string
    const given = typeof named === 'string' ? [named] : named
    const indexes: string[] = []
    const sources: string[] = []
    for (const name of given) (name !== '-' && ((await isIndex(name)) || (await isLance(name))) ? indexes : sources).push(name)
    sources.push(...(flags.add ?? []))
    const changes = flags.add !== undefined || flags.remove !== undefined || indexes.length > 0
    if (indexes.length > 1)
      throw usage(`${indexes.join(' and ')} are indexes; one can be changed at a time.`, 'Keep the embeddings, and index them together.')
    if ([...sources, flags.remove].filter(name => name === '-').length > 1) throw usage('stdin (-) is named twice; it can be read once.')
    const outputGiven = this.sources['output'] !== 'default'
    const base = changes ? (indexes[0] ?? (outputGiven && flags.output !== '-' ? flags.output : undefined)) : undefined
    if (changes && base === undefined)
      throw usage(
        '--add and --remove change an index, but none was named.',
        'Name it with -o, e.g. dinov2 index -o photos.index --add more.arrow'
      )
    if (!changes) this.inputs(sources, 'embeddings')
    else if (sources.length === 0 && flags.remove === undefined && flags.kind === 'auto')
      throw usage(`What is to be done with ${base!}?`, 'Give --add EMBEDDINGS, --remove LIST, or --kind.')
    // An index that is changed is its own output, unless another is named.
    const target = base !== undefined && !outputGiven ? base : flags.output
    if (target === '-' && process.stdout.isTTY)
      throw new UserError('An index is not written to a terminal.', {exit: 2, code: 'TERMINAL', hint: 'Give -o FILE.'})

    const lance = base === undefined ? flags.backend === 'lance' || isAddress(target) : await isLance(base)
    this.#refuseOther(flags, lance, base)
    if (flags['dry-run']) {
      const {planLines, planWork} = await import('../../src/tasks/plan.js')
      return this.reportPlan(
        await planWork({
          reads: {embeddings: sources},
          files: [base, flags.remove === '-' ? undefined : flags.remove].filter(name => name !== undefined && !isAddress(name)),
          computes: `an index (${flags.kind})`,
          writes: [target]
        }),
        planLines
      )
    }
    if (lance) return this.#lance(flags, sources, base, target, changes)
    if (flags.kind === 'ivf-pq')
      throw usage('Inverted lists (--kind ivf-pq) are kept in a LanceDB table.', 'Give --backend lance, or --kind hnsw.')
    const output = await this.output(target, {force: flags.force || target === base})
    const events = buildIndex({
      sources,
      stdin: process.stdin,
      base,
      ...(flags.remove === undefined ? {} : {remove: flags.remove, nul: flags.null}),
      kind: flags.kind,
      ...(flags.metric ? {metric: flags.metric} : {}),
      graph: {
        m: flags.m,
        efConstruction: flags['ef-construction'],
        seed: flags.seed
      },
      ef: flags.ef,
      target: target === '-' ? undefined : target,
      replace: flags.replace,
      signal: this.signal
    })
    const {report, write} = await this.#follow(events)
    await write(streamSink(output.stream))
    await output.commit()
    const {recall} = report
    const found =
      report.kind === 'exact'
        ? 'exact search, recall@10 1'
        : recall === null
          ? 'graph; too few new rows to measure its recall'
          : `graph, recall@${recall.k} ${recall.value.toFixed(3)} on ${counted(recall.queries, 'held row')} with ef ${report.ef}`
    this.#sum(report, changes, found, target)
    return {output: target, ...report}
  }

  /** Flags of one backend are refused with the other. */
  #refuseOther(flags: Readonly<Record<string, unknown>>, lance: boolean, base: string | undefined): void {
    const name = base ?? 'the index'
    if (base !== undefined && flags['backend'] !== undefined && (flags['backend'] === 'lance') !== lance) {
      throw usage(
        `${base} is ${lance ? 'a LanceDB table' : 'a file'}, and changing does not make it another kind.`,
        'Leave --backend out, or index the embeddings again.'
      )
    }
    const wrong = (lance ? ['m', 'ef-construction', 'ef'] : ['probes', 'refine']).find(flag => flags[flag] !== undefined)
    if (wrong !== undefined)
      throw usage(
        `--${wrong} belongs to ${lance ? 'a graph, which an index in one file has' : 'the inverted lists of a LanceDB table'}; ${name} is none.`,
        lance ? 'Give --probes and --refine instead.' : 'Give --ef instead, or --backend lance.'
      )
  }

  async #lance(
    flags: Interfaces.InferredFlags<typeof Index.flags>,
    sources: readonly string[],
    base: string | undefined,
    target: string,
    changes: boolean
  ): Promise<unknown> {
    if (target === '-') throw usage('A LanceDB table is a folder, and cannot go to stdout.', 'Name a folder or an address with -o.')
    if (flags.kind === 'hnsw')
      throw usage('A graph (--kind hnsw) is kept in one file.', 'Leave --backend lance out, or give --kind ivf-pq.')
    const {indexLance} = await import('../../src/tasks/search/lance-index.js')
    const report = await this.#follow(
      indexLance({
        sources,
        stdin: process.stdin,
        target,
        force: flags.force,
        base,
        ...(flags.remove === undefined ? {} : {remove: flags.remove, nul: flags.null}),
        kind: flags.kind,
        ...(flags.metric ? {metric: flags.metric} : {}),
        seed: flags.seed,
        probes: flags.probes,
        refine: flags.refine,
        replace: flags.replace,
        signal: this.signal
      })
    )
    const {recall, lists} = report
    const found =
      lists === undefined
        ? 'exact search, recall@10 1'
        : recall === null
          ? `${counted(lists.partitions, 'inverted list')}; too few new rows to measure their recall`
          : `${counted(lists.partitions, 'inverted list')}, recall@${recall.k} ${recall.value.toFixed(3)} on ${counted(recall.queries, 'held row')} with probes ${lists.probes}, refine ${lists.refine}`
    this.#sum(report, changes, found, target)
    return {output: target, backend: 'lance', ...report}
  }

  /** Shows how far the work is; its result. */
  async #follow<T>(events: AsyncGenerator<import('../../src/tasks/search/build-index.js').IndexEvent, T>): Promise<T> {
    let progress = this.progress({unit: 'rows', label: 'reading'})
    let step = await events.next()
    for (let label = 'reading'; !step.done; step = await events.next()) {
      const event = step.value
      if (event.kind === 'linked' && label === 'reading')
        progress = this.progress({unit: 'rows', label: (label = 'linking'), total: event.of})
      if (event.kind === 'no-graph') this.note(`${event.reason}; the index of ${event.rows} rows is exact: searched row by row`)
      if (event.kind === 'training') progress = this.progress({unit: 'rows', label: (label = 'training lists on')})
      progress.update(event.rows)
    }
    progress.stop()
    return step.value
  }

  #sum(
    report: {readonly rows: number; readonly dim: number; readonly added: number; readonly replaced: number; readonly removed: number},
    changes: boolean,
    found: string,
    target: string
  ): void {
    const changed = [
      ...(changes && report.added > report.replaced ? [`${report.added - report.replaced} added`] : []),
      ...(report.replaced > 0 ? [`${report.replaced} replaced`] : []),
      ...(report.removed > 0 ? [`${report.removed} removed`] : [])
    ]
    this.note(
      `${counted(report.rows, 'row')} of ${counted(report.dim, 'number')}${changed.length > 0 ? ` (${changed.join(', ')})` : ''}; ${found}${target === '-' ? '' : `; in ${target}`}`
    )
  }
}

const usage = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', hint})
