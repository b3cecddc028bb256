/**
 * Distillation: a frozen teacher's knowledge handed on to one or several students, as a generator of plain events
 * (paper section 5; docs/spec.md §2.11).
 *
 * As pretraining, but for what follows from a frozen teacher: its targets do not move with the student, nothing is
 * masked, the patch loss is taken on all patches of both global crops, and stochastic depth is off. An average of the
 * student is kept beside it, in the teacher's place in a checkpoint, and is the model that is judged and kept at last.
 * Several students go in step through one stream of batches and one pass of the teacher; each has a run folder of its
 * own and comes out as it would alone.
 */
import {writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import type {Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import {SharedBatches} from '../../data/loader/shared-batches.js'
import {worksAhead, type EngineInfo} from '../../engine/start.js'
import {runNames} from '../../files/run/run-folder.js'
import {atomicFile} from '../../system/atomic.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {flatten} from '../../tensor/tree.js'
import {distillTrainer, initStudent, patchTargetGrid, teacherSide} from './distill-trainer.js'
import type {DistillReport} from './distill-trainer.js'
import {trainingOf} from './follow-training.js'
import {onlineEval} from './online-eval.js'
import type {OnlineEvalOptions} from './online-eval.js'
import {computingOf, cropSettings} from './pretrain-state.js'
import {TeacherTargetCache} from './teacher.js'
import type {Teacher} from './teacher.js'
import {shardingOf} from './spread.js'
import {runTraining} from './training-loop.js'
import {trainingBatches} from './training-batches.js'
import type {Evaluation, RunEvent, RunOptions} from './run-types.js'
import {rejectionsOf} from './step-agreement.js'

/** One student of a run. */
export type Student = {
  readonly settings: Settings
  readonly plan: Derived
  /** Its run folder, and its settings as they stand there. */
  readonly run: string
  readonly yaml: string
  readonly evaluation?: Evaluation
}

export type DistillOptions = Pick<
  RunOptions,
  'images' | 'version' | 'resume' | 'force' | 'acceptChanges' | 'signal' | 'processes' | 'onRejected' | 'shouldContinue'
> & {
  readonly teacher: Teacher
  readonly students: readonly Student[]
  readonly precision: Precision
  readonly engine?: EngineInfo
  /**
   * What the teacher itself scores; kept in each run folder, so that a report of the student has it beside its own
   * scores.
   */
  readonly teacherScores?: Readonly<Record<string, number>>
}

/** What happens to a student, which is named by its place in the list. */
export type DistillEvent = {readonly student: number; readonly event: RunEvent<DistillReport>}

/**
 * Teaches all students to the end of their plans, or until `signal` aborts or `shouldContinue` says no. The teacher
 * stays the caller's.
 *
 * Throws as `runTraining` does for one student; the others then stop first, each with a checkpoint.
 */
export async function* distill(options: DistillOptions): AsyncGenerator<DistillEvent> {
  const {teacher, students, precision, engine, images, signal, processes} = options
  const onRejected = rejectionsOf(processes, options.onRejected)
  const first = students[0]!
  const crops = cropSettings(first.settings)
  const cache = new TeacherTargetCache(
    teacher,
    students.map(({settings, plan}) => patchTargetGrid(settings, plan, teacher)),
    teacherSide(first.settings, teacher)
  )
  const computing = computingOf(precision, engine, processes)
  const shared = new SharedBatches(
    start => trainingBatches({images, settings: first.settings, plan: first.plan, crops, processes, onRejected}, start),
    first.plan.steps
  )
  const stop = new AbortController()
  const pass = (): void => stop.abort(signal?.reason)
  if (signal?.aborted) pass()
  signal?.addEventListener('abort', pass, {once: true})
  const runs: AsyncGenerator<RunEvent<DistillReport>>[] = []
  try {
    for (const student of students) {
      const {settings, plan} = student
      const spreading = shardingOf(settings, precision, processes)
      const state = await initStudent(settings, plan, teacher, spreading.spread)
      const learner = distillTrainer(
        state,
        cache,
        {settings, plan, precision, processes, worksAhead: worksAhead(engine)},
        spreading.sharding
      )
      runs.push(
        trainingOf<DistillReport>(runTraining)(learner, {
          ...options,
          onRejected,
          ...student,
          crops,
          computing,
          teacherFingerprint: teacher.fingerprint,
          signal: stop.signal,
          batches: start => shared.from(start),
          inStep: students.length > 1
        })
      )
    }
    const scored = new Set<number>()
    for await (const event of interleaveRuns(runs, cache, () => stop.abort())) {
      if (options.teacherScores && (processes?.rank ?? 0) === 0 && event.event.kind === 'step' && !scored.has(event.student)) {
        scored.add(event.student)
        await writeTeacherScores(students[event.student]!.run, teacher, options.teacherScores)
      }
      yield event
    }
  } finally {
    signal?.removeEventListener('abort', pass)
    for (const run of runs) await run.return(undefined)
    cache.dispose()
  }
}

/** Writes `teacher.json` of a run folder: which teacher it was, and its scores. */
const writeTeacherScores = async (run: string, {path, parameters}: Teacher, scores: Readonly<Record<string, number>>): Promise<void> =>
  atomicFile(
    join(run, runNames.teacher),
    async file => writeFile(file, `${JSON.stringify({teacher: path, parameters, ...scores}, null, 2)}\n`),
    {
      force: true
    }
  )

/** Pulls the runs so that none takes a step before all have taken the one before it. */
async function* interleaveRuns(
  runs: readonly AsyncGenerator<RunEvent<DistillReport>>[],
  cache: TeacherTargetCache,
  stopAll: () => void
): AsyncGenerator<DistillEvent> {
  const steps = new Map(runs.map((_, i) => [i, -1]))
  let failure: {readonly error: unknown} | undefined
  while (steps.size > 0) {
    let student = -1
    for (const [i, step] of steps) if (student < 0 || step < steps.get(student)!) student = i
    try {
      const next = await runs[student]!.next()
      if (next.done) {
        steps.delete(student)
        cache.leave()
        continue
      }
      const event = next.value
      if (event.kind === 'step' || event.kind === 'resumed' || event.kind === 'launched')
        steps.set(student, Math.max(steps.get(student)!, event.step))
      if (event.kind !== 'launched') yield {student, event}
    } catch (error) {
      failure ??= {error}
      steps.delete(student)
      cache.leave()
      stopAll()
    }
    if (steps.size > 0) cache.doneBefore(Math.min(...steps.values()))
  }
  if (failure) throw failure.error
}

/** Nearest-neighbour scores of the teacher itself on a labelled set, by which its students' scores can be judged. */
export async function scoreTeacher(
  teacher: Teacher,
  options: Omit<OnlineEvalOptions, 'vit' | 'precision'>
): Promise<Readonly<Record<string, number>>> {
  const made = await onlineEval({...options, vit: teacher.vit, precision: teacher.precision})
  return made.run({model: () => flatten({backbone: teacher.backbone})})
}
