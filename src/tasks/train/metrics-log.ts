/**
 * What a run writes while it learns: `metrics.jsonl`, `timings.jsonl` and events for TensorBoard.
 *
 * What follows from settings, seed and images alone stands in `metrics.jsonl`: a run that was stopped and resumed has
 * the same bytes there as an unbroken one. Speed, waiting and memory belong to a process, not to a run, and stand in
 * `timings.jsonl`, with the same steps.
 */
import {readFile} from 'node:fs/promises'
import {join} from 'node:path'
import {counted} from '../../config/counted.js'
import type {UserError} from '../../config/errors.js'
import {AppendFile} from '../../files/run/append-file.js'
import {runNames} from '../../files/run/run-folder.js'
import {openEvents} from '../../files/run/tensorboard.js'
import {lossTerms} from '../../loss/terms.js'
import {crc32} from '../../system/crc32.js'
import {jsonObjectOr} from '../../system/json.js'

/** Averages since the last line of metrics, or scores, as written there. */
export type Metrics = Readonly<Record<string, number>> & {readonly step: number}

/**
 * Sums of what the steps since the last line measured. Times are kept apart: they belong to this process, not to the
 * run.
 */
export class Averages {
  #sums: Record<string, number> = {}
  #count = 0
  #times = {seconds: 0, waited: 0, steps: 0}

  add(values: Readonly<Record<string, number>>, {seconds, waited}: {seconds: number; waited: number}): void {
    for (const [name, value] of Object.entries(values)) this.#sums[name] = (this.#sums[name] ?? 0) + value
    this.#count++
    this.#times = {seconds: this.#times.seconds + seconds, waited: this.#times.waited + waited, steps: this.#times.steps + 1}
  }

  take(): {means: Record<string, number>; seconds: number; waited: number} {
    const means = Object.fromEntries(Object.entries(this.#sums).map(([name, sum]) => [name, sum / this.#count]))
    const {seconds, waited, steps} = this.#times
    this.#sums = {}
    this.#count = 0
    this.#times = {seconds: 0, waited: 0, steps: 0}
    return {means, seconds: seconds / steps, waited: waited / steps}
  }

  /** What a checkpoint keeps. */
  kept(): {sums: Record<string, number>; count: number} {
    return {sums: this.#sums, count: this.#count}
  }

  restore(kept: unknown): void {
    if (typeof kept !== 'object' || kept === null) return
    const {sums, count} = kept as {sums: Record<string, number>; count: number}
    this.#sums = {...sums}
    this.#count = count
  }
}

/** What a line of the log is made of. */
export type LogLine = {readonly metrics: Metrics; readonly timings: Metrics}

/**
 * The line of a step. Metrics are means since the last line and the rates of this step; timings are images a second,
 * the share of time lost waiting, what the process holds, and what memory was made of at its peak.
 */
export function logLine(
  step: number,
  {means, seconds, waited}: ReturnType<Averages['take']>,
  rates: Readonly<Record<string, number>>,
  batch: number,
  memory: Readonly<Record<string, number | undefined>>
): LogLine {
  const mib = (bytes: number): number => Math.round(bytes / 2 ** 20)
  const round = (values: Readonly<Record<string, number>>): Record<string, number> =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value.toPrecision(7))]))
  return {
    metrics: {step, ...round({...means, ...rates})},
    timings: {
      step,
      ...round({images_per_second: batch / seconds, data_wait: waited / seconds}),
      rss_mib: mib(process.memoryUsage.rss()),
      ...Object.fromEntries(
        Object.entries(memory).flatMap(([part, bytes]) => (bytes === undefined ? [] : [[`memory_${part}_mib`, mib(bytes)]]))
      )
    }
  }
}

/** The open log of a run. */
export class MetricsLog {
  readonly #path: string
  readonly #metrics: AppendFile
  readonly #timings: AppendFile
  readonly #events: Awaited<ReturnType<typeof openEvents>>

  private constructor(path: string, metrics: AppendFile, timings: AppendFile, events: Awaited<ReturnType<typeof openEvents>>) {
    this.#path = path
    this.#metrics = metrics
    this.#timings = timings
    this.#events = events
  }

