/** Images whose maps nobody named: one sentence for all, and one for each where others have a map. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import type {ImageRef} from '../../../src/data/sources/image-ref.js'
import {keyStem, pairs} from '../../../src/data/targets/pairs.js'

const image = (id: string, fields: Record<string, unknown> = {}): ImageRef => ({id, path: id, fields}) as unknown as ImageRef
async function* given(images: readonly ImageRef[]): AsyncGenerator<ImageRef> {
  yield* images
}
async function paired(images: readonly ImageRef[]): Promise<{found: string[]; rejected: string[]}> {
  const [found, rejected]: [string[], string[]] = [[], []]
  for await (const pair of pairs(given(images), {field: 'mask', onRejected: bad => rejected.push(bad.id)})) found.push(pair.image.id)
  return {found, rejected}
}
const many = (count: number): ImageRef[] => Array.from({length: count}, (_, i) => image(`${i}.png`))

test('where no image has a map and no folder was named, one sentence says so', async () => {
  for (const [count, words] of [
    [1, /^The image has no mask: no folder of masks was named, and no row has a field mask\.$/],
    [60, /^None of the 60 images has a mask: no folder of masks was named/]
  ] as const)
    await assert.rejects(
      paired(many(count)),
      (error: UserError) => words.test(error.message) && error.exit === 2 && error.hint!.includes('--masks FOLDER')
    )
})

test('where one has a map, the others are named in their order, and no image is lost', async () => {
  const images = [...many(3), image('a.png', {mask: 'a.mask.png'}), image('b.png')]
  assert.deepEqual(await paired(images), {found: ['a.png'], rejected: ['0.png', '1.png', '2.png', 'b.png']})
})

test('of very many images each is named, since more than a thousand are not held back', async () => {
  const {found, rejected} = await paired(many(1500))
  assert.deepEqual([found.length, rejected.length, new Set(rejected).size], [0, 1500, 1500])
})

test('a set of no images gives no pairs', async () => {
  assert.deepEqual(await paired([]), {found: [], rejected: []})
})

test('a dot in a key belongs to it, but for the ending of an image', () => {
  for (const [key, stem] of [
    ['set.tar/Track 0.0', 'Track 0.0'],
    ['set.tar/Track 0.1', 'Track 0.1'],
    ['list/a.b.JPG', 'a.b'],
    ['.png', '.png']
  ] as const)
    assert.equal(keyStem(key), stem)
})
