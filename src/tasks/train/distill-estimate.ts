/** What teaching a student takes: the largest batch that fits, and the cost estimate of `--dry-run`. */
import type {Settings} from '../../config/table.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {autoBatch} from './auto-batch.js'
import type {AutoBatch} from './auto-batch.js'
import type {TeacherCost} from './cost-counts.js'
import {estimateCost} from './cost-estimate.js'
import type {CostEstimate} from './cost-estimate.js'
import {distillTrainer, initStudent, patchTargetGrid, teacherSide} from './distill-trainer.js'
import {TeacherTargetCache, loadTeacher} from './teacher.js'
import type {Teacher, TeacherPlan} from './teacher.js'

/** The largest batch with which one student can be taught, as `autoBatch`. The teacher stays the caller's. */
export async function batchForStudent(
  settings: Settings,
  {teacher, ...options}: {teacher: Teacher; precision: Precision; device: string; images: number}
): Promise<AutoBatch> {
  return autoBatch(settings, {
    ...options,
    learn: async (own, plan, precision) => {
      const targets = new TeacherTargetCache(teacher, [patchTargetGrid(own, plan, teacher)], teacherSide(own, teacher))
      const learner = distillTrainer(await initStudent(own, plan, teacher), targets, {settings: own, plan, precision})
      return {
        ...learner,
        stepsTaken: 0,
        dispose: () => {
          learner.dispose()
          targets.dispose()
        }
      }
    }
  })
}

/** What a teacher costs in a forecast. */
export const teacherCost = (settings: Settings, precision: Precision, plan: TeacherPlan): TeacherCost => ({
  vit: plan.vit,
  heads: plan.heads,
  side: teacherSide(settings, plan),
  bytes: plan.bytes(precision)
})

/**
 * What one student will need, as `cost`: tried where it fits, else counted. The teacher is loaded only where
 * steps are tried, and let go.
 */
export async function estimateDistillCost({
  teacher: known,
  ...options
}: Omit<Parameters<typeof estimateCost>[0], 'begin' | 'teacher'> & {readonly teacher: TeacherPlan}): Promise<CostEstimate> {
  const {settings, plan, precision} = options
  const opened: {teacher: Teacher; targets: TeacherTargetCache}[] = []
  try {
    return await estimateCost({
      ...options,
      teacher: teacherCost(settings, precision, known),
      begin: async () => {
        const teacher = await loadTeacher(known, precision)
        const targets = new TeacherTargetCache(teacher, [patchTargetGrid(settings, plan, teacher)], teacherSide(settings, teacher))
        opened.push({teacher, targets})
        return distillTrainer(await initStudent(settings, plan, teacher), targets, options)
      }
    })
  } finally {
    for (const {teacher, targets} of opened) {
      targets.dispose()
      teacher.dispose()
    }
  }
}
