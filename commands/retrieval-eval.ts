/** `dinov2 retrieval-eval`: how well images of a group find one another. */
import {Args, Errors, Flags} from '@oclif/core'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags, strictBadFlags} from '../src/cli/command.js'
import {borderFlags, modelForImagesFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

const ranks = Flags.custom<number[]>({
  parse: async input => {
    const list = input.split(',').map(Number)
    if (list.some(n => !(Number.isInteger(n) && n > 0)))
      throw new Errors.CLIError(`expected whole numbers separated by commas, but received ${input}`, {exit: 2})
    return [...new Set(list)].sort((a, b) => a - b)
  }
})

const pattern = Flags.custom<RegExp>({
  parse: async input => {
    try {
      return new RegExp(input, 'u')
    } catch {
      throw new Errors.CLIError(`expected a regular expression, but received ${input}`, {exit: 2})
    }
  }
})

export default class RetrievalEval extends Command {
  static override group = 'Evaluation'
  static override dataToStdout = false
  static override summary = 'Score features by whether images of a group find one another.'
  static override description =
    'Nothing is trained: every query asks for the other images of its group among all images, ranked by cosine, itself left out. Inputs are images with --model, or embeddings. A group is the group field of a list, else the label (field or folder), or part of the name.\n\nmAP is as in the script of INRIA Holidays (area under the precision-recall curve by trapezoids); --ap step takes it as scikit-learn does. recall@k is the mean share of right answers among the first k, hit@k the share of queries with at least one there. Beside the model stand a random order and, for images, raw pixels (32 × 32) and the same architecture with fresh weights, each with the interval of the difference; intervals are of 95 %, by drawing groups with replacement.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> holidays --group-prefix 4 --model run/final --size 64 --crop-borders',
    '<%= config.bin %> <%= command.id %> photos.csv --model vits14.pth --query all -k 1,5,20 --html found.html',
    '<%= config.bin %> <%= command.id %> photos.arrow --group-regex "^([^_]+)_" -o retrieval.json',
    '<%= config.bin %> embed photos --model vits14.pth | <%= config.bin %> <%= command.id %> - --json'
  ]
  static override args = {
    images: Args.string({multiple: true, ignoreStdin: true, description: 'Images (with --model) or files of embeddings; - is stdin.'})
  }
  static override flags = {
    model: modelForImagesFlag,
    output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
    force: outputFlags.force,
    'group-prefix': Flags.integer({
      min: 1,
      max: 255,
      helpValue: 'N',
      exclusive: ['group-regex'],
      summary: 'The group of an image is the first N characters of its base name.'
    }),
    'group-regex': pattern({
      helpValue: 'RE',
      summary: 'The group is what this finds in the base name: its first bracket, else the whole of it.'
    }),
    query: Flags.option({options: ['first', 'all'] as const})({
      default: 'first',
      summary: 'Which images ask: the first of each group in the order of the input, or all.'
    }),
    k: ranks({char: 'k', helpValue: 'LIST', summary: 'Where recall and hits are counted; 1,5,10 by default.'}),
    ap: Flags.option({options: ['trapezoid', 'step'] as const})({
      default: 'trapezoid',
      summary: 'How average precision is taken: by trapezoids (Holidays, Oxford) or by steps (scikit-learn).'
    }),
    baseline: Flags.option({options: ['pixels', 'untrained', 'none'] as const, multiple: true as const})({
      summary: 'Which baselines to score beside the model; pixels and untrained by default. Repeatable.'
    }),
    queries: Flags.string({
      helpValue: 'FILE',
      summary: 'Write what became of each query here as JSON Lines: query, group, averagePrecision, ranks, found.'
    }),
    html: Flags.string({
      helpGroup: 'PAGE',
      helpValue: 'FILE',
      summary: 'Also write a page with scores, curves, and the best, typical and worst queries with what they found.'
    }),
    root: Flags.string({
      helpGroup: 'PAGE',
      helpValue: 'DIR',
      summary: 'Folder that the names of embeddings start from; by default the present one.'
    }),
    ...inputFlags,
    pool: Flags.option({options: ['cls', 'mean', 'cls+mean'] as const})({
      default: 'cls',
      helpGroup: 'VECTORS',
      summary: 'cls token (the protocol), mean of the patch tokens, or both.'
    }),
    layers: vectorFlags.layers,
    ...pixelFlags,
    ...borderFlags,
    ...engineFlags,
    ...strictBadFlags,
    seed: settingsFlags.seed,
    config: settingsFlags.config,
    set: settingsFlags.set,
    'print-config': settingsFlags['print-config'],
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    verbose: reportFlags.verbose
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(RetrievalEval)
    const named = this.inputs(args.images as string[] | string | undefined, 'images or embeddings')
    const asked = flags.baseline ?? (flags.model === undefined ? [] : (['pixels', 'untrained'] as const))
    const baselines = [...new Set(asked)].filter(name => name !== 'none')
    const images = flags.model !== undefined || baselines.length > 0
    const picture = images ? undefined : named.find(name => /\.(jpe?g|png|webp|gif|tiff?|bmp|avif|heic|tar)$/i.test(name))
    if (picture !== undefined)
      throw new UserError(`${picture} is an image; to score images, a model is needed.`, {
        exit: 2,
        code: 'NO_MODEL',
        hint: 'Give --model, or embeddings instead of images.'
      })
    const output = flags.output === undefined ? undefined : await this.output(flags.output)
    const rows = flags.queries === undefined ? undefined : await this.output(flags.queries)
    const sheet = flags.html === undefined ? undefined : await this.output(flags.html)
    const bad = this.badImages(flags)
    const {retrievalEval} = await import('../src/tasks/eval/retrieval/evaluate.js')
    let progress = this.progress()
    let at = ''
    const made = await retrievalEval({
      inputs: named,
      model: flags.model,
      baselines,
      features: {pool: flags.pool, layers: flags.layers, normalize: false, transform: transformOf(flags)},
      ...(flags['group-prefix'] === undefined ? {} : {groups: {prefix: flags['group-prefix']}}),
      ...(flags['group-regex'] === undefined ? {} : {groups: {pattern: flags['group-regex']}}),
      query: flags.query,
      k: flags.k,
      precision: flags.ap,
      seed: flags.seed ?? 0,
      nul: flags.null,
      stdin: process.stdin,
      engine: this.engineRequest(flags),
      batch: flags.batch,
      workers: flags.workers,
      maxPixels: flags['max-pixels'],
      toolVersion: this.config.version,
      onRejected: ({pathBase64, ...image}) => bad.add({...image, path_base64: pathBase64}),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      onRows: (features, count) => {
        if (features !== at) progress = this.progress({label: features})
        at = features
        progress.update(count)
      },
      signal: this.signal
    })
    progress.stop()
    const {report, queries} = made
    if (images) bad.accept(report.images)
    await bad.finish()
    for (const note of report.notes) this.note(note)
    if (rows) {
      for (const {path: _, found, ...query} of queries)
        rows.stream.write(JSON.stringify({...query, found: found.map(({path: __, ...one}) => one)}) + '\n')
      await rows.commit()
    }
    if (sheet) {
      const {retrievalPage} = await import('../src/tasks/eval/retrieval/page.js')
      const {content, missing} = await retrievalPage(made, {root: flags.root, cropBorders: flags['crop-borders']})
      sheet.stream.write(content)
      await sheet.commit()
      if (missing > 0) this.warn(`${missing} pictures could not be opened by their names; --root DIR says where names start`)
    }
    if (output) {
      output.stream.write(JSON.stringify(report, null, 2) + '\n')
      await output.commit()
    }
    this.print(table(report))
    return report
  }
}

