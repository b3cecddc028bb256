/** The base of `curate` and its stages: flags become a plan, the plan is run, rows go out. */
import {UserError} from '../config/errors.js'
import type {RejectedImage} from '../data/sources/image-ref.js'
import type {Output} from '../system/output.js'
import type {FeatureStepOptions, ShardEvent, ShardOptions, ShardReport} from '../tasks/curate/feature-shard.js'
import type {CurateEvent, CurateOptions, CurateReport} from '../tasks/curate/run.js'
import type {PlannedStage} from '../tasks/curate/plan.js'
import {Command, type BadImages} from './command.js'
import type {CurateFlagValues} from './curate-flags.js'
import {otherInputs} from './curate-plan.js'
import {transformOf} from './feature-flags.js'

/** The part of the task that this layer calls; a command imports it. */
export type CurateTask = {
  curate(options: CurateOptions): AsyncGenerator<CurateEvent, CurateReport>
  curateShard(options: ShardOptions): AsyncGenerator<ShardEvent, ShardReport>
}

/** What is curated, and by which stages. */
type Curated = {readonly inputs: readonly string[]; readonly plan: readonly PlannedStage[]; readonly bad: BadImages}

/** What reports the work of --dry-run; a command imports it. */
type Planning = Pick<typeof import('../tasks/plan.js'), 'planLines' | 'planWork'>

type CurateOutputs = {readonly kept: Output; readonly rejected: Output | undefined; readonly page: Output | undefined}

/** Writes text to an output, and waits while it is full. */
const writerTo =
  ({stream}: Output) =>
  async (text: string): Promise<void> => {
    if (!stream.write(text)) await new Promise(resolve => stream.once('drain', resolve))
  }

export abstract class CurateCommand extends Command {
  /** Runs the plan over the named inputs and writes the outcome. */
  protected async curated(
    task: CurateTask,
    named: readonly string[] | string | undefined,
    values: CurateFlagValues,
    plan: readonly PlannedStage[],
    planning: () => Promise<Planning>
  ): Promise<object> {
    const inputs = this.inputs(named, 'images or embeddings')
    if ([...inputs, ...plan.flatMap(otherInputs)].filter(name => name === '-').length > 1)
      throw new UserError('stdin (-) is named twice; it can be read once.', {exit: 2, code: 'USAGE'})
    if (values['dry-run']) return this.#reportCuration(inputs, values, plan, planning())
    const bad = this.badImages(values)
    if (values.shard) return this.#describeShard(task, {inputs, plan, bad}, values, values.shard)
    const outputs = await this.#outputs(values)
    const report = await this.#follow(task.curate(this.#options({inputs, plan, bad}, values, outputs)), bad)
    if (!report) return {finished: false}
    const {kept, rejected, page} = outputs
    for (const output of [kept, rejected, page]) if (output?.target !== undefined) await output.commit()
    const parts = [
      ...(report.unreadable > 0 ? [`${report.unreadable} unreadable`] : []),
      ...(report.repeated > 0 ? [`${report.repeated} given twice`] : [])
    ]
    this.note(
      `${report.kept} of ${report.pool} kept${parts.length > 0 ? ` (${parts.join(', ')})` : ''}${kept.toStdout ? '' : `, in ${kept.target}`}`
    )
    return {output: kept.target, rejectedRows: rejected?.target, ...report}
  }

