/** `dinov2 linear-eval`: how much of the classes a linear layer reads out of frozen features. */
import {Flags} from '@oclif/core'
import {readFile} from 'node:fs/promises'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags, strictBadFlags} from '../src/cli/command.js'
import {borderFlags, pixelFlags, transformOf} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class LinearEval extends Command {
  static override group = 'Evaluation'
  static override dataToStdout = false
  static override summary = 'Train and score linear classifiers on frozen features.'
  static override description =
    'As published: 13 learning rates for each of four kinds of features (cls token of the last block or of the last four, with or without the mean patch token) are trained side by side on one pass of the backbone over random crops, for 12,500 steps. The one that is best on val is reported, which flatters it a little; score it on --test sets that took no part. --cached computes features once, without random crops: minutes instead of hours on a small machine, usually a little below. --solver lbfgs is logistic regression on the last cls token, its C chosen on a tenth of train.\n\nBaselines on the same images: majority (the largest class), pixels (32 × 32), untrained (the same architecture with fresh weights, which takes as long as the model and under random crops is scored only when asked for). --baseline none leaves them out. Intervals of 95 % are by drawing the scored images with replacement; of several models the first is compared with the others, image by image.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run --size 64 --cached',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model vits14.pth --test other/val -o linear.json --head-out linear.safetensors',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run-a --model run-b --solver lbfgs --html compare.html',
    '<%= config.bin %> <%= command.id %> --train train.arrow --val val.arrow --solver lbfgs --json',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run --shots 5 --tries 10 --solver lbfgs'
  ]
  static override flags = {
    train: Flags.string({
      multiple: true,
      helpValue: 'SET',
      summary: 'Labelled images, or embeddings, to train on. Repeatable. Not needed with --head.'
    }),
    val: Flags.string({
      multiple: true,
      required: true,
      helpValue: 'SET',
      summary: 'The ones by which the best classifier is chosen and scored. Repeatable.'
    }),
    test: Flags.string({
      multiple: true,
      helpValue: 'SET',
      summary: 'A further set, scored with the classifier that val chose. Repeatable.'
    }),
    model: Flags.string({
      char: 'm',
      multiple: true,
      helpValue: 'MODEL',
      summary: 'Backbone, where sets are images. Repeatable: the first is compared with the others.'
    }),
    output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
    html: Flags.string({helpValue: 'FILE', summary: 'Write a page with scores, the confusion matrix and pictures.'}),
    root: Flags.string({
      helpValue: 'DIR',
      summary: 'Folder that the names of embeddings start from, for the pictures of --html; by default the present one.'
    }),
    'head-out': Flags.string({
      helpValue: 'FILE',
      summary: 'Keep the classifier that was chosen (.safetensors), for --head and predict classify.'
    }),
    head: Flags.string({
      helpValue: 'FILE',
      summary: 'Score with this classifier instead of training one: from --head-out, or a published .pth.'
    }),
    classes: Flags.string({helpValue: 'FILE', summary: 'Names of the classes of a published head, one a line, in its order.'}),
    force: outputFlags.force,
    solver: Flags.option({options: ['sgd', 'lbfgs'] as const})({
      default: 'sgd',
      summary: 'The published grid by gradient descent, or logistic regression.'
    }),
    cached: Flags.boolean({summary: 'Compute features once, without random crops. lbfgs, --shots and embeddings do so always.'}),
    blocks: Flags.integer({
      min: 1,
      max: 64,
      default: 4,
      helpValue: 'N',
      summary: 'Last blocks whose cls tokens the larger kinds of features join.'
    }),
    steps: Flags.integer({min: 1, helpValue: 'N', summary: 'Steps of gradient descent; 12,500 as published.'}),
    rows: Flags.integer({
      min: 1,
      helpValue: 'N',
      summary: 'Images a step; 128 by default. Learning rates are scaled by it over 256; the published runs had 1,024.'
    }),
    shots: Flags.integer({min: 1, helpValue: 'N', summary: 'Use so many train images of each class.'}),
    tries: Flags.integer({min: 1, max: 1000, default: 1, helpValue: 'N', summary: 'Draws of them; the mean is reported.'}),
    baseline: Flags.option({options: ['majority', 'pixels', 'untrained', 'none'] as const, multiple: true as const})({
      summary: 'Which baselines to score beside the model; by default all that the inputs allow. Repeatable.'
    }),
    ...inputFlags,
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
    const {flags} = await this.parse(LinearEval)
    if (!flags.train && flags.head === undefined)
      throw new UserError('Nothing to train on was named.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Give --train, or --head to score with a classifier.'
      })
    this.inputs([...(flags.train ?? []), ...flags.val, ...(flags.test ?? [])])
    const output = flags.output === undefined ? undefined : await this.output(flags.output)
    const pageOut = flags.html === undefined ? undefined : await this.output(flags.html)
    const classes =
      flags.classes === undefined
        ? undefined
        : (await readFile(flags.classes, 'utf8')).split(/\r?\n/).filter((line, i, all) => line !== '' || i < all.length - 1)
    const bad = this.badImages(flags)
    // With random crops the untrained model would double hours.
    const cached = flags.cached || flags.solver === 'lbfgs' || flags.shots !== undefined
    const usual =
      flags.head !== undefined
        ? []
        : flags.model === undefined
          ? (['majority'] as const)
          : cached
            ? (['majority', 'pixels', 'untrained'] as const)
            : (['majority', 'pixels'] as const)
    const baselines = [...new Set(flags.baseline ?? usual)].filter(name => name !== 'none')
    // A head says how its images were made ready; flags stand above it.
    const given = [flags.size, flags.resize, flags.crop].some(value => value !== undefined) || flags['no-crop'] || flags['crop-borders']
    const {linearEval} = await import('../src/tasks/eval/classification/linear.js')
    const events = linearEval({
      train: flags.train ?? [],
      val: flags.val,
      tests: flags.test,
      models: flags.model,
      baselines,
      ...(given ? {transform: transformOf(flags)} : {}),
      blocks: flags.blocks,
      solver: flags.solver,
      cached: flags.cached,
      steps: flags.steps,
      rows: flags.rows,
      shots: flags.shots,
      tries: flags.tries,
      head: flags.head,
      classes,
      headOut: flags['head-out'],
      force: flags.force,
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
      signal: this.signal
    })
    let progress = this.progress()
    let at = ''
    const show = (label: string, done: number, total?: number): void => {
      if (label !== at) progress = this.progress({label, ...(total === undefined ? {} : {total, unit: 'steps'})})
      at = label
      progress.update(done)
    }
    const models = flags.model ?? []
    const short = (name: string): string => (models.length === 1 && name === models[0] ? '' : `${name} `)
    let step = await events.next()
    for (; !step.done; step = await events.next()) {
      const event = step.value
      if (event.kind === 'note') this.note(event.text)
      else if (event.kind === 'features') show(`${short(event.name)}${event.set}`, event.rows)
      else if (event.kind === 'training') show(`${short(event.name)}training`, event.done, event.total)
    }
    progress.stop()
    const {value: report} = step
    if (models.length > 0)
      bad.accept(report.train + report.scores.filter(({name}) => name === models[0]).reduce((sum, {images}) => sum + images, 0))
    await bad.finish()
    for (const note of report.notes) this.note(note)
    if (output) {
      output.stream.write(JSON.stringify(report, null, 2) + '\n')
      await output.commit()
    }
    if (pageOut) {
      const {linearPage} = await import('../src/tasks/eval/classification/linear-page.js')
      pageOut.stream.write(await linearPage(report, {root: flags.root, cropBorders: flags['crop-borders']}))
      await pageOut.commit()
    }
    this.print(table(report))
    return report
  }
}

