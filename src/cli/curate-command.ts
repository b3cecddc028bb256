/** The base of `curate` and its stages: flags become a plan, the plan is run, rows go out. */
import {UserError} from '../config/errors.js'
import {Command, type EngineAsked} from './command.js'
import {transformOf, type LayerChoice} from './feature-flags.js'
import type {EngineChoice, MaxBad, PrecisionChoice} from './flags.js'
import type {StageFlagName} from './curate-flags.js'
import type {CurateEvent, CurateReport} from '../tasks/curate/run.js'

/** Values of flags by name. */
export type Values = Readonly<Record<string, unknown>>

type Features = 'auto' | 'perceptual' | 'model'

/** One stage as the step wants it; which fields it has depends on the stage. */
export type StagePlan = {readonly stage: StageFlagName; readonly features: Features} & Readonly<Record<string, unknown>>

type Bad = {readonly id: string; readonly path: string; readonly reason: string; readonly pathBase64?: string}

/** What the step takes and gives, as far as this base speaks of it. */
export type CurateStep = {
  parseSeeds(texts: readonly string[]): readonly unknown[]
  curate(work: never): AsyncGenerator<CurateEvent, CurateReport>
}
/** The flags of a stage as its plan. `seeds` reads what `--seeds` says. */
export function planOf(stage: StageFlagName, values: Values, seeds: CurateStep['parseSeeds'], clusters: Values = values): StagePlan {
  const list = (name: string): readonly string[] => (values[name] as readonly string[] | undefined) ?? []
  const shared = {stage, features: (values['features'] as Features | undefined) ?? 'auto'}
  const clustering = {
    levels: clusters['levels'],
    resample: clusters['resample'],
    nearest: clusters['nearest'],
    iterations: clusters['iterations'],
    init: clusters['init'],
    miniBatch: clusters['mini-batch']
  }
  switch (stage) {
    case 'filter':
      return {
        ...shared,
        minSide: values['min-side'],
        maxAspect: values['max-aspect'],
        minContrast: values['min-contrast'],
        minEntropy: values['min-entropy'],
        minSharpness: values['min-sharpness'],
        maxNoise: values['max-noise'],
        maxHashDistance: values['max-hash-distance'],
        seeds: list('seeds').map(text => /^[^=/\\]+=(.+)$/s.exec(text)?.[1] ?? text),
        minSimilarity: values['min-similarity']
      }
    case 'dedup':
      return {
        ...shared,
        threshold: values['threshold'],
        k: values['neighbours'],
        method: values['method'],
        probes: values['probes'],
        calibrate: values['calibrate'] ? {precision: values['wanted-precision'], sample: values['calibration-images']} : undefined
      }
    case 'decontaminate':
      return {...shared, against: list('against'), threshold: values['threshold']}
    case 'retrieve':
      return {
        ...shared,
        sets: seeds(list('seeds')),
        method: values['method'],
        perSeed: values['per-seed'],
        minSimilarity: values['min-similarity'],
        clusters: values['clusters'],
        moreThan: values['more-than'],
        perCluster: values['per-cluster'],
        cap: values['cap']
      }
    case 'cluster':
      return {...shared, ...clustering}
    case 'sample':
      if (values['target'] === undefined)
        throw new UserError('How many images are to be kept is not said.', {
          exit: 2,
          code: 'USAGE',
          hint: 'Give the number: --target 10000 (in a pipeline: --sample-target 10000).'
        })
      return {
        ...shared,
        features: (clusters['features'] as Features | undefined) ?? 'auto',
        ...clustering,
        target: values['target'],
        select: values['select']
      }
  }
}

type EngineValues = {engine: EngineChoice; device: string; precision: PrecisionChoice; threads?: number | undefined}

