/** `dinov2 knn-eval`: how good features are, by the labels of their nearest neighbours. */
import {Flags, Errors} from '@oclif/core'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags, strictBadFlags} from '../src/cli/command.js'
import {borderFlags, modelForImagesFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

/** Numbers separated by commas; `all` where it is allowed. */
const numbers = (words: readonly string[]) =>
  Flags.custom<(number | undefined)[]>({
    parse: async input => {
      const list = input.split(',').map(part => (words.includes(part) ? undefined : Number(part)))
      if (list.some(n => n !== undefined && !(Number.isInteger(n) && n > 0)))
        throw new Errors.CLIError(
          `expected whole numbers separated by commas${words.map(word => ` (or ${word})`).join('')}, but received ${input}`,
          {exit: 2}
        )
      return list
    }
  })

export default class KnnEval extends Command {
  static override group = 'Evaluation'
  static override dataToStdout = false
  static override summary = 'Score features by the labels of their nearest neighbours.'
  static override description =
    'Nothing is trained: each val image gets the label that its k nearest train images vote for (weights exp(similarity / 0.07)), for several k at once. Sets are images with --model (the label is the folder under the given root, or the label field of a list), or embeddings that carry labels. Without --val, every train image is classified by the others.\n\nBaselines on the same images: majority (the largest class of train), pixels (32 × 32, normalised), and untrained (the same architecture with fresh weights, LayerScale at 1; it takes as long as the model). --baseline none leaves them out. The 95 % intervals are by drawing the val images with replacement.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run/final --size 96',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model vits14.pth --html knn.html --json',
    '<%= config.bin %> <%= command.id %> --train train.arrow --val val.arrow -k 1,5,20 -o knn.json',
    '<%= config.bin %> <%= command.id %> --train photos --model vits14.pth --n-per-class 1,5,all --tries 5'
  ]
  static override flags = {
    train: Flags.string({
      multiple: true,
      required: true,
      helpValue: 'SET',
      summary: 'Labelled images, or embeddings, whose labels are known. Repeatable.'
    }),
    val: Flags.string({multiple: true, helpValue: 'SET', summary: 'The ones to be classified. Repeatable.'}),
    model: modelForImagesFlag,
    output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
    force: outputFlags.force,
    k: numbers([])({char: 'k', helpValue: 'LIST', summary: 'How many neighbours vote; 10,20,100,200 by default.'}),
    'n-per-class': numbers(['all'])({
      helpValue: 'LIST',
      summary: 'Use so many train images of each class; all for all of them. Several are scored one after the other.'
    }),
    tries: Flags.integer({min: 1, max: 1000, default: 1, helpValue: 'N', summary: 'Draws of a limited train set; the mean is reported.'}),
    temperature: Flags.string({default: '0.07', helpValue: 'T', summary: 'Divides similarities before the vote.'}),
    baseline: Flags.option({options: ['majority', 'pixels', 'untrained', 'none'] as const, multiple: true as const})({
      summary: 'Which baselines to score beside the model; by default all that the inputs allow. Repeatable.'
    }),
    html: Flags.string({
      helpGroup: 'PAGE',
      helpValue: 'FILE',
      summary: 'Also write a page with scores, the confusion matrix and pictures of images it was right and wrong about.'
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
    const {flags} = await this.parse(KnnEval)
    const heat = Number(flags.temperature)
    if (!(heat > 0))
      throw new UserError(`--temperature: expected a number above 0, but received ${flags.temperature}.`, {exit: 2, code: 'USAGE'})
    this.inputs([...flags.train, ...(flags.val ?? [])])
    const usual = flags.model === undefined ? (['majority'] as const) : (['majority', 'pixels', 'untrained'] as const)
    const baselines = [...new Set(flags.baseline ?? usual)].filter(name => name !== 'none')
    const images = flags.model !== undefined || baselines.some(name => name !== 'majority')
    const output = flags.output === undefined ? undefined : await this.output(flags.output)
    const sheet = flags.html === undefined ? undefined : await this.output(flags.html)
    const bad = this.badImages(flags)
    const {knnEval} = await import('../src/tasks/eval/classification/knn.js')
    const events = knnEval({
      train: flags.train,
      ...(flags.val ? {val: flags.val} : {}),
      ...(flags.model === undefined ? {} : {model: flags.model}),
      baselines,
      features: {pool: flags.pool, layers: flags.layers, normalize: false, transform: transformOf(flags)},
      ...(flags.k ? {k: flags.k.map(k => k!)} : {}),
      ...(flags['n-per-class'] ? {perClass: flags['n-per-class']} : {}),
      tries: flags.tries,
      temperature: heat,
      seed: flags.seed ?? 0,
      nul: flags.null,
      stdin: process.stdin,
      engine: this.engineRequest(flags),
      ...(flags.batch === undefined ? {} : {batch: flags.batch}),
      ...(flags.workers === undefined ? {} : {workers: flags.workers}),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']}),
      toolVersion: this.config.version,
      onRejected: ({pathBase64, ...image}) => bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})}),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      signal: this.signal
    })
    let progress = this.progress()
    let at = ''
    let step = await events.next()
    for (; !step.done; step = await events.next()) {
      if (step.value.kind !== 'embedded') continue
      const {features, set, rows} = step.value
      const name = `${features === 'model' ? '' : `${features} `}${set}`
      if (name !== at) progress = this.progress({label: name})
      at = name
      progress.update(rows)
    }
    progress.stop()
    const {value: report} = step
    if (images) bad.accept(report.train + (report.leaveOneOut ? 0 : report.val))
    await bad.finish()
    for (const note of report.notes) this.note(note)
    if (output) {
      output.stream.write(JSON.stringify(report, null, 2) + '\n')
      await output.commit()
    }
    if (sheet) {
      const {knnPage} = await import('../src/tasks/eval/classification/knn-page.js')
      sheet.stream.write(await knnPage(report, {root: flags.root, cropBorders: flags['crop-borders']}))
      await sheet.commit()
    }
    this.print(table(report))
    return report
  }
}

