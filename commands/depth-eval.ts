/** `dinov2 depth-eval`: how well depth can be predicted from frozen features. */
import {Flags} from '../src/cli/oclif.js'
import {depthEvalFlags, PRESETS} from '../src/cli/depth-flags.js'
import {EvalCommand} from '../src/cli/eval-command.js'
import {baselineFlag, evalOutputFlags, evalRunFlags, setFlag} from '../src/cli/eval-flags.js'
import {modelFlag} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class DepthEval extends EvalCommand {
  static override statuses = {6: 'the loss of the head was not finite'}
  static override summary = 'Train and score a depth head on frozen features, or score an existing one.'
  static override description =
    'Images are paired with depth maps: 16-bit PNG, TIFF (whole or floating-point numbers) or .npy; depth that is 0, negative or not finite is unknown. A pair whose map is missing, of another size or without a known depth in range is named and counts as bad input. A linear head (one block or four, class token joined to the patches, 256 bins) is trained as published: 38,400 steps of 16 random views, which takes a GPU; or with --cached on features computed once, in minutes. The loss is SigLoss plus half the gradient loss as it was meant; the published heads were in effect trained with SigLoss alone, as --cached does (--gradient-weight 0). The head after the last step is scored: nothing is chosen on the sets that are scored.\n\nErrors are averaged over the valid pixels of an image, then over images. Each set is scored in metres, and with scale, or scale and shift, fitted image by image, which is what remains comparable where cameras and scenes are not those of training. Baselines see the same training pairs: mean (one depth for all), mean-map (one for each position), pixels and histogram (a linear head on the colours of each patch, as they lie or counted, and its position), untrained (the same architecture with fresh weights, LayerScale at 1). Intervals are 95 % bootstrap intervals over images; for neighbouring frames of one film they are too narrow.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train rooms/images/train --val rooms/images/val --depths rooms/depth --model run --cached --size 224 --html depth.html',
    '<%= config.bin %> <%= command.id %> --train train.csv --val val.csv --out-of-domain outdoors.csv --model vits14.pth --cached --head lin1 --head-out depth.safetensors',
    '<%= config.bin %> <%= command.id %> --val nyu/test.csv --preset nyu --model dinov2_vits14 --head dinov2_vits14_nyu_linear4 --json',
    '<%= config.bin %> <%= command.id %> --train kitti/train.csv --val kitti/val.csv --preset kitti --model vitb14.pth --device cuda -o kitti.json'
  ]
  static override flags = {
    train: setFlag('Pairs that a head and the baselines are trained on. Repeatable.'),
    val: setFlag('Pairs that are scored, as one set. Repeatable.'),
    test: setFlag('Another set that the same head is scored on. Repeatable, each by itself.'),
    'out-of-domain': setFlag('A set of other scenes or cameras that the same head is scored on. Repeatable, each by itself.'),
    model: modelFlag,
    head: Flags.string({
      default: 'lin4',
      helpValue: 'lin1|lin4|FILE',
      summary:
        'Train a head on one block or on four, or score one: a file of --head-out, an mmcv checkpoint (linear or DPT), the name of a released head.'
    }),
    'head-out': Flags.string({helpValue: 'FILE', summary: 'Write the trained head here, as safetensors.'}),
    baseline: baselineFlag(['mean', 'mean-map', 'pixels', 'histogram', 'untrained'], 'all with --cached, else the two means'),
    ...evalOutputFlags,
    ...depthEvalFlags,
    ...evalRunFlags
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(DepthEval)
    const {train = [], val = [], test: tests = [], 'out-of-domain': outOfDomain = [], head, 'head-out': headOut} = flags
    this.inputs([...train, ...val, ...tests, ...outOfDomain], 'sets')
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {train, val, ...Object.fromEntries([...tests, ...outOfDomain].map(set => [set, [set]]))},
        nul: flags.null,
        models: [flags.model],
        files: head === 'lin1' || head === 'lin4' ? [] : [head],
        computes: 'depth heads, and the depth of the images that are scored',
        writes: [flags.output, flags.predictions, flags.html, headOut]
      })
    const preset = PRESETS[flags.preset]
    const [min, max] = [flags['min-depth'], flags['max-depth'] ?? preset.max]
    if (max !== undefined && (min ?? 0.001) >= max)
      throw new UserError(`--min-depth ${min ?? 0.001} is not below --max-depth ${max}.`, {exit: 2, code: 'USAGE'})
    if (head !== 'lin1' && head !== 'lin4' && headOut !== undefined)
      throw new UserError('--head-out writes a head that was trained, but --head names one that exists.', {exit: 2, code: 'USAGE'})
    if (head !== 'lin1' && head !== 'lin4' && train.length === 0) this.#assertNothingTrains(head)
    const defaults = flags.cached ? (['mean', 'mean-map', 'pixels', 'histogram', 'untrained'] as const) : (['mean', 'mean-map'] as const)
    const {depthEval} = await import('../src/tasks/eval/depth/evaluate.js')
    const {depths, force, layers, norm, size, flip, cached, steps, lr} = flags
    return this.evaluate(flags, common =>
      depthEval({
        ...common,
        ...{train, val, tests, outOfDomain, depths, model: flags.model, head, headOut, force, layers, norm, min, max, size, flip, cached},
        bins: {count: flags.bins, spacing: flags['bin-spacing']},
        scale: flags['depth-scale'] ?? preset.scale,
        crop: preset.crop,
        view: {crop: flags['train-crop'] ?? preset.train, box: preset.box},
        cacheMemory: flags['cache-memory'] * 2 ** 30,
        cacheDisk: flags['cache-disk'] * 2 ** 30,
        recipe: defined({
          ...{steps, lr},
          batch: flags['train-batch'],
          weightDecay: flags['weight-decay'],
          gradientWeight: flags['gradient-weight']
        }),
        baselines: (flags.baseline ?? defaults).filter(name => name !== 'none'),
        examples: flags.html !== undefined
      })
    )
  }

  /** Throws a usage error for flags of training that were given beside a head that exists, and nothing to train on. */
  #assertNothingTrains(head: string): void {
    const given = Object.keys(depthEvalFlags).filter(name => {
      const {helpGroup} = depthEvalFlags[name as keyof typeof depthEvalFlags]
      return helpGroup === 'TRAINING' && (this.sources[name] ?? 'default') !== 'default'
    })
    if (given.length === 0) return
    const [first] = given
    throw new UserError(`--${first} is for training, but --head ${head} is scored as it is and no --train is given.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave it out, or give --train, on which the baselines are trained.'
    })
  }
}

/** The entries that have a value: they are spread over defaults. */
const defined = <T extends object>(values: T): T =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as T
