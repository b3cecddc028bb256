/** `dinov2 pretrain`: self-supervised pretraining on a plain folder of images. */
import {Flags} from '../src/cli/oclif.js'
import {imagesArg} from '../src/cli/command.js'
import {TrainingCommand, assertHealthy, runFolderOf} from '../src/cli/training-command.js'
import {minutesFlag, runFlags, trainingFlags} from '../src/cli/training-flags.js'
import type {ResolvedSettings} from '../src/config/settings.js'
import type {WeightsOrigin} from '../src/tasks/train/init-weights.js'

export default class Pretrain extends TrainingCommand {
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override summary = 'Train a backbone on images without labels.'
  static override description = `Learns from any folder, list or tar shards: DINO, iBOT and KoLeo, as DINOv2 does. The run folder holds config.yaml, metrics.jsonl, timings.jsonl (speed and memory), tensorboard/, checkpoints/ and, at the end, final/: the backbone as safetensors and as a Hugging Face folder, and its heads. Ctrl-C finishes the step and writes a checkpoint; --resume goes on from the newest one, also after kill -9, and on the same machine in fp32 the rest is, bit for bit, what it would have been.

Settings have the names of the published configurations; a recipe is a file of them (--config small, vits14, vitl16-short …). Without --config a recipe is chosen that suits the number of images and the device, and named. A run that does not fit into memory is refused before its first step, with changes that would fit.

Without --config, a run that is resumed has the settings of its own config.yaml. How it is carried out may change (train.workers, cache_mb, memory, log_every, checkpoint_every, keep_checkpoints, keep_every). Engine, device, precision and threads may change too; the last digits may then differ. Any other setting, or other images, are refused unless --accept-changes is given; sizes of model and heads can never change. Every difference is printed.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --config small -o run',
    '<%= config.bin %> <%= command.id %> photos --config small --set train.steps=400 --set optim.base_lr=0.004 -o run',
    '<%= config.bin %> <%= command.id %> photos --init dinov2_vits14 -o run',
    '<%= config.bin %> <%= command.id %> photos --minutes 15 -o run',
    'find photos -name "*.jpg" -print0 | <%= config.bin %> <%= command.id %> -0 - --config small -o run',
    '<%= config.bin %> <%= command.id %> photos -o run --resume',
    '<%= config.bin %> <%= command.id %> photos --config small -o run --eval-images labelled --eval-every 200',
    '<%= config.bin %> <%= command.id %> photos --config vits14 --batch auto --dry-run'
  ]
  static override statuses = {
    1: 'the disk is full, or the run folder cannot be written; training had gone on, and the last good checkpoint is named',
    6: 'a loss, a gradient or a weight was not finite (run/not-finite.json says where), or the run collapsed'
  }
  static override args = {...imagesArg}
  static override flags = {
    ...runFlags,
    init: Flags.string({
      helpValue: 'M',
      summary:
        'Weights to go on from: a run folder, a checkpoint, a .pth, safetensors, a Hugging Face or timm folder, the name of a released model, or an id of the Hugging Face hub. Sizes are taken from them unless you set them or name the recipe of a model; without --config the number of images decides how long it trains.'
    }),
    minutes: minutesFlag,
    ...trainingFlags
  }

  /** What a run that goes on and the weights of `--init` decide where nobody else did. */
  protected override async refine(resolved: ResolvedSettings, flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    const {settingsOfPretraining} = await import('../src/tasks/train/run-settings.js')
    const found = await settingsOfPretraining(resolved, flags)
    this.#origin = found.origin
    return found.resolved
  }

  #origin: WeightsOrigin | undefined

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Pretrain)
    const output = runFolderOf(flags)
    return this.together(import('../src/tasks/train/with-processes.js'), output, async processes => {
      const bad = this.badImages(flags)
      const {beginPretraining} = await import('../src/tasks/train/begin-pretraining.js')
      const begun = await beginPretraining(this.resolved, this.#origin, {
        ...this.beginOptions(args.images, flags, bad, processes),
        minutes: flags.minutes
      })
      const {settings, plan, precision} = begun
      if (output === undefined) {
        const {estimateCost} = await import('../src/tasks/train/cost-estimate.js')
        return this.reportCost(await estimateCost({...begun, tflops: flags.tflops, processCount: this.processesOf(flags)}), plan.batch)
      }
      const {evaluationsFor} = await import('../src/tasks/train/attach-eval.js')
      const asked = this.evalRequest(flags, processes)
      const evaluation = asked && (await evaluationsFor([begun], asked, precision))[0]
      const {pretrain} = await import('../src/tasks/train/pretrain.js')
      const {settingsYaml} = await import('../src/config/print-settings.js')
      const report = this.eventReporter(output, plan.batch, this.trainingBar(plan))
      const events = pretrain({
        ...begun,
        ...this.runOptions(flags, bad),
        run: output,
        yaml: settingsYaml(settings),
        evaluation,
        processes
      })
      for await (const event of events) report(event)
      await bad.finish()
      return assertHealthy(report.outcome())
    })
  }
}
