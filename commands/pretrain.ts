/** `dinov2 pretrain`: self-supervised pretraining on a plain folder of images. */
import {Errors, Flags} from '@oclif/core'
import {Command, badFlags, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, settingsFlags} from '../src/cli/command.js'
import {architecture, derive, type Derived} from '../src/config/derived.js'
import {UserError} from '../src/config/errors.js'
import type {ResolvedSettings, Settings} from '../src/config/settings.js'
import type {Origin} from '../src/steps/origin.js'
import type {Evaluation} from '../src/steps/run.js'

const batchSize = Flags.custom<number | 'auto'>({
  parse: async input => {
    if (input === 'auto') return input
    if (/^[1-9]\d*$/.test(input)) return Number(input)
    throw new Errors.CLIError(`expected a number of images or auto, but received ${input}`, {exit: 2})
  }
})

const positive = Flags.custom<number>({
  parse: async input => {
    const value = Number(input)
    if (value > 0 && Number.isFinite(value)) return value
    throw new Errors.CLIError(`expected a number above 0, but received ${input}`, {exit: 2})
  }
})

export default class Pretrain extends Command {
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
    output: Flags.string({char: 'o', helpValue: 'FOLDER', summary: 'The run folder; only --dry-run can do without.'}),
    force: Flags.boolean({char: 'f', summary: 'Begin anew in the folder of a run. What that run wrote is removed; other files stay.'}),
    resume: outputFlags.resume,
    init: Flags.string({
      helpValue: 'M',
      summary:
        'Weights to go on from: a run folder, a checkpoint, a .pth, safetensors, a Hugging Face or timm folder, or the name of a released model. Sizes that are not set are taken from them, and learning begins gently.'
    }),
    'accept-changes': Flags.boolean({
      dependsOn: ['resume'],
      summary: 'Go on although settings or images differ from those of the run; its checkpoints record from which step on.'
    }),
    ...inputFlags,
    'eval-images': Flags.string({
      multiple: true,
      helpGroup: 'EVALUATION',
      helpValue: 'SET',
      summary:
        'Labelled images (a folder of folders, or a list with labels) on which the teacher is scored while it learns: k-nearest neighbours, each image by the others. Repeatable.'
    }),
    'eval-val': Flags.string({
      multiple: true,
      dependsOn: ['eval-images'],
      helpGroup: 'EVALUATION',
      helpValue: 'SET',
      summary: 'Labelled images to be classified by those of --eval-images. Repeatable.'
    }),
    'eval-every': Flags.integer({min: 1, default: 500, helpGroup: 'EVALUATION', helpValue: 'N', summary: 'Steps between two such scores.'}),
    ...settingsFlags,
    ...engineFlags,
    batch: batchSize({
      helpGroup: 'ENGINE',
      helpValue: 'N|auto',
      summary: 'Images a step; auto takes as many as the memory allows and says how many. By default train.batch_size_per_gpu.'
    }),
    tflops: positive({
      dependsOn: ['dry-run'],
      helpGroup: 'ENGINE',
      helpValue: 'N',
      summary:
        'With --dry-run: hours on a device that achieves N TFLOP/s, counted and not tried. Devices that share a step take as long as one.'
    }),
    ...badFlags,
    ...reportFlags
  }

  /** What the weights of `--init` decide where nobody else did. A run that goes on keeps what they decided when it began, and does not need them. */
  protected override async refine(resolved: ResolvedSettings, flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    const {init, resume, output} = flags as {init?: string; resume?: boolean; output?: string}
    const weights = init ?? resolved.settings.student.pretrained_weights
    if (!weights) return resolved
    const {readLayers, resolveSettings, withSetting} = await import('../src/config/settings.js')
    const {decided, lasting, readOrigin, settingsFrom, valueOf} = await import('../src/steps/origin.js')
    const {settingsOfRun} = await import('../src/steps/resume.js')
    const path = 'student.pretrained_weights'
    const known = init === undefined ? (resolved.sources.get(path) ?? path) : '--init'
    let next = withSetting(resolved, path, await lasting(weights), known)
    const source = init === undefined ? path : '--init'
    const begun = resume && output !== undefined ? await settingsOfRun(output) : undefined
    if (begun) {
      for (const [name, from] of next.sources)
        if (from === 'default' && decided(name))
          next = withSetting(next, name, valueOf({...next, settings: begun}, name) ?? valueOf(next, name), source)
      return next
    }
    this.#origin = await readOrigin(weights, file => resolveSettings(readLayers([file], [], {flags: [], settings: true}).settings).settings)
    return settingsFrom(this.#origin, next, source, withSetting)
  }

  #origin: Origin | undefined

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Pretrain)
    const inputs = this.inputs(args.images)
    const {settingsYaml, withSetting} = await import('../src/config/settings.js')
    let resolved = this.resolved
    if (typeof flags.batch === 'number') resolved = withSetting(resolved, 'train.batch_size_per_gpu', flags.batch, '--batch')
    if (flags.batch !== 'auto') derive(resolved.settings) // contradictions are told before anything is read
    const {bridge, refuseMisfit} = await import('../src/steps/origin.js')
    if (this.#origin) refuseMisfit(this.#origin.path, this.#origin.config, architecture(resolved.settings))
    const bad = this.badImages(flags)
    const output = flags['dry-run'] ? undefined : flags.output
    if (output === undefined && !flags['dry-run'])
      throw new UserError('Where the run goes is not said.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Name a folder: -o run. Only --dry-run can do without.'
      })

    const {gatherImages, openRun, startEngine} = await import('../src/steps/prepare.js')
    const {pretrain} = await import('../src/steps/pretrain.js')
    const {batchOfRun} = await import('../src/steps/resume.js')
    const images = await gatherImages(inputs, {nul: flags.null, onSkip: skipped => this.detail(JSON.stringify(skipped))})
    if (output !== undefined) await openRun(output, {force: flags.force, resume: flags.resume, make: false})
    bad.accept(images.length)
    const engine = await startEngine(this.engineRequest(flags))
    if (engine.precision !== 'fp32' && engine.precision !== 'bf16') {
      throw new UserError(`pretrain computes in fp32 or bf16, not in ${engine.precision}.`, {exit: 2, code: 'USAGE'})
    }
    const precision = engine.precision
    const kept = flags.batch === 'auto' && flags.resume && output !== undefined ? await batchOfRun(output) : undefined
    if (kept !== undefined) {
      this.note(`--batch auto: ${kept} images a step, as the run began`)
      resolved = withSetting(resolved, 'train.batch_size_per_gpu', kept, '--batch')
    } else if (flags.batch === 'auto') {
      const {autoBatch, gib} = await import('../src/steps/auto-batch.js')
      const found = await autoBatch(resolved.settings, {precision, device: engine.device, images: images.length})
      this.note(
        `--batch auto: ${found.batch} images a step, for which ${gib(found.expected)} of ${gib(found.limit)} are expected to be needed`
      )
      resolved = withSetting(resolved, 'train.batch_size_per_gpu', found.batch, '--batch')
    }
    const {settings} = resolved
    const plan = derive(settings)
    if (this.#origin) for (const sentence of bridge(this.#origin, plan.vit, plan)) this.note(sentence)

    if (output === undefined) {
      const {bill: foresee} = await import('../src/steps/estimate.js')
      const bill = await foresee({images, settings, plan, precision, engine, ...(flags.tflops === undefined ? {} : {tflops: flags.tflops})})
      const hours = bill.seconds / 3600
      const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(2)} GiB`
      const {state, copies, activations, base} = bill.parts
      this.note(
        `${bill.images} images, ${bill.steps} steps of ${plan.batch}, ${(bill.parameters / 1e6).toFixed(1)} M parameters with heads: ` +
          `${bill.secondsPerStep.toFixed(3)} s a step${bill.estimated === undefined ? ` (${Math.round(100 * bill.dataWait)} % of it waiting for images)` : ''}, ` +
          `${hours >= 1 ? `${hours.toFixed(1)} hours` : `${(bill.seconds / 60).toFixed(1)} minutes`} in all; checkpoints of ${gib(bill.checkpointBytes)}` +
          (bill.processBytes === undefined
            ? bill.estimated !== undefined
              ? `; ${gib(bill.peakBytes!)} of memory on the device`
              : ''
            : `; ${gib(bill.processBytes)} of memory at the peak`) +
          (activations === undefined
            ? ''
            : `: state ${gib(state)}, copies of weights ${gib(copies)}, activations and gradients ${gib(activations)}` +
              (base === undefined ? '' : `, the rest of the process ${gib(base + (bill.processBytes! - bill.parts.process!))}`))
      )
      this.note(
        bill.estimated === undefined
          ? `measured on ${bill.machine}`
          : `an estimate, for no step was tried: ${bill.estimated}. ${(bill.flopsPerStep / 1e12).toPrecision(3)} TFLOP a step on ${bill.machine}; waiting for images is not in it`
      )
      return bill
    }
    const evaluation = flags['eval-images'] && (await this.#evaluation(flags['eval-images'], flags, settings, plan, precision))
    const bar = this.progress({total: plan.steps * plan.batch, unit: 'images', label: 'pretrain'})
    let waited = 0
    let spent = 0
    let knn: string | undefined
    let outcome: unknown
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
      ...(evaluation ? {evaluation} : {}),
      signal: this.signal,
      onBad: ({pathBase64, ...image}) => {
        bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})})
        bad.accept(-1) // all were taken for good at first
      },
      goOn: () => !bad.tooMany
    })
    for await (const event of events) {
      if (event.kind === 'resumed') {
        this.note(event.path === undefined ? `${output} has no checkpoint yet; beginning at step 0` : `going on from ${event.path}`)
        for (const change of event.changes) this.note(change)
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
          waiting: `${Math.round((100 * waited) / spent)}%`,
          ...(knn === undefined ? {} : {knn})
        })
      } else if (event.kind === 'scores') {
        knn = Object.values(event.scores)
          .map(share => `${(100 * share).toFixed(1)}%`)
          .join('/')
        this.note(
          `${event.step === 0 ? 'before the first step' : `step ${event.step}`}: ${scoreWords(event.scores)} (${event.seconds.toFixed(1)} s)`
        )
      } else if (event.kind === 'warning') {
        this.warn(event.message)
      } else if (event.kind === 'loaded') {
        this.detail(event.words)
      } else if (event.kind === 'checkpoint') {
        this.detail(`${event.path} is written`)
      } else if (event.kind === 'stopped') {
        outcome = {run: output, step: event.step, checkpoint: event.path, finished: false}
        bar.stop()
        this.note(`stopped at step ${event.step}; ${event.path} is written. Go on with the same command and --resume.`)
        await bad.finish()
      } else if (event.kind === 'finished') {
        bar.stop()
        this.note(`${event.model} after ${event.step} steps. ${event.health.words}`)
        if (event.worth?.fell) this.warn(`${event.worth.words}.`)
        else if (event.worth) this.note(`${event.worth.words}.`)
        outcome = {
          run: output,
          step: event.step,
          model: event.model,
          finished: true,
          health: event.health,
          ...(event.worth ? {worth: event.worth} : {})
        }
        await bad.finish()
        if (!event.health.healthy) {
          throw new UserError(`The run ended unhealthy; ${event.health.words}.`, {
            exit: 6,
            code: 'UNHEALTHY',
            hint: `The model stands in ${event.model} all the same. Look at it with: dinov2 report ${output} -o run.html`
          })
        }
      }
    }
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
    const {onlineEval} = await import('../src/steps/online-eval.js')
    const crop = settings.crops.global_crops_size
    const made = await onlineEval({
      images,
      ...(flags['eval-val'] ? {val: flags['eval-val']} : {}),
      every: flags['eval-every'],
      vit,
      precision,
      transform: {resize: Math.round((crop * 256) / 224), crop},
      batch: Math.max(1, Math.min(64, Math.round(4096 / ((crop / vit.patch) ** 2 + 1)))),
      ...(settings.train.workers > 0 ? {workers: settings.train.workers} : {}),
      signal: this.signal,
      onBad: ({path, reason}) => this.warn(`${path} is left out of the evaluation: ${reason}`),
      onSkip: skipped => this.detail(JSON.stringify(skipped))
    })
    const how = flags['eval-val'] ? `${made.val} images by ${made.train}` : `${made.train} images, each by the others`
    this.note(`scoring every ${made.every} steps: ${how}, ${made.classes} classes, ${Math.ceil(made.bytes / 2 ** 20)} MiB of pixels`)
    return {...made, before: settings.student.pretrained_weights !== ''}
  }
}

/** Scores in words: `k-nearest neighbours 41.2 % (k = 10), 39.8 % (k = 20)`. */
const scoreWords = (scores: Readonly<Record<string, number>>): string =>
  `k-nearest neighbours ${Object.entries(scores)
    .map(([name, share]) => `${(100 * share).toFixed(1)} % (k = ${name.replace('knn_', '')})`)
    .join(', ')}`
