/**
 * The recipe of a run that names none: one that suits the number of images and fits the device.
 *
 * A large model learns nothing from a few thousand images, and one that takes months on a processor is nobody's
 * intention; so large recipes ask for many images and a GPU. The order is that of size.
 */
import type {ResolvedSettings} from '../../config/settings.js'
import {counted} from '../../config/counted.js'
import {derive} from '../../config/derived.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {gib, memoryNeeded} from './memory-fit.js'
import type {TeacherPlan} from './teacher.js'

/** Recipes of pretraining from the largest to the smallest, with the least number of images that suits each. */
export const PRETRAIN_RECIPES = [
  {name: 'vitl16-short', images: 1_000_000, gpu: true},
  {name: 'vits14', images: 100_000, gpu: true},
  {name: 'medium', images: 2_000, gpu: false},
  {name: 'small', images: 0, gpu: false},
  {name: 'tiny', images: 0, gpu: false}
] as const

/** What is taken where nothing larger fits; its place is the last. */
const SMALLEST = PRETRAIN_RECIPES.at(-1)!.name

/** On a processor, the least model reaches more than the others in less than so many minutes (docs/small-data.md). */
const MINUTES_OF_SMALLEST = 10

/** Recipes of distillation, the same way; `width` is the least width of a teacher. */
const DISTILL_RECIPES = [
  {name: 'distill-vits14', width: 768, gpu: true},
  {name: 'distill-small', width: 0, gpu: false}
] as const

/** What a recipe is to suit; `limit` in bytes, `minutes` where the user gave a time. */
export type RunToSuit = {
  readonly images: number
  readonly device: string
  readonly precision: Precision
  readonly limit: number | undefined
  readonly minutes?: number | undefined
}

export type ChosenRecipe = {readonly name: string; readonly resolved: ResolvedSettings; readonly words: string}

/**
 * The largest recipe of pretraining that suits so many images and fits into `limit` bytes; the smallest where none
 * does, or where a processor is given few `minutes`. `open` gives the settings of a recipe, with what the user set
 * above them.
 */
export function chooseRecipe(
  open: (name: string) => ResolvedSettings,
  {images, device, precision, limit, minutes}: RunToSuit
): ChosenRecipe {
  const quick = isQuick(device, minutes)
  const suiting = PRETRAIN_RECIPES.filter(
    recipe => images >= recipe.images && (!recipe.gpu || device !== 'cpu') && (!quick || recipe.name === SMALLEST)
  )
  for (const {name} of suiting) {
    const resolved = open(name)
    const {settings} = resolved
    const plan = derive(settings)
    const needed = memoryNeeded({students: [{settings, plan}], precision, device})
    if (limit !== undefined && needed > limit && name !== SMALLEST) continue
    const free = limit === undefined ? '' : ` of ${gib(limit)} that may be used`
    const words =
      `no --config: the recipe ${name} is taken, which suits ${counted(images, 'image')}${quick && minutes !== undefined ? `, ${counted(minutes, 'minute')}` : ''} and ${device} ` +
      `(${plan.vit.width} wide, ${plan.vit.depth} blocks; ${plan.steps} steps of ${plan.batch} images; about ${gib(needed)}${free}). ` +
      `Choose another with --config ${PRETRAIN_RECIPES.map(recipe => recipe.name)
        .reverse()
        .join('|')}, or a file of settings`
    return {name, resolved, words}
  }
  throw new Error('The smallest recipe suits any number of images.')
}

/**
 * The recipe whose length suits a run that begins with weights: the largest for a processor that suits so many images,
 * or of those with the sizes of the models that come along where it is one of them. Undefined where there are images
 * enough on a GPU for the published length.
 */
export function scheduleFor({images, device, minutes}: RunToSuit, comesAlong: boolean): string | undefined {
  if (device !== 'cpu' && PRETRAIN_RECIPES.some(recipe => recipe.gpu && images >= recipe.images)) return undefined
  const quick = isQuick(device, minutes)
  return PRETRAIN_RECIPES.find(
    ({name, gpu, images: least}) =>
      !gpu && images >= least && (!quick || name === SMALLEST) && (!comesAlong || name === 'medium' || name === SMALLEST)
  )!.name
}

const isQuick = (device: string, minutes: number | undefined): boolean =>
  device === 'cpu' && minutes !== undefined && minutes < MINUTES_OF_SMALLEST

/** The recipe of a student for this teacher. */
export function chooseDistillRecipe({path, vit}: Pick<TeacherPlan, 'path' | 'vit'>, hasGpu: boolean): {name: string; words: string} {
  const {name} = DISTILL_RECIPES.find(recipe => vit.width >= recipe.width && (!recipe.gpu || hasGpu))!
  const words =
    `no --config: the recipe ${name} is taken, which suits the teacher ${path} (${vit.width} wide) and ${hasGpu ? 'a GPU' : 'a processor'}. ` +
    'Choose another with --config distill-small|distill-vits14|distill-vitb14|distill-vitl14, or describe the student: --set student.arch=vit_small'
  return {name, words}
}
