/**
 * One block: forward and backward half against a reference implementation on the tape, with and without stochastic
 * depth; what is drawn for stochastic depth.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {blockBackward, blockForward, blockInference} from '../../src/model/block.js'
import type {Block, BlockOptions, BlockSaved, DropPathSample, MemoryLevel} from '../../src/model/block.js'
import type {VitConfig} from '../../src/model/config.js'
import {sampleDropPath, keptCount} from '../../src/model/drop-path.js'
import {attentionReference, totalRows, type SequenceGroup} from '../../src/tensor/ops/attention.js'
import {geluReference, swigluReference} from '../../src/tensor/ops/gelu.js'
import {layerNormReference} from '../../src/tensor/ops/layer-norm.js'
import {linearReference} from '../../src/tensor/ops/linear.js'
import {cast} from '../../src/tensor/ops/precision.js'
import {rng} from '../../src/tensor/random.js'
import {Tensor, add, dispose, gather, mul, unsortedSegmentSum} from '../../src/tensor/tf.js'
import type {Tensor2D} from '../../src/tensor/tf.js'
import {flatten, unflatten, map} from '../../src/tensor/tree.js'
import {apart, counted, normal, onPlain, onTorch, put, take, type Values} from '../support/engine.js'
import {checkOp} from '../support/check-op.js'
import {configs, parameter} from '../support/small-vit.js'

const groups: SequenceGroup[] = [
  {count: 4, length: 5},
  {count: 5, length: 3}
]
const T = totalRows(groups)

/** x ← x + factor·γ ⊙ f(norm x) over the kept sequences, twice: the definition, in plain operations. */
function plainBlock(x: Tensor2D, p: Block, {heads, attn, mlp}: BlockOptions): Tensor2D {
  const branch = (
    x: Tensor2D,
    kept: DropPathSample | undefined,
    gamma: Tensor | undefined,
    f: (x: Tensor2D, own: readonly SequenceGroup[]) => Tensor2D
  ) => {
    const y = f(kept ? gather(x, kept.rows) : x, kept?.groups ?? groups)
    const scaled = gamma ? mul<Tensor2D>(y, gamma) : y
    return kept ? add<Tensor2D>(x, unsortedSegmentSum(mul<Tensor2D>(scaled, kept.factor), kept.rows, T)) : add<Tensor2D>(x, scaled)
  }
  const middle = branch(x, attn, p.ls1?.gamma, (x, own) =>
    linearReference(attentionReference(linearReference(layerNormReference(x, p.norm1).y, p.attn.qkv), own, heads), p.attn.proj)
  )
  return branch(middle, mlp, p.ls2?.gamma, x => {
    const normed = layerNormReference(x, p.norm2).y
    return 'w12' in p.mlp
      ? linearReference(swigluReference(linearReference(normed, p.mlp.w12)), p.mlp.w3)
      : linearReference(geluReference(linearReference(normed, p.mlp.fc1)), p.mlp.fc2)
  })
}

/** Parameters of one block by their paths, and its input. */
function inputsOf(config: VitConfig): Record<string, Values> {
  const own = [...expectedShapes(config)].filter(([name]) => name.startsWith('blocks.0.'))
  return {
    x: normal('x', [T, config.width]),
    ...Object.fromEntries(own.map(([name, shape]) => [name.slice('blocks.0.'.length), {shape, data: parameter(name, shape)}]))
  }
}
const blockOf = ({x: _, ...named}: Record<string, Tensor>): Block => unflatten<Block>(Object.entries(named))
const stream = (inputs: Record<string, Tensor>): Tensor2D => inputs['x'] as Tensor2D

/** Calls `f` with the options of one block; the tensors drawn for stochastic depth are gone afterwards. */
function withOptions<T>(heads: number, rate: number, f: (options: BlockOptions) => T): T {
  if (rate === 0) return f({heads})
  const random = rng(3, 'kept')
  const options = {heads, attn: sampleDropPath(groups, rate, random), mlp: sampleDropPath(groups, rate, random)}
  try {
    return f(options)
  } finally {
    for (const {rows, factor} of [options.attn, options.mlp]) dispose([rows, ...(factor instanceof Tensor ? [factor] : [])])
  }
}

for (const [kind, config] of Object.entries(configs))
  for (const [rate, level] of [
    [0, 'fast'],
    [0.5, 'fast'],
    [0.3, 'fast'],
    [0, 'small'],
    [0.3, 'balanced'],
    [0.3, 'small']
  ] as const)
    test(`${kind}, ${rate === 0 ? 'every sequence' : `stochastic depth ${rate}`}, ${level}: value and gradients of all parameters`, () =>
      checkOp({
        inputs: inputsOf(config),
        forward: inputs =>
          withOptions(config.heads, rate, options => {
            const {y, saved} = blockForward(stream(inputs), blockOf(inputs), groups, options, level)
            return {y, ...Object.fromEntries(flatten(saved))}
          }),
        plain: inputs => withOptions(config.heads, rate, options => plainBlock(stream(inputs), blockOf(inputs), options)),
        backward: (dy, inputs, {y: _, ...saved}) =>
          withOptions(config.heads, rate, options => {
            const {dx, grads} = blockBackward(dy, unflatten<BlockSaved>(Object.entries(saved)), blockOf(inputs), groups, options)
            return {x: dx, ...Object.fromEntries(flatten(grads))}
          }),
        limits: {gradient: 5e-5, slope: 2e-2}
      }))

