/** A config.json that contradicts the weights beside it is refused: other programs would compute something else. */
import assert from 'node:assert/strict'
import {readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {inferConfig} from '../../../src/files/checkpoint/architecture.js'
import {openBackbone} from '../../../src/files/checkpoint/backbone.js'
import {exportModel} from '../../../src/tasks/export.js'
import {scratch} from '../../support/scratch.js'
import {saveTiny, tiny} from '../../support/tiny-backbone.js'

for (const to of ['hf', 'timm'] as const)
  test(`a config.json of ${to} whose sizes are not those of its weights is refused with both`, async t => {
    const folder = await scratch(t)
    const output = join(folder, to)
    const model = join(folder, 'tiny.safetensors')
    await saveTiny(model)
    await exportModel({model, to, output, toolVersion: '0'})
    const config = tiny
    const path = join(output, 'config.json')
    const whole = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>
    const wrong: Record<string, unknown> =
      to === 'hf'
        ? {
            hidden_size: 2 * config.width,
            num_hidden_layers: config.depth + 1,
            num_attention_heads: 2 * config.heads,
            patch_size: config.patch + 1,
            mlp_ratio: 3,
            use_swiglu_ffn: config.ffn !== 'swiglu',
            num_channels: 4,
            qkv_bias: false
          }
        : {
            model_args: [
              {embed_dim: 2 * config.width},
              {depth: config.depth + 1},
              {patch_size: config.patch + 1},
              {reg_tokens: config.registers + 4},
              {num_heads: 2 * config.heads}
            ]
          }
    await (await openBackbone(output)).checkpoint.close()
    for (const [name, value] of Object.entries(wrong).flatMap(([key, value]) =>
      (Array.isArray(value) ? value : [value]).map(one => [key, one] as const)
    )) {
      const before = whole[name]
      const changed = typeof value === 'object' ? {...(before as object), ...(value as object)} : value
      await writeFile(path, JSON.stringify({...whole, [name]: changed}))
      await assert.rejects(
        openBackbone(output),
        {name: 'UserError', message: /config\.json (says|has .*DINOv2 has)|do not divide/},
        `${name} ${JSON.stringify(value)}`
      )
    }
  })

test('metadata of weights that contradict their shapes are refused, one by one', async t => {
  const folder = await scratch(t)
  const model = join(folder, 'tiny.safetensors')
  await saveTiny(model)
  const {config, checkpoint} = await openBackbone(model)
  await checkpoint.close()
  const shapes = new Map([...checkpoint.tensors].map(([name, {shape}]) => [name, shape]))
  assert.equal(inferConfig(shapes, {...checkpoint.metadata, width: String(config.width)}).width, config.width)
  for (const [name, value] of Object.entries({width: '999', depth: '7', patch: '3', ffn: 'other', hidden: '1', registers: '9'}))
    assert.throws(() => inferConfig(shapes, {...checkpoint.metadata, [name]: value}), {
      code: 'BAD_CHECKPOINT',
      message: new RegExp(`says of itself ${name} "${value}", but its weights have `)
    })
})