type Report = import('../src/tasks/eval/retrieval/evaluate.js').RetrievalReport

const percent = (share: number): string => (100 * share).toFixed(1)
const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
const names: Readonly<Record<string, string>> = {model: 'model', pixels: 'raw pixels', untrained: 'untrained', chance: 'random order'}

/** The report for people. */
function table({images, groups, queries, scores, gains}: Report): string {
  const ks = Object.keys(scores[0]!.recall)
  const rows = [
    ['features', 'mAP %', '95 %', ...ks.map(k => `recall@${k}`), ...ks.map(k => `hit@${k}`)],
    ...scores.map(({features, map, interval: [low, high], recall, hits}) => [
      names[features]!,
      percent(map),
      `${percent(low)}–${percent(high)}`,
      ...ks.map(k => percent(recall[k]!)),
      ...ks.map(k => percent(hits[k]!))
    ])
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map(row => row[column]!.length)))
  const lines = rows.map(row =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  ')
  )
  const verdicts = gains.map(
    ({over, map, interval: [low, high], word}) =>
      `The model ${word} ${over === 'untrained' ? 'the untrained model' : over === 'chance' ? 'a random order' : 'raw pixels'}: ${signed(map)} (${signed(low)} to ${signed(high)}) points of mAP.`
  )
  return [`${queries} queries among ${images} images in ${groups} groups`, '', ...lines, '', ...verdicts].join('\n')
}
