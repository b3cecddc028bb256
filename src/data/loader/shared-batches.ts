/**
 * One stream of training batches for several that learn from it side by side: each image is decoded and cropped once.
 *
 * Which batch comes at a step is a pure function of seed and step, so a reader that is behind the others is served by
 * beginning anew at its step, with the same bytes. A batch is let go as soon as no reader has it before it.
 */
import type {Batches, LoadStats} from './load-stats.js'
import type {CropBatch} from './crop-batches.js'

export class SharedBatches {
  #source: Batches<CropBatch> | undefined
  /** The step that the source gives next. */
  #next = 0
  readonly #kept = new Map<number, CropBatch>()
  /** The step that each reader asks for next. */
  readonly #readers = new Map<symbol, number>()

  /** `make` begins a stream at a step; a stream ends before step `end`. */
  constructor(
    private readonly make: (start: number) => Batches<CropBatch>,
    private readonly end: number
  ) {}

  /** The batches from step `start` on for one reader. Readers take turns: none asks while another one waits. */
  from(start: number): Batches<CropBatch> {
    const reader = Symbol('reader')
    this.#readers.set(reader, start)
    const nothing: LoadStats = {waitSeconds: 0, batches: 0, images: 0, bad: 0, native: false}
    return Object.assign(this.#read(reader, start), {stats: () => this.#source?.stats() ?? nothing})
  }

  async *#read(reader: symbol, start: number): AsyncGenerator<CropBatch, void, undefined> {
    try {
      for (let step = start; step < this.end; step++) {
        const batch = await this.#get(step)
        this.#readers.set(reader, step + 1)
        this.#trim()
        yield batch
      }
    } finally {
      this.#readers.delete(reader)
      this.#trim()
      if (this.#readers.size === 0) await this.#source?.return()
    }
  }

  async #get(step: number): Promise<CropBatch> {
    const kept = this.#kept.get(step)
    if (kept) return {...kept, waitSeconds: 0} // who came first has waited
    if (!this.#source || this.#next > step) {
      await this.#source?.return()
      this.#source = this.make(step)
      this.#next = step
    }
    for (;;) {
      const {value, done} = await this.#source.next()
      if (done) throw new Error(`the batches ended before step ${step}`)
      this.#kept.set(this.#next, value)
      if (this.#next++ === step) return value
    }
  }

  #trim(): void {
    const least = Math.min(...this.#readers.values())
    for (const step of this.#kept.keys()) if (step < least) this.#kept.delete(step)
  }
}
