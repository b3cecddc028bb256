/** `dinov2 index`: embeddings become a searchable index, or join or leave one. In a folder of its own, because oclif takes `commands/index.ts` for the whole program. */
import {Args, Flags} from '@oclif/core'
import {Command, inputFlags, outputFlags, reportFlags, settingsFlags} from '../../src/cli/command.js'
import {UserError} from '../../src/config/errors.js'

export default class Index extends Command {
  static override group = 'Features'
  static override summary = 'Make a searchable index of embeddings.'
  static override description =
    'One self-contained file: ids, fields, vectors, and how they were made. Up to 20,000 rows every query is compared with every row, which is exact and as quick; above, a graph (HNSW) is built, and the share of the true neighbours that it finds is measured on rows held back and printed.\n\n--add and --remove change an existing index: name it with -o (it is replaced as a whole, at the end), or as the argument and -o for the result.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos.parquet -o photos.index',
    '<%= config.bin %> embed photos --model vits14.pth | <%= config.bin %> <%= command.id %> - -o photos.index',
    '<%= config.bin %> <%= command.id %> -o photos.index --add more.arrow --replace',
    '<%= config.bin %> <%= command.id %> photos.index --remove gone.txt -o fewer.index'
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
    kind: Flags.option({options: ['auto', 'exact', 'hnsw'] as const})({
      default: 'auto',
      helpGroup: 'INDEX',
      summary: 'auto is exact below 20,000 rows and a graph above.'
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
    seed: settingsFlags.seed,
    config: settingsFlags.config,
    set: settingsFlags.set,
    'print-config': settingsFlags['print-config'],
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    verbose: reportFlags.verbose
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Index)
    const {buildIndex, isIndex, streamSink} = await import('../../src/steps/index.js')
    const named = (args.embeddings ?? []) as string[] | string
    const given = typeof named === 'string' ? [named] : named
    const indexes: string[] = []
    const sources: string[] = []
    for (const name of given) (name !== '-' && (await isIndex(name)) ? indexes : sources).push(name)
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

    const output = await this.output(target, {force: flags.force || target === base})
    const events = buildIndex({
      sources,
      stdin: process.stdin,
      ...(base === undefined ? {} : {base}),
      ...(flags.remove === undefined ? {} : {remove: flags.remove, nul: flags.null}),
      kind: flags.kind,
      ...(flags.metric ? {metric: flags.metric} : {}),
      graph: {
        ...(flags.m === undefined ? {} : {m: flags.m}),
        ...(flags['ef-construction'] === undefined ? {} : {efConstruction: flags['ef-construction']}),
        ...(flags.seed === undefined ? {} : {seed: flags.seed})
      },
      ...(flags.ef === undefined ? {} : {ef: flags.ef}),
      replace: flags.replace,
      signal: this.signal
    })
    let progress = this.progress({unit: 'rows', label: 'reading'})
    let step = await events.next()
    for (let linking = false; !step.done; step = await events.next()) {
      if (step.value.kind === 'read') progress.update(step.value.rows)
      else {
        if (!linking) progress = this.progress({unit: 'rows', label: 'linking', total: step.value.of})
        linking = true
        progress.update(step.value.rows)
      }
    }
    progress.stop()
    const {report, write} = step.value
    await write(streamSink(output.stream))
    await output.commit()
    const {recall} = report
    const found =
      report.kind === 'exact'
        ? 'exact search, recall@10 1'
        : recall === null
          ? 'graph; too few new rows to measure its recall'
          : `graph, recall@${recall.k} ${recall.value.toFixed(3)} on ${recall.queries} held rows with ef ${report.ef}`
    const changed = [
      ...(changes && report.added > report.replaced ? [`${report.added - report.replaced} added`] : []),
      ...(report.replaced > 0 ? [`${report.replaced} replaced`] : []),
      ...(report.removed > 0 ? [`${report.removed} removed`] : [])
    ]
    this.note(
      `${report.rows} rows of ${report.dim} numbers${changed.length > 0 ? ` (${changed.join(', ')})` : ''}; ${found}${target === '-' ? '' : `; in ${target}`}`
    )
    return {output: target, ...report}
  }
}

const usage = (message: string, hint?: string): UserError => new UserError(message, {exit: 2, code: 'USAGE', ...(hint ? {hint} : {})})
