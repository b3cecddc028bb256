/**
 * Memory, asked before the first step: what does not fit is refused with changes that do, and a run that names no
 * recipe gets one that suits its images and its device.
 */
import assert from 'node:assert/strict'
import {describe, test} from 'node:test'
import {derive} from '../../../src/config/derived.js'
import {UserError} from '../../../src/config/errors.js'
import {readLayers, resolveFile, settingsOfFile} from '../../../src/config/read-layers.js'
import {resolveSettings} from '../../../src/config/settings.js'
import type {Settings} from '../../../src/config/table.js'
import {chooseDistillRecipe, chooseRecipe} from '../../../src/tasks/train/default-recipe.js'
import {assertMemory, memoryNeeded, type MemoryRequest} from '../../../src/tasks/train/memory-fit.js'
import {isModelOpen, pretrainRecipes} from '../../../src/tasks/train/run-settings.js'

const GiB = 2 ** 30
const request = (...settings: Settings[]): MemoryRequest => ({
  students: settings.map(own => ({settings: own, plan: derive(own)})),
  precision: 'fp32',
  device: 'cpu'
})
const parse = (files: string[], ...sets: string[]): Settings =>
  resolveSettings(readLayers(files, sets, {flags: [], settings: true}).settings).settings

const refusal = async (asked: MemoryRequest, limit: number): Promise<UserError> => {
  try {
    await assertMemory(asked, {limit, recipes: pretrainRecipes()})
  } catch (error) {
    assert.ok(error instanceof UserError)
    return error
  }
  throw new assert.AssertionError({message: 'expected a refusal'})
}

describe('a run that does not fit', () => {
  test('is refused with status 5, sizes and at most one change of each kind; each of them fits', async () => {
    const error = await refusal(request(parse([])), 16 * GiB)
    assert.deepEqual([error.exit, error.code], [5, 'OUT_OF_MEMORY'])
    assert.match(error.message, /^This run needs about [\d.]+ GiB, and 16\.0 GiB of memory may be used: 3\d\d\.\d million parameters with heads, 64 images a step, train\.memory=fast\.$/) // prettier-ignore
    const changes = [...error.hint!.matchAll(/(--(?:set|batch|config) .*?) \(/g)].map(([, change]) =>
      change!.replace(/^.*What would fit: /, '')
    )
    assert.ok(changes.length >= 3 && changes.some(change => change.startsWith('--config ')), error.hint)
    for (const change of changes) {
      const sets = [...change.matchAll(/--set (\S+)/g)].map(([, set]) => set!)
      const batch = /--batch (\d+)/.exec(change)?.[1]
      const recipe = /--config (\S+)/.exec(change)?.[1]
      const own = parse(recipe ? [recipe] : [], ...sets, ...(batch ? [`train.batch_size_per_gpu=${batch}`] : []))
      assert.ok(memoryNeeded(request(own)) <= 16 * GiB, change)
    }
  })

  test('where nothing fits, the way out is another one; several students count together', async () => {
    const small = settingsOfFile('small')
    assert.match((await refusal(request(small), 2 ** 20)).hint!, /^Try a smaller student\.arch, .* or a device with more memory\.$/)
    const [one, two] = [memoryNeeded(request(small)), memoryNeeded(request(small, small))]
    assert.ok(two > one && two < 2 * one)
    const both = await refusal(request(small, small), (one + two) / 2)
    assert.match(both.message, /, 2 students\.$/)
    assert.match(both.hint!, /one after the other/)
    await assertMemory(request(small), {limit: one})
    await assert.rejects(assertMemory(request(small), {limit: one - 1}), /This run needs about/)
  })
})

describe('a run that names no recipe', () => {
  const choose = (images: number, device = 'cpu', limit: number | undefined = 64 * GiB): string =>
    chooseRecipe(resolveFile, {images, device, precision: 'bf16', limit}).name

  test('gets one by its number of images, its device and its memory', () => {
    assert.deepEqual([choose(1), choose(1999), choose(2000), choose(10 ** 7)], ['small', 'small', 'medium', 'medium'])
    assert.deepEqual([choose(500, 'cuda:0'), choose(10 ** 5, 'cuda:0'), choose(10 ** 6, 'cuda:0')], ['small', 'vits14', 'vitl16-short'])
    assert.deepEqual([choose(10 ** 6, 'cuda:0', 4 * GiB), choose(10 ** 6, 'cuda:0', 2 ** 20)], ['medium', 'tiny'])
    assert.equal(choose(10 ** 6, 'cuda:0', undefined), 'vitl16-short')
    const inMinutes = (minutes: number, device: string): string =>
      chooseRecipe(resolveFile, {images: 5000, device, precision: 'fp32', limit: 64 * GiB, minutes}).name
    assert.deepEqual([inMinutes(5, 'cpu'), inMinutes(10, 'cpu'), inMinutes(5, 'cuda:0')], ['tiny', 'medium', 'medium'])
    const {words} = chooseRecipe(resolveFile, {images: 1, device: 'cpu', precision: 'fp32', limit: GiB})
    assert.match(words, /^no --config: the recipe tiny is taken, which suits 1 image and cpu \(.* of 1\.0 GiB that may be used\)/)
  })

  test('but keeps the model that its settings describe', () => {
    const open = (...sets: string[]): boolean =>
      isModelOpen(resolveSettings(readLayers([], sets, {flags: [], settings: true}).settings), {})
    assert.deepEqual([open(), open('train.steps=5', 'optim.base_lr=0.1')], [true, true])
    assert.deepEqual([open('student.arch=vit_small'), open('crops.global_crops_size=64')], [false, false])
    assert.equal(isModelOpen(resolveSettings(), {config: ['small']}), false)
  })

  test('and a student one by its teacher', () => {
    const of = (width: number, hasGpu: boolean): string =>
      chooseDistillRecipe({path: 'run', vit: {...derive(settingsOfFile('small')).vit, width}}, hasGpu).name
    assert.deepEqual([of(192, true), of(1536, false), of(1536, true)], ['distill-small', 'distill-small', 'distill-vits14'])
  })
})
