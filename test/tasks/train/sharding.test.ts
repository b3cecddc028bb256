/**
 * What travels between processes while a block computes: the order of events in one process of two. The kernels log
 * what begins and what is waited for, and answer as if the other process held the same numbers.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import type {Block} from '../../../src/model/block.js'
import type {Vit} from '../../../src/model/vit.js'
import {Sharding} from '../../../src/tasks/train/sharding.js'
import type {ParamMap} from '../../../src/optim/adamw.js'
import {concat, dispose, registerKernel, tensor} from '../../../src/tensor/tf.js'
import type {KernelConfig, Tensor} from '../../../src/tensor/tf.js'
import {unflatten} from '../../../src/tensor/tree.js'
import {backend} from '../../../src/engine/torch/backend.js'
import {scalarType, torch} from '../../../src/engine/torch/binding.js'
import type {Processes} from '../../../src/tensor/ops/collectives.js'
import {counted, onPlain, onTorch} from '../../support/engine.js'

const DEPTH = 3
const events: string[] = []
const names = new Map<number, string>()
/** What the next collective is called in the log. */
let coming: string[] = []

function register(
  kernelName: string,
  work: (x: Tensor | undefined, attrs: Record<string, unknown>) => Tensor | [],
  backendName = 'cpu'
): void {
  const kernelFunc = ({inputs, attrs}: {inputs: {x?: Tensor}; attrs?: unknown}) => work(inputs.x, attrs as Record<string, unknown>)
  registerKernel({kernelName, backendName, kernelFunc} as unknown as KernelConfig)
}

const first: Processes = {rank: 0, size: 2}

function begins(attrs: Record<string, unknown>): void {
  const number = names.size + 1
  names.set(number, coming.shift() ?? `collective ${number}`)
  events.push(`${names.get(number)} begins`)
  ;(attrs['begun'] as {number: number}).number = number
}

test('the next block and heads are gathered, and gradients of the last block and of heads are summed, while a block computes', async () => {
  await onPlain()
  register('Dinov2BeginAllGather', (x, attrs) => (begins(attrs), concat([x!, x!])))
  register('Dinov2BeginAllToAll', (x, attrs) => (begins(attrs), x!.clone()))
  register('Dinov2Wait', (_, {number}) => (events.push(`${names.get(number as number)} is there`), []))
  const before = counted()
  const full: ParamMap = new Map([
    ['backbone.norm.weight', tensor([1, 1, 1, 1])],
    ['dino_head.mlp.weight', tensor([7, 7, 7, 7])]
  ])
  for (let i = 0; i < DEPTH; i++) full.set(`backbone.blocks.${i}.norm1.weight`, tensor([i, i, i]))
  const sharding = new Sharding(first, 'fp32', full)
  const pieces = sharding.shard(full)
  const sums: ParamMap = new Map()
  coming = ['embedding', 'block 0', 'block 1', 'heads', 'block 2', 'sums of heads']
  coming.push('block 2 again', 'block 1 again', 'sums 2', 'block 0 again', 'sums 1', 'sums 0')
  const lent = sharding.lend<{backbone: Vit; dino_head?: {mlp: {weight: Tensor}}}>(pieces, own => Sharding.addTo(sums, own))
  const compute = (i: number, pass: string, next: number | undefined): void =>
    lent.access.use(
      i,
      ({norm1}) => void events.push(`${pass} of block ${i} ${norm1.weight.dataSync<'float32'>().slice(0, 2).join()}`),
      next
    )
  for (let i = 0; i < DEPTH; i++) compute(i, 'forward', i + 1 < DEPTH ? i + 1 : undefined)
  assert.equal(lent.network.dino_head, undefined, 'not there before it was waited for')
  lent.access.heads()
  assert.deepEqual([...lent.network.dino_head!.mlp.weight.dataSync<'float32'>()], [7, 7, 7, 7])
  lent.access.headGradients(new Map([['dino_head.mlp.weight', tensor([1, 1, 1, 1])]]))
  assert.equal(lent.network.dino_head, undefined, 'let go before the backward pass')
  for (let i = DEPTH - 1; i >= 0; i--) {
    compute(i, 'backward', i > 0 ? i - 1 : undefined)
    lent.access.gradients(i, unflatten<Block>([['norm1.weight', tensor([i, i, i])]]))
  }
  lent.dispose()
  assert.deepEqual(events, [
    ...['embedding begins', 'embedding is there'],
    ...['block 0 begins', 'block 0 is there', 'block 1 begins', 'heads begins', 'forward of block 0 0,0', 'block 1 is there'],
    ...['block 2 begins', 'forward of block 1 1,1', 'block 2 is there', 'forward of block 2 2,2', 'heads is there'],
    ...['sums of heads begins'],
    ...['block 2 again begins', 'block 2 again is there', 'block 1 again begins', 'backward of block 2 2,2', 'sums 2 begins'],
    ...['block 1 again is there', 'block 0 again begins', 'backward of block 1 1,1', 'sums 2 is there', 'sums 1 begins'],
    ...['block 0 again is there', 'backward of block 0 0,0', 'sums 1 is there', 'sums 0 begins', 'sums 0 is there'],
    ...['sums of heads is there']
  ])
  assert.deepEqual(
    [...sums.keys()].sort(),
    [...[0, 1, 2].map(i => `backbone.blocks.${i}.norm1.weight`), 'dino_head.mlp.weight'],
    'every block and head has its sums'
  )
  dispose([...sums.values(), ...pieces.values()])
  assert.equal(counted(), before, 'nothing is left behind')
})