export abstract class CurateCommand extends Command {
  /** Runs the plan over the named inputs and writes what comes out. */
  protected async curated(step: CurateStep, named: unknown, values: Values, plan: readonly StagePlan[]): Promise<unknown> {
    const inputs = this.inputs(named as readonly string[] | string | undefined, 'images or embeddings')
    const text = (name: string): string | undefined => values[name] as string | undefined
    const others = [...plan.flatMap(({sets, against, seeds}) => [sets, against, seeds])].flat(2)
    const stdins = [...inputs, ...(JSON.stringify(others).match(/"-"/g) ?? [])].filter(name => name === '-' || name === '"-"').length
    if (stdins > 1) throw new UserError('stdin (-) is named twice; it can be read once.', {exit: 2, code: 'USAGE'})
    const output = await this.output(text('output')!)
    const rejected = text('rejected') === undefined ? undefined : await this.output(text('rejected')!)
    const page = text('html') === undefined ? undefined : await this.output(text('html')!)
    const outputs = [output, ...(rejected ? [rejected] : []), ...(page ? [page] : [])]
    if (outputs.filter(({toStdout}) => toStdout).length > 1)
      throw new UserError('Kept rows, rejected rows and the page cannot all go to stdout.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Name files with -o, --rejected and --html.'
      })
    const bad = this.badImages(values as {'max-bad': MaxBad; bad?: string})
    const engine: EngineAsked = this.engineRequest(values as EngineValues)
    const writing =
      (to: {readonly stream: NodeJS.WritableStream}) =>
      async (rows: string): Promise<void> => {
        if (!to.stream.write(rows)) await new Promise(resolve => to.stream.once('drain', resolve))
      }
    const optional = <T>(name: string, value: T | undefined): Record<string, T> => (value === undefined ? {} : {[name]: value})
    const told = new Set<string>()
    const work = {
      pool: {
        inputs,
        nul: values['null'],
        ...optional('only', text('only')),
        ...optional('since', text('since')),
        onSkipped: (skipped: object) => this.detail(JSON.stringify(skipped)),
        onRejected: ({pathBase64, ...image}: Bad) => {
          if (told.has(image.path)) return // an image may be opened for more than one kind of features
          told.add(image.path)
          bad.accept(-1) // it was counted when the pool was opened
          bad.add({...image, path_base64: pathBase64})
        },
        signal: this.signal
      },
      making: {
        ...optional('model', text('model')),
        vectors: {pool: values['pool'], layers: values['layers'] as LayerChoice, normalize: true, transform: transformOf(values)},
        engine,
        toolVersion: this.config.version,
        ...optional('batch', values['batch']),
        ...optional('workers', values['workers']),
        ...optional('maxPixels', values['max-pixels']),
        memory: values['memory'],
        ...optional('cache', text('cache')),
        signal: this.signal
      },
      plan,
      seed: values['seed'] ?? 0,
      output: output.target,
      write: writing(output),
      ...(rejected ? {rejected: {output: rejected.target, write: writing(rejected)}} : {}),
      ...(page ? {page: {write: writing(page), title: `Curation of ${inputs.join(', ')}`}} : {}),
      ...(values['materialize'] === undefined
        ? {}
        : {materialize: {how: values['materialize'], folder: text('to')!, perShard: values['shard-size'], force: values['force']}}),
      judge: () => bad.finish(),
      signal: this.signal
    }
    let label = ''
    let progress = this.progress({unit: 'images', label: 'listing'})
    const show = (name: string, done: number, total: number, unit: string): void => {
      if (name !== label) progress = this.progress({unit, label: (label = name), total})
      progress.update(done)
    }
    let report: CurateReport
    try {
      const events = step.curate(work as never)
      let next = await events.next()
      for (; !next.done; next = await events.next()) {
        const event = next.value
        if (event.kind === 'opened') bad.accept(event.rows)
        else if (event.kind === 'features')
          show(event.of === 'model' ? 'embedding' : 'looking at images', event.done, event.total, 'images')
        else if (event.kind === 'work') show(event.label, event.done, event.total, 'rows')
        else if (event.kind === 'note') this.warn(event.text)
        else {
          progress.stop()
          label = ''
          this.note(`${event.stage}: ${event.before} in, ${event.after} left${event.says.length > 0 ? `; ${event.says.join('; ')}` : ''}`)
        }
      }
      report = next.value
    } catch (error) {
      if (this.signal.aborted) return {finished: false}
      throw error
    }
    progress.stop()
    for (const {target, commit} of outputs) if (target !== undefined) await commit()
    const parts = [
      ...(report.unreadable > 0 ? [`${report.unreadable} unreadable`] : []),
      ...(report.repeated > 0 ? [`${report.repeated} given twice`] : [])
    ]
    this.note(
      `${report.kept} of ${report.pool} kept${parts.length > 0 ? ` (${parts.join(', ')})` : ''}${output.toStdout ? '' : `, in ${output.target}`}`
    )
    return {output: output.target, ...(rejected ? {rejectedRows: rejected.target} : {}), ...report}
  }
}
