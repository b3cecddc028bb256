/** Memory of a pass: counted as it was measured, refused where it does not fit, with what would. */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Readable} from 'node:stream'
import {it} from 'node:test'
import sharp from 'sharp'
import {UserError} from '../../../src/config/errors.js'
import {assertImagesFit, assertPassFits, assertWeightsFit, passBytes} from '../../../src/tasks/embed/pass-memory.js'
import type {VitConfig} from '../../../src/model/config.js'
import {scratch} from '../../support/scratch.js'

const config: VitConfig = {
  width: 384,
  depth: 12,
  heads: 6,
  patch: 14,
  ffn: 'mlp',
  hidden: 1536,
  registers: 0,
  grid: 37,
  layerScale: true,
  interpolateOffset: 0.1,
  interpolateAntialias: false
}
const panorama = {images: 1, height: 210, width: 21_000, layers: 1}
const MiB = 2 ** 20

const refusal = (act: () => unknown): UserError => {
  try {
    act()
  } catch (error) {
    assert.ok(error instanceof UserError)
    return error
  }
  return assert.fail('nothing was refused')
}

it('counts no less than the peaks that were measured, and not much more', () => {
  const measured = [
    {pass: {images: 64, height: 224, width: 224, layers: 1}, precision: 'fp32', engine: 'torch', peak: 383},
    {pass: {images: 64, height: 224, width: 224, layers: 1}, precision: 'bf16', engine: 'torch', peak: 249},
    {pass: panorama, precision: 'fp32', engine: 'torch', peak: 543},
    {pass: {images: 16, height: 224, width: 224, layers: 1}, precision: 'fp32', engine: 'wasm', peak: 322},
    {pass: {images: 1, height: 518, width: 2100, layers: 1}, precision: 'fp32', engine: 'wasm', peak: 1833}
  ] as const
  for (const {pass, precision, engine, peak} of measured) {
    const MiBs = passBytes(config, pass, precision, engine) / MiB
    assert.ok(MiBs >= peak && MiBs < 2.5 * peak, `${MiBs} beside ${peak}`)
  }
})

it('refuses a pass over the limit with status 5, and names what would fit, which then does', () => {
  const place = {engine: 'wasm', limit: 2 ** 30}
  const {exit, message, hint} = refusal(() => assertPassFits(config, panorama, 'fp32', {id: 'walls/east.png', place}))
  assert.equal(exit, 5)
  assert.match(message, /^walls\/east\.png of 21000 × 210 pixels needs about 2\d\.\d\d GB in this model, and 1\.07 GB /)
  const side = Number(/short side is (\d+) pixels/.exec(hint!)![1])
  assertPassFits(config, {...panorama, height: side, width: side * 100}, 'fp32', {place})
  refusal(() => assertPassFits(config, {...panorama, height: side + 14, width: (side + 14) * 100}, 'fp32', {place}))
  assert.match(hint!, /210 × 210 pixels, by a crop/)
})

it('names the largest half, quarter … of a batch that fits', () => {
  const place = {engine: 'torch', limit: 200 * MiB}
  const pass = {images: 64, height: 224, width: 224, layers: 1}
  const {hint} = refusal(() => assertPassFits(config, pass, 'fp32', {place}))
  assert.match(hint!, /^What would fit: 16 images at once;/)
  assertPassFits(config, {...pass, images: 16}, 'fp32', {place})
})

it('refuses weights before they are read', () => {
  const size = {parameters: 1.1e9, largest: 6e6}
  const {exit, message, hint} = refusal(() => assertWeightsFit('dinov2_vitg14', size, 'fp32', {limit: 3e9}))
  assert.equal(exit, 5)
  assert.match(message, /^dinov2_vitg14 has 1100\.0 million parameters and needs about 4\.45 GB, and 3\.00 GB /)
  assert.match(hint!, /^--precision bf16 would fit/)
  assertWeightsFit('dinov2_vitg14', size, 'bf16', {limit: 3e9})
  assertWeightsFit('dinov2_vitg14', size, 'fp32', {limit: undefined})
})

it('finds the one image that is too long by its header, and passes over what cannot be read', async t => {
  const dir = await scratch(t)
  const save = (name: string, width: number): Promise<unknown> =>
    sharp({create: {width, height: 20, channels: 3, background: '#888'}})
      .png()
      .toFile(join(dir, name))
  await Promise.all([save('a.png', 20), save('long.png', 200)])
  writeFileSync(join(dir, 'broken.png'), 'no image')
  const refs = ['a.png', 'broken.png', 'long.png'].map(id => ({id, path: join(dir, id), fields: {}}))
  const wide = {...config, width: 2 ** 21, heads: 1} // 161 tokens take 24 GB
  const work = {
    config: wide,
    transform: {resize: 56, patch: 14},
    precision: 'fp32',
    layers: 1,
    batch: 4,
    place: {engine: 'torch', limit: 2 ** 34}
  } as const
  await assert.rejects(assertImagesFit(Readable.from(refs), work), /^UserError: long\.png of 560 × 56 pixels needs about/)
  await assertImagesFit(Readable.from(refs.slice(0, 2)), work)
})
