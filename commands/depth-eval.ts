/** `dinov2 depth-eval`: what frozen features know of depth. */
import {Errors, Flags} from '@oclif/core'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags, strictBadFlags} from '../src/cli/command.js'
import {depthFlags, notNegative, positive} from '../src/cli/depth-flags.js'
import {modelFlag, parseLayers, pixelFlags, type Layers} from '../src/cli/feature-flags.js'
import {refuseExisting} from '../src/cli/output.js'
import {UserError} from '../src/config/errors.js'

const layers = Flags.custom<Layers>({parse: async input => parseLayers(input)})

/** `544x416` as width and height. */
const extent = Flags.custom<{width: number; height: number}>({
  parse: async input => {
    const found = /^(\d+)\s*[x×]\s*(\d+)$/.exec(input.trim())
    const [width, height] = [Number(found?.[1]), Number(found?.[2])]
    if (!found || !(width >= 16 && height >= 16))
      throw new Errors.CLIError(`expected width × height in pixels such as 544x416, both at least 16, but received ${input}`, {exit: 2})
    return {width, height}
  }
})

/** What the published evaluations of a data set fix together. */
const PRESETS = {
  // The rim of NYU images is white: rows 45…471, columns 43…608 are trained on.
  nyu: {
    max: 10,
    crop: 'eigen',
    train: {width: 544, height: 416},
    box: {x: 43 / 640, y: 45 / 480, width: (608 - 43) / 640, height: (472 - 45) / 480},
    scale: undefined
  },
  kitti: {max: 80, crop: 'garg', train: {width: 704, height: 352}, box: undefined, scale: 1 / 256},
  none: {max: undefined, crop: 'none', train: {width: 544, height: 416}, box: undefined, scale: undefined}
} as const

