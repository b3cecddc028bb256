/**
 * Pretraining and distillation on the simulated device, in one process and in several: a step makes no copy to the
 * host, few to the device, and all steps are read in one; float16 takes the same steps from any loss scale, on which
 * all processes agree.
 */
import assert from 'node:assert/strict'
import {fileURLToPath} from 'node:url'
import {before, test} from 'node:test'
import {startTogether} from '../support/processes.js'
import {simAddon} from '../support/sim.js'
import {simSteps, type SimRequest, type SimSteps} from '../support/sim-steps.js'

const program = fileURLToPath(new URL('../support/sim-steps.js', import.meta.url))
let addon: string
before(async () => {
  addon = await simAddon()
})

/** Steps of two processes, which end together. */
async function together(request: SimRequest): Promise<SimSteps[]> {
  const {ended} = await startTogether(
    2,
    () => [JSON.stringify(request)],
    {DINOV2_TEST_SIM: addon, OMP_NUM_THREADS: '1'},
    () => program
  )
  return (await ended).map(({status, stdout, stderr}) => {
    assert.equal(status, 0, stderr)
    return JSON.parse(stdout.trim().split('\n').at(-1)!) as SimSteps
  })
}

/** What a step may cost when all that stays on the device is there: all but the first. */
function assertCheap({steps, left}: SimSteps, toDevice = 3): void {
  for (const step of steps.slice(1)) {
    assert.equal(step.toHost, 0, JSON.stringify(steps))
    assert.ok(step.toDevice <= toDevice, JSON.stringify(steps))
  }
  assert.deepEqual(left, [0, 0])
}

const near = (found: readonly number[], expected: readonly number[], within: number): void => {
  assert.equal(found.length, expected.length)
  found.forEach((value, i) => assert.ok(Math.abs(value / expected[i]! - 1) < within, `${value}, expected ${expected[i]}`))
}

/** A loss scale with which gradients overflow, two or three times too large. */
const tooLarge = {pretrain: 2 ** 8, heads: 2 ** 9, features: 2 ** 15} as const
/** Roundings of float16 tip over where float32 differs in its last digit. */
const asHalf = {losses: 1e-3, norms: 2e-2}

for (const kind of ['pretrain', 'heads', 'features'] as const)
  test(`${kind}: nothing is read in a step, and float16 takes the steps of float32 whatever its scale`, async () => {
    const single = await simSteps({kind, precision: 'fp32', ahead: false})
    const together = await simSteps({kind, precision: 'fp32', ahead: true})
    assertCheap(together)
    assert.equal(together.reading, 1)
    near(together.losses, single.losses, 1e-5)
    near(together.norms, single.norms, 1e-4)
    const large = await simSteps({kind, precision: 'fp16', ahead: true, scale: tooLarge[kind]})
    assertCheap(large)
    assert.ok(large.reading > 1 && large.scale! < tooLarge[kind], 'steps that overflow are launched and read again')
    near(large.losses, single.losses, 5e-3)
    near(large.norms, single.norms, 3e-2)
    const oneByOne = await simSteps({kind, precision: 'fp16', ahead: false, scale: tooLarge[kind]})
    assert.equal(large.scale, oneByOne.scale)
    near(large.losses, oneByOne.losses, asHalf.losses)
    near(large.norms, oneByOne.norms, asHalf.norms)
  })

for (const [kind, parallel] of [
  ['pretrain', 'ddp'],
  ['features', 'fsdp']
] as const)
  test(`${kind} in two processes (${parallel}): nothing is read in a step, and both keep one loss scale`, async () => {
    const request = {kind, parallel, precision: 'fp16', scale: tooLarge[kind]} as const
    const [first, second] = await together({...request, ahead: true})
    for (const one of [first!, second!]) assertCheap(one, 12) // what fsdp gathers is sent in pieces
    assert.ok(first!.scale! < tooLarge[kind])
    assert.deepEqual([second!.scale, second!.losses, second!.norms], [first!.scale, first!.losses, first!.norms])
    const [oneByOne] = await together({...request, ahead: false})
    assert.equal(oneByOne!.scale, first!.scale)
    near(first!.losses, oneByOne!.losses, asHalf.losses)
    near(first!.norms, oneByOne!.norms, asHalf.norms)
  })
