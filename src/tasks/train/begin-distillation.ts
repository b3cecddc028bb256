/**
 * What a distillation needs before its first step: images, an engine, the teacher, settings of all students, and
 * enough memory. Everything that can be refused is refused here, before a run folder is touched.
 */
import type {Precision} from '../../tensor/ops/precision.js'
import {derive, type Derived} from '../../config/derived.js'
import {UserError} from '../../config/errors.js'
import {withSetting} from '../../config/settings.js'
import type {Settings} from '../../config/table.js'
import type {ImageTable} from '../../data/sources/image-table.js'
import type {EngineInfo} from '../../engine/start.js'
import {describeAutoBatch, usableMemory} from './auto-batch.js'
import {withBatch, type BeginOptions} from './begin-pretraining.js'
import {batchForStudent, teacherCost} from './distill-estimate.js'
import {studentFolder, type DistillSettings, type StudentSettings} from './distill-settings.js'
import {describeTeacherMismatch, teacherSide} from './distill-trainer.js'
import {assertMemory, memoryForRun} from './memory-fit.js'
import {batchOfRun} from './resume.js'
import {isFollower, joinProcesses, withShareOfThreads} from './with-processes.js'
import {slowEngineWarning} from './slow-engine.js'
import {gatherImages, openRun, startTrainingEngine} from './setup.js'
import {loadTeacher, type Teacher, type TeacherPlan} from './teacher.js'

/** A student that is about to learn; `run` is its folder, undefined in a trial. */
export type StudentJob = {
  readonly name: string | undefined
  readonly run: string | undefined
  readonly settings: Settings
  readonly plan: Derived
}

export type BegunDistillation = {
  readonly images: ImageTable
  readonly engine: EngineInfo
  readonly precision: Precision
  readonly students: readonly StudentJob[]
  /** The teacher, which is the caller's to dispose; undefined in a trial. */
  readonly teacher: Teacher | undefined
}

const jobOf = ({name, resolved}: StudentSettings, {output, batch, processes}: BeginOptions): StudentJob => {
  const {settings} = withBatch(resolved, batch)
  return {name, run: output === undefined ? undefined : studentFolder(output, name), settings, plan: derive(settings, processes?.size)}
}

/**
 * Gathers images, starts the engine, checks that the run fits into memory, loads the teacher and finds the batch where
 * the user left it open. Throws `UserError` as `beginPretraining`, and where students do not take the same steps (2).
 */
export async function beginDistillation(
  {teacher: teacherPlan, students: described}: DistillSettings,
  options: BeginOptions
): Promise<BegunDistillation> {
  const {inputs, output, force, resume, batch, note, onSkipped} = options
  if (batch === 'auto' && described.length > 1)
    throw new UserError('--batch auto is for one student.', {exit: 2, code: 'USAGE', hint: 'Give a number of images: --batch 64.'})
  const students = described.map(one => jobOf(one, options))
  assertSameSteps(students)
  teacherSide(students[0]!.settings, teacherPlan)
  const images = await gatherImages(inputs, {nul: options.null, onSkipped})
  const folder = output ?? options.trialOf
  if (folder !== undefined && !isFollower(options))
    for (const {name} of students) await openRun(studentFolder(folder, name), {force, resume, make: false})
  options.onImages?.(images.length)
  const engine = await startTrainingEngine(withShareOfThreads(options.engine))
  const {device, precision} = engine
  const begun = {images, engine, precision}
  if (output === undefined && batch !== 'auto') {
    note(describeTeacher({...teacherPlan, precision}, students[0]!.settings))
    return {...begun, students, teacher: undefined}
  }
  if (batch !== 'auto') {
    const costs = students.map(({settings, plan}) => ({settings, plan, teacher: teacherCost(settings, precision, teacherPlan)}))
    await assertMemory({students: costs, precision, device}, {limit: options.memoryLimit ?? (await memoryForRun(device))})
  }
  const teacher = await loadTeacher(teacherPlan, precision, options.memoryLimit ?? (await usableMemory(device)))
  try {
    note(describeTeacher(teacher, students[0]!.settings))
    if (batch === 'auto') {
      const {run, settings, name} = students[0]!
      const kept = resume && run !== undefined ? await batchOfRun(run) : undefined
      const found = kept ?? (await batchForStudent(settings, {teacher, precision, device, images: images.length}))
      note(describeAutoBatch(found))
      const count = typeof found === 'number' ? found : found.batch
      students[0] = jobOf({name, resolved: withSetting(described[0]!.resolved, 'train.batch_size_per_gpu', count, '--batch')}, options)
    }
    for (const {name, settings, plan} of students)
      for (const sentence of describeTeacherMismatch(settings, plan, teacher)) note(name === undefined ? sentence : `${name}: ${sentence}`)
    const costs = students.map(({settings, plan}) => ({settings, plan, teacher: teacherCost(settings, precision, teacherPlan)}))
    const slow = output === undefined ? undefined : slowEngineWarning(costs, {engine, precision})
    if (slow) note(slow)
    if (options.processes)
      await joinProcesses(options.processes, {
        ...begun,
        version: options.version ?? '',
        evaluation: options.evaluation,
        settings: students.map(({settings}) => settings),
        teacher: teacher.fingerprint
      })
    return {...begun, students, teacher}
  } catch (error) {
    teacher.dispose()
    throw error
  }
}

/** Students side by side take the same steps on the same crops. Throws a usage error where they would not. */
function assertSameSteps(students: readonly StudentJob[]): void {
  const first = students[0]!
  for (const {name, settings, plan} of students.slice(1))
    for (const [what, own, other] of [
      ['steps', plan.steps, first.plan.steps],
      ['sizes of global crops', settings.crops.global_crops_size, first.settings.crops.global_crops_size],
      ['sizes of local crops', settings.crops.local_crops_size, first.settings.crops.local_crops_size]
    ] as const)
      if (own !== other)
        throw new UserError(`The student ${name} has other ${what} (${own}) than ${first.name} (${other}); side by side they must agree.`, {
          exit: 2,
          code: 'SETTINGS',
          hint: 'Set train.steps, crops.global_crops_size and crops.local_crops_size for all, to multiples of every patch size.'
        })
}

/** What a teacher is and how it teaches, in words. */
function describeTeacher(
  {path, vit, parameters, heads, precision, bytes}: TeacherPlan & Pick<Teacher, 'precision'>,
  {distill}: Settings
): string {
  const mib = bytes(precision) / 2 ** 20
  const memory = mib < 1024 ? `${mib.toFixed(mib < 10 ? 1 : 0)} MiB` : `${(mib / 1024).toFixed(1)} GiB`
  const size = `${(parameters / 1e6).toFixed(1)} M parameters, ${vit.width} wide, ${vit.depth} blocks, patches of ${vit.patch}; ${memory} in ${precision}`
  if (!heads)
    return `the teacher ${path} (${size}) ${distill.from === 'features' ? 'is asked for its features' : 'has no heads: its features are the targets'}, cls and patch tokens`
  const {dino_head, ibot_head} = heads
  return `the teacher ${path} (${size}) teaches by its heads: ${dino_head.prototypes} prototypes, ${ibot_head ? `patches by a head of their own with ${ibot_head.prototypes}` : 'patches by the same head'}`
}
