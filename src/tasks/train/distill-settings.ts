/**
 * The settings of a distillation: what somebody set stands, what nobody set follows from the teacher, and what a
 * frozen teacher leaves no choice about is fixed.
 *
 * From the teacher come the numbers of prototypes and whether patches have a head of their own (a student's targets
 * are the teacher's, column by column), and, where its run is known, crops, temperatures and head sizes. Fixed are
 * stochastic depth (none), Sinkhorn–Knopp, and, where features are distilled, no small crops, for which there would be
 * no target.
 */
import {basename, extname} from 'node:path'
import {UserError} from '../../config/errors.js'
import {readLayers, resolveFile, settingsOfFile} from '../../config/read-layers.js'
import {overlaySettings, withSetting, type ResolvedSettings} from '../../config/settings.js'
import {cudaDevices} from '../../engine/machine.js'
import {chooseDistillRecipe} from './default-recipe.js'
import {canonicalPath, readOrigin, valueOf} from './init-weights.js'
import type {WeightsOrigin} from './init-weights.js'
import {settingsToResume, type SettingsRequest} from './run-settings.js'
import {planTeacher, type TeacherPlan} from './teacher.js'

/** What a student may take over from the teacher's run where it is not set. */
const inherited =
  /^crops\.|^teacher\.(warmup_teacher_temp|teacher_temp|warmup_teacher_temp_epochs)$|^(dino|ibot)\.(head_|loss_weight|koleo_loss_weight)/

/** Where the settings come from that a teacher decides. */
const source = '--teacher'

const isSet = ({sources}: ResolvedSettings, path: string): boolean => (sources.get(path) ?? 'default') !== 'default'

/**
 * Settings for a student of this teacher. Throws a `UserError` (exit 2): no student is described; prototypes are set
 * that are not the teacher's.
 */
function settingsForStudent(resolved: ResolvedSettings, {path, heads, vit}: TeacherPlan, run: WeightsOrigin['settings']): ResolvedSettings {
  let next = resolved
  const suggest = (name: string, value: unknown): void => {
    if (!isSet(next, name) && value !== undefined) next = withSetting(next, name, value, source)
  }
  const fix = (name: string, value: unknown): void => {
    if (valueOf(next, name) !== value) next = withSetting(next, name, value, 'distill')
  }
  if (!isSet(resolved, 'student.arch'))
    throw new UserError('Which student is to be taught is not said.', {
      exit: 2,
      code: 'SETTINGS',
      hint: 'Take a recipe (--config distill-vits14), or set student.arch: --set student.arch=vit_small.'
    })
  const must = (name: string, value: unknown, what: string): void => {
    if (isSet(next, name) && valueOf(next, name) !== value)
      throw new UserError(
        `${name} is ${String(valueOf(next, name))} (${next.sources.get(name)}), but ${what} of the teacher ${path} ${typeof value === 'number' ? `has ${value} prototypes` : 'says otherwise'}, and a student's targets are its teacher's.`,
        {exit: 2, code: 'SETTINGS', hint: `Leave it out, and it is taken from the teacher; or --set ${name}=${String(value)}.`}
      )
    suggest(name, value)
  }
  if (heads) {
    must('dino.head_n_prototypes', heads.dino_head.prototypes, 'the DINO head')
    must('ibot.separate_head', heads.ibot_head !== undefined, 'the make')
    if (heads.ibot_head) must('ibot.head_n_prototypes', heads.ibot_head.prototypes, 'the iBOT head')
  }
  for (const [section, values] of Object.entries(run ?? {}))
    for (const [key, value] of Object.entries(values)) if (inherited.test(`${section}.${key}`)) suggest(`${section}.${key}`, value)
  suggest('student.patch_size', vit.patch)
  const side = valueOf(next, 'student.patch_size') as number
  for (const name of ['crops.global_crops_size', 'crops.local_crops_size'])
    suggest(name, Math.max(1, Math.round((valueOf(next, name) as number) / side)) * side)
  fix('student.drop_path_rate', 0)
  fix('train.centering', 'sinkhorn_knopp')
  fix('optim.head_warmup_epochs', 0)
  if (!heads) fix('crops.local_crops_number', 0)
  return next
}

/** Sections of which each of several students may have its own values. */
const own = /^(student|dino|ibot|teacher|optim)\./

/** A student beside others: its name, and what its file says. */
type StudentFile = {
  readonly name: string
  readonly given: readonly {readonly path: string; readonly value: unknown; readonly source: string}[]
}

/**
 * The settings of one of several students: the shared ones, with its own above them. Throws a `UserError` (exit 2)
 * where its file asks for other batches or crops than the rest.
 */