type Report = import('../src/tasks/eval/classification/linear.js').LinearReport

const percent = (share: number): string => (100 * share).toFixed(1)
const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`

/** The report for people. */
function table({train, val, classes, scores, gains, solver, cached}: Report): string {
  const how =
    solver === 'lbfgs' ? 'logistic regression' : cached ? 'linear classifiers on cached features' : 'linear classifiers on random crops'
  const head = `${val} images, ${train > 0 ? `${train} to train on, ` : ''}${classes.length} classes; ${how}`
  const rows = [
    ['features', 'set', 'top-1 %', '95 %', 'top-5 %', 'chosen'],
    ...scores.map(({name, set, top1, top1Interval: [low, high], top5, chosen}) => [
      name,
      set,
      percent(top1),
      `${percent(low)}–${percent(high)}`,
      percent(top5),
      chosen
    ])
  ]
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map(row => row[column]!.length)))
  const lines = rows.map(row =>
    row
      .map((cell, column) => (column < 2 || column === 5 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd()
  )
  const words = gains.map(({of, over, set, words: verdict, mean, interval: [low, high]}) => {
    const other =
      over === 'pixels' ? 'raw pixels' : over === 'untrained' ? 'the untrained model' : over === 'majority' ? 'the largest class' : over
    return `${of} ${verdict} ${other} on ${set}: ${signed(mean)} points of top-1 (${signed(low)} to ${signed(high)}).`
  })
  return [head, '', ...lines, ...(words.length > 0 ? ['', ...words] : [])].join('\n')
}
