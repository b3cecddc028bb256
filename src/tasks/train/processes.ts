/**
 * The processes that train together: how they meet, agree, and stop together.
 *
 * What is computed together (sums of gradients, totals of Sinkhorn–Knopp) is in `tensor/ops/collectives.ts`. Here is
 * what lies between steps: before each step all processes exchange a few words, and wait for one another without
 * blocking, so that a process may take its time (process 0 evaluates, or writes a checkpoint) as long as it is alive.
 * A process that fails says why in the store; one that is gone or stuck is known by its counters there. Either way all
 * others end, with its number and the reason.
 */
import {setTimeout as sleep} from 'node:timers/promises'
import {UserError} from '../../config/errors.js'
import {meetProcesses, type ProcessGroup} from '../../engine/torch/process-group.js'
import type {Note} from '../../system/compile.js'
import {isObject, jsonObjectOr} from '../../system/json.js'
import type {Launch} from '../../system/launch.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import {describeDifferences, differencesBetween, type Hello} from './process-hello.js'

/** Bytes of what a process says in an exchange. */
const ROOM = 2048
/** Milliseconds between two looks at the others. */
const LOOK = 500
/** Milliseconds after which a process that does not count any more is gone: it counts twice a second. */
const GONE = 2000

type Failure = {readonly rank: number; readonly reason: string}

/** The error of a run that another process ended. */
class ProcessFailure extends UserError {}

export class TrainingProcesses implements Processes {
  readonly rank: number
  readonly size: number
  readonly #ticking: NodeJS.Timeout
  #sent = 0
  readonly #read: number[]
  /** The processes that this one looks after: process 0, and those before and after this one in a ring. */
  readonly #watched: readonly number[]
  #isLeaving = false

  private constructor(
    private readonly group: ProcessGroup,
    private readonly launch: Launch,
    /** Seconds without a sign of life after which a process counts as stuck. */
    private readonly timeout: number
  ) {
    this.rank = launch.rank
    this.size = launch.size
    this.#read = new Array<number>(launch.size).fill(0)
    const {rank, size} = launch
    this.#watched = [...new Set([0, (rank + size - 1) % size, (rank + 1) % size])].filter(other => other !== rank)
    this.#ticking = setInterval(() => group.tick(), LOOK / 2).unref()
  }

  /** Connects to where the processes meet. Throws a `UserError` (exit 1) where that place is not reached in time. */
  static async meet(launch: Launch, {timeout, note}: {timeout: number; note: Note}): Promise<TrainingProcesses> {
    try {
      return new TrainingProcesses(await meetProcesses(launch, {timeout, note}), launch, timeout)
    } catch (cause) {
      if (cause instanceof UserError) throw cause
      const here = launch.keepsStore ? 'cannot be opened' : 'was not reached'
      throw new UserError(
        `Process ${launch.rank} of ${launch.size} does not meet the others: ${launch.host}:${launch.port} ${here} within ${timeout} s (${firstLine(cause)}).`,
        {
          code: 'PROCESSES',
          hint: 'MASTER_ADDR and MASTER_PORT name the machine of process 0 and a free port there; the launcher sets them or passes them on.',
          cause
        }
      )
    }
  }

