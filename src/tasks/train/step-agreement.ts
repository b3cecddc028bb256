/**
 * What the processes of a run agree on between steps: where they begin, that all have their images, when to stop, and
 * what process 0 is to report of the others. One process alone agrees with itself.
 */
import {createHash} from 'node:crypto'
import {basename} from 'node:path'
import {UserError} from '../../config/errors.js'
import type {CropBatch} from '../../data/loader/crop-batches.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {Batches} from '../../data/loader/load-stats.js'
import type {TrainingProcesses} from './processes.js'
import type {RunOptions, Trainer} from './run-types.js'
import {checksumOf, type StateDict} from './state-dict.js'

/** How a run begins: from which checkpoint, if any, and whether it goes on from an earlier start. */
type Beginning = {readonly path: string | undefined; readonly resumes: boolean}

/**
 * Tells all processes how process 0 begins, and compares their weights when `load` has filled them from its
 * checkpoint, given as a file name: the run folder may have another path in each process. → whether it goes on. Throws
 * a `UserError` where they differ.
 */
export async function beginTogether<Report>(
  processes: TrainingProcesses | undefined,
  learner: Trainer<Report>,
  {path, resumes}: Beginning,
  load: (name: string) => Promise<void> = async () => undefined
): Promise<boolean> {
  if (!processes) return resumes
  const [first] = await processes.exchange({checkpoint: path === undefined ? null : basename(path), resumes})
  if (processes.rank > 0 && first!.checkpoint !== null) await load(first!.checkpoint)
  const {value: scale, since} = learner.lossScale?.kept() ?? {value: 1, since: 0}
  const all = await processes.exchange({weights: stateChecksum(learner.stateDict()), step: learner.stepsTaken, scale, since})
  const rank = all.findIndex(other => (['weights', 'step', 'scale', 'since'] as const).some(name => other[name] !== all[0]![name]))
  if (rank <= 0) return first!.resumes
  const begins = ({weights, step, scale}: (typeof all)[0]): string =>
    `at step ${step} with checksum ${weights.slice(0, 12)} and loss scale ${scale}`
  throw new UserError(`Process ${rank} begins with other weights than process 0: ${begins(all[rank]!)}, and ${begins(all[0]!)}.`, {
    code: 'PROCESSES_DIFFER',
    hint: 'All processes must read the same run folder and the same files of weights.'
  })
}

/** One checksum of all that a process begins with: tensors that it holds whole, and those it has kept pieces of. */
function stateChecksum(places: StateDict): string {
  const hash = createHash('sha256')
  for (const [name, {get, read, checksum}] of places) {
    const own = read ? checksum?.() : checksumOf(get())
    if (own !== undefined) hash.update(`${name} ${own} `)
  }
  return hash.digest('hex')
}

/** The next batch. Throws a `UserError` where other processes would wait too long for this one's images. */
export async function nextBatch(
  batches: Batches<CropBatch>,
  {processes, settings}: Pick<RunOptions, 'processes' | 'settings'>
): Promise<IteratorResult<CropBatch, void>> {
  if (!processes) return batches.next()
  const {process_timeout: seconds} = settings.train
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () =>
        reject(new UserError(`no images came within ${seconds} s`, {code: 'SLOW_IMAGES', hint: 'train.process_timeout allows more time.'})),
      seconds * 1000
    )
  })
  late.catch(() => undefined)
  try {
    return await Promise.race([batches.next(), late])
  } finally {
    clearTimeout(timer)
  }
}

/**
 * Waits until every process has its batch. → whether any wants to stop, of which the step that follows is the last,
 * undefined for one process, which may still change its mind; and whether steps are to be read because one process has
 * not read any for long (`overdue`).
 */
export async function agreeOnStep(
  {processes, signal, shouldContinue, onRejected}: RunOptions,
  overdue: boolean
): Promise<{readonly stop: boolean | undefined; readonly overdue: boolean}> {
  if (!processes) return {stop: undefined, overdue}
  const stop = signal?.aborted === true || (processes.rank === 0 && shouldContinue?.() === false)
  const all = await processes.exchange({stop, overdue, sent: processes.sent})
  if (processes.rank === 0)
    for (const {message} of processes.messages(all.map(({sent}) => sent)))
      if (message['rejected']) onRejected?.(message['rejected'] as RejectedImage)
  return {stop: all.some(other => other.stop), overdue: all.some(other => other.overdue)}
}

/**
 * Where rejected images go: from other processes to process 0, and there, each once, to `onRejected`, which hears of
 * images that several processes have met.
 */
export function rejectionsOf(processes: TrainingProcesses | undefined, onRejected: RunOptions['onRejected']): RunOptions['onRejected'] {
  if (!processes) return onRejected
  if (processes.rank > 0) return rejected => processes.send({rejected})
  const known = new Set<string>()
  return rejected => {
    if (known.has(rejected.id)) return
    known.add(rejected.id)
    onRejected?.(rejected)
  }
}
