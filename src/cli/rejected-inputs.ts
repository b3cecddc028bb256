/**
 * Keeps the count of inputs that were refused: names each on stderr, writes them to `--bad`, and decides at the end
 * whether there were too many.
 *
 * A bad image never stops a run by itself; the run goes on and the exit status remembers (4 when there are more than
 * `--max-bad`).
 */
import {counted} from '../config/counted.js'
import {UserError} from '../config/errors.js'
import type {MaxBad} from './flags.js'
import {openOutput, type Output} from '../system/output.js'

/** One refused input; `id` is the name it has in the output rows, `path` what was opened. */
export type BadImage = {readonly id: string; readonly path: string; readonly reason: string; readonly path_base64?: string}

export type BadImagesOptions = {
  readonly max: MaxBad
  /** Where refused inputs are written as JSON Lines. */
  readonly file?: string
  /** May an existing `file` be replaced? It is a report of this run, so by default yes. */
  readonly force?: boolean
  /** Says one line on stderr. */
  readonly say: (line: string) => void
  /** How many are named before they are only counted. */
  readonly named?: number
}

export class BadImages {
  #count = 0
  #good = 0
  #output: Output | undefined
  #opening: Promise<void> | undefined
  readonly #lines: string[] = []
  readonly #options: BadImagesOptions

  constructor(options: BadImagesOptions) {
    this.#options = options
  }

  /** How many were refused so far. */
  get count(): number {
    return this.#count
  }

  /** How many were good so far. */
  get good(): number {
    return this.#good
  }

  /** Counts inputs that were fine; a share needs the whole. */
  accept(n = 1): void {
    this.#good += n
  }

  /** Names, counts and writes one refused input. */
  readonly add = (bad: BadImage): void => {
    const {say, file, named = 20} = this.#options
    this.#count++
    if (this.#count <= named) say(`skipped ${bad.path}: ${bad.reason}`)
    else if (this.#count === named + 1)
      say(file ? `more inputs are refused; see ${file}` : 'more inputs are refused; give --bad FILE to have them all')
    if (file === undefined) return
    this.#lines.push(JSON.stringify(bad) + '\n')
    if (this.#lines.length >= 256) void this.#write()
  }

  /** Whether more were refused than `--max-bad` allows, judged by what has been seen so far. */
  get tooMany(): boolean {
    return this.isTooManyOf(0)
  }

  /** Whether there are too many even if `pending` inputs, still to be read, turn out to be good. */
  isTooManyOf(pending: number): boolean {
    const {kind, value} = this.#options.max
    if (kind === 'count') return this.#count > value
    return this.#count * 100 > value * (this.#count + this.#good + pending)
  }

  /**
   * Writes what is left, says the count, and throws a `UserError` with status 4 when there were too many. Call it
   * before the output is put in place. `--bad FILE` exists afterwards even when nothing was refused: an empty list is
   * an answer too.
   */
  async finish(): Promise<void> {
    const {file, say, max} = this.#options
    if (file !== undefined) {
      await this.#write()
      await this.#output?.commit()
    }
    if (this.#count === 0) return
    const all = this.#count + this.#good
    const summary = `${this.#count} of ${counted(all, 'input was', 'inputs were')} refused`
    const limit = max.kind === 'count' ? String(max.value) : `${max.value}%`
    if (!this.tooMany) return say(`${summary} (--max-bad ${limit})`)
    throw new UserError(`${summary}, more than --max-bad ${limit} allows.`, {
      exit: 4,
      code: 'TOO_MANY_BAD',
      hint: file ? `They are listed in ${file}.` : 'Give --bad FILE to list them all, or raise --max-bad.'
    })
  }

  async #write(): Promise<void> {
    const {file, force = true} = this.#options
    if (file === undefined) return
    this.#opening ??= openOutput(file, {force, stdout: process.stdout}).then(output => void (this.#output = output))
    await this.#opening
    if (this.#lines.length > 0) this.#output!.stream.write(this.#lines.splice(0).join(''))
    else void this.#output!.stream
  }
}
