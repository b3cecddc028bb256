/** `dinov2 search`: the nearest neighbours of images or embeddings. */
import {counted} from '../src/config/counted.js'
import {Args, Flags} from '../src/cli/oclif.js'
import {Command, configFlags, engineFlags, inputFlags, outputFlags, reportFlags, strictBadFlags} from '../src/cli/command.js'
import {modelForImagesFlag, pixelFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class Search extends Command {
  static override group = 'Features'
  static override summary = 'Find the nearest neighbours of images or embeddings.'
  static override description =
    'With --model, queries are images (files, folders, lists, - for a list on stdin); they are made ready as the indexed ones were, and the model must be the one of the index. Without, queries are embeddings (files, or - for a stream on stdin).\n\nOne line of JSON for each neighbour, nearest first: {"query", "rank", "id", "similarity", "fields"}; "distance" instead of "similarity" where the index measures Euclidean distance.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos.index query.jpg --model starter -k 5',
    '<%= config.bin %> <%= command.id %> photos.index query.jpg --model vits14.pth -k 5',
    '<%= config.bin %> embed new --model vits14.pth | <%= config.bin %> <%= command.id %> photos.index - | jq -r .id',
    '<%= config.bin %> <%= command.id %> photos.index photos.parquet -k 1 --no-self -o copies.jsonl',
    '<%= config.bin %> <%= command.id %> photos.index queries --model vits14.pth --html found.html -o found.jsonl'
  ]
  static override args = {
    index: Args.string({required: true, ignoreStdin: true, description: 'The index: a file, or the folder or address of a LanceDB table.'}),
    queries: Args.string({multiple: true, ignoreStdin: true, description: 'Images (with --model) or files of embeddings; - is stdin.'})
  }
  static override flags = {
    model: modelForImagesFlag,
    output: outputFlags.output,
    force: outputFlags.force,
    k: Flags.integer({char: 'k', min: 1, max: 100_000, default: 10, helpValue: 'N', summary: 'Neighbours of a query.'}),
    ef: Flags.integer({
      min: 1,
      max: 65_536,
      helpValue: 'N',
      summary: 'Candidates looked at in a graph; by default what the index was measured with.'
    }),
    probes: Flags.integer({
      min: 1,
      max: 65_536,
      helpValue: 'N',
      summary: 'Inverted lists that are read (an index with --backend lance); by default what the index was measured with.'
    }),
    refine: Flags.integer({
      min: 1,
      max: 1000,
      helpValue: 'N',
      summary:
        'Candidates for each neighbour that are measured again with their whole vectors; by default what the index was measured with.'
    }),
    self: Flags.boolean({default: true, allowNo: true, summary: 'Give a row that has the id of the query.'}),
    html: Flags.string({
      helpGroup: 'CONTACT SHEET',
      helpValue: 'FILE',
      summary: 'Also write a page that shows queries and neighbours; it holds all its pictures.'
    }),
    'html-queries': Flags.integer({
      min: 1,
      max: 10_000,
      default: 100,
      helpGroup: 'CONTACT SHEET',
      helpValue: 'N',
      summary: 'Queries on the page at most; the first ones are taken.'
    }),
    root: Flags.string({
      helpGroup: 'CONTACT SHEET',
      helpValue: 'DIR',
      summary: 'Folder that the names in the index start from; by default the present one.'
    }),
    ...inputFlags,
    'max-pixels': pixelFlags['max-pixels'],
    workers: pixelFlags.workers,
    ...engineFlags,
    ...strictBadFlags,
    ...configFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Search)
    const named = (args.queries ?? []) as string[] | string
    const queries = this.inputs(named, flags.model === undefined ? 'queries (embeddings; images need --model)' : 'images')
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {queries},
        nul: flags.null,
        models: [flags.model],
        files: /^\w+:\/\//.test(args.index) ? [] : [args.index],
        computes: `${flags.k} neighbours of each query`,
        writes: [flags.output, flags.html]
      })
    const output = await this.output(flags.output)
    const sheet = flags.html === undefined ? undefined : await this.output(flags.html)
    if (sheet?.toStdout && output.toStdout)
      throw new UserError('Rows and page cannot both go to stdout.', {exit: 2, code: 'USAGE', hint: 'Name a file with -o or --html.'})
    const bad = this.badImages(flags)
    const {answerEmbeddings, answerImages} = await import('../src/tasks/search/search.js')
    const {signal} = this
    const shared = {
      index: args.index,
      k: flags.k,
      skipSelf: !flags.self,
      signal,
      ...{ef: flags.ef, probes: flags.probes, refine: flags.refine}
    }
    const answers =
      flags.model === undefined
        ? answerEmbeddings({...shared, queries: await this.#embeddings(queries)})
        : answerImages({
            ...shared,
            images: queries,
            nul: flags.null,
            model: flags.model,
            engine: this.engineRequest(flags),
            toolVersion: this.config.version,
            batch: flags.batch,
            workers: flags.workers,
            maxPixels: flags['max-pixels'],
            onRejected: ({pathBase64, ...image}) => bad.add({...image, path_base64: pathBase64})
          })
    const progress = this.progress({unit: 'queries'})
    const shown: import('../src/tasks/search/search.js').QueryAnswer[] = []
    let [done, rows] = [0, 0]
    for await (const answer of answers) {
      if (signal.aborted) break
      const text = answer.found.map(found => JSON.stringify(found) + '\n').join('')
      if (!output.stream.write(text)) await new Promise(resolve => output.stream.once('drain', resolve))
      if (sheet && shown.length < flags['html-queries']) shown.push(answer)
      bad.accept()
      rows += answer.found.length
      progress.update(++done)
    }
    progress.stop()
    if (signal.aborted) return {queries: done, rows, finished: false}
    await bad.finish()
    await output.commit()
    let missing: number | undefined
    if (sheet) {
      const {contactSheet} = await import('../src/tasks/search/contact-sheet.js')
      const made = await contactSheet(shown, {format: 'html', root: flags.root})
      sheet.stream.write(made.content)
      await sheet.commit()
      missing = made.report.missing
      if (missing > 0) this.warn(`${counted(missing, 'image')} could not be opened by id; --root DIR says where names start`)
      if (done > shown.length)
        this.note(`the page shows the first ${shown.length} of ${counted(done, 'query', 'queries')}; raise --html-queries to see more`)
    }
    this.note(
      `${counted(rows, 'neighbour')} of ${counted(done, 'query', 'queries')}${flags.output === '-' ? '' : `, in ${flags.output}`}${flags.html === undefined ? '' : `; page in ${flags.html}`}`
    )
    return {output: flags.output, queries: done, rows, refused: bad.count, ...(flags.html === undefined ? {} : {html: flags.html, missing})}
  }

  /** Says what to do where images are given without a model. */
  async #embeddings(queries: readonly string[]): Promise<readonly string[]> {
    const picture = queries.find(name => /\.(jpe?g|png|webp|gif|tiff?|bmp|avif|heic|tar)$/i.test(name))
    if (picture !== undefined)
      throw new UserError(`${picture} is an image; to search with it, the model of the index is needed.`, {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model.'
      })
    return queries
  }
}