test('what a level computes anew is what it might have saved: gradients are the same bit for bit, in float32 and in bf16', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    for (const precision of ['fp32', 'bf16'] as const)
      for (const config of Object.values(configs))
        for (const rate of [0, 0.4]) {
          const start = counted()
          const inputs = Object.fromEntries(Object.entries(inputsOf(config)).map(([name, values]) => [name, put(values)]))
          const dy = put(normal('dy', [T, config.width]))
          const block = blockOf(inputs)
          const low = map(block, leaf => (leaf.rank === 2 ? cast(leaf, precision) : leaf.clone()))
          const found = new Map<MemoryLevel, Values[]>()
          const saved = new Map<MemoryLevel, number>()
          for (const level of ['fast', 'balanced', 'small'] as const) {
            const {values, count} = withOptions(config.heads, rate, options => {
              const forward = blockForward(stream(inputs), low, groups, options, level)
              const back = blockBackward(dy, forward.saved, low, groups, options)
              const out = [forward.y, back.dx, ...flatten(back.grads).values()]
              const read = out.map(x => ({shape: x.shape, data: x.dataSync<'float32'>().slice()}))
              const tensors = flatten(forward.saved).size
              dispose([...out, ...flatten(forward.saved).values()])
              return {values: read, count: tensors}
            })
            found.set(level, values)
            saved.set(level, count)
          }
          assert.deepEqual(found.get('balanced'), found.get('fast'))
          assert.deepEqual(found.get('small'), found.get('fast'))
          assert.deepEqual([...saved.values()], [9, 3, 1])
          dispose([...Object.values(inputs), dy, ...flatten(low).values()])
          assert.equal(counted(), start)
        }
  }
})

test('inference gives what the forward half of training gives', async () => {
  for (const engine of [onPlain, onTorch]) {
    await engine()
    for (const config of Object.values(configs)) {
      const inputs = Object.fromEntries(Object.entries(inputsOf(config)).map(([name, values]) => [name, put(values)]))
      const {y, saved} = blockForward(stream(inputs), blockOf(inputs), groups, {heads: config.heads})
      const same = blockInference(stream(inputs), blockOf(inputs), groups, config.heads)
      assert.ok(apart(await take(same), await take(y)) < 1e-5)
      dispose([...flatten(saved).values(), ...Object.values(inputs)])
    }
  }
})

test('stochastic depth keeps the whole part of the rest, and at least one', () => {
  assert.deepEqual(
    [
      [10, 0],
      [10, 0.3],
      [10, 0.95],
      [1, 0.9],
      [7, 0.4],
      [64, 0.3]
    ].map(([count, rate]) => keptCount(count!, rate!)),
    [10, 7, 1, 1, 4, 44]
  )
})

test('what is kept: whole sequences of each group, in order, each equally often, with the factor of its group', async () => {
  await onPlain()
  const times = new Map<number, number>()
  for (let i = 0; i < 400; i++) {
    const {rows, groups: kept, factor} = sampleDropPath(groups, 0.3, rng(5, i))
    assert.deepEqual(kept, [
      {count: 2, length: 5},
      {count: 3, length: 3}
    ])
    const at = [...rows.dataSync()]
    assert.deepEqual(
      at,
      [...new Set(at)].sort((a, b) => a - b)
    )
    for (let s = 0; s < 5; s++) {
      const [start, length] = s < 2 ? [s * 5, 5] : [10 + (s - 2) * 3, 3]
      const sequence = at.slice(start, start + length)
      const first = sequence[0]!
      assert.deepEqual(
        sequence,
        sequence.map((_, j) => first + j)
      )
      assert.equal(s < 2 ? first % 5 : (first - 20) % 3, 0)
      times.set(first, (times.get(first) ?? 0) + 1)
    }
    const factors = [...(factor as Tensor).dataSync()]
    assert.deepEqual(factors, [...new Array<number>(10).fill(2), ...new Array<number>(9).fill(Math.fround(5 / 3))])
    dispose([rows, factor as Tensor])
  }
  for (const [first, count] of times) assert.ok(Math.abs(count - (first < 20 ? 200 : 240)) < 50, `${first}: ${count}`)
  assert.equal(times.size, 9)
  const again = [1, 2].map(() => sampleDropPath(groups, 0.5, rng(5, 'again')))
  assert.deepEqual(again[0]!.rows.dataSync(), again[1]!.rows.dataSync())
  again.forEach(({rows}) => rows.dispose())
})
