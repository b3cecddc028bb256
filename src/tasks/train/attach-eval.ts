/** The evaluations that go along with a run, and the scores of a teacher. */
import {shortSideFor, type Derived} from '../../config/derived.js'
import type {Settings} from '../../config/table.js'
import type {SourceNote} from '../../data/sources/source.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {scoreTeacher} from './distill.js'
import {teacherSide} from './distill-trainer.js'
import {onlineEval, type LabelledLists, type OnlineEvalOptions} from './online-eval.js'
import type {TrainingProcesses} from './processes.js'
import type {Teacher} from './teacher.js'
import type {Evaluation} from './run-types.js'

/** What a command says of an evaluation. */
export type EvalRequest = {
  readonly images: readonly string[]
  readonly val?: readonly string[] | undefined
  readonly every: number
  /** Sets that were listed, for the evaluations that follow: stdin is read once. */
  readonly lists: LabelledLists
  readonly signal?: AbortSignal
  /** Hears sentences about what is evaluated. */
  readonly note: (sentence: string) => void
  readonly onRejected: (bad: {readonly path: string; readonly reason: string}) => void
  readonly onSkipped: (skipped: SourceNote) => void
  /** The processes that train together, each of which takes a share of the images. */
  readonly processes?: TrainingProcesses | undefined
}

/** Options for images of `crop` pixels and a backbone of this patch. */
function evalOptions(
  {note: _, ...request}: EvalRequest,
  {crop, patch, workers}: {crop: number; patch: number; workers: number}
): Omit<OnlineEvalOptions, 'vit' | 'precision'> {
  return {
    ...request,
    transform: {resize: shortSideFor(crop), crop},
    batch: Math.max(1, Math.min(64, Math.round(4096 / ((crop / patch) ** 2 + 1)))),
    workers: workers > 0 ? workers : undefined
  }
}

type Job = {readonly settings: Settings; readonly plan: Derived}

/** An evaluation for each of the runs; its images are decoded here, before the first step. */
export async function evaluationsFor(jobs: readonly Job[], request: EvalRequest, precision: Precision): Promise<Evaluation[]> {
  const made: Evaluation[] = []
  for (const {settings, plan} of jobs) {
    const {crops, train, student} = settings
    const own = evalOptions(request, {crop: crops.global_crops_size, patch: plan.vit.patch, workers: train.workers})
    const found = await onlineEval({...own, vit: plan.vit, precision})
    if (made.length === 0) {
      const how = request.val ? `${found.val} images by ${found.train}` : `${found.train} images, each by the others`
      request.note(
        `scoring every ${found.every} steps: ${how}, ${found.classes} classes, ${Math.ceil(found.bytes / 2 ** 20)} MiB of pixels`
      )
    }
    made.push({...found, before: student.pretrained_weights !== ''})
  }
  return made
}

/** The scores of the teacher itself, which stay the same. */
export async function evaluateTeacher(
  teacher: Teacher,
  settings: Settings,
  request: EvalRequest
): Promise<{scores: Readonly<Record<string, number>>; side: number}> {
  const side = teacherSide(settings, teacher)
  return {
    side,
    scores: await scoreTeacher(teacher, evalOptions(request, {crop: side, patch: teacher.vit.patch, workers: settings.train.workers}))
  }
}