  /** Opens the log of a run that has taken so many steps; lines of steps that will be taken again are cut off. */
  static async open(run: string, stepsTaken: number): Promise<MetricsLog> {
    const open = async (path: string): Promise<AppendFile> =>
      AppendFile.open(path, await lengthUntil(path, stepsTaken > 0 ? stepsTaken : -1))
    const path = join(run, runNames.metrics)
    const [metrics, timings] = [await open(path), await open(join(run, runNames.timings))]
    return new MetricsLog(path, metrics, timings, await openEvents(join(run, runNames.events), stepsTaken + 1))
  }

  async write({metrics, timings}: {readonly metrics: Metrics; readonly timings?: Metrics}): Promise<void> {
    await this.#metrics.append(JSON.stringify(metrics) + '\n')
    if (timings) await this.#timings.append(JSON.stringify(timings) + '\n')
    await this.#events.write(metrics.step, tagged({...timings, ...metrics}))
  }

  /** Why something could not be written, while that lasts. */
  get failure(): UserError | undefined {
    return this.#metrics.failure ?? this.#timings.failure ?? this.#events.failure
  }

  /** Why metrics are incomplete; timings and events are only for looking at. */
  get metricsFailure(): UserError | undefined {
    return this.#metrics.failure
  }

  async sync(): Promise<void> {
    await this.#metrics.sync()
    await this.#timings.sync()
  }

  /** What a checkpoint records of the metrics that lie on the disk. */
  mark(): Promise<string> {
    return markOf(this.#path)
  }

  /** All lines of metrics so far. */
  lines(): Promise<Metrics[]> {
    return readLines(this.#path)
  }

  async close(): Promise<void> {
    await Promise.all([this.#metrics.close(), this.#timings.close(), this.#events.close()])
  }
}

/** The names under which TensorBoard groups a line of metrics. */
const tags: readonly (readonly [names: RegExp, group: string])[] = [
  [new RegExp(`^(${lossTerms.map(({name}) => name).join('|')}|total)$|loss`), 'loss'],
  [/^grad_norm_/, 'grad_norm'],
  [/^(lr|backbone_lr|last_layer_lr|wd|momentum|teacher_temp)$/, 'schedule'],
  [/^(images_per_second|data_wait|rss_mib|memory_.*)$/, 'machine'],
  [/^knn_/, 'eval']
]
const tagged = ({step: _, ...values}: Metrics): Record<string, number> =>
  Object.fromEntries(
    Object.entries(values).map(([name, value]) => {
      const group = tags.find(([names]) => names.test(name))?.[1] ?? 'health'
      return [`${group}/${name.replace(/^grad_norm_/, '')}`, value]
    })
  )

const parsed = (line: string): Metrics | undefined => {
  const found = jsonObjectOr(line) // the last line of a run that was killed may be torn
  return typeof found?.['step'] === 'number' ? (found as Metrics) : undefined
}

const readLines = async (file: string): Promise<Metrics[]> =>
  (await readFile(file, 'utf8').catch(() => '')).split('\n').flatMap(line => parsed(line) ?? [])

/**
 * Number and CRC-32 of the lines of steps in a file, or of the first `count`, as checkpoints record them. Lines of
 * evaluations leave no trace in a checkpoint.
 */
async function markOf(path: string, count?: number): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '')
  const lines = text.split('\n').filter(line => line.includes('"total":'))
  const some = lines.slice(0, count)
  return `${some.length} ${crc32(Buffer.from(some.join('\n'))).toString(16)}`
}

/**
 * What is to be said where the metrics of a run do not begin with those that lay there when a checkpoint was written
 * (`mark`, by `MetricsLog.mark`); undefined where they do, or where nothing was recorded.
 */
export async function otherMetrics(run: string, mark: string | undefined): Promise<string | undefined> {
  const count = Number(mark?.split(' ')[0])
  const path = join(run, runNames.metrics)
  if (mark === undefined || !Number.isSafeInteger(count) || (await markOf(path, count)) === mark) return undefined
  return `${path} does not begin with the ${counted(count, 'line')} that the run had written there (put its own file back)`
}

/** Bytes of a file of metrics up to the lines of steps that will be taken again. */
async function lengthUntil(file: string, step: number): Promise<number> {
  const text = await readFile(file, 'utf8').catch(() => '')
  let length = 0
  for (const line of text.split('\n')) {
    const values = parsed(line)
    if (!values || values.step > step) break
    length += Buffer.byteLength(line) + 1
  }
  return length
}
