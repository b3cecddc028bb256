/** What an architecture is recognized by, which tensors it needs, and how a misfit is explained. */
import assert from 'node:assert/strict'
import {readFile} from 'node:fs/promises'
import {test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import {checkFit, configMetadata, expectedShapes, inferConfig} from '../../../src/files/checkpoint/architecture.js'
import {openBackbone} from '../../../src/files/checkpoint/backbone.js'
import type {VitConfig} from '../../../src/model/config.js'
import {golden} from '../../support/scratch.js'

const small: VitConfig = {
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
const registers: VitConfig = {...small, registers: 4, interpolateOffset: 0, interpolateAntialias: true}
const giant: VitConfig = {...small, width: 1536, depth: 40, heads: 24, ffn: 'swiglu', hidden: 4096}

const parameters = (config: VitConfig): number =>
  [...expectedShapes(config).values()].reduce((sum, shape) => sum + shape.reduce((product, length) => product * length, 1), 0)

test('the released models have as many parameters as Meta counts', () => {
  // docs/spec.md §1.1 counts all parameters, the mask token too.
  assert.equal(parameters(small), 22_056_576)
  assert.equal(parameters({...small, width: 768, heads: 12, hidden: 3072}), 86_580_480)
  assert.equal(parameters({...small, width: 1024, depth: 24, heads: 16, hidden: 4096}), 304_368_640)
  assert.equal(parameters(giant), 1_136_480_768)
  assert.equal(parameters(registers), 22_056_576 + 4 * 384)
})

test('an architecture is recognized by its own shapes and metadata', () => {
  for (const config of [
    small,
    registers,
    giant,
    {...small, layerScale: false},
    {...giant, registers: 4, interpolateOffset: 0, interpolateAntialias: true}
  ])
    assert.deepEqual(inferConfig(expectedShapes(config)), config)
  const odd: VitConfig = {
    ...small,
    width: 48,
    heads: 3,
    hidden: 96,
    patch: 8,
    grid: 4,
    registers: 2,
    interpolateOffset: 0.1,
    interpolateAntialias: false
  }
  assert.deepEqual(inferConfig(expectedShapes(odd), configMetadata(odd)), odd)
  assert.deepEqual(inferConfig(expectedShapes(small), {heads: '12'}, {heads: 3}).heads, 3)
})

test('the recorded models are what their recording says', async () => {
  type Recorded = {
    img_size: number
    patch_size: number
    embed_dim: number
    depth: number
    num_heads: number
    num_register_tokens?: number
    ffn_layer?: string
    interpolate_antialias?: boolean
    interpolate_offset?: number
  }
  const {vit} = JSON.parse(await readFile(golden('golden.json'), 'utf8')) as {vit: Record<string, Recorded>}
  for (const [name, recorded] of Object.entries(vit)) {
    const {config, checkpoint} = await openBackbone(golden(`vit_${name}.pth`), {overrides: {heads: recorded.num_heads}})
    await checkpoint.close()
    assert.deepEqual(
      config,
      {
        width: recorded.embed_dim,
        depth: recorded.depth,
        heads: recorded.num_heads,
        patch: recorded.patch_size,
        ffn: recorded.ffn_layer ? 'swiglu' : 'mlp',
        hidden: recorded.ffn_layer ? 176 : 256,
        registers: recorded.num_register_tokens ?? 0,
        grid: recorded.img_size / recorded.patch_size,
        layerScale: true,
        interpolateOffset: recorded.interpolate_offset ?? 0.1,
        interpolateAntialias: recorded.interpolate_antialias ?? false
      },
      name
    )
  }
})

test('what cannot be a backbone is refused with what is there', () => {
  const shapes = (entries: Record<string, number[]>): Map<string, number[]> =>
    new Map([...expectedShapes(small), ...Object.entries(entries)])
  const without = (name: string): Map<string, number[]> => {
    const all = expectedShapes(small)
    all.delete(name)
    return all
  }
  assert.throws(() => inferConfig(new Map(), {}, {}, 'a.pth'), /a\.pth is not a DINOv2 backbone: it lacks patch_embed\.proj\.weight/)
  assert.throws(
    () => inferConfig(new Map([['mlp.0.weight', [1, 1]]])),
    (error: UserError) => /It holds mlp\.0\.weight/.test(error.hint ?? '')
  )
  assert.throws(() => inferConfig(without('pos_embed')), /lacks pos_embed/)
  assert.throws(() => inferConfig(shapes({pos_embed: [1, 1371, 384]})), /1371 positions/)
  assert.throws(() => inferConfig(shapes({pos_embed: [1370, 384]})), /3 axes were expected/)
  assert.throws(() => inferConfig(shapes({'patch_embed.proj.weight': [384, 3, 14, 7]})), /14 by 7/)
  assert.throws(() => inferConfig(new Map([...expectedShapes(small)].filter(([name]) => !name.startsWith('blocks.')))), /no blocks/)
  assert.throws(() => inferConfig(expectedShapes(small), {heads: '7'}), /7 heads do not divide/)
  assert.throws(() => inferConfig(expectedShapes(small), {heads: 'six'}), /heads: "six", which is no number/)
  assert.throws(() => inferConfig(expectedShapes(small), {heads: '0'}), /no count/)
  assert.throws(() => inferConfig(expectedShapes(small), {interpolate_antialias: 'maybe'}), /true or false/)
  assert.throws(() => inferConfig(expectedShapes({...small, width: 100})), /no multiple of 64/)
})

/** What `checkFit` says, message and cause apart. */
function misfit(expected: Map<string, readonly number[]>, found: Map<string, readonly number[]>): {message: string; cause: string} {
  try {
    checkFit(expected, found, 'model.pth')
  } catch (error) {
    assert.equal((error as UserError).code, 'MISFIT')
    return {message: (error as Error).message, cause: (error as UserError).hint ?? ''}
  }
  return assert.fail('it fits')
}

test('a checkpoint that fits passes in silence', () => checkFit(expectedShapes(small), expectedShapes(small), 'model.pth'))

test('all differences stand in one message, blocks together', () => {
  const found = new Map<string, readonly number[]>(expectedShapes(small))
  found.delete('norm.bias')
  for (const block of [0, 1, 2, 7]) found.delete(`blocks.${block}.ls1.gamma`)
  found.set('head.weight', [1000, 384])
  found.set('pos_embed', [1, 257, 384])
  const {message} = misfit(expectedShapes(small), found)
  assert.equal(
    message,
    [
      'model.pth does not fit the model.',
      '  missing (5):',
      '    blocks.{0-2,7}.ls1.gamma',
      '    norm.bias',
      '  unexpected (1):',
      '    head.weight',
      '  wrong shape (1):',
      '    pos_embed: [1, 257, 384] instead of [1, 1370, 384]'
    ].join('\n')
  )
})

test('the likely cause is said', () => {
  const rename = (config: VitConfig, change: (name: string) => string): Map<string, number[]> =>
    new Map([...expectedShapes(config)].map(([name, shape]) => [change(name), shape]))
  const want = expectedShapes(small)
  const cause = (found: Map<string, readonly number[]>, expected = want): string => misfit(expected, found).cause
  assert.match(cause(rename(small, name => name.replace(/^blocks\.(\d+)/, 'blocks.0.$1'))), /by chunks/)
  assert.match(cause(rename(small, name => `ema.${name}`)), /begin with ema\..*one level deeper, under ema\./)
  assert.match(cause(expectedShapes({...small, width: 768, heads: 12, hidden: 3072})), /another size: ViT-B \(width 768\), but ViT-S/)
  assert.match(cause(expectedShapes({...small, ffn: 'swiglu', hidden: 1024})), /SwiGLU layers \(as ViT-g\), but plain/)
  assert.match(cause(want, expectedShapes({...small, ffn: 'swiglu', hidden: 1024})), /plain layers, but SwiGLU/)
  assert.match(cause(expectedShapes(registers)), /with registers, but one without/)
  assert.match(cause(want, expectedShapes(registers)), /without registers/)
  assert.match(cause(expectedShapes({...registers, registers: 8}), expectedShapes(registers)), /another number of registers/)
  assert.match(cause(expectedShapes({...small, depth: 11})), /11 blocks, but 12/)
  assert.match(cause(expectedShapes({...small, patch: 16})), /patches of another size/)
  assert.match(cause(expectedShapes({...small, grid: 16})), /another image size/)
  assert.match(cause(new Map([...want].slice(1))), /incomplete/)
  assert.ok(misfit(want, expectedShapes({...small, width: 768, heads: 12, hidden: 3072})).message.split('\n').length < 40)
})