type Report = import('../src/tasks/eval/classification/knn.js').KnnReport

const percent = (share: number): string => (100 * share).toFixed(1)

/** The report for people. */
function table({train, val, classes, leaveOneOut, scores, gains}: Report): string {
  const head = `${leaveOneOut ? `${train} images, each by the others` : `${val} images by ${train}`}, ${classes} classes`
  const limited = scores.some(({perClass}) => perClass !== null)
  const rows = [
    ['features', ...(limited ? ['a class'] : []), 'k', 'top-1 %', '95 %', 'top-5 %'],
    ...scores.map(({features, perClass, k, top1, top1Interval: [low, high], top5}) => [
      features,
      ...(limited ? [perClass === null ? 'all' : String(perClass)] : []),
      k === 0 ? '' : String(k),
      percent(top1),
      `${percent(low)}–${percent(high)}`,
      percent(top5)
    ])
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map(row => row[column]!.length)))
  const lines = rows.map(row =>
    row.map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))).join('  ')
  )
  return [
    head,
    '',
    ...lines,
    ...['majority', 'pixels', 'untrained'].flatMap(over => verdict(gains.filter(gain => gain.over === over)))
  ].join('\n')
}

/** One sentence on the model beside a baseline: whether it wins, by how much, and how sure that is. */
function verdict(gains: Report['gains']): string[] {
  const best = gains.reduce<Report['gains'][number] | undefined>((a, b) => (a && a.top1 >= b.top1 ? a : b), undefined)
  if (!best) return []
  const name = best.over === 'pixels' ? 'raw pixels' : best.over === 'majority' ? 'the largest class' : 'the untrained model'
  const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
  const list = gains.map(({k, top1, interval: [low, high]}) => `k ${k}: ${signed(top1)} (${signed(low)} to ${signed(high)})`).join(', ')
  const [all, none] = [gains.every(({interval}) => interval[0] > 0), gains.every(({interval}) => interval[1] < 0)]
  const word = all ? 'beats' : none ? 'is below' : gains.every(({top1}) => top1 > 0) ? 'is above, but not surely,' : 'does not beat'
  return ['', `The model ${word} ${name}: ${list} points of top-1.`]
}
