/** `dinov2 distill`: a frozen teacher's knowledge handed on to smaller students. */
import {Flags} from '@oclif/core'
import {imagesArg} from '../src/cli/command.js'
import {
  TrainingCommand,
  formatCostEstimate,
  runFolderOf,
  assertHealthy,
  runFlags,
  formatScores,
  trainingFlags,
  trainingPrecision,
  type TrainingOutcome
} from '../src/cli/training-command.js'
import {derive, type Derived} from '../src/config/derived.js'
import {UserError} from '../src/config/errors.js'
import type {ResolvedSettings, Settings} from '../src/config/settings.js'
import type {estimateDistillCost} from '../src/tasks/train/distill.js'
import type {Evaluation} from '../src/tasks/train/training-loop.js'
import type {Teacher, TeacherPlan} from '../src/tasks/train/teacher.js'

type Asked = Parameters<typeof estimateDistillCost>[0]
type StudentJob = {readonly name: string | undefined; readonly run: string | undefined; readonly settings: Settings; readonly plan: Derived}

export default class Distill extends TrainingCommand {
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override summary = 'Teach small backbones what a large one knows.'
  static override description = `A frozen teacher and a student see the same crops. With the teacher's heads (a run of this program, or a training checkpoint in Meta's layout) the student learns their targets: DINO across crops, iBOT on every patch, KoLeo, without masks and without stochastic depth, as DINOv2's small models were made. A backbone without heads, such as a released one, teaches its features: cls and patch tokens, through one linear layer each. Either is chosen by itself and said.

The run folder is that of pretrain; its model is the average of the student. Sizes of the student come from a recipe (--config distill-vits14 …) or from settings (student.arch); numbers of prototypes come from the teacher, and crops and temperatures too where its run is known and nothing else is set. Patch sizes and image sizes may differ: the teacher's patch tokens are then resampled.

Several --student files are taught side by side from one pass of the teacher, each into a folder of its own under -o; each comes out as it would alone. --resume goes on, as in pretrain; the teacher must be the same.`
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --teacher run-large --config distill-vits14 -o run-small',
    '<%= config.bin %> <%= command.id %> photos --teacher run --set student.arch=custom --set student.embed_dim=96 --set student.depth=6 --set student.num_heads=3 -o small',
    '<%= config.bin %> <%= command.id %> photos --teacher dinov2_vitg14 --config distill-vitl14 -o run',
    '<%= config.bin %> <%= command.id %> photos --teacher run-large --student vits.yaml --student vitb.yaml --set train.steps=20000 -o students',
    '<%= config.bin %> <%= command.id %> photos --teacher run-large --config distill-vits14 --eval-images labelled -o run-small --resume'
  ]
  static override statuses = {
    1: 'the disk is full, or the run folder cannot be written; the last good checkpoint is named',
    5: 'no such engine or device, or the teacher does not fit into memory, which is said before it is loaded',
    6: 'a loss, a gradient or a weight was not finite (not-finite.json in the run folder says where), or the student collapsed'
  }
  static override args = {...imagesArg}
  static override flags = {
    ...runFlags,
    teacher: Flags.string({
      helpValue: 'M',
      summary:
        'The frozen teacher: a run folder, a checkpoint, a .pth, safetensors, a Hugging Face or timm folder, or the name of a released model.'
    }),
    student: Flags.string({
      multiple: true,
      helpValue: 'FILE',
      summary:
        'Settings of one student (student, optim, teacher and sizes of heads) above those of --config and --set. Repeatable; several are taught side by side.'
    }),
    ...trainingFlags
  }

  /** What the teacher decides where nobody else did. */
  protected override async refine(resolved: ResolvedSettings, flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    const {teacher: named, student} = flags as {teacher?: string; student?: string[]}
    const path = named ?? resolved.settings.distill.teacher
    if (!path)
      throw new UserError('No teacher is named.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Name a run folder, a checkpoint or a released model: --teacher run-large.'
      })
    const {readLayers, settingsOfFile, withSetting} = await import('../src/config/settings.js')
    const {canonicalPath, readOrigin} = await import('../src/tasks/train/init-weights.js')
    const {planTeacher} = await import('../src/tasks/train/teacher.js')
    const {studentName, settingsBesideOthers, settingsForStudent: taught} = await import('../src/tasks/train/distill-settings.js')
    const known = named === undefined ? (resolved.sources.get('distill.teacher') ?? 'distill.teacher') : '--teacher'
    const shared = withSetting(resolved, 'distill.teacher', await canonicalPath(path), known)
    const plan = await planTeacher(path, shared.settings.distill.from)
    const origin = await readOrigin(path, settingsOfFile)
    this.#teacher = plan
    const files = student ?? []
    if (files.length === 0) return taught(shared, plan, origin.settings, withSetting)
    // Where several students differ in patch or heads, each takes over from the teacher for itself; what is shared is
    // what the first one has.
    const all = files.map(file => {
      const {settings: given} = readLayers([file], [], {flags: [], settings: true})
      const name = studentName(file)
      const own = settingsBesideOthers(shared, {name, given}, withSetting)
      return {name, resolved: taught(own, plan, origin.settings, withSetting)}
    })
    const twice = all.find(({name}, i) => all.findIndex(other => other.name === name) < i)
    if (twice)
      throw new UserError(`Two students are called ${twice.name}, so their run folders would be one.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'A student is called as its file is: rename one.'
      })
    this.#students = all
    return all[0]!.resolved
  }

  #teacher: TeacherPlan | undefined
  #students: {name: string; resolved: ResolvedSettings}[] | undefined

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Distill)
    const inputs = this.inputs(args.images)
    const {settingsYaml, withSetting} = await import('../src/config/settings.js')
    const teacherPlan = this.#teacher!
    if (flags.batch === 'auto' && (this.#students?.length ?? 1) > 1)
      throw new UserError('--batch auto is for one student.', {exit: 2, code: 'USAGE', hint: 'Give a number of images: --batch 64.'})
    const withBatch = (resolved: ResolvedSettings): ResolvedSettings =>
      typeof flags.batch === 'number' ? withSetting(resolved, 'train.batch_size_per_gpu', flags.batch, '--batch') : resolved
    const output = runFolderOf(flags)
    const described = this.#students ?? [{name: undefined, resolved: this.resolved}]
    const asStudent = ({name, resolved}: (typeof described)[number]): StudentJob => {
      const {settings} = withBatch(resolved)
      const run = output === undefined || name === undefined ? output : `${output.replace(/(?<!\/)\/+$/, '')}/${name}`
      return {name, run, settings, plan: derive(settings)}
    }
    const students = described.map(asStudent)
    this.#sameForAll(students)
    const {describeTeacherMismatch, distill, teacherSide} = await import('../src/tasks/train/distill.js')
    teacherSide(students[0]!.settings, teacherPlan)

    const bad = this.badImages(flags)
    const {gatherImages, openRun, startEngine} = await import('../src/tasks/train/setup.js')
    const {loadTeacher} = await import('../src/tasks/train/teacher.js')
    const images = await gatherImages(inputs, {nul: flags.null, onSkipped: skipped => this.detail(JSON.stringify(skipped))})
    for (const {run} of students) if (run !== undefined) await openRun(run, {force: flags.force, resume: flags.resume, make: false})
    bad.accept(images.length)
    const engine = await startEngine(this.engineRequest(flags))
    const precision = trainingPrecision('distill', engine.precision)
    const asked = {images, precision, engine, teacher: teacherPlan, ...(flags.tflops === undefined ? {} : {tflops: flags.tflops})}
    if (output === undefined && flags.batch !== 'auto') {
      this.note(describeTeacher({...teacherPlan, precision}, students[0]!.settings))
      return this.#bill(students, asked)
    }
    const {usableMemory} = await import('../src/tasks/train/auto-batch.js')
    const teacher = await loadTeacher(teacherPlan, precision, await usableMemory(engine.device))
    try {
      this.note(describeTeacher(teacher, students[0]!.settings))
      if (flags.batch === 'auto') {
        const batch = await this.#batch(students[0]!, teacher, {device: engine.device, images: images.length, resume: flags.resume})
        const chosen = withSetting(described[0]!.resolved, 'train.batch_size_per_gpu', batch, '--batch')
        students[0] = asStudent({name: described[0]!.name, resolved: chosen})
      }
      if (output === undefined) return await this.#bill(students, asked)
      const {plan} = students[0]!
      for (const {name, settings: own, plan: ownPlan} of students)
        for (const sentence of describeTeacherMismatch(own, ownPlan, teacher))
          this.note(name === undefined ? sentence : `${name}: ${sentence}`)
      const evaluations = flags['eval-images']
        ? await this.#evaluations(flags['eval-images'], flags, students, teacher, precision)
        : undefined
      const bar = this.progress({total: plan.steps * plan.batch, unit: 'images', label: 'distill'})
      const tell = students.map(({name, run}, i) => this.eventReporter(run!, plan.batch, i === 0 ? bar : undefined, name))
      const outcomes: (TrainingOutcome | undefined)[] = students.map(() => undefined)
      const events = distill({
        images,
        teacher,
        students: students.map(({run, settings: own, plan: ownPlan}, i) => ({
          run: run!,
          settings: own,
          plan: ownPlan,
          yaml: settingsYaml(own),
          ...(evaluations ? {evaluation: evaluations.each[i]!} : {})
        })),
        precision,
        engine,
        version: this.config.version,
        force: flags.force,
        resume: flags.resume,
        ...(evaluations ? {teacherScores: evaluations.teacher} : {}),
        acceptChanges: flags['accept-changes'],
        signal: this.signal,
        ...this.rejectionHandlers(bad)
      })
      const last: (Readonly<Record<string, number>> | undefined)[] = []
      for await (const {student, event} of events) {
        if (event.kind === 'scores') last[student] = event.scores
        outcomes[student] = tell[student]!(event) ?? outcomes[student]
      }
      await bad.finish()
      if (evaluations)
        for (const [i, {name}] of students.entries())
          if (last[i]) this.note(`${name ?? 'the student'}: ${formatScores(last[i])}; the teacher: ${formatScores(evaluations.teacher)}`)
      for (const outcome of outcomes) if (outcome) assertHealthy(outcome)
      const worth = evaluations ? {teacher_scores: evaluations.teacher} : {}
      if (students.length === 1) return outcomes[0] && {...outcomes[0], ...worth, ...(last[0] ? {scores: last[0]} : {})}
      return {
        ...worth,
        students: outcomes.map((outcome, i) => ({student: students[i]!.name, ...outcome, ...(last[i] ? {scores: last[i]} : {})}))
      }
    } finally {
      teacher.dispose()
    }
  }

  /** What --dry-run says of each student. */
  async #bill(students: readonly StudentJob[], asked: Omit<Asked, 'settings' | 'plan'>): Promise<unknown> {
    const {estimateDistillCost} = await import('../src/tasks/train/distill.js')
    const bills: unknown[] = []
    for (const {name, settings, plan} of students) {
      const bill = await estimateDistillCost({...asked, settings, plan})
      for (const sentence of formatCostEstimate(bill, plan.batch)) this.note(name === undefined ? sentence : `${name}: ${sentence}`)
      bills.push(name === undefined ? bill : {student: name, ...bill})
    }
    if (bills.length > 1) this.note('each student alone; side by side the pass of the teacher and the crops are shared.')
    return bills.length === 1 ? bills[0] : {students: bills}
  }

  /** Images a step where --batch auto chooses them: what a run to be gone on with has, else what fits. */
  async #batch(
    {run, settings}: StudentJob,
    teacher: Teacher,
    {device, images, resume}: {device: string; images: number; resume: boolean}
  ): Promise<number> {
    const {batchOfRun} = await import('../src/tasks/train/resume.js')
    const kept = resume && run !== undefined ? await batchOfRun(run) : undefined
    const {batchForStudent} = await import('../src/tasks/train/distill.js')
    const {gib} = await import('../src/tasks/train/auto-batch.js')
    const precision = trainingPrecision('distill', teacher.precision)
    return this.autoBatch(kept, () => batchForStudent(settings, {teacher, precision, device, images}), gib)
  }

  /**
   * Students that learn side by side take the same steps on the same crops. Throws a usage error where they would not.
   */
  #sameForAll(students: readonly StudentJob[]): void {
    const first = students[0]!
    for (const {name, settings, plan} of students.slice(1))
      for (const [what, own, other] of [
        ['steps', plan.steps, first.plan.steps],
        ['sizes of global crops', settings.crops.global_crops_size, first.settings.crops.global_crops_size],
        ['sizes of local crops', settings.crops.local_crops_size, first.settings.crops.local_crops_size]
      ] as const)
        if (own !== other)
          throw new UserError(
            `The student ${name} has other ${what} (${own}) than ${first.name} (${other}); side by side they must agree.`,
            {
              exit: 2,
              code: 'SETTINGS',
              hint: 'Set train.steps, crops.global_crops_size and crops.local_crops_size for all, to multiples of every patch size.'
            }
          )
  }

  /** An evaluation for each student, and the teacher's own scores, which stay the same. */
  async #evaluations(
    images: readonly string[],
    flags: {'eval-val'?: string[] | undefined; 'eval-every': number},
    students: readonly StudentJob[],
    teacher: Teacher,
    precision: 'fp32' | 'bf16'
  ): Promise<{each: Evaluation[]; teacher: Readonly<Record<string, number>>}> {
    const {onlineEval} = await import('../src/tasks/train/online-eval.js')
    const {scoreTeacher} = await import('../src/tasks/train/distill.js')
    const each: Evaluation[] = []
    for (const {settings, plan} of students) {
      const {crops, train} = settings
      const made = await onlineEval({
        ...this.evaluationOptions(images, flags, {crop: crops.global_crops_size, patch: plan.vit.patch, workers: train.workers}),
        vit: plan.vit,
        precision
      })
      if (each.length === 0) this.describeEvaluation(made, flags['eval-val'] !== undefined)
      each.push(made)
    }
    const {settings} = students[0]!
    const {teacherSide} = await import('../src/tasks/train/distill.js')
    const crop = teacherSide(settings, teacher)
    const own = this.evaluationOptions(images, flags, {crop, patch: teacher.vit.patch, workers: settings.train.workers})
    const scores = await scoreTeacher(teacher, own)
    this.note(`the teacher at ${crop} pixels: ${formatScores(scores)}`)
    return {each, teacher: scores}
  }
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
    return `the teacher ${path} (${size}) ${distill.from === 'features' ? 'is asked for its features' : 'has no heads to teach by: its features are handed on'}, cls and patch tokens`
  const {dino_head, ibot_head} = heads
  return `the teacher ${path} (${size}) teaches by its heads: ${dino_head.prototypes} prototypes, ${ibot_head ? `patches by a head of their own with ${ibot_head.prototypes}` : 'patches by the same head'}`
}
