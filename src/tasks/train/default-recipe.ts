/**
 * The recipe of a run that names none: one that suits the number of images and fits the device.
 *
 * A large model learns nothing from a few thousand images, and one that takes months on a processor is nobody's
 * intention; so large recipes ask for many images and a GPU. The order is that of size.
 */
import type {ResolvedSettings} from '../../config/settings.js'
import {derive} from '../../config/derived.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {gib, memoryNeeded} from './memory-fit.js'
import type {TeacherPlan} from './teacher.js'

/** Recipes of pretraining from the largest to the smallest, with the least number of images that suits each. */
export const PRETRAIN_RECIPES = [
  {name: 'vitl16-short', images: 1_000_000, gpu: true},
  {name: 'vits14', images: 100_000, gpu: true},
  {name: 'medium', images: 2_000, gpu: false},
  {name: 'small', images: 0, gpu: false}
] as const

/** Recipes of distillation, the same way; `width` is the least width of a teacher. */
const DISTILL_RECIPES = [
  {name: 'distill-vits14', width: 768, gpu: true},
  {name: 'distill-small', width: 0, gpu: false}
] as const

export type ChosenRecipe = {readonly name: string; readonly resolved: ResolvedSettings; readonly words: string}

/**
 * The largest recipe of pretraining that suits so many images and fits into `limit` bytes; the smallest where none
 * does. `open` gives the settings of a recipe, with what the user set above them.
 */
export function chooseRecipe(
  open: (name: string) => ResolvedSettings,
  {images, device, precision, limit}: {images: number; device: string; precision: Precision; limit: number | undefined}
): ChosenRecipe {
  const suiting = PRETRAIN_RECIPES.filter(recipe => images >= recipe.images && (!recipe.gpu || device !== 'cpu'))
  for (const {name} of suiting) {
    const resolved = open(name)
    const {settings} = resolved
    const plan = derive(settings)
    const needed = memoryNeeded({students: [{settings, plan}], precision, device})
    if (limit !== undefined && needed > limit && name !== 'small') continue
    const free = limit === undefined ? '' : ` of ${gib(limit)} that may be used`
    const words =
      `no --config: the recipe ${name} is taken, which suits ${images} ${images === 1 ? 'image' : 'images'} and ${device} ` +
      `(${plan.vit.width} wide, ${plan.vit.depth} blocks; ${plan.steps} steps of ${plan.batch} images; about ${gib(needed)}${free}). ` +
      `Choose another with --config ${PRETRAIN_RECIPES.map(recipe => recipe.name)
        .reverse()
        .join('|')}, or a file of settings`
    return {name, resolved, words}
  }
  throw new Error('The smallest recipe suits any number of images.')
}

/** The recipe of a student for this teacher. */
export function chooseDistillRecipe({path, vit}: Pick<TeacherPlan, 'path' | 'vit'>, hasGpu: boolean): {name: string; words: string} {
  const {name} = DISTILL_RECIPES.find(recipe => vit.width >= recipe.width && (!recipe.gpu || hasGpu))!
  const words =
    `no --config: the recipe ${name} is taken, which suits the teacher ${path} (${vit.width} wide) and ${hasGpu ? 'a GPU' : 'a processor'}. ` +
    'Choose another with --config distill-small|distill-vits14|distill-vitb14|distill-vitl14, or describe the student: --set student.arch=vit_small'
  return {name, words}
}