test('in bf16, linear layers of blocks travel in two bytes a number, all else in four, and gradients are added up in float32', async () => {
  await onTorch()
  const before = counted()
  const sent: string[] = []
  const log = (what: string, x: Tensor): void => {
    const type = torch().type(backend().handle(x))
    sent.push(`${what} ${type === scalarType.bfloat16 ? 'bf16' : type === scalarType.float32 ? 'fp32' : type}: ${x.size}`)
  }
  register('Dinov2BeginAllGather', x => (log('gather', x!), concat([x!, x!])), 'torch')
  register('Dinov2BeginAllToAll', x => (log('gradients', x!), x!.clone()), 'torch')
  register('Dinov2Wait', () => [], 'torch')
  const full: ParamMap = new Map([
    ['backbone.norm.weight', tensor([1, 1, 1, 1])],
    ['backbone.blocks.0.norm1.weight', tensor([1, 1])],
    ['backbone.blocks.0.attn.qkv.weight', tensor([[1, 1, 1, 1], [1, 1, 1, 1]])] // prettier-ignore
  ])
  const sharding = new Sharding(first, 'bf16', full)
  const pieces = sharding.shard(full)
  const sums: ParamMap = new Map()
  const lent = sharding.lend<{backbone: Vit}>(pieces, own => Sharding.addTo(sums, own))
  lent.access.use(0, () => undefined, undefined)
  const grads = [
    ['norm1.weight', tensor([256.5, 1.25])],
    ['attn.qkv.weight', tensor([[256, 256, 256, 256], [1, 1, 1, 1]])] // prettier-ignore
  ] as const
  lent.access.gradients(0, unflatten<Block>([...grads]))
  lent.dispose()
  assert.deepEqual(sent, ['gather fp32: 2', 'gather fp32: 1', 'gather bf16: 4', 'gradients fp32: 2', 'gradients bf16: 8'])
  const sumOf = (name: string): number[] => [...sums.get(`backbone.blocks.0.${name}`)!.dataSync<'float32'>()]
  assert.deepEqual(sumOf('norm1.weight'), [257.75])
  assert.deepEqual(sumOf('attn.qkv.weight'), [257, 257, 257, 257], 'bf16 holds 256 and 258, and not their mean')
  dispose([...sums.values(), ...pieces.values()])
  assert.equal(counted(), before, 'nothing is left behind')
})

test('what each process began with has a checksum, before it kept a piece of it and where a checkpoint is read', async () => {
  await onPlain()
  const name = 'backbone.norm.weight'
  const begun = (numbers: number[]) => {
    const full: ParamMap = new Map([[name, tensor(numbers)]])
    const sharding = new Sharding(first, 'fp32', full)
    const student = sharding.shard(full)
    const places = sharding.stateDictOf({student, teacher: new Map(student)})
    return {places, of: (group: string) => places.get(`${group}.${name}`)!.checksum!(), end: () => dispose([...student.values()])}
  }
  // Process 0 keeps the first half, which is the same in both; so is the norm.
  const [one, other] = [begun([1, 2, 3, 4]), begun([1, 2, 4, 3])]
  assert.match(one.of('student')!, /^[0-9a-f]{64}$/)
  assert.notEqual(one.of('student'), other.of('student'))
  assert.equal(one.of('teacher'), undefined, 'it follows from the student')
  one.places.get(`student.${name}`)!.put(tensor([1, 2, 4, 3]))
  assert.equal(one.of('student'), other.of('student'))
  for (const {end} of [one, other]) end()
})

test('pieces of 1, 3 and 4 processes are put together bit for bit, also where they do not divide a tensor', async () => {
  await onPlain()
  const bits = Uint32Array.from({length: 14}, (_, i) => 0x3f800001 + 977 * i)
  bits.set([0x80000000, 0x00000001, 0x7f7fffff], 3) // -0, the smallest and the largest number
  const whole = new Float32Array(bits.buffer)
  const name = 'backbone.norm.weight'
  for (const size of [1, 3, 4]) {
    const all = Array.from({length: size}, (_, rank) => {
      const full: ParamMap = new Map([[name, tensor(whole, [2, 7])]])
      const sharding = new Sharding({rank, size}, 'fp32', full)
      return {sharding, teacher: sharding.shard(full)}
    })
    let pieces: readonly Tensor[] = []
    register('Dinov2BeginAllGather', x => {
      assert.ok(pieces.some(piece => piece.shape.join() === x!.shape.join()))
      return concat([...pieces], 0)
    })
    register('Dinov2Wait', () => [])
    pieces = all.map(({teacher}) => teacher.get(name)!.reshape([1, -1]))
    for (const {sharding, teacher} of all) {
      const place = sharding.stateDictOf({teacher}).get(`teacher.${name}`)!
      assert.deepEqual(new Uint32Array(place.read!().slice().buffer), bits, `${size} processes`)
      assert.deepEqual(place.shape, [2, 7])
    }
    dispose([...pieces, ...all.map(({teacher}) => teacher.get(name)!)])
  }
})
