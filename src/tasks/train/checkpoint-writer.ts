/** Checkpoints of a run: at most one is on its way to the disk while training goes on. */
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import {listStates, pruneStates, stateMetadata, writeState} from '../../files/checkpoint/training-state.js'
import {globalNorm} from '../../optim/adamw.js'
import {nonFiniteTensors} from './non-finite.js'
import {stateTensors} from './state-dict.js'
import type {StateDict} from './state-dict.js'
import {refuseState, unwritten} from './run-failures.js'

/**
 * The newest checkpoint that can be opened; those that cannot (a disk that lost power) are passed over, and named.
 * Throws `UserError`: none can be opened, or one has the name of another step than it records.
 */
export async function latestValidCheckpoint(run: string): Promise<{path: string | undefined; damaged: string[]}> {
  const damaged: string[] = []
  for (const {path} of (await listStates(run)).reverse()) {
    try {
      await stateMetadata(path)
      return {path, damaged}
    } catch (error) {
      if (!(error instanceof UserError) || error.code === 'OTHER_STEP') throw error // it would stay the newest for ever
      damaged.push(`${error.message} The one before it is taken`)
    }
  }
  if (damaged.length > 0)
    throw new UserError(`No checkpoint of ${run} can be read: ${damaged[0]}.`, {code: 'BAD_CHECKPOINT', hint: 'Start anew with --force.'})
  return {path: undefined, damaged}
}

type CheckpointWriterOptions = {
  readonly run: string
  readonly train: Pick<Settings['train'], 'keep_checkpoints' | 'keep_every'>
  /** The newest checkpoint that is whole. */
  readonly last: string | undefined
  /** Called before a checkpoint counts: what it stands for must lie on the disk too. */
  readonly sync: () => Promise<void>
  readonly onWritten: (step: number, path: string) => void
  readonly onFailure: (failure: UserError, last: string | undefined) => void
}

export class CheckpointWriter {
  readonly #options: CheckpointWriterOptions
  #last: string | undefined
  #writing: Promise<void> | undefined
  #failure: UserError | undefined

  constructor(options: CheckpointWriterOptions) {
    this.#options = options
    this.#last = options.last
  }

  /** The newest checkpoint that is whole. */
  get last(): string | undefined {
    return this.#last
  }

  /** The same in a sentence. */
  get lastGood(): string {
    return this.#last ? `The last good checkpoint is ${this.#last}. ` : 'No checkpoint was written yet. '
  }

  /** Waits for the checkpoint that is on its way. Throws what is a defect of ours. */
  async settle(): Promise<void> {
    await this.#writing
    this.#writing = undefined
  }

  /** Throws a `UserError` (exit 1) where the newest checkpoint could not be written. */
  assertWritten(note = ''): void {
    if (this.#failure) throw unwritten(this.#failure, this.lastGood + note)
  }

  /**
   * Begins to write the state after `step`, and returns when its tensors are copied and training may go on. Throws a
   * `UserError` (exit 6) where the state is not finite.
   */
  async write(step: number, state: StateDict, metadata: Readonly<Record<string, string>>): Promise<void> {
    await this.settle()
    const {run, train, sync, onWritten, onFailure} = this.#options
    if (!Number.isFinite(globalNorm([...state.values()].map(({get}) => get())))) {
      const names = nonFiniteTensors([...state].map(([name, {get}]) => [name, get()] as const))
      if (names.length > 0) throw await refuseState(run, step, names, this.#last)
    }
    const {places, readRest} = readOnce(state)
    const {copied, written} = writeState(run, step, stateTensors(places), metadata, sync)
    this.#writing = written.then(
      async path => {
        this.#last = path
        this.#failure = undefined
        await pruneStates(run, train.keep_checkpoints, train.keep_every)
        onWritten(step, path)
      },
      (error: unknown) => {
        if (!(error instanceof UserError)) throw error
        this.#failure = error
        onFailure(error, this.#last)
      }
    )
    this.#writing.catch(() => undefined) // `settle` throws it
    await copied
    readRest()
  }
}

/**
 * The places of a state; where all processes read a tensor at the same time, `readRest` reads those that were not
 * asked for because the file could not be written.
 */
function readOnce(state: StateDict): {places: StateDict; readRest: () => void} {
  const unread = new Map([...state].filter(([, {read}]) => read))
  const places = new Map(
    [...state].map(([name, slot]) => {
      const {read} = slot
      if (!read) return [name, slot]
      return [
        name,
        {
          ...slot,
          read: () => {
            unread.delete(name)
            return read()
          }
        }
      ]
    })
  )
  return {places, readRest: () => unread.forEach(({read}) => read!())}
}
