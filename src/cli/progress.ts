/**
 * Shows how far a step is, on stderr only: a bar where a person watches, one plain line every few seconds where a log
 * does, nothing under `--quiet`.
 *
 * cli-progress is loaded when the first bar is drawn, so that help and short commands do not pay for it.
 */
import type {SingleBar} from 'cli-progress'

export type ProgressOptions = {
  /** How many there are to do, when that is known. */
  readonly total?: number
  /** What is counted, in the plural. */
  readonly unit?: string
  readonly quiet?: boolean
  /** Seconds between two lines where there is no terminal. */
  readonly every?: number
  /** A few words before the bar. */
  readonly label?: string
  readonly stream?: NodeJS.WriteStream
  /** Clock in milliseconds; a test passes its own. */
  readonly now?: () => number
}

/** Figures shown beside the count, e.g. `{loss: 9.81, waiting: '3%'}`; numbers are shown with four digits. */
export type Payload = Readonly<Record<string, number | string>>

const digits = (value: number | string): string =>
  typeof value === 'string' ? value : Number.isInteger(value) ? String(value) : value.toPrecision(4)

/** Says seconds as `41s`, `6m05s` or `2h07m`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?'
  const s = Math.max(0, Math.round(seconds))
  const two = (n: number): string => String(n).padStart(2, '0')
  if (s < 60) return `${s}s`
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`
  if (s < 48 * 3600) return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`
  return `${Math.floor(s / 86_400)}d${two(Math.floor((s % 86_400) / 3600))}h`
}

/** Says a rate with as many digits as mean something. */
export const rate = (perSecond: number): string =>
  !Number.isFinite(perSecond)
    ? '?'
    : perSecond >= 100
      ? perSecond.toFixed(0)
      : perSecond >= 10
        ? perSecond.toFixed(1)
        : perSecond.toFixed(2)

export class Progress {
  readonly #options: Required<Pick<ProgressOptions, 'unit' | 'quiet' | 'every' | 'label' | 'stream' | 'now'>> & {total: number | undefined}
  readonly #begun: number
  #said: number
  #done = 0
  #first = 0
  #payload: Payload = {}
  #bar: SingleBar | undefined
  #loading = false
  #stopped = false
  /** A process that is ended while the bar stands leaves a terminal with its cursor. */
  readonly #restore = (): void => this.stop()
  /** (time, done) of the last minute, for a rate that follows the present. */
  readonly #recent: [number, number][] = []

  constructor({
    total,
    unit = 'images',
    quiet = false,
    every = 10,
    label = '',
    stream = process.stderr,
    now = () => performance.now()
  }: ProgressOptions = {}) {
    this.#options = {total, unit, quiet, every, label, stream, now}
    this.#begun = this.#said = now()
    this.#recent.push([this.#begun, 0])
  }

  /** Whether a bar is drawn (a terminal that can move its cursor). */
  get animated(): boolean {
    return !this.#options.quiet && this.#options.stream.isTTY === true && process.env['TERM'] !== 'dumb'
  }

  /** Sets the whole, once it is known. */
  set total(total: number) {
    this.#options.total = total
    this.#bar?.setTotal(total)
  }

  /** Begins at `done` instead of 0: what a resumed run finds finished does not count for the rate. */
  startAt(done: number): void {
    this.#done = this.#first = done
    this.#recent.splice(0, Infinity, [this.#options.now(), done])
  }

  /** Counts `n` more. */
  add(n = 1, payload?: Payload): void {
    this.update(this.#done + n, payload)
  }

  /** Says that `done` are done. `payload` replaces the figures shown beside the count. */
  update(done: number, payload?: Payload): void {
    this.#done = done
    if (payload) this.#payload = payload
    if (this.#options.quiet || this.#stopped) return
    const now = this.#options.now()
    const newest = this.#recent.at(-1)!
    if (now - newest[0] >= 500) {
      this.#recent.push([now, done])
      while (this.#recent.length > 2 && now - this.#recent[0]![0] > 60_000) this.#recent.shift()
    }
    if (this.animated) {
      if (this.#bar) this.#bar.update(this.#done, {line: this.line()})
      else if (!this.#loading) {
        this.#loading = true
        void this.#draw()
      }
    } else if (now - this.#said >= this.#options.every * 1000) {
      this.#said = now
      this.#options.stream.write(this.line() + '\n')
    }
  }

  /** Says how far a download is, in megabytes with one decimal; the unit of the bar is MB. */
  showBytes(done: number, total: number | undefined): void {
    if (total !== undefined) this.total = Math.round(total / 1e5) / 10
    this.update(Math.round(done / 1e5) / 10)
  }

  /** The present state in one line, e.g. `320/1000 images  43.1 images/s  16s left  loss 9.812`. */
  line(): string {
    const {total, unit, now, label} = this.#options
    const [since, had] = this.#recent[0]!
    const seconds = (now() - since) / 1000
    const speed = seconds > 0 ? (this.#done - had) / seconds : NaN
    const parts = [
      total === undefined ? `${this.#done} ${unit}` : `${this.#done}/${total} ${unit}`,
      `${rate(speed)} ${unit}/s`,
      ...(total === undefined || !(speed > 0) ? [] : [`${duration((total - this.#done) / speed)} left`]),
      ...Object.entries(this.#payload).map(([name, value]) => `${name} ${digits(value)}`)
    ]
    return (label ? `${label}: ` : '') + parts.join('  ')
  }

  /** Seconds since the beginning. */
  get seconds(): number {
    return (this.#options.now() - this.#begun) / 1000
  }

  /** Items a second over the whole run. */
  get speed(): number {
    return (this.#done - this.#first) / this.seconds
  }

  /** Writes a line above the bar, or plainly where there is none. */
  write(line: string): void {
    if (this.#bar) {
      this.#bar.stop() // it goes back to where it began, so it must begin anew below the line
      this.#options.stream.write(line + '\n')
      this.#bar.start(this.#options.total ?? 0, this.#done, {line: this.line()})
    } else this.#options.stream.write(line + '\n')
  }

  /** Takes the bar away. May be called more than once. */
  stop(): void {
    this.#stopped = true
    this.#bar?.stop()
    this.#bar = undefined
    process.off('exit', this.#restore)
  }

  /** Passes rows through untouched while counting them. */
  async *through<T>(rows: AsyncIterable<T>, count: (row: T) => number = () => 1): AsyncGenerator<T> {
    try {
      for await (const row of rows) {
        yield row
        this.add(count(row))
      }
    } finally {
      this.stop()
    }
  }

  async #draw(): Promise<void> {
    const {default: cliProgress} = await import('cli-progress')
    if (this.#stopped) return
    const {total, stream} = this.#options
    this.#bar = new cliProgress.SingleBar(
      {
        stream,
        format: total === undefined ? '{line}' : '{bar} {percentage}%  {line}',
        barsize: 20,
        fps: 5,
        hideCursor: true,
        clearOnComplete: true,
        stopOnComplete: false,
        gracefulExit: false,
        linewrap: false,
        barCompleteChar: '█',
        barIncompleteChar: '░'
      },
      cliProgress.Presets.shades_classic
    )
    process.on('exit', this.#restore)
    this.#bar.start(total ?? 0, this.#done, {line: this.line()})
  }
}