  /**
   * Compares what each process says of itself with process 0, and connects all. They compare in the store, before any
   * connection is made that other versions might make in another way. Throws a `UserError`: a process did not come in
   * time (exit 1), or differs (exit 2), with its number and in what.
   */
  async join(device: string, hello: Hello): Promise<void> {
    const own = {...hello, 'the version of libtorch': this.group.version}
    if (this.rank === 0) this.group.put('hello', JSON.stringify(own))
    const [first] = await this.#await<Hello>(['hello'])
    this.group.put(`differences/${this.rank}`, JSON.stringify(differencesBetween(own, first!)))
    const words = describeDifferences(await this.#await(Array.from({length: this.size}, (_, rank) => `differences/${rank}`)))
    if (words !== undefined)
      throw new UserError(words, {
        exit: 2,
        code: 'PROCESSES_DIFFER',
        hint: 'Start all processes with the same program, libtorch, settings and images.'
      })
    await this.#wait(this.group.join(device))
  }

  /** What all have put under these keys, when it is there. */
  async #await<T>(keys: readonly string[]): Promise<T[]> {
    return valuesOf<T>(await this.#wait(this.group.await(keys)))
  }

  /**
   * What every process says, in order of their ranks. Waits for all without blocking. Throws a `UserError` (exit 1)
   * where one has failed, is gone, or shows no sign of life.
   */
  async exchange<T extends object>(own: T): Promise<T[]> {
    return valuesOf<T>(await this.#wait(this.group.exchange(JSON.stringify(own), ROOM)))
  }

  /** Keeps a message of this process for process 0, which reads it at the next `messages`. */
  send(message: object): void {
    this.group.put(`message/${this.rank}/${this.#sent++}`, JSON.stringify(message))
  }

  /** How many messages this process has sent. */
  get sent(): number {
    return this.#sent
  }

  /** The messages of other processes that were not read yet, given how many each has sent. */
  *messages(sent: readonly number[]): Generator<{rank: number; message: Readonly<Record<string, unknown>>}> {
    for (const [rank, count] of sent.entries())
      while (rank !== this.rank && this.#read[rank]! < count) {
        const message = jsonObjectOr(this.group.read(`message/${rank}/${this.#read[rank]!++}`) ?? '')
        if (isObject(message)) yield {rank, message}
      }
  }

  /**
   * The error to end with for one that was met: where it comes from a collective, the failure of the process that
   * caused it. Tells the others why this process ends, unless they know a reason already.
   */
  async ending(error: unknown): Promise<unknown> {
    if (error instanceof ProcessFailure) return error
    if (fromCollective(error)) return this.#blame(error)
    await this.#leaving({rank: this.rank, reason: firstLine(error)})
    return error
  }

  /** Ends the group when all is done. */
  close(): void {
    clearInterval(this.#ticking)
    this.group.close()
  }

  /**
   * Waits for the others while looking after some of them: each is looked after by two or by all, so that none asks
   * the store more often where there are more. Who finds one stuck says so in the store, where all see it.
   */
  async #wait<T>(work: Promise<T>): Promise<T> {
    let looking: NodeJS.Timeout | undefined
    const moved = new Map<number, {ticks: number; at: number}>()
    const watch = new Promise<never>((_, reject) => {
      looking = setInterval(() => {
        const failure = this.#failure()
        if (failure) return reject(this.#errorOf(failure))
        let ticks: number[]
        try {
          ;({ticks} = this.group.beats(this.#watched))
        } catch {
          return // the store is gone; the connections will tell
        }
        const now = performance.now()
        for (const [i, count] of ticks.entries()) {
          const rank = this.#watched[i]!
          const last = moved.get(rank)
          if (last?.ticks !== count) moved.set(rank, {ticks: count, at: now})
          else if (now - last.at > this.timeout * 1000)
            return reject(this.#errorOf({rank, reason: count === 0 ? this.#absence() : `it has not responded for ${this.timeout} s`}))
        }
      }, LOOK)
    })
    watch.catch(() => undefined)
    work.catch(() => undefined)
    try {
      return await Promise.race([work, watch])
    } catch (error) {
      if (error instanceof ProcessFailure) {
        await this.#leaving(undefined)
        throw error
      }
      throw await this.#blame(error)
    } finally {
      clearInterval(looking)
    }
  }

  #absence(): string {
    return `it did not come to ${this.launch.host}:${this.launch.port} within ${this.timeout} s`
  }

  #failure(): Failure | undefined {
    const found = jsonObjectOr(this.group.failure() ?? '')
    return found as Failure | undefined
  }

  /** Says a failure unless another was said before; the error of whichever stands. */
  #errorOf(failure: Failure): UserError {
    let first: Failure
    try {
      first = (jsonObjectOr(this.group.putFirst('failure', JSON.stringify(failure))) as Failure | undefined) ?? failure
    } catch {
      first = this.#failure() ?? failure
    }
    return new ProcessFailure(
      `Process ${first.rank} of ${this.size} failed: ${first.reason.replace(/\.$/, '')}. Process ${this.rank} ends.`,
      {
        code: 'PROCESS_FAILED',
        hint: 'When it is mended, go on with the same command and --resume.'
      }
    )
  }

  /** Finds out which process made a collective fail. */
  async #blame(error: unknown): Promise<UserError> {
    let failure: Failure | undefined
    const ranks = Array.from({length: this.size}, (_, rank) => rank)
    try {
      this.group.put(`error/${this.rank}`, firstLine(error))
      const before = this.group.beats(ranks).alive
      for (let waited = 0; waited < GONE && !failure; waited += LOOK / 2) {
        await sleep(LOOK / 2)
        failure = this.#failure()
      }
      if (!failure) {
        const after = this.group.beats(ranks).alive
        const gone = after.findIndex((count, rank) => rank !== this.rank && count === before[rank])
        const late = after.findIndex((_, rank) => rank !== this.rank && this.group.read(`error/${rank}`) === null)
        if (gone >= 0) failure = {rank: gone, reason: before[gone] === 0 ? this.#absence() : 'it has ended, or its machine does not answer'}
        else if (late >= 0) failure = {rank: late, reason: `it did not come to a step of all within ${this.timeout} s`}
      }
    } catch {
      failure = this.#failure() ?? {rank: 0, reason: 'it has ended, and with it the place where the processes meet'}
    }
    const found = this.#errorOf(failure ?? {rank: this.rank, reason: firstLine(error)})
    await this.#leaving(undefined)
    return found
  }

  /**
   * Leaves the group: says why, where this process is the one that failed, and ends without waiting for threads that
   * wait for others. Whoever keeps the store stays until the others have read the reason.
   */
  async #leaving(failure: Failure | undefined): Promise<void> {
    if (this.#isLeaving) return
    this.#isLeaving = true
    try {
      if (failure) this.group.putFirst('failure', JSON.stringify(failure))
    } catch {
      // The store is gone: nobody can read it.
    }
    if (this.launch.keepsStore) await sleep(GONE)
    this.close()
    process.on('exit', status => this.group.leave(status))
  }
}

/** Whether an error was met in a collective, and so may be the failure of another process. */
const fromCollective = (error: unknown): boolean =>
  error instanceof Error &&
  /dinov2_processes::|PROCESSES/.test(`${error.message} ${String((error as NodeJS.ErrnoException).code)}`) &&
  !(error instanceof UserError)

const firstLine = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]!.slice(0, 500)

/** The values of a JSON array that the addon gives. */
const valuesOf = <T>(list: string): T[] => jsonObjectOr(`{"all":${list}}`)!['all'] as T[]
