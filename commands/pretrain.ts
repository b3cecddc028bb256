/** `dinov2 pretrain`: self-supervised pretraining on a plain folder of images. */
import {Errors, Flags} from '@oclif/core'
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

const batchSize = Flags.custom<number | 'auto'>({
  parse: async input => {
    if (input === 'auto') return input
    if (/^[1-9]\d*$/.test(input)) return Number(input)
    throw new Errors.CLIError(`expected a number of images or auto, but received ${input}`, {exit: 2})
  }
})

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
    '<%= config.bin %> <%= command.id %> photos --config vits14 --batch auto --dry-run',
    '<%= config.bin %> <%= command.id %> photos -o run --config run/config.yaml --resume'
  ]
  static override statuses = {6: 'a loss was not finite, or the run collapsed'}
  static override args = {...imagesArg}
  static override flags = {
    output: Flags.string({char: 'o', helpValue: 'FOLDER', summary: 'The run folder; only --dry-run can do without.'}),
    force: outputFlags.force,
    resume: outputFlags.resume,
    ...inputFlags,
    ...settingsFlags,
    ...engineFlags,
    batch: batchSize({
      helpGroup: 'ENGINE',
      helpValue: 'N|auto',
      summary: 'Images a step; auto takes as many as the memory allows and says how many. By default train.batch_size_per_gpu.'
    }),
    ...badFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Pretrain)
    const inputs = this.inputs(args.images)
    const {settingsYaml, withSetting} = await import('../src/config/settings.js')
    let resolved = this.resolved
    if (typeof flags.batch === 'number') resolved = withSetting(resolved, 'train.batch_size_per_gpu', flags.batch, '--batch')
    if (flags.batch !== 'auto') derive(resolved.settings) // contradictions are told before anything is read
    const bad = this.badImages(flags)
    const dry = flags['dry-run']
    const run = flags.output
    if (run === undefined && !dry) {
      throw new UserError('Where the run goes is not said.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Name a folder: -o run. Only --dry-run can do without.'
      })
    }

    const {gatherImages, startEngine} = await import('../src/steps/prepare.js')
    const {pretrain} = await import('../src/steps/pretrain.js')
    const images = await gatherImages(inputs, {nul: flags.null, onSkip: skipped => this.detail(JSON.stringify(skipped))})
    if (!dry) await openFolder(run!, {force: flags.force, resume: flags.resume})
    bad.accept(images.length)
    const engine = await startEngine(this.engineRequest(flags))
    if (engine.precision !== 'fp32' && engine.precision !== 'bf16') {
      throw new UserError(`pretrain computes in fp32 or bf16, not in ${engine.precision}.`, {exit: 2, code: 'USAGE'})
    }
    const precision = engine.precision
    if (flags.batch === 'auto') {
      const {autoBatch, gib} = await import('../src/steps/auto-batch.js')
      const found = await autoBatch(resolved.settings, {precision, device: engine.device, images: images.length})
      this.note(
        `--batch auto: ${found.batch} images a step, for which ${gib(found.expected)} of ${gib(found.limit)} are expected to be needed`
      )
      resolved = withSetting(resolved, 'train.batch_size_per_gpu', found.batch, '--batch')
    }
    const {settings} = resolved
    const plan = derive(settings)

    if (dry) {
      const {forecast} = await import('../src/steps/forecast.js')
      const bill = await forecast({images, settings, plan, precision})
      const hours = bill.seconds / 3600
      const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`
      const {state, copies, activations, base} = bill.parts
      this.note(
        `${bill.images} images, ${bill.steps} steps of ${plan.batch}, ${(bill.parameters / 1e6).toFixed(1)} M parameters with heads: ` +
          `${bill.secondsPerStep.toFixed(3)} s a step (${Math.round(100 * bill.dataWait)} % of it waiting for images), ` +
          `${hours >= 1 ? `${hours.toFixed(1)} hours` : `${(bill.seconds / 60).toFixed(1)} minutes`} in all; checkpoints of ${gib(bill.checkpointBytes)}` +
          (bill.processBytes === undefined ? '' : `; ${gib(bill.processBytes)} of memory at the peak`) +
          (activations === undefined
            ? ''
            : `: state ${gib(state)}, copies of weights ${gib(copies)}, activations and gradients ${gib(activations)}` +
              (base === undefined ? '' : `, the rest of the process ${gib(base + (bill.processBytes! - bill.parts.process!))}`))
      )
      return bill
    }
    const options = {images, settings, plan, precision, run: run!, yaml: settingsYaml(settings), version: this.config.version}

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
        outcome = {run: run!, step: event.step, checkpoint: event.path, finished: false}
        bar.stop()
        this.note(`stopped at step ${event.step}; ${event.path} is written. Go on with the same command and --resume.`)
        await bad.finish()
      } else if (event.kind === 'finished') {
        bar.stop()
        this.note(`${event.model} after ${event.step} steps. ${event.health.words}`)
        outcome = {run: run!, step: event.step, model: event.model, finished: true, health: event.health}
        await bad.finish()
        if (!event.health.healthy) {
          throw new UserError(`The run ended unhealthy; ${event.health.words}.`, {
            exit: 6,
            code: 'UNHEALTHY',
            hint: `The model stands in ${event.model} all the same. Look at it with: dinov2 report ${run!} -o run.html`
          })
        }
      }
    }
    return outcome
  }
}