function settingsBesideOthers(shared: ResolvedSettings, {name, given}: StudentFile): ResolvedSettings {
  let next = shared
  const apart: string[] = []
  for (const {path, value, source: from} of given) {
    if (own.test(path)) next = withSetting(next, path, value, from)
    else if (JSON.stringify(valueOf(shared, path)) !== JSON.stringify(value))
      apart.push(`${path} is ${JSON.stringify(value)} (${from}) and ${JSON.stringify(valueOf(shared, path))} for the others`)
  }
  if (apart.length > 0)
    throw new UserError(`The student ${name} cannot learn beside the others: ${apart.join('; ')}.`, {
      exit: 2,
      code: 'SETTINGS',
      hint: 'All students of a run see the same batches of the same crops: set train and crops once, by --config or --set.'
    })
  return next
}

/** The name of a student, from that of its file. */
const studentName = (file: string): string => basename(file, extname(file))

/** The run folder of a student: that of the run, or one of its own in there where there are several. */
export const studentFolder = (output: string, name: string | undefined): string =>
  name === undefined ? output : `${output.replace(/(?<!\/)\/+$/, '')}/${name}`

/** What a command says of a distillation. */
export type DistillRequest = SettingsRequest & {
  readonly teacher?: string | undefined
  /** Files of students, where there are several. */
  readonly student?: readonly string[] | undefined
  readonly device?: string | undefined
}

/** A student by its settings; it has a name where there are several. */
export type StudentSettings = {readonly name: string | undefined; readonly resolved: ResolvedSettings}

export type DistillSettings = {
  readonly teacher: TeacherPlan
  readonly students: readonly StudentSettings[]
  /** The recipe that was chosen for a run that names no student, in words. */
  readonly chosen?: string
}

/**
 * The settings of all students, with what the teacher decides where nobody else did. Throws `UserError`: no teacher or
 * no student is named, students contradict each other (2), there is no such teacher (3).
 */
export async function settingsOfDistillation(given: ResolvedSettings, request: DistillRequest): Promise<DistillSettings> {
  const {output} = request
  const files = (request.student ?? []).map(file => {
    const {settings} = readLayers([file], [], {flags: [], settings: true})
    return {name: studentName(file), given: settings}
  })
  assertDistinct(files)
  const sharedFor = async (name: string | undefined): Promise<ResolvedSettings> =>
    settingsToResume(given, {...request, output: output === undefined ? undefined : studentFolder(output, name)})
  const first = await sharedFor(files[0]?.name)
  const path = request.teacher ?? first.settings.distill.teacher
  if (!path)
    throw new UserError('No teacher is named.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Name a run folder, a checkpoint or a released model: --teacher run-large.'
    })
  const known = request.teacher === undefined ? (first.sources.get('distill.teacher') ?? 'distill.teacher') : '--teacher'
  const named = await canonicalPath(path)
  const withTeacher = (resolved: ResolvedSettings): ResolvedSettings => withSetting(resolved, 'distill.teacher', named, known)
  const teacher = await planTeacher(path, first.settings.distill.from)
  const origin = await readOrigin(path, settingsOfFile)
  if (files.length === 0) {
    const {base, chosen} = await withDefaultRecipe(first, teacher, request)
    return {teacher, students: [{name: undefined, resolved: settingsForStudent(withTeacher(base), teacher, origin.settings)}], chosen}
  }
  // Where several students differ in patch or heads, each takes over from the teacher for itself.
  const students: StudentSettings[] = []
  for (const file of files) {
    const own = settingsBesideOthers(withTeacher(await sharedFor(file.name)), file)
    students.push({name: file.name, resolved: settingsForStudent(own, teacher, origin.settings)})
  }
  return {teacher, students}
}

/** Settings that describe no student lie above a recipe that suits teacher and device. */
async function withDefaultRecipe(
  resolved: ResolvedSettings,
  teacher: TeacherPlan,
  {config, device = 'auto'}: DistillRequest
): Promise<{base: ResolvedSettings; chosen?: string}> {
  if ((config?.length ?? 0) > 0 || [...resolved.sources].some(([path, from]) => from !== 'default' && path.startsWith('student.')))
    return {base: resolved}
  const hasGpu = device === 'auto' ? (await cudaDevices()).length > 0 : device !== 'cpu'
  const {name, words} = chooseDistillRecipe(teacher, hasGpu)
  return {base: overlaySettings(resolveFile(name), resolved), chosen: words}
}

function assertDistinct(files: readonly StudentFile[]): void {
  const twice = files.find(({name}, i) => files.findIndex(other => other.name === name) < i)
  if (twice)
    throw new UserError(`Two students are called ${twice.name}, so their run folders would be one.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'A student is called as its file is: rename one.'
    })
}
