/** `dinov2 visualize neighbours`: a contact sheet of queries and what was found for them. */
import {counted} from '../../src/config/counted.js'
import {Args, Flags} from '../../src/cli/oclif.js'
import {modelForImagesFlag} from '../../src/cli/feature-flags.js'
import {visualizeFlags, VisualizeCommand} from '../../src/cli/visualize-command.js'

export default class VisualizeNeighbours extends VisualizeCommand {
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
    model: modelForImagesFlag,
    ...visualizeFlags(24),
    k: Flags.integer({char: 'k', min: 1, max: 100, default: 8, helpValue: 'N', summary: 'Neighbours of a query.'}),
    limit: Flags.integer({min: 1, max: 10_000, default: 24, helpValue: 'N', summary: 'Queries shown at most; the first ones are taken.'}),
    self: Flags.boolean({default: false, allowNo: true, summary: 'Show a row that is the query itself, too.'}),
    side: Flags.integer({min: 16, max: 1024, default: 128, helpValue: 'PIXELS', summary: 'Side of a small picture.'}),
    root: Flags.string({helpValue: 'DIR', summary: 'Folder that the names in the index start from; by default the present one.'}),
    title: Flags.string({helpValue: 'TEXT', summary: 'Heading of the page.'})
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(VisualizeNeighbours)
    const {index} = args
    const {k, limit, side, title, root, model, self} = flags
    const queries = [args.queries as readonly string[] | string | undefined].flat().filter(query => query !== undefined)
    const fromRows = queries.length === 0 && (index === '-' || /\.(jsonl|ndjson)$/.test(index))
    if (!fromRows) this.inputs(queries, 'queries')
    if (flags['dry-run'])
      return this.reportPlan(import('../../src/tasks/plan.js'), {
        reads: {queries},
        nul: flags.null,
        models: [model],
        files: index === '-' ? [] : [index],
        computes: `${k} neighbours of each query, of ${limit} at most`,
        writes: [flags.output]
      })
    const {answerEmbeddings, answerImages, answerRows, contactSheet} = await import('../../src/tasks/search/contact-sheet.js')
    const shared = {index, k, limit, skipSelf: !self}
    return this.draw(
      flags,
      ({format, onImage, ...options}) =>
        contactSheet(
          fromRows
            ? answerRows(index === '-' ? process.stdin : index, {k, limit, skipSelf: !self})
            : model === undefined
              ? answerEmbeddings({...shared, queries})
              : answerImages({...options, ...shared, images: queries, model}),
          {format, side, title, root, onQuery: onImage}
        ),
      ({missing, queries: shown}) => {
        if (missing > 0) this.warn(`${counted(missing, 'image')} could not be opened by id; --root DIR says where names start`)
        return [counted(shown, 'query', 'queries')]
      },
      {unit: 'queries'}
    )
  }
}
