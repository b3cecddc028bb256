/** `dinov2 knn-eval`: how good features are, by the labels of their nearest neighbours. */
import {Flags} from '../src/cli/oclif.js'
import {positive} from '../src/cli/depth-flags.js'
import {EvalCommand} from '../src/cli/eval-command.js'
import {
  assertLimited,
  baselineFlag,
  evalOutputFlags,
  evalRunFlags,
  repeatsFlag,
  requiredSetFlag,
  setFlag,
  wholeNumbers
} from '../src/cli/eval-flags.js'
import {borderFlags, modelForImagesFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'

export default class KnnEval extends EvalCommand {
  static override summary = 'Score features by the labels of their nearest neighbours.'
  static override description =
    'Nothing is trained: each val or test image gets the label that its k nearest train images vote for (weights exp(similarity / 0.07)), for several k at once. Sets are images with --model (the label is the folder under the given root, or the label field of a list), or embeddings that carry labels. Without --val and --test, every train image is classified by the others.\n\nBaselines on the same images: majority (the most frequent class of train), pixels (32 × 32, normalized), histogram (of colours, 8 bins a channel), and untrained (the same architecture with fresh weights, LayerScale at 1; it takes as long as the model). The report compares the model with each of them, image by image, with 95 % bootstrap intervals.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model run/final --size 96',
    '<%= config.bin %> <%= command.id %> --train photos/train --val photos/val --model vits14.pth --html knn.html --predictions rows.jsonl --json',
    '<%= config.bin %> <%= command.id %> --train train.arrow --val val.arrow --test other.arrow -k 1,5,20 -o knn.json',
    '<%= config.bin %> <%= command.id %> --train photos --model vits14.pth --n-per-class 1,5,all --repeats 5'
  ]
  static override flags = {
    train: requiredSetFlag('Labelled images, or embeddings, whose labels are known. Repeatable.'),
    val: setFlag('The ones to be classified. Repeatable.'),
    test: setFlag('A further set to be classified, scored by itself. Repeatable.'),
    model: modelForImagesFlag,
    ...evalOutputFlags,
    k: wholeNumbers()({char: 'k', helpValue: 'LIST', summary: 'How many neighbours vote; 10,20,100,200 by default.'}),
    'n-per-class': wholeNumbers(['all'])({
      helpValue: 'LIST',
      summary: 'Use so many train images of each class; all for all of them. Several are scored one after the other.'
    }),
    repeats: repeatsFlag,
    temperature: positive({
      default: async () => 0.07,
      defaultHelp: async () => '0.07',
      helpValue: 'T',
      summary: 'Divides similarities before the vote.'
    }),
    baseline: baselineFlag(['majority', 'pixels', 'histogram', 'untrained'], 'all that the inputs allow'),
    pool: Flags.option({options: ['cls', 'mean', 'cls+mean'] as const})({
      default: 'cls',
      helpGroup: 'VECTORS',
      summary: 'cls token (the protocol), mean of the patch tokens, or both.'
    }),
    layers: vectorFlags.layers,
    ...pixelFlags,
    ...borderFlags,
    ...evalRunFlags
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(KnnEval)
    const {train, val, test, model, k, pool, layers, repeats, temperature} = flags
    assertLimited(repeats, flags['n-per-class']?.some(n => n !== undefined) === true, '--n-per-class N')
    this.inputs([...train, ...(val ?? []), ...(test ?? [])])
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {train, val, test},
        nul: flags.null,
        models: [model],
        computes: 'features of the images, and votes of nearest neighbours',
        writes: [flags.output, flags.predictions, flags.html]
      })
    const allowed = model === undefined ? (['majority'] as const) : (['majority', 'pixels', 'histogram', 'untrained'] as const)
    const {knnEval} = await import('../src/tasks/eval/classification/knn.js')
    return this.evaluate(flags, common =>
      knnEval({
        ...common,
        train,
        val,
        tests: test,
        model,
        baselines: [...new Set(flags.baseline ?? allowed)].filter(name => name !== 'none'),
        features: {pool, layers, normalize: false, transform: transformOf(flags)},
        k: k?.map(n => n!),
        perClass: flags['n-per-class'],
        repeats,
        temperature
      })
    )
  }
}
