/** `dinov2 linear-eval`: how much of the classes a linear layer reads out of frozen features. */
import {Flags} from '../src/cli/oclif.js'
import {classNames} from '../src/cli/class-names.js'
import {EvalCommand} from '../src/cli/eval-command.js'
import {assertLimited, baselineFlag, evalOutputFlags, evalRunFlags, repeatsFlag, requiredSetFlag, setFlag} from '../src/cli/eval-flags.js'
import {borderFlags, pixelFlags, transformOf} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class LinearEval extends EvalCommand {
  static override summary = 'Train and score linear classifiers on frozen features.'
  static override description =
    'As published: 13 learning rates for each of four inputs (cls token of the last block or of the last four, with or without the mean patch token) are trained side by side on one pass of the backbone over random crops, for 12,500 steps. The one that is best on val is reported, so its score on val is a little too high; score it on --test sets that took no part. --cached computes features once, without random crops: minutes instead of hours on a small machine, usually a little below. --solver lbfgs is logistic regression on the last cls token, its C chosen on a tenth of train.\n\nBaselines on the same images: majority (the most frequent class), pixels (32 × 32), histogram (of colours, 8 bins a channel), untrained (the same architecture with fresh weights, which takes as long as the model and under random crops is scored only when asked for). Intervals are 95 % bootstrap intervals, by drawing the scored images with replacement; of several models the first is compared with the others, image by image.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run --size 64 --cached',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model vits14.pth --test other/val -o linear.json --head-out linear.safetensors',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run-a --model run-b --solver lbfgs --html compare.html',
    '<%= config.bin %> <%= command.id %> --train train.arrow --val val.arrow --solver lbfgs --json',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run --shots 5 --repeats 10 --solver lbfgs'
  ]
  static override flags = {
    train: setFlag('Labelled images, or embeddings, to train on. Repeatable. Not needed with --head.'),
    val: requiredSetFlag('The ones by which the best classifier is chosen and scored. Repeatable.'),
    test: setFlag('A further set, scored with the classifier that val chose. Repeatable.'),
    model: Flags.string({
      char: 'm',
      multiple: true,
      helpValue: 'MODEL',
      summary: 'Backbone, where sets are images. Repeatable: the first is compared with the others.'
    }),
    ...evalOutputFlags,
    'head-out': Flags.string({
      helpValue: 'FILE',
      summary: 'Keep the classifier that was chosen (.safetensors), for --head and predict classify; of several draws the first.'
    }),
    head: Flags.string({
      helpValue: 'FILE',
      summary: 'Score with this classifier instead of training one: from --head-out, or a published .pth.',
      exclusive: ['train', 'solver', 'cached', 'layers', 'steps', 'train-batch', 'shots']
    }),
    classes: Flags.string({helpValue: 'FILE', summary: 'Names of the classes of a published head, one a line, in its order.'}),
    solver: Flags.option({options: ['sgd', 'lbfgs'] as const})({
      default: 'sgd',
      summary: 'The published grid by gradient descent, or logistic regression.'
    }),
    cached: Flags.boolean({summary: 'Compute features once, without random crops. lbfgs, --shots and embeddings do so always.'}),
    layers: Flags.integer({
      aliases: ['blocks'],
      min: 1,
      max: 64,
      default: 4,
      helpValue: 'N',
      summary: 'Last blocks whose cls tokens the larger inputs join.'
    }),
    steps: Flags.integer({min: 1, helpValue: 'N', summary: 'Steps of gradient descent; 12,500 as published.'}),
    'train-batch': Flags.integer({
      aliases: ['rows'],
      min: 1,
      helpValue: 'N',
      summary: 'Images a step; 128 by default. Learning rates are scaled by it over 256; the published runs had 1,024.'
    }),
    shots: Flags.integer({min: 1, helpValue: 'N', summary: 'Use so many train images of each class.'}),
    repeats: repeatsFlag,
    baseline: baselineFlag(['majority', 'pixels', 'histogram', 'untrained'], 'all that the inputs allow'),
    ...pixelFlags,
    ...borderFlags,
    ...evalRunFlags
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(LinearEval)
    const {train, val, test, model, head, solver, cached, layers, steps, shots, repeats, force} = flags
    if (!train && head === undefined)
      throw new UserError('Nothing to train on was named.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Give --train, or --head to score with a classifier.'
      })
    assertLimited(repeats, shots !== undefined, '--shots N')
    this.inputs([...(train ?? []), ...val, ...(test ?? [])])
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {train, val, test},
        nul: flags.null,
        models: model ?? [],
        files: [head],
        computes: 'features of the images, and linear classifiers',
        writes: [flags.output, flags.predictions, flags.html, flags['head-out']]
      })
    const classes = flags.classes === undefined ? undefined : await classNames(flags.classes)
    // With random crops the untrained model would double hours.
    const once = cached || solver === 'lbfgs' || shots !== undefined
    const usual = [
      'majority',
      ...(model ? (['pixels', 'histogram'] as const) : []),
      ...(model && once ? ['untrained' as const] : [])
    ] as const
    const asked = flags.baseline ?? (head === undefined ? usual : [])
    // A head says how its images were resized and cropped; flags stand above it.
    const given = [flags.size, flags.resize, flags.crop].some(value => value !== undefined) || flags['no-crop'] || flags['crop-borders']
    const {linearEval} = await import('../src/tasks/eval/classification/linear.js')
    return this.evaluate(flags, common =>
      linearEval({
        ...common,
        train: train ?? [],
        val,
        tests: test,
        models: model,
        baselines: [...new Set(asked)].filter(name => name !== 'none'),
        transform: given ? transformOf(flags) : undefined,
        layers,
        solver,
        cached,
        steps,
        trainBatch: flags['train-batch'],
        shots,
        repeats,
        head,
        classes,
        headOut: flags['head-out'],
        force
      })
    )
  }
}
