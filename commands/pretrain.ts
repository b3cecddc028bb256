/** `dinov2 pretrain`: self-supervised pretraining on a plain folder of images. */
import {Flags} from '@oclif/core'
import {imagesArg} from '../src/cli/command.js'
import {
  TrainingCommand,
  formatCostEstimate,
  runFolderOf,
  assertHealthy,
  runFlags,
  trainingFlags,
  trainingPrecision,
  type TrainingOutcome
} from '../src/cli/training-command.js'
import {architecture, derive, type Derived} from '../src/config/derived.js'
import type {ResolvedSettings, Settings} from '../src/config/settings.js'
import type {WeightsOrigin} from '../src/tasks/train/init-weights.js'
import type {Evaluation} from '../src/tasks/train/training-loop.js'

export default class Pretrain extends TrainingCommand {
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override summary = 'Train a backbone on images without labels.'
  static override description = `Learns from any folder, list or tar shards: DINO, iBOT and KoLeo, as DINOv2 does. The run folder holds config.yaml, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, final/: the backbone as safetensors and as a Hugging Face folder, and its heads. Ctrl-C finishes the step and writes a checkpoint; --resume goes on from the newest one, also after kill -9, and on the same machine in fp32 the rest is, bit for bit, what it would have been.

Settings have the names of the published configurations; a recipe is a file of them (--config small, vits14, vitl16-short …).

When a run is resumed, how it is carried out may change (train.workers, cache_mb, memory, log_every, checkpoint_every, keep_checkpoints, keep_every). Engine, device, precision and threads may change too; the last digits may then differ. Any other setting, or other images, are refused unless --accept-changes is given; sizes of model and heads can never change. Every difference is printed.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --config small -o run',
    '<%= config.bin %> <%= command.id %> photos --config small --set train.steps=400 --set optim.base_lr=0.004 -o run',
    '<%= config.bin %> <%= command.id %> photos --init dinov2_vits14 -o run',
    'find photos -name "*.jpg" -print0 | <%= config.bin %> <%= command.id %> -0 - --config small -o run',
    '<%= config.bin %> <%= command.id %> photos -o run --config run/config.yaml --resume',
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
        'Weights to go on from: a run folder, a checkpoint, a .pth, safetensors, a Hugging Face or timm folder, or the name of a released model. Sizes that are not set are taken from them, and learning begins gently.'
    }),
    ...trainingFlags
  }

  /**
   * What the weights of `--init` decide where nobody else did. A run that goes on keeps what they isInferable when it
   * began, and does not need them.
   */
  protected override async refine(resolved: ResolvedSettings, flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    const {init, resume, output} = flags as {init?: string; resume?: boolean; output?: string}
    const weights = init ?? resolved.settings.student.pretrained_weights
    if (!weights) return resolved
    const {settingsOfFile, withSetting} = await import('../src/config/settings.js')
    const {
      isInferable,
      canonicalPath: lasting,
      readOrigin,
      withInferredSettings: settingsFrom,
      valueOf
    } = await import('../src/tasks/train/init-weights.js')
    const {settingsOfRun} = await import('../src/tasks/train/resume.js')
    const path = 'student.pretrained_weights'
    const known = init === undefined ? (resolved.sources.get(path) ?? path) : '--init'
    let next = withSetting(resolved, path, await lasting(weights), known)
    const source = init === undefined ? path : '--init'
    const begun = resume && output !== undefined ? await settingsOfRun(output) : undefined
    if (begun) {
      for (const [name, from] of next.sources)
        if (from === 'default' && isInferable(name))
          next = withSetting(next, name, valueOf({...next, settings: begun}, name) ?? valueOf(next, name), source)
      return next
    }
    this.#origin = await readOrigin(weights, settingsOfFile)
    return settingsFrom(this.#origin, next, source, withSetting)
  }

  #origin: WeightsOrigin | undefined

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Pretrain)
    const inputs = this.inputs(args.images)
    const {settingsYaml, withSetting} = await import('../src/config/settings.js')
    let resolved = this.resolved
    if (typeof flags.batch === 'number') resolved = withSetting(resolved, 'train.batch_size_per_gpu', flags.batch, '--batch')
    if (flags.batch !== 'auto') derive(resolved.settings) // contradictions are told before anything is read
    const {describeStart, assertCompatible: refuseMisfit} = await import('../src/tasks/train/init-weights.js')
    if (this.#origin) refuseMisfit(this.#origin.path, this.#origin.config, architecture(resolved.settings))
    const bad = this.badImages(flags)
    const output = runFolderOf(flags)
    const {gatherImages, openRun, startEngine} = await import('../src/tasks/train/setup.js')
    const {pretrain} = await import('../src/tasks/train/pretrain.js')
    const {batchOfRun} = await import('../src/tasks/train/resume.js')
    const images = await gatherImages(inputs, {nul: flags.null, onSkipped: skipped => this.detail(JSON.stringify(skipped))})
    if (output !== undefined) await openRun(output, {force: flags.force, resume: flags.resume, make: false})
    bad.accept(images.length)
    const engine = await startEngine(this.engineRequest(flags))
    const precision = trainingPrecision('pretrain', engine.precision)
    if (flags.batch === 'auto') {
      const {autoBatch, gib} = await import('../src/tasks/train/auto-batch.js')
      const kept = flags.resume && output !== undefined ? await batchOfRun(output) : undefined
      const find = () => autoBatch(resolved.settings, {precision, device: engine.device, images: images.length})
      resolved = withSetting(resolved, 'train.batch_size_per_gpu', await this.autoBatch(kept, find, gib), '--batch')
    }
    const {settings} = resolved
    const plan = derive(settings)
    if (this.#origin) for (const sentence of describeStart(this.#origin, plan.vit, plan)) this.note(sentence)

    if (output === undefined) {
      const {estimateCost} = await import('../src/tasks/train/cost-estimate.js')
      const bill = await estimateCost({
        images,
        settings,
        plan,
        precision,
        engine,
        tflops: flags.tflops
      })
      for (const sentence of formatCostEstimate(bill, plan.batch)) this.note(sentence)
      return bill
    }
    const evaluation = flags['eval-images'] && (await this.#evaluation(flags['eval-images'], flags, settings, plan, precision))
    const bar = this.progress({total: plan.steps * plan.batch, unit: 'images', label: 'pretrain'})
    const tell = this.eventReporter(output, plan.batch, bar)
    let outcome: TrainingOutcome | undefined
    const events = pretrain({
      images,
      settings,
      plan,
      precision,
      engine,
      run: output,
      yaml: settingsYaml(settings),
      version: this.config.version,
      force: flags.force,
      resume: flags.resume,
      acceptChanges: flags['accept-changes'],
      evaluation,
      signal: this.signal,
      ...this.rejectionHandlers(bad)
    })
    for await (const event of events) outcome = tell(event) ?? outcome
    await bad.finish()
    if (outcome) assertHealthy(outcome)
    return outcome
  }

  /** The evaluation that goes along with the training; its images are decoded here, before the first step. */
  async #evaluation(
    images: readonly string[],
    flags: {'eval-val'?: string[] | undefined; 'eval-every': number},
    settings: Settings,
    {vit}: Derived,
    precision: 'fp32' | 'bf16'
  ): Promise<Evaluation> {
    const {onlineEval} = await import('../src/tasks/train/online-eval.js')
    const {crops, train} = settings
    const made = await onlineEval({
      ...this.evaluationOptions(images, flags, {crop: crops.global_crops_size, patch: vit.patch, workers: train.workers}),
      vit,
      precision
    })
    this.describeEvaluation(made, flags['eval-val'] !== undefined)
    return {...made, before: settings.student.pretrained_weights !== ''}
  }
}
