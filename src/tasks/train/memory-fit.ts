/**
 * Whether what is to be trained fits into the memory of the device, asked before anything is allocated: a process that
 * takes more than there is is killed by the system, without a word, hours into a run or at its first step.
 *
 * What is needed is counted from the settings, as in the estimate of `--dry-run`.
 */
import {derive} from '../../config/derived.js'
import type {Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import type {Settings} from '../../config/table.js'
import {freeMemory} from '../../engine/machine.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {countCost} from './cost-counts.js'
import type {TeacherCost} from './cost-counts.js'

/** Of a process without tensors: engine, JavaScript, threads that decode. */
export const BASE_PROCESS_BYTES = 400 * 2 ** 20
/** Share of what is free that a run may plan with. */
export const FREE_SHARE = 0.95

/** What is to be trained, on one device: several students side by side where there are several. */
export type MemoryRequest = {
  readonly students: readonly {readonly settings: Settings; readonly plan: Derived; readonly teacher?: TeacherCost}[]
  readonly precision: Precision
  readonly device: string
}

/** Settings by the name of their recipe. */
export type Recipes = readonly {readonly name: string; readonly settings: Settings}[]

/** Bytes that a run needs at its highest point; on a processor those of the whole process. */
export function memoryNeeded({students, precision, device}: MemoryRequest): number {
  const counts = students.map(({settings, plan, teacher}) => ({teacher, ...countCost(settings, plan, precision, teacher)}))
  const states = counts.reduce((sum, {state, copies, teacher}) => sum + state + copies - (teacher?.bytes ?? 0), 0)
  const teacher = Math.max(...counts.map(one => one.teacher?.bytes ?? 0)) // all students learn from the same one
  const step = Math.max(...counts.map(({activations}) => activations)) // one after the other
  const outside = device === 'cpu' ? BASE_PROCESS_BYTES + students[0]!.settings.train.cache_mb * 2 ** 20 : 0
  return states + teacher + step + outside
}

/** Bytes that a run may plan with on a device; undefined where the device does not tell. */
export async function memoryForRun(device: string): Promise<number | undefined> {
  const free = await freeMemory(device)
  return free === undefined ? undefined : FREE_SHARE * free
}

/**
 * Throws a `UserError` of status 5 where the run needs more than `limit` bytes (by default what is free), with changes
 * that would make it fit. `recipes` are those that could be taken instead, the largest first.
 */
export async function assertMemory(
  request: MemoryRequest,
  {recipes = [], limit}: {readonly recipes?: Recipes; readonly limit?: number | undefined} = {}
): Promise<void> {
  const most = limit ?? (await memoryForRun(request.device))
  const needed = memoryNeeded(request)
  if (most === undefined || needed <= most) return
  const {precision, device, students} = request
  const {settings, plan, teacher} = students[0]!
  const parameters = countCost(settings, plan, precision, teacher).parameters
  const where = device === 'cpu' ? 'of memory' : `of the memory of ${device}`
  const fitting = students.length === 1 ? changesThatFit(request, most, recipes) : []
  throw new UserError(
    `This run needs about ${gib(needed)}, and ${gib(most)} ${where} may be used: ${(parameters / 1e6).toFixed(1)} million parameters with heads, ${plan.batch} images a step, train.memory=${settings.train.memory}${students.length > 1 ? `, ${students.length} students` : ''}.`,
    {
      exit: 5,
      code: 'OUT_OF_MEMORY',
      hint:
        fitting.length > 0
          ? `What would fit: ${fitting.map(({change, bytes}) => `${change} (${gib(bytes)})`).join('; ')}.`
          : students.length > 1
            ? 'Teach the students one after the other, or try smaller ones.'
            : 'Try a smaller student.arch, fewer prototypes (dino.head_n_prototypes), smaller crops, or a device with more memory.'
    }
  )
}

type Fitting = {readonly change: string; readonly bytes: number}

/** The smallest change of each kind with which a run fits into `limit` bytes. */
function changesThatFit(request: MemoryRequest, limit: number, recipes: Recipes): Fitting[] {
  const {settings, teacher} = request.students[0]!
  const needed = (own: Settings): number | undefined => {
    try {
      return memoryNeeded({...request, students: [{settings: own, plan: derive(own), ...(teacher ? {teacher} : {})}]})
    } catch (error) {
      if (error instanceof UserError) return undefined // no settings of a run
      throw error
    }
  }
  const withTrain = (train: Partial<Settings['train']>): Settings => ({...settings, train: {...settings.train, ...train}})
  const first = (candidates: Iterable<readonly [change: string, own: Settings]>): Fitting[] => {
    for (const [change, own] of candidates) {
      const bytes = needed(own)
      if (bytes !== undefined && bytes <= limit) return [{change, bytes}]
    }
    return []
  }
  const {memory, batch_size_per_gpu: batch, grad_accumulation: accumulated} = settings.train
  const levels = (['balanced', 'small'] as const).filter(level => memory === 'fast' || level === 'small')
  const spared = memory === 'small' ? '' : '--set train.memory=small '
  const halves = [...powersOfTwo(batch)]
  return [
    ...first(levels.filter(level => level !== memory).map(level => [`--set train.memory=${level}`, withTrain({memory: level})] as const)),
    ...first(
      halves
        .filter(parts => parts > accumulated)
        .map(parts => [`${spared}--set train.grad_accumulation=${parts}`, withTrain({memory: 'small', grad_accumulation: parts})] as const)
    ),
    ...first(
      halves
        .map(part => Math.floor(batch / part))
        .filter(images => images < batch && images >= accumulated)
        .map(images => [`${spared}--batch ${images}`, withTrain({memory: 'small', batch_size_per_gpu: images})] as const)
    ),
    ...first(recipes.map(({name, settings: own}) => [`--config ${name}`, own] as const))
  ]
}

function* powersOfTwo(most: number): Generator<number> {
  for (let n = 2; n <= most; n *= 2) yield n
}

/** Bytes in words: 1.4 GiB. */
export const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(bytes < 2 ** 30 ? 2 : 1)} GiB`