  /** Reports what a run would read, compute and write, for --dry-run. */
  #reportCuration(
    inputs: readonly string[],
    {model, null: nul, only, since, output, rejected, html, to}: CurateFlagValues,
    plan: readonly PlannedStage[],
    planning: Promise<Planning>
  ): Promise<object> {
    const others = plan.flatMap(otherInputs).filter(name => name !== '-')
    return this.reportPlan(planning, {
      reads: {images: inputs, ...(others.length > 0 && {'other sets': others})},
      nul,
      imagesOrVectors: true,
      models: [model],
      files: [only, since],
      computes: `the ${plan.length === 1 ? 'stage' : 'stages'} ${plan.map(({stage}) => stage).join(', ')}`,
      writes: [output, rejected, html, to]
    })
  }

  /** Opens the outputs. Throws a usage error where more than one goes to stdout. */
  async #outputs({output, rejected, html}: CurateFlagValues): Promise<CurateOutputs> {
    const outputs = {
      kept: await this.output(output),
      rejected: rejected === undefined ? undefined : await this.output(rejected),
      page: html === undefined ? undefined : await this.output(html)
    }
    if (Object.values(outputs).filter(opened => opened?.toStdout).length > 1)
      throw new UserError('Kept rows, rejected rows and the page cannot all go to stdout.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Name files with -o, --rejected and --html.'
      })
    return outputs
  }

  /** Computes the features of a part of the pool, and no stage. */
  async #describeShard(
    task: CurateTask,
    what: Curated,
    values: CurateFlagValues,
    shard: NonNullable<CurateFlagValues['shard']>
  ): Promise<object> {
    if (this.sources['output'] !== 'default')
      throw new UserError('With --shard no row is kept yet, so there is nothing to write to -o.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Leave -o out here; when all shards are there, the same command with -o and without --shard runs the stages.'
      })
    const report = await this.#follow(task.curateShard({...this.#inputOptions(what, values), shard}), what.bad)
    if (!report) return {finished: false}
    const {images, unreadable, pool, files} = report
    this.note(
      `features of ${images - unreadable} of ${pool} images (shard ${shard.index}/${shard.count})${unreadable > 0 ? `, ${unreadable} unreadable` : ''}, in ${files.join(' and ')}`
    )
    return {shard, ...report, finished: true}
  }

  #options(what: Curated, values: CurateFlagValues, {kept, rejected, page}: CurateOutputs): CurateOptions {
    const {materialize: how, to, force} = values
    return {
      ...this.#inputOptions(what, values),
      seed: values.seed ?? 0,
      kept: {output: kept.target, write: writerTo(kept)},
      rejected: rejected && {output: rejected.target, write: writerTo(rejected)},
      page: page && {write: writerTo(page), title: `Curation of ${what.inputs.join(', ')}`},
      materialize: how === undefined ? undefined : {how, folder: to!, perShard: values['shard-size'], force}
    }
  }

  #inputOptions({inputs, plan, bad}: Curated, values: CurateFlagValues): FeatureStepOptions {
    const {signal} = this
    const reported = new Set<string>()
    const onRejected = ({pathBase64, ...image}: RejectedImage): void => {
      if (reported.has(image.path)) return // an image may be opened for more than one kind of features
      reported.add(image.path)
      bad.accept(-1) // it was counted when the pool was opened
      bad.add({...image, path_base64: pathBase64})
    }
    return {
      pool: {
        inputs,
        nul: values.null,
        only: values.only,
        since: values.since,
        onSkipped: skipped => this.sourceNote(skipped),
        onRejected,
        signal
      },
      features: {
        model: values.model,
        vectors: {pool: values.pool, layers: values.layers, normalize: true, transform: transformOf(values)},
        engine: this.engineRequest(values),
        toolVersion: this.config.version,
        batch: values.batch,
        workers: values.workers,
        maxPixels: values['max-pixels'],
        memory: values.memory,
        cache: values.cache,
        signal
      },
      plan,
      checkRejected: () => bad.finish(),
      signal
    }
  }

  /** Shows the progress of a run; its report, or undefined where a signal ended it. */
  async #follow<Report>(events: AsyncGenerator<CurateEvent, Report>, bad: BadImages): Promise<Report | undefined> {
    let label = ''
    let progress = this.progress({unit: 'images', label: 'listing'})
    const show = (name: string, done: number, total: number, unit: string): void => {
      if (name !== label) progress = this.progress({unit, label: (label = name), total})
      progress.update(done)
    }
    try {
      let next = await events.next()
      for (; !next.done; next = await events.next()) {
        const event = next.value
        if (event.kind === 'opened') bad.accept(event.rows)
        else if (event.kind === 'features')
          show(event.of === 'model' ? 'embedding' : 'looking at images', event.done, event.total, 'images')
        else if (event.kind === 'work') show(event.label, event.done, event.total, 'rows')
        else if (event.kind === 'warning') this.warn(event.text)
        else {
          progress.stop()
          label = ''
          const {stage, before, after, summary} = event
          this.note(`${stage}: ${before} in, ${after} left${summary.length > 0 ? `; ${summary.join('; ')}` : ''}`)
        }
      }
      progress.stop()
      return next.value
    } catch (error) {
      if (this.signal.aborted) return undefined
      throw error
    }
  }
}
