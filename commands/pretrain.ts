/** `dinov2 pretrain`: self-supervised pretraining on a plain folder of images. */
import {Flags} from '@oclif/core'
import {
  Command,
  badFlags,
  engineFlags,
  imagesArg,
  inputFlags,
  openFolder,
  outputFlags,
  reportFlags,
  settingsFlags
} from '../src/cli/command.js'
import {derive} from '../src/config/derived.js'
import {UserError} from '../src/config/errors.js'

export default class Pretrain extends Command {
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override summary = 'Train a backbone on images without labels.'
  static override description =
    'Learns from any folder, list or tar shards: DINO, iBOT and KoLeo, as DINOv2 does. The run folder holds config.yaml, metrics.jsonl, checkpoints and, at the end, final/: the backbone as safetensors and as a Hugging Face folder, and its heads. Ctrl-C finishes the step and writes a checkpoint; --resume goes on from it.\n\nSettings have the names of the published configurations; a recipe is a file of them (--config small, vits14, vitl16-short …).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --config small -o run',
    '<%= config.bin %> <%= command.id %> photos --config small --set train.steps=400 --set optim.base_lr=0.004 -o run',
    'find photos -name "*.jpg" -print0 | <%= config.bin %> <%= command.id %> -0 - --config small -o run',
    '<%= config.bin %> <%= command.id %> photos -o run --config run/config.yaml --resume'
  ]
  static override statuses = {6: 'a loss was not finite, or the run collapsed'}
  static override args = {...imagesArg}
  static override flags = {
    output: Flags.string({char: 'o', required: true, helpValue: 'FOLDER', summary: 'The run folder.'}),
    force: outputFlags.force,
    resume: outputFlags.resume,
    ...inputFlags,
    ...settingsFlags,
    ...engineFlags,
    ...badFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Pretrain)
    const inputs = this.inputs(args.images)
    const {settingsYaml, withSetting} = await import('../src/config/settings.js')
    let resolved = this.resolved
    if (flags.batch !== undefined) resolved = withSetting(resolved, 'train.batch_size_per_gpu', flags.batch, '--batch')
    const {settings} = resolved
    const plan = derive(settings)
    const bad = this.badImages(flags)

    const {gatherImages, startEngine} = await import('../src/steps/prepare.js')
    const {pretrain} = await import('../src/steps/pretrain.js')
    const images = await gatherImages(inputs, {nul: flags.null, onSkip: skipped => this.detail(JSON.stringify(skipped))})
    if (!flags['dry-run']) await openFolder(flags.output, {force: flags.force, resume: flags.resume})
    bad.accept(images.length)
    const engine = await startEngine(this.engineRequest(flags))
    if (engine.precision !== 'fp32' && engine.precision !== 'bf16') {
      throw new UserError(`pretrain computes in fp32 or bf16, not in ${engine.precision}.`, {exit: 2, code: 'USAGE'})
    }
    const precision = engine.precision
    const options = {images, settings, plan, precision, run: flags.output, yaml: settingsYaml(settings), version: this.config.version}

    if (flags['dry-run']) {
      const {forecast} = await import('../src/steps/forecast.js')
      const {images: _, ...rest} = options
      const bill = await forecast({...rest, images: images.length})
      const hours = bill.seconds / 3600
      this.note(
        `${bill.images} images, ${bill.steps} steps of ${plan.batch}, ${(bill.parameters / 1e6).toFixed(1)} M parameters with heads: ` +
          `${bill.secondsPerStep.toFixed(3)} s a step, ${hours >= 1 ? `${hours.toFixed(1)} hours` : `${(bill.seconds / 60).toFixed(1)} minutes`}` +
          (bill.peakBytes === undefined ? '' : `, ${(bill.peakBytes / 2 ** 30).toFixed(2)} GiB of tensors at the peak`)
      )
      return bill
    }

    const bar = this.progress({total: plan.steps * plan.batch, unit: 'images', label: 'pretrain'})
    let waited = 0
    let spent = 0
    let outcome: unknown
    const events = pretrain({
      ...options,
      resume: flags.resume,
      signal: this.signal,
      onBad: ({pathBase64, ...image}) => {
        bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})})
        bad.accept(-1) // all were taken for good at first
      },
      goOn: () => !bad.tooMany
    })
    for await (const event of events) {
      if (event.kind === 'resumed') {
        this.note(`going on from ${event.path}${event.precision ? `, which was trained in ${event.precision}` : ''}`)
        bar.startAt(event.step * plan.batch)
      } else if (event.kind === 'step') {
        waited = 0.95 * waited + event.dataWait
        spent = 0.95 * spent + event.seconds
        const {dino_local, dino_global, ibot, koleo} = event.report.losses
        bar.update(event.step * plan.batch, {
          step: event.step,
          dino: Number((dino_local + dino_global).toFixed(3)),
          ibot: Number(ibot.toFixed(3)),
          koleo: Number(koleo.toFixed(4)),
          waiting: `${Math.round((100 * waited) / spent)}%`
        })
      } else if (event.kind === 'stopped') {
        outcome = {run: flags.output, step: event.step, checkpoint: event.path, finished: false}
        bar.stop()
        this.note(`stopped at step ${event.step}; ${event.path} is written. Go on with the same command and --resume.`)
        await bad.finish()
      } else if (event.kind === 'finished') {
        bar.stop()
        this.note(`${event.model} after ${event.step} steps. ${event.health.words}`)
        outcome = {run: flags.output, step: event.step, model: event.model, finished: true, health: event.health}
        await bad.finish()
        if (!event.health.healthy) {
          throw new UserError(`The run ended unhealthy; ${event.health.words}.`, {
            exit: 6,
            code: 'UNHEALTHY',
            hint: `The model stands in ${event.model} all the same. Look at it with: dinov2 report ${flags.output} -o run.html`
          })
        }
      }
    }
    return outcome
  }
}