export default class DepthEval extends Command {
  static override group = 'Evaluation'
  static override dataToStdout = false
  static override statuses = {6: 'the loss of the head was not finite'}
  static override summary = 'Train and score a depth head on frozen features, or score an existing one.'
  static override description =
    'Images are paired with depth maps: 16-bit PNG, TIFF (whole or floating-point numbers) or .npy; depth that is 0, negative or not finite is unknown. A pair whose map is missing, of another size or without a known depth in range is named and counts as bad input. A linear head (one block or four, class token joined to the patches, 256 bins) is trained as published: 38,400 steps of 16 random views, which takes a GPU; or with --cached on features computed once, in minutes. The loss is SigLoss plus half the gradient loss as it was meant; the published heads were in effect trained with SigLoss alone, as --cached does (--gradient-weight 0). The head after the last step is scored: nothing is chosen on the sets that are scored.\n\nErrors are averaged over the valid pixels of an image, then over images. Each set is scored in metres, and with scale, or scale and shift, fitted image by image, which is what remains comparable where cameras and scenes are not those of training. Baselines see the same training pairs: mean (one depth for all), mean-map (one for each place), pixels (a linear head of colour and place), untrained (the same architecture with fresh weights, LayerScale at 1). Intervals are by drawing images with replacement; for neighbouring frames of one film they are too narrow.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train rooms/images/train --val rooms/images/val --depths rooms/depth --model run --cached --size 224 --html depth.html',
    '<%= config.bin %> <%= command.id %> --train train.csv --val val.csv --out-of-domain outdoors.csv --model vits14.pth --cached --head lin1 --head-out depth.safetensors',
    '<%= config.bin %> <%= command.id %> --val nyu/test.csv --preset nyu --model dinov2_vits14 --head dinov2_vits14_nyu_linear4 --json',
    '<%= config.bin %> <%= command.id %> --train kitti/train.csv --val kitti/val.csv --preset kitti --model vitb14.pth --device cuda -o kitti.json'
  ]
  static override flags = {
    train: Flags.string({multiple: true, helpValue: 'SET', summary: 'Pairs that a head and the baselines are trained on. Repeatable.'}),
    val: Flags.string({multiple: true, helpValue: 'SET', summary: 'Pairs that are scored, as one set. Repeatable.'}),
    test: Flags.string({
      multiple: true,
      helpValue: 'SET',
      summary: 'Another set that the same head is scored on. Repeatable, each by itself.'
    }),
    'out-of-domain': Flags.string({
      multiple: true,
      helpValue: 'SET',
      summary: 'A set of other scenes or cameras that the same head is scored on. Repeatable, each by itself.'
    }),
    model: modelFlag,
    head: Flags.string({
      default: 'lin4',
      helpValue: 'lin1|lin4|FILE',
      summary:
        'Train a head on one block or on four, or score one: a file of --head-out, an mmcv checkpoint (linear or DPT), the name of a released head.'
    }),
    output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
    'head-out': Flags.string({helpValue: 'FILE', summary: 'Write the trained head here, as safetensors.'}),
    html: Flags.string({helpValue: 'FILE', summary: 'Write a page here with the scores and the best, typical and worst images.'}),
    force: outputFlags.force,
    baseline: Flags.option({options: ['mean', 'mean-map', 'pixels', 'untrained', 'none'] as const, multiple: true as const})({
      summary: 'Score this beside the model. Repeatable; by default all four with --cached, else the two means.'
    }),
    preset: Flags.option({options: ['nyu', 'kitti', 'none'] as const})({
      default: 'none',
      helpGroup: 'DEPTH',
      summary: 'nyu: 0.001–10 m, Eigen crop. kitti: 0.001–80 m, Garg crop, maps in 1/256 m. none: 0.001–10 m, every pixel counts.'
    }),
    ...depthFlags,
    ...inputFlags,
    size: Flags.integer({
      min: 8,
      max: 4096,
      helpGroup: 'IMAGES',
      helpValue: 'PIXELS',
      summary:
        'Short side that the model sees; by default images stay as they are and are padded to whole patches. Scores are at the full size of the map.'
    }),
    flip: Flags.boolean({
      allowNo: true,
      default: true,
      helpGroup: 'IMAGES',
      summary: 'Average each prediction with that of the mirrored image.'
    }),
    'max-pixels': pixelFlags['max-pixels'],
    cached: Flags.boolean({
      helpGroup: 'TRAINING',
      summary: 'Compute features once, of each training image and its mirror image, instead of anew for random views at every step.'
    }),
    'cache-memory': positive({
      helpGroup: 'TRAINING',
      helpValue: 'GIB',
      default: async () => 1,
      defaultHelp: async () => '1',
      summary: 'Features kept in memory; what does not fit goes to the disk.'
    }),
    'cache-disk': notNegative({
      helpGroup: 'TRAINING',
      helpValue: 'GIB',
      default: async () => 16,
      defaultHelp: async () => '16',
      summary: 'Features kept in a temporary file beyond those; what does not fit is computed again.'
    }),
    layers: layers({
      helpGroup: 'TRAINING',
      helpValue: 'N|LIST',
      summary: 'Blocks that a new head reads, counted from 0; by default the last one, or four as published.'
    }),
    norm: Flags.boolean({
      allowNo: true,
      default: false,
      helpGroup: 'TRAINING',
      summary: 'Apply the final norm to what a new head reads; the published heads do without.'
    }),
    bins: Flags.integer({
      min: 2,
      max: 4096,
      default: 256,
      helpGroup: 'TRAINING',
      helpValue: 'N',
      summary: 'Bins that a new head divides the range of depth into.'
    }),
    'bin-spacing': Flags.option({options: ['uniform', 'log'] as const})({
      default: 'uniform',
      helpGroup: 'TRAINING',
      summary: 'Equal steps of depth, or of its logarithm.'
    }),
    'train-crop': extent({
      helpGroup: 'TRAINING',
      helpValue: 'WxH',
      summary: 'Random crop of a view; 544x416, for kitti 704x352. Not with --cached.',
      exclusive: ['cached']
    }),
    steps: Flags.integer({
      min: 1,
      max: 10_000_000,
      helpGroup: 'TRAINING',
      helpValue: 'N',
      summary: 'Steps of training; 38,400, with --cached 1,200. The schedule is stretched over them.'
    }),
    'step-images': Flags.integer({min: 1, max: 4096, helpGroup: 'TRAINING', helpValue: 'N', summary: 'Views a step; 16, with --cached 8.'}),
    lr: positive({helpGroup: 'TRAINING', helpValue: 'RATE', summary: 'Highest learning rate; 1e-4, with --cached 1e-2.'}),
    wd: notNegative({helpGroup: 'TRAINING', helpValue: 'DECAY', summary: 'Weight decay; 0.01.'}),
    'gradient-weight': notNegative({
      helpGroup: 'TRAINING',
      helpValue: 'W',
      summary: 'Weight of the gradient loss beside SigLoss; 0.5, with --cached 0.'
    }),
    engine: engineFlags.engine,
    device: engineFlags.device,
    precision: engineFlags.precision,
    threads: engineFlags.threads,
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
    const {flags} = await this.parse(DepthEval)
    const sets = [...(flags.train ?? []), ...(flags.val ?? []), ...(flags.test ?? []), ...(flags['out-of-domain'] ?? [])]
    this.inputs(sets, 'sets')
    const preset = PRESETS[flags.preset]
    const [min, max] = [flags['min-depth'], flags['max-depth'] ?? preset.max]
    if (max !== undefined && (min ?? 0.001) >= max)
      throw new UserError(`--min-depth ${min ?? 0.001} is not below --max-depth ${max}.`, {exit: 2, code: 'USAGE'})
    const trains = flags.head === 'lin1' || flags.head === 'lin4'
    if (!trains && flags['head-out'] !== undefined)
      throw new UserError('--head-out writes a head that was trained, but --head names one that exists.', {exit: 2, code: 'USAGE'})
    const output = flags.output === undefined ? undefined : await this.output(flags.output)
    const html = flags.html === undefined ? undefined : await this.output(flags.html)
    if (flags['head-out'] !== undefined) refuseExisting(flags['head-out'], flags.force)
    const bad = this.badImages(flags)
    const {depthEval} = await import('../src/tasks/eval/depth/evaluate.js')
    const scale = flags['depth-scale'] ?? preset.scale
    const asked =
      flags.baseline ?? (flags.cached ? (['mean', 'mean-map', 'pixels', 'untrained'] as const) : (['mean', 'mean-map'] as const))
    const events = depthEval({
      train: flags.train ?? [],
      val: flags.val ?? [],
      tests: flags.test ?? [],
      outOfDomain: flags['out-of-domain'] ?? [],
      ...(flags.depths === undefined ? {} : {depths: flags.depths}),
      model: flags.model,
      head: flags.head,
      ...(flags['head-out'] === undefined ? {} : {headOut: flags['head-out']}),
      ...(flags.force ? {force: true} : {}),
      ...(flags.layers === undefined ? {} : {layers: flags.layers}),
      norm: flags.norm,
      bins: {count: flags.bins, spacing: flags['bin-spacing']},
      ...(min === undefined ? {} : {min}),
      ...(max === undefined ? {} : {max}),
      ...(scale === undefined ? {} : {scale}),
      crop: preset.crop,
      view: {crop: flags['train-crop'] ?? preset.train, ...(preset.box ? {box: preset.box} : {})},
      ...(flags.size === undefined ? {} : {size: flags.size}),
      flip: flags.flip,
      cached: flags.cached,
      cacheMemory: flags['cache-memory'] * 2 ** 30,
      cacheDisk: flags['cache-disk'] * 2 ** 30,
      recipe: {
        ...(flags.steps === undefined ? {} : {steps: flags.steps}),
        ...(flags['step-images'] === undefined ? {} : {batch: flags['step-images']}),
        ...(flags.lr === undefined ? {} : {lr: flags.lr}),
        ...(flags.wd === undefined ? {} : {weightDecay: flags.wd}),
        ...(flags['gradient-weight'] === undefined ? {} : {gradientWeight: flags['gradient-weight']})
      },
      baselines: asked.filter(name => name !== 'none'),
      seed: flags.seed ?? 0,
      nul: flags.null,
      engine: this.engineRequest(flags),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']}),
      toolVersion: this.config.version,
      page: html !== undefined,
      checkRejectLimit: async (good, pending) => {
        // Those to come count as good here: what is too much then is too much at the end.
        const {kind, value} = flags['max-bad']
        if (bad.count <= (kind === 'count' ? value : (value / 100) * (bad.count + good + pending))) return
        bad.accept(good)
        await bad.finish()
      },
      onRejected: ({pathBase64, ...image}) => bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})}),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      signal: this.signal
    })
    let at = ''
    let progress = this.progress({unit: 'pairs'})
    let step = await events.next()
    for (; !step.done; step = await events.next()) {
      const event = step.value
      const [label, unit, done, total] =
        event.kind === 'read'
          ? ([`${event.what}: reading`, 'pairs', event.done, event.total] as const)
          : event.kind === 'step'
            ? ([`${event.what}: training`, 'steps', event.step, event.steps] as const)
            : ([`scoring ${event.set}`, 'pairs', event.done, event.total] as const)
      if (label !== at) progress = this.progress({label, unit, total})
      at = label
      progress.update(done)
    }
    progress.stop()
    const {report, page} = step.value
    bad.accept(report.train + report.sets.reduce((sum, {images}) => sum + images, 0))
    await bad.finish()
    for (const note of report.notes) this.note(note)
    if (html) {
      html.stream.write(page!)
      await html.commit()
    }
    if (output) {
      output.stream.write(JSON.stringify(report, null, 2) + '\n')
      await output.commit()
    }
    this.print(table(report))
    return report
  }
}

