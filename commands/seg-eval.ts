/** `dinov2 seg-eval`: how good patch features are, by a linear segmentation head. */
import {Flags} from '@oclif/core'
import {Command, engineFlags, inputFlags, outputFlags, reportFlags, settingsFlags, strictBadFlags} from '../src/cli/command.js'
import {layers, modelFlag, pixelFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class SegEval extends Command {
  static override group = 'Evaluation'
  static override dataToStdout = false
  static override summary = 'Train and score a linear segmentation head on frozen patch features.'
  static override description =
    'Images are paired with masks of class ids: --masks names a folder with the same relative paths (images/val/a.jpg, masks/val/a.png), or the mask field of a list names each. Ids are taken as stored, palette or grey. Classes come from --classes, else from classes.txt beside the masks, else from the ids found; classes called unlabelled, void or ignore are left out, as is --ignore.\n\nThe head is batch normalisation and a 1×1 convolution, trained by AdamW with the published schedule on random views (resized, cropped, mirrored, colours distorted), or with --cached on features of whole images that are computed once, which suits small machines. --protocol ms joins the last four blocks and tests at five scales, mirrored too. Images are looked at in sliding windows; a window that is no multiple of the patch is padded as the published heads expect.\n\nmIoU is counted over the whole set, as mmsegmentation counts it. Beside the model stand the commonest class, raw pixels (colours and place through the same head) and the same architecture with fresh weights; the 95 % intervals are by drawing images with replacement. --head scores a head that is trained, also a published one (dinov2_vits14_ade20k_linear_head.pth).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train images/train --val images/val --masks masks --model run/final --cached --size 240 --html seg.html',
    '<%= config.bin %> <%= command.id %> --train train.jsonl --val val.jsonl --test test.jsonl --model vits14.pth --protocol ms --head-out seg.safetensors',
    '<%= config.bin %> <%= command.id %> --val ade/val --masks ade/masks --reduce-zero-label --model dinov2_vits14_pretrain.pth --head dinov2_vits14_ade20k_linear_head.pth --json'
  ]
  static override flags = {
    train: Flags.string({multiple: true, helpValue: 'SET', summary: 'Images with masks that the head is trained on. Repeatable.'}),
    val: Flags.string({multiple: true, required: true, helpValue: 'SET', summary: 'Images with masks that are scored. Repeatable.'}),
    test: Flags.string({multiple: true, helpValue: 'SET', summary: 'A second set that is scored apart. Repeatable.'}),
    masks: Flags.string({
      helpValue: 'DIR',
      summary: 'Folder of masks, laid out as the images; without it lists name them in their mask field.'
    }),
    model: modelFlag,
    output: Flags.string({char: 'o', helpValue: 'FILE', summary: 'Write the report here as JSON.'}),
    html: Flags.string({helpValue: 'FILE', summary: 'Write a page with tables and the best, typical and worst pictures.'}),
    'head-out': Flags.string({
      helpValue: 'FILE',
      summary: 'Keep the trained head (.safetensors) for predict segment, or for --head.',
      exclusive: ['head']
    }),
    head: Flags.string({
      helpValue: 'FILE',
      summary: 'Score this head instead of training one: of --head-out, or published (.pth).',
      exclusive: ['train']
    }),
    force: outputFlags.force,
    protocol: Flags.option({options: ['linear', 'ms'] as const})({
      default: 'linear',
      helpGroup: 'PROTOCOL',
      summary: 'linear: last block, one scale. ms: last four blocks, five scales, mirrored.'
    }),
    layers: layers({helpGroup: 'PROTOCOL', helpValue: 'N|LIST', summary: 'Join the last N blocks, or the listed ones, counted from 0.'}),
    size: Flags.integer({
      min: 16,
      max: 8192,
      helpGroup: 'PROTOCOL',
      helpValue: 'PIXELS',
      summary: 'Short side of images; 512 by default, for ms 640.'
    }),
    crop: Flags.integer({
      min: 0,
      max: 8192,
      helpGroup: 'PROTOCOL',
      helpValue: 'PIXELS',
      summary: 'Side of views and windows; --size by default. 0: whole images, as with --cached.'
    }),
    stride: Flags.integer({
      min: 1,
      max: 8192,
      helpGroup: 'PROTOCOL',
      helpValue: 'PIXELS',
      summary: 'From window to window; two thirds of --crop by default, for ms half.'
    }),
    scales: Flags.string({
      helpGroup: 'PROTOCOL',
      helpValue: 'LIST',
      summary: 'Times --size at which images are looked at; probabilities are averaged. For ms 1,1.32,1.73,2.28,3.'
    }),
    flip: Flags.boolean({allowNo: true, helpGroup: 'PROTOCOL', summary: 'Look at images mirrored too; on for ms.'}),
    cached: Flags.boolean({
      helpGroup: 'TRAINING',
      summary: 'Compute features once, of whole images and their mirror images, and train on those.'
    }),
    steps: Flags.integer({
      min: 1,
      helpGroup: 'TRAINING',
      helpValue: 'N',
      summary: 'Steps of training; 40000 by default, with --cached 1000. The warm-up scales along.'
    }),
    pictures: Flags.integer({min: 1, max: 4096, default: 16, helpGroup: 'TRAINING', helpValue: 'N', summary: 'Images a step.'}),
    lr: Flags.string({default: '0.001', helpGroup: 'TRAINING', helpValue: 'X', summary: 'Highest learning rate.'}),
    'weight-decay': Flags.string({default: '0.0001', helpGroup: 'TRAINING', helpValue: 'X', summary: 'Weight decay of AdamW.'}),
    'cache-mb': Flags.integer({
      min: 0,
      default: 2048,
      helpGroup: 'TRAINING',
      helpValue: 'N',
      summary: 'Features kept in memory (--cached); what is beyond goes to a temporary file.'
    }),
    'cache-disk-mb': Flags.integer({
      min: 0,
      default: 16384,
      helpGroup: 'TRAINING',
      helpValue: 'N',
      summary: 'Size of that file at most; beyond it features are computed again.'
    }),
    baseline: Flags.option({options: ['pixels', 'untrained', 'none'] as const, multiple: true as const})({
      summary: 'Train the same head on this too, for comparison; both by default, none for neither. Repeatable.'
    }),
    classes: Flags.string({
      helpGroup: 'MASKS',
      helpValue: 'FILE',
      summary: 'Classes, a line each: id and name, or name alone; a colour #rrggbb may follow.'
    }),
    ignore: Flags.string({
      default: '255',
      helpGroup: 'MASKS',
      helpValue: 'IDS',
      summary: 'Ids whose pixels do not count, separated by commas.'
    }),
    'reduce-zero-label': Flags.boolean({helpGroup: 'MASKS', summary: 'Id 0 does not count and classes begin at 1, as in ADE20K.'}),
    ...inputFlags,
    'max-pixels': pixelFlags['max-pixels'],
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
    const {flags} = await this.parse(SegEval)
    const number = (name: 'lr' | 'weight-decay', least: number): number => {
      const value = Number(flags[name])
      if (!(value >= least) || !Number.isFinite(value))
        throw new UserError(`--${name}: expected a number of at least ${least}, but received ${flags[name]}.`, {exit: 2, code: 'USAGE'})
      return value
    }
    const ignore = list('ignore', flags.ignore, value => Number.isInteger(value) && value >= 0 && value <= 65535)
    const scales = flags.scales === undefined ? undefined : list('scales', flags.scales, value => value > 0 && value <= 16)
    const baselines = flags.baseline ?? ['pixels', 'untrained']
    this.inputs([...(flags.train ?? []), ...flags.val, ...(flags.test ?? [])])
    const output = flags.output === undefined ? undefined : await this.output(flags.output)
    const pageOutput = flags.html === undefined ? undefined : await this.output(flags.html)
    const bad = this.badImages(flags)
    const {segEval} = await import('../src/tasks/eval/segmentation/evaluate.js')
    const {layers: blocks, size, crop, stride, flip, batch, test, train, head, masks, classes} = flags
    const events = segEval({
      model: flags.model,
      val: flags.val,
      ...(train ? {train} : {}),
      ...(test ? {test} : {}),
      ...(masks === undefined ? {} : {masks}),
      ...(head === undefined ? {} : {head}),
      ...(flags['head-out'] === undefined ? {} : {headOut: flags['head-out']}),
      ...(flags.force ? {force: true} : {}),
      classes: {ignore, reduceZero: flags['reduce-zero-label'], ...(classes === undefined ? {} : {file: classes})},
      kind: flags.protocol,
      protocol: {
        ...(blocks === undefined ? {} : {layers: blocks}),
        ...(size === undefined ? {} : {size}),
        ...(crop === undefined ? {} : {crop}),
        ...(stride === undefined ? {} : {stride}),
        ...(scales ? {scales} : {}),
        ...(flip === undefined ? {} : {flip})
      },
      cached: flags.cached,
      ...(flags.steps === undefined ? {} : {steps: flags.steps}),
      pictures: flags.pictures,
      lr: number('lr', 1e-12),
      weightDecay: number('weight-decay', 0),
      cache: {memory: flags['cache-mb'] * 2 ** 20, disk: flags['cache-disk-mb'] * 2 ** 20},
      baselines: baselines.filter(name => name !== 'none'),
      seed: flags.seed ?? 0,
      nul: flags.null,
      engine: this.engineRequest(flags),
      ...(batch === undefined ? {} : {batch}),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']}),
      ...(pageOutput ? {cases: 3} : {}),
      toolVersion: this.config.version,
      onRejected: ({pathBase64, ...image}) => bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})}),
      onSkipped: skipped => this.detail(JSON.stringify(skipped)),
      signal: this.signal
    })
    let progress = this.progress()
    let at = ''
    let losses = {sum: 0, count: 0}
    const next = (): ReturnType<typeof events.next> =>
      events.next().catch(async (error: unknown) => {
        if (error instanceof UserError && error.code === 'NO_INPUT') await bad.finish() // too many bad pairs are the reason why there is no good one
        throw error
      })
    let step = await next()
    for (; !step.done; step = await next()) {
      const {value} = step
      if (value.kind === 'checked') bad.accept(value.pairs)
      if (value.kind === 'started') await bad.finish() // all pairs were looked at: too many bad ones end the run before anything is computed
      if (value.kind === 'classes') this.note(`${value.classes.names.length} classes from ${value.from}`)
      if (!('features' in value)) continue
      const label =
        value.kind === 'step'
          ? `${value.features} steps`
          : value.kind === 'features'
            ? `${value.features} features`
            : `${value.features} ${value.set}`
      if (label !== at) {
        progress = this.progress({label, total: value.of})
        losses = {sum: 0, count: 0}
      }
      at = label
      progress.update(value.kind === 'step' ? value.step : value.done)
      if (value.kind !== 'step') continue
      losses = {sum: losses.sum + value.loss, count: losses.count + 1}
      if (value.step % Math.max(1, Math.round(value.of / 10)) === 0) {
        this.detail(`${value.features}: step ${value.step}, loss ${(losses.sum / losses.count).toFixed(4)}`)
        losses = {sum: 0, count: 0}
      }
    }
    progress.stop()
    const {value: result} = step
    const {report} = result
    for (const note of report.notes) this.note(note)
    if (output) {
      output.stream.write(JSON.stringify(report, null, 2) + '\n')
      await output.commit()
    }
    if (pageOutput) {
      const {segPage} = await import('../src/tasks/eval/segmentation/page.js')
      pageOutput.stream.write(await segPage(result, flags.model))
      await pageOutput.commit()
    }
    this.print(table(report))
    return report
  }
}

