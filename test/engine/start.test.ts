/** Starting engines: what is chosen, what is refused, and that what starts computes. */
import assert from 'node:assert/strict'
import {mkdtempSync, readdirSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import EngineInstall from '../../commands/engine/install.js'
import {UserError} from '../../src/config/errors.js'
import {engineChoices} from '../../src/cli/flags.js'
import {describeEngines} from '../../src/engine/describe.js'
import {autoPrecision, type Engine} from '../../src/engine/engine.js'
import {cpuHasBf16} from '../../src/engine/machine.js'
import {engineOf, engines} from '../../src/engine/registry.js'
import {startEngine} from '../../src/engine/start.js'
import {planInstallation} from '../../src/tasks/engine/install.js'
import {
  conv2d,
  dispose,
  einsum,
  gather,
  grads,
  matMul,
  memory,
  mul,
  reshape,
  sum,
  tensor,
  tidy,
  unsortedSegmentSum
} from '../../src/tensor/tf.js'
import type {Tensor, Tensor2D, Tensor4D} from '../../src/tensor/tf.js'

const quiet = {note: () => undefined}
const refused = (code: string) => (error: UserError) =>
  error instanceof UserError && error.exit === 5 && error.code === code && Boolean(error.hint)

test('auto takes the first engine that is here and says so', async () => {
  const said: string[] = []
  const info = await startEngine({note: sentence => said.push(sentence)})
  const described = await describeEngines()
  assert.equal(info.engine, described.find(({available}) => available)?.engine)
  assert.match(said.join('\n'), new RegExp(`engine ${info.engine} .* on ${info.device}, ${info.precision}, ${info.threads} thread`))
  const product = tidy(() => matMul([[1, 2]], [[3], [4]]).arraySync())
  assert.deepEqual(product, [[11]])
})

test('what was asked for by name and is absent is an error of status 5', async () => {
  await assert.rejects(startEngine({engine: 'wasm', precision: 'bf16', ...quiet}), refused('NO_PRECISION'))
  await assert.rejects(startEngine({engine: 'wasm', device: 'cuda', ...quiet}), refused('NO_DEVICE'))
  await assert.rejects(startEngine({engine: 'torch', precision: 'int8', ...quiet}), refused('NO_PRECISION'))
  await assert.rejects(startEngine({engine: 'torch', device: 'cuda:99', ...quiet}), refused('NO_DEVICE'))
  const before = process.env['DINOV2_TORCH']
  process.env['DINOV2_TORCH'] = '/no/such/folder'
  try {
    await assert.rejects(startEngine({engine: 'torch', ...quiet}), refused('NO_ENGINE'))
    const [torch] = await describeEngines()
    assert.equal(torch?.available, false)
    assert.match(torch.reason ?? '', /\/no\/such\/folder/)
  } finally {
    if (before === undefined) delete process.env['DINOV2_TORCH']
    else process.env['DINOV2_TORCH'] = before
  }
})

test('bf16 is chosen where the device multiplies it and the engine knows it', () => {
  assert.equal(cpuHasBf16(new Set(['avx2', 'avx512_bf16'])), true)
  assert.equal(cpuHasBf16(new Set(['amx_bf16'])), true)
  assert.equal(cpuHasBf16(new Set(['avx2', 'avx512f'])), false)
  assert.equal(autoPrecision(engineOf('torch').precisions, {bf16: true}), 'bf16')
  assert.equal(autoPrecision(engineOf('torch').precisions, {bf16: false}), 'fp32')
  assert.equal(autoPrecision(engineOf('tensorflow').precisions, {bf16: true}), 'fp32')
})

test('flags offer the engines of the registry, and engine install those that are installed', () => {
  assert.deepEqual(engineChoices, ['auto', ...engines.map(({name}) => name)])
  assert.deepEqual(
    EngineInstall.args.engine.options,
    engines.flatMap(({name, installation}: Engine) => (installation ? [name] : []))
  )
})

test('engine install says what it would do, and does none of it', async () => {
  const data = process.env['XDG_DATA_HOME']
  const place = mkdtempSync(join(tmpdir(), 'dinov2-plan-'))
  process.env['XDG_DATA_HOME'] = place
  try {
    for (const {name, installation} of engines as readonly Engine[])
      if (!installation) await assert.rejects(planInstallation({engine: name as 'wasm', cuda: false, force: false}), /nothing to install/)
      else {
        const plan = (await planInstallation({engine: name as 'torch', cuda: true, force: true})).join('\n')
        assert.match(plan, new RegExp(`would go to ${place}.*: about .* to download`))
      }
    assert.deepEqual(readdirSync(place), [])
  } finally {
    if (data === undefined) delete process.env['XDG_DATA_HOME']
    else process.env['XDG_DATA_HOME'] = data
    rmSync(place, {recursive: true})
  }
})

/** Values whose gradients need kernels that the wasm backend lacks. */
async function lacking(): Promise<number[][]> {
  const before = memory().numTensors
  const found = tidy(() => {
    const table = tensor([1, 2, 3, 4, 5, 6], [3, 2]) as Tensor2D
    const image = tensor(
      Array.from({length: 18}, (_, i) => Math.sin(i)),
      [1, 3, 3, 2]
    ) as Tensor4D
    const filter = tensor(
      Array.from({length: 16}, (_, i) => Math.cos(i)),
      [2, 2, 2, 2]
    ) as Tensor4D
    const picked = grads((t: Tensor) => sum(mul(gather(t, tensor([0, 2, 2], [3], 'int32')), 3)))([table])
    const conv = grads((x: Tensor, f: Tensor) => sum(mul(conv2d(x as Tensor4D, f as Tensor4D, 1, 'same'), image)))([image, filter])
    const counted = unsortedSegmentSum(tensor([1, 2, 3], [3], 'int32'), tensor([0, 0, 1], [3], 'int32') as never, 2)
    const traced = einsum('ij,jk->ik', table, reshape(table, [2, 3]) as Tensor2D)
    return [...picked, ...conv, counted, traced]
  })
  const values = await Promise.all(found.map(async x => [...(await x.data())]))
  dispose(found)
  assert.equal(memory().numTensors, before)
  return values
}

test('wasm borrows the kernels that it lacks, and keeps nothing', async () => {
  await startEngine({engine: 'cpu', ...quiet})
  const plain = await lacking()
  const info = await startEngine({engine: 'wasm', ...quiet})
  assert.deepEqual([info.engine, info.threads, info.precision], ['wasm', 1, 'fp32'])
  const wasm = await lacking()
  for (const [i, values] of plain.entries()) for (const [j, value] of values.entries()) assert.ok(Math.abs(wasm[i]![j]! - value) < 1e-5)
})