type Report = import('../src/tasks/eval/depth/report.js').DepthReport

/** Rows under a head, columns at their places. */
function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map(row => row[column]!.length)))
  return rows.map(row => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
}

const ALIGNED = {none: '', median: 'median scaled', depth: 'scale+shift, depth', disparity: 'scale+shift, disparity'} as const

/** The report for people. */
function table({sets, train, head, crop, size}: Report): string {
  const made = head.trained ? `trained on ${train} pairs, ${head.trained.steps} steps` : `from ${head.file}`
  const lines = [
    `${head.kind} head on blocks ${head.layers.join(', ')}, ${made}; ${size === null ? 'full size' : `short side ${size}`}, crop ${crop}`
  ]
  for (const {kind, name, images, scores, verdicts} of sets) {
    const rows = scores.map(
      ({
        features,
        alignment,
        rmse,
        abs_rel,
        a1,
        log10,
        silog,
        intervals: {
          rmse: [low, high]
        }
      }) => [
        features,
        ALIGNED[alignment],
        rmse.toFixed(3),
        `${low.toFixed(3)}–${high.toFixed(3)}`,
        abs_rel.toFixed(3),
        (100 * a1).toFixed(1),
        log10.toFixed(3),
        silog.toFixed(1)
      ]
    )
    // In metres everybody; fitted, the model and what has most reason to be compared with it.
    const plain = rows.filter(([, how]) => how === '').map(([features, , ...rest]) => [features!, '', ...rest])
    const fitted = rows.filter(([features, how]) => how !== '' && ['model', 'mean-map', 'untrained'].includes(features!))
    lines.push('', `${kind} ${name}: ${images} images`, '')
    lines.push(...columns([['features', 'fitted', 'RMSE m', '95 %', 'abs_rel', 'a1 %', 'log10', 'silog'], ...plain, ...fitted]))
    if (verdicts.length > 0) lines.push('', ...verdicts)
  }
  return lines.join('\n')
}