type Report = import('../src/tasks/eval/segmentation/report.js').SegReport

/** Numbers separated by commas. */
function list(flag: string, text: string, good: (value: number) => boolean): number[] {
  const values = text.split(',').map(Number)
  if (text.trim() === '') return []
  if (!values.every(good))
    throw new UserError(`--${flag}: expected numbers separated by commas, but received ${text}.`, {exit: 2, code: 'USAGE'})
  return values
}

const percent = (share: number | null): string => (share === null || Number.isNaN(share) ? '–' : (100 * share).toFixed(1))

const columns = (rows: readonly (readonly string[])[], left: number): string[] => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map(row => row[column]!.length)))
  return rows.map(row =>
    row
      .map((cell, column) => (column < left ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
      .join('  ')
      .trimEnd()
  )
}

/** The report for people. */
function table({train, val, test, classes, scores, gains}: Report): string {
  const head = `${val} images of val${test > 0 ? `, ${test} of test` : ''}${train > 0 ? `; head trained on ${train}` : ''}; ${classes.length} classes`
  const rows = [
    ['features', 'set', 'mIoU %', '95 %', 'mean acc. %', 'pixel acc. %'],
    ...scores.map(({features, set, miou, interval: [low, high], meanAccuracy, pixelAccuracy}) => [
      features,
      set,
      percent(miou),
      `${percent(low)}–${percent(high)}`,
      percent(meanAccuracy),
      percent(pixelAccuracy)
    ])
  ]
  const own = scores.filter(({features}) => features === 'model')
  const shown = own.at(-1)!
  const rivals = scores.filter(({features, set}) => features !== 'model' && set === shown.set)
  const byClass = [
    [`class (${shown.set})`, 'IoU %', ...rivals.map(({features}) => features), 'acc. %', 'pixels'],
    ...shown.classes.map(({name, iou, accuracy, pixels}, k) => [
      name,
      percent(iou),
      ...rivals.map(rival => percent(rival.classes[k]!.iou)),
      percent(accuracy),
      String(pixels)
    ])
  ]
  const names = {majority: 'the commonest class', pixels: 'raw pixels', untrained: 'the untrained model'} as const
  const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
  const sentences = gains.map(
    ({over, set, miou, interval: [low, high], verdict}) =>
      `On ${set} the model ${verdict} ${names[over]}: ${signed(miou)} (${signed(low)} to ${signed(high)}) points of mIoU.`
  )
  return [head, '', ...columns(rows, 2), '', ...columns(byClass, 1), ...(sentences.length > 0 ? ['', ...sentences] : [])].join('\n')
}
