/** `dinov2 distill`: smaller students learn from a frozen teacher. */
import {Flags} from '../src/cli/oclif.js'
import {imagesArg} from '../src/cli/command.js'
import {TrainingCommand, assertHealthy, formatScores, runFolderOf, type TrainingOutcome} from '../src/cli/training-command.js'
import {runFlags, trainingFlags} from '../src/cli/training-flags.js'
import type {ResolvedSettings} from '../src/config/settings.js'
import type {BegunDistillation} from '../src/tasks/train/begin-distillation.js'
import type {DistillSettings} from '../src/tasks/train/distill-settings.js'
import type {TrainingProcesses} from '../src/tasks/train/processes.js'
import type {Teacher} from '../src/tasks/train/teacher.js'
import type {Evaluation} from '../src/tasks/train/run-types.js'

export default class Distill extends TrainingCommand {
  static override group = 'Training'
  static override usesSettings = true
  static override dataToStdout = false
  static override summary = 'Train small backbones on the outputs of a large one.'
  static override description = `A frozen teacher and a student see the same crops. With the teacher's heads (a run of this program, or a training checkpoint in Meta's layout) the student learns their targets: DINO across crops, iBOT on every patch, KoLeo, without masks and without stochastic depth, as DINOv2's small models were made. A backbone without heads, such as a released one, teaches its features: cls and patch tokens, through one linear layer each. Either is chosen by itself and said.

The run folder is that of pretrain; its model is the average of the student. Sizes of the student come from a recipe (--config distill-vits14 …) or from settings (student.arch); numbers of prototypes come from the teacher, and crops and temperatures too where its run is known and nothing else is set. Where nothing describes the student, a recipe is chosen that suits teacher and device, and named. A run that does not fit into memory is refused before its first step. Patch sizes and image sizes may differ: the teacher's patch tokens are then resampled.

Several --student files are taught side by side from one pass of the teacher, each into a folder of its own under -o; each comes out as it would alone. --resume goes on, as in pretrain, without --config with the settings of the run; the teacher must be the same.`
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
        'The frozen teacher: a run folder, a checkpoint, a .pth, safetensors, a Hugging Face or timm folder, the name of a released model, or an id of the Hugging Face hub.'
    }),
    student: Flags.string({
      multiple: true,
      helpValue: 'FILE',
      summary:
        'Settings of one student (student, optim, teacher and sizes of heads) above those of --config and --set. Repeatable; several are taught side by side.'
    }),
    ...trainingFlags
  }

  /** What a run that goes on and the teacher decide where nobody else did. */
  protected override async refine(resolved: ResolvedSettings, flags: Readonly<Record<string, unknown>>): Promise<ResolvedSettings> {
    const {settingsOfDistillation} = await import('../src/tasks/train/distill-settings.js')
    this.#settings = await settingsOfDistillation(resolved, flags)
    if (this.#settings.chosen !== undefined) this.note(this.#settings.chosen)
    return this.#settings.students[0]!.resolved
  }

  #settings: DistillSettings | undefined

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Distill)
    const output = runFolderOf(flags)
    return this.together(import('../src/tasks/train/with-processes.js'), output, async processes => {
      const bad = this.badImages(flags)
      const {beginDistillation} = await import('../src/tasks/train/begin-distillation.js')
      const begun = await beginDistillation(this.#settings!, this.beginOptions(args.images, flags, bad, processes))
      const {students, teacher, precision} = begun
      try {
        if (output === undefined || !teacher)
          return await this.#reportCosts(begun, {tflops: flags.tflops, processCount: this.processesOf(flags)})
        const request = this.evalRequest(flags, processes)
        const {evaluateTeacher, evaluationsFor} = await import('../src/tasks/train/attach-eval.js')
        const evaluations = request && (await evaluationsFor(students, request, precision))
        const judged = request && (await evaluateTeacher(teacher, students[0]!.settings, request))
        if (judged) this.note(`the teacher at ${judged.side} pixels: ${formatScores(judged.scores)}`)
        const outcomes = await this.#train(begun, teacher, {
          ...this.runOptions(flags, bad),
          processes,
          evaluations,
          teacherScores: judged?.scores
        })
        await bad.finish()
        for (const outcome of outcomes) assertHealthy(outcome)
        const scores = judged ? {teacher_scores: judged.scores} : {}
        if (students.length === 1) return outcomes[0] && {...outcomes[0], ...scores}
        return {...scores, students: outcomes.map((outcome, i) => ({student: students[i]!.name, ...outcome}))}
      } finally {
        teacher?.dispose()
      }
    })
  }

  /** Teaches all students and reports what happens to each. */
  async #train(
    {students, images, engine, precision}: BegunDistillation,
    teacher: Teacher,
    options: ReturnType<TrainingCommand['runOptions']> & {
      readonly processes: TrainingProcesses | undefined
      readonly evaluations: readonly Evaluation[] | undefined
      readonly teacherScores: Readonly<Record<string, number>> | undefined
    }
  ): Promise<(TrainingOutcome | undefined)[]> {
    const {distill} = await import('../src/tasks/train/distill.js')
    const {settingsYaml} = await import('../src/config/print-settings.js')
    const {plan} = students[0]!
    const bar = this.trainingBar(plan)
    const reports = students.map(({name, run}, i) => this.eventReporter(run!, plan.batch, i === 0 ? bar : undefined, name))
    const jobs = students.map(({settings, plan: own, run}, i) => ({
      settings,
      plan: own,
      run: run!,
      yaml: settingsYaml(settings),
      evaluation: options.evaluations?.[i]
    }))
    for await (const {student, event} of distill({...options, images, engine, precision, teacher, students: jobs})) reports[student]!(event)
    const {teacherScores} = options
    return reports.map((report, i) => {
      const scores = report.scores()
      if (scores && teacherScores)
        this.note(`${students[i]!.name ?? 'the student'}: ${formatScores(scores)}; the teacher: ${formatScores(teacherScores)}`)
      const outcome = report.outcome()
      return outcome && {...outcome, scores}
    })
  }

  /** What --dry-run reports of each student. */
  async #reportCosts({students, ...begun}: BegunDistillation, asked: {tflops: number | undefined; processCount: number}): Promise<unknown> {
    const {estimateDistillCost} = await import('../src/tasks/train/distill-estimate.js')
    const teacher = this.#settings!.teacher
    const estimates: unknown[] = []
    for (const {name, settings, plan} of students) {
      const estimate = this.reportCost(await estimateDistillCost({...begun, ...asked, teacher, settings, plan}), plan.batch, name)
      estimates.push(name === undefined ? estimate : {student: name, ...estimate})
    }
    if (estimates.length > 1) this.note('each student alone; side by side the pass of the teacher and the crops are shared.')
    return estimates.length === 1 ? estimates[0] : {students: estimates}
  }
}
