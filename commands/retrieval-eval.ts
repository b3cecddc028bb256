/** `dinov2 retrieval-eval`: how well images of a group find one another. */
import {Args, Errors, Flags} from '../src/cli/oclif.js'
import {EvalCommand} from '../src/cli/eval-command.js'
import {baselineFlag, evalOutputFlags, evalRunFlags, wholeNumbers} from '../src/cli/eval-flags.js'
import {borderFlags, modelForImagesFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

const pattern = Flags.custom<RegExp>({
  parse: async input => {
    try {
      return new RegExp(input, 'u')
    } catch {
      throw new Errors.CLIError(`expected a regular expression, but received ${input}`, {exit: 2})
    }
  }
})

export default class RetrievalEval extends EvalCommand {
  static override summary = 'Score features by whether images of a group find one another.'
  static override description =
    'Nothing is trained: every query asks for the other images of its group among all images, ranked by cosine, itself left out. Inputs are images with --model, or embeddings. A group is the group field of a list, else the label (field or folder), or part of the name.\n\nmAP is as in the script of INRIA Holidays (area under the precision-recall curve by trapezoids); --ap step takes it as scikit-learn does. recall@k is the mean share of right answers among the first k, hit@k the share of queries with at least one there. Beside the model stand a random order and, for images, raw pixels (32 × 32) and the same architecture with fresh weights, each with the 95 % bootstrap interval of the difference, by drawing groups with replacement.'
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
    ...evalOutputFlags,
    predictions: {...evalOutputFlags.predictions, aliases: ['queries']},
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
    k: wholeNumbers()({char: 'k', helpValue: 'LIST', summary: 'Where recall and hits are counted; 1,5,10 by default.'}),
    ap: Flags.option({options: ['trapezoid', 'step'] as const})({
      default: 'trapezoid',
      summary: 'How average precision is taken: by trapezoids (Holidays, Oxford) or by steps (scikit-learn).'
    }),
    baseline: baselineFlag(['pixels', 'histogram', 'untrained'], 'all where there is a model'),
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
    const {args, flags} = await this.parse(RetrievalEval)
    const {model, pool, layers, query, k, ap, 'group-prefix': prefix, 'group-regex': regex} = flags
    const inputs = this.inputs(args.images as string[] | string | undefined, 'images or embeddings')
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {images: inputs},
        nul: flags.null,
        models: [model],
        computes: 'features of the images, and the ranking of all by each query',
        writes: [flags.output, flags.predictions, flags.html]
      })
    const asked = flags.baseline ?? (model === undefined ? [] : (['pixels', 'histogram', 'untrained'] as const))
    const baselines = [...new Set(asked)].filter(name => name !== 'none')
    if (model === undefined && baselines.length === 0) assertNoImages(inputs)
    const groups = prefix !== undefined ? {prefix} : regex && {pattern: regex}
    const {retrievalEval} = await import('../src/tasks/eval/retrieval/evaluate.js')
    return this.evaluate(flags, common =>
      retrievalEval({
        ...common,
        inputs,
        model,
        baselines,
        features: {pool, layers, normalize: false, transform: transformOf(flags)},
        groups,
        query,
        k: k?.map(n => n!).sort((a, b) => a - b),
        precision: ap
      })
    )
  }
}

/** Without a model, inputs are files of embeddings. */
function assertNoImages(inputs: readonly string[]): void {
  const image = inputs.find(name => /\.(jpe?g|png|webp|gif|tiff?|bmp|avif|heic|tar)$/i.test(name))
  if (image !== undefined)
    throw new UserError(`${image} is an image; to score images, a model is needed.`, {
      exit: 2,
      code: 'NO_MODEL',
      hint: 'Give --model (starter is always here), or embeddings instead of images.'
    })
}
