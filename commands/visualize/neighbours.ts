/** `dinov2 visualize neighbours`: a contact sheet of queries and what was found for them. */
import {extname} from 'node:path'
import {Args, Flags} from '@oclif/core'
import {UserError} from '../../src/config/errors.js'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../../src/cli/command.js'

export default class VisualizeNeighbours extends Command {
  static override group = 'Results'
  static override summary = 'Show queries and their nearest neighbours as a contact sheet.'
  static override description =
    'The queries are images (with --model, the one that the index was made with), or embeddings; or, without queries, the rows that dinov2 search printed are drawn, from a .jsonl file or from stdin (-). Pictures are opened by their ids. Where rows carry labels, a green frame says that a neighbour has the label of its query.'
  static override examples = [
    '<%= config.bin %> visualize neighbours photos.index query.jpg --model vits14.pth -o found.html',
    '<%= config.bin %> visualize neighbours photos.index queries.arrow -k 5 -o found.png',
    '<%= config.bin %> search photos.index queries.arrow | <%= config.bin %> visualize neighbours - -o found.html'
  ]
  static override args = {
    index: Args.string({ignoreStdin: true, required: true, description: 'An index; or rows of search: a .jsonl file, or - for stdin.'}),
    queries: Args.string({multiple: true, ignoreStdin: true, description: 'Images (with --model) or files of embeddings.'})
  }
  static override flags = {
    ...inputFlags,
    model: Flags.string({char: 'm', helpValue: 'MODEL', summary: 'Backbone for queries that are images.'}),
    output: Flags.string({
      char: 'o',
      required: true,
      helpValue: 'FILE',
      summary: 'Where the sheet goes: .html for a page that holds all, or .png.'
    }),
    force: outputFlags.force,
    k: Flags.integer({char: 'k', min: 1, max: 100, default: 8, helpValue: 'N', summary: 'Neighbours of a query.'}),
    limit: Flags.integer({min: 1, max: 10_000, default: 24, helpValue: 'N', summary: 'Queries shown at most; the first ones are taken.'}),
    self: Flags.boolean({default: true, allowNo: true, summary: 'Show a row that is the query itself.'}),
    side: Flags.integer({min: 16, max: 1024, default: 128, helpValue: 'PIXELS', summary: 'Side of a small picture.'}),
    root: Flags.string({helpValue: 'DIR', summary: 'Folder that the names in the index start from; by default the present one.'}),
    title: Flags.string({helpValue: 'TEXT', summary: 'Heading of the page.'}),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
    ...strictBadFlags,
    json: reportFlags.json,
    quiet: reportFlags.quiet
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeNeighbours)
    const ending = extname(flags.output).toLowerCase()
    if (ending !== '.png' && ending !== '.html' && ending !== '.htm')
      throw new UserError(`The output ${flags.output} should end in .html or .png.`, {exit: 2, code: 'UNKNOWN_FORMAT'})
    const queries =
      args.queries === undefined ? [] : typeof args.queries === 'string' ? [args.queries] : [...(args.queries as readonly string[])]
    const fromRows = queries.length === 0 && (args.index === '-' || /\.(jsonl|ndjson)$/.test(args.index))
    if (!fromRows) this.inputs(queries, 'queries')
    const output = await this.output(flags.output)
    const bad = this.badImages(flags)
    const {answerEmbeddings, answerImages, answerRows, contactSheet} = await import('../../src/tasks/search/contact-sheet.js')
    const {k, limit} = flags
    const shared = {index: args.index, k, limit, skipSelf: !flags.self}
    const answers = fromRows
      ? answerRows(args.index === '-' ? process.stdin : args.index, {k, limit})
      : flags.model === undefined
        ? answerEmbeddings({...shared, queries})
        : answerImages({
            ...shared,
            images: queries,
            nul: flags.null,
            model: flags.model,
            engine: this.engineRequest(flags),
            toolVersion: this.config.version,
            onRejected: bad.add,
            signal: this.signal
          })
    const progress = this.progress({unit: 'queries'})
    const {content, report} = await contactSheet(answers, {
      format: ending === '.png' ? 'png' : 'html',
      side: flags.side,
      title: flags.title,
      root: flags.root,
      onQuery: done => {
        bad.accept()
        progress.update(done)
      }
    })
    progress.stop()
    await bad.finish()
    output.stream.write(content)
    await output.commit()
    if (report.missing > 0) this.warn(`${report.missing} pictures could not be opened by their ids; --root DIR says where names start`)
    this.note(`${report.queries} queries in ${flags.output}`)
    return {output: flags.output, ...report}
  }
}
