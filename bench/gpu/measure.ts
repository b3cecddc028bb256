/**
 * What one part of `bench/gpu/run.js` measures in a process of its own: features of pixels that lie in memory, or
 * steps of pretraining on noise. Prints one JSON line.
 *
 * usage: node dist/bench/gpu/measure.js embed|pretrain --recipe vits14 --size 224 --batch 64 --rounds 20
 *        [--device cuda] [--precision bf16] [--graphs]
 * `--graphs`: the pass of embed as a CUDA graph; whether one was recorded is said.
 */
import {parseArgs} from 'node:util'
import {derive} from '../../src/config/derived.js'
import {readLayers} from '../../src/config/read-layers.js'
import {resolveSettings} from '../../src/config/settings.js'
import {torch} from '../../src/engine/torch/binding.js'
import {startEngine} from '../../src/engine/start.js'
import {initVit} from '../../src/model/init.js'
import {castForInference, clsTokens} from '../../src/model/vit.js'
import {noteOnStderr} from '../../src/system/compile.js'
import {noiseBatches} from '../../src/tasks/train/cost-probe.js'
import {initState} from '../../src/tasks/train/pretrain-state.js'
import {pretrainTrainer} from '../../src/tasks/train/pretrain-trainer.js'
import {maskSettingsOf} from '../../src/tasks/train/training-batches.js'
import {normalizePixels} from '../../src/tensor/ops/patches.js'
import {repeatedPass} from '../../src/tensor/ops/recorded.js'
import {tidy, type Tensor4D} from '../../src/tensor/tf.js'

const {values, positionals} = parseArgs({
  allowPositionals: true,
  options: {
    recipe: {type: 'string', default: 'vits14'},
    set: {type: 'string', multiple: true, default: []},
    size: {type: 'string', default: '224'},
    batch: {type: 'string', default: '64'},
    rounds: {type: 'string', default: '20'},
    device: {type: 'string', default: 'auto'},
    precision: {type: 'string', default: 'auto'},
    graphs: {type: 'boolean', default: false}
  }
})
const [batch, size, rounds] = [values.batch, values.size, values.rounds].map(Number) as [number, number, number]
const sets = [...values.set, `train.batch_size_per_gpu=${batch}`]
const {settings} = resolveSettings(readLayers([values.recipe], sets, {flags: [], settings: true}).settings)
const plan = derive(settings)
if (values.graphs) process.env['DINOV2_CUDA_GRAPHS'] = '1'
const {device, precision} = await startEngine({
  engine: 'torch',
  device: values.device,
  precision: values.precision,
  note: () => undefined
})

/** Seconds of each round after some that warm up. */
async function timed(round: () => Promise<void>, warmUp = 2): Promise<number[]> {
  const seconds: number[] = []
  for (let i = -warmUp; i < rounds; i++) {
    torch().synchronize()
    const from = performance.now()
    await round()
    torch().synchronize()
    if (i >= 0) seconds.push((performance.now() - from) / 1000)
  }
  return seconds
}

let recorded = false

async function embed(): Promise<number[]> {
  const {params} = castForInference(initVit(plan.vit, 0, 1e-5), precision)
  const pixels = Uint8Array.from({length: batch * size * size * 3}, (_, i) => (i * 7919) % 251)
  const pass = repeatedPass('A pass', images => clsTokens(params, images as Tensor4D, plan.vit, precision), noteOnStderr)
  const seconds = await timed(
    async () => {
      const cls = tidy(() => pass.run(normalizePixels(pixels, [batch, size, size])))
      await cls.data()
      cls.dispose()
    },
    values.graphs ? 5 : 2
  )
  recorded = pass.recorded()
  return seconds
}

/** Steps that a GPU takes before they are read, as those of a run between two lines of metrics. */
const READ_TOGETHER = 4

async function pretrain(): Promise<number[]> {
  const worksAhead = device !== 'cpu'
  const learner = pretrainTrainer(await initState(settings, plan), {settings, plan, precision, worksAhead})
  const batches = noiseBatches(settings, batch, maskSettingsOf(settings, plan))
  if (!learner.ahead) return timed(async () => void learner.step((await batches.next()).value!))
  const {launch, settle} = learner.ahead
  const seconds = await timed(async () => {
    for (let i = 0; i < READ_TOGETHER; i++) launch((await batches.next()).value!)
    settle()
  })
  return seconds.map(all => all / READ_TOGETHER)
}

const work = {embed, pretrain}[positionals[0] ?? '']
if (!work) throw new Error(`expected embed or pretrain but received ${positionals[0]}`)
const seconds = (await work()).sort((a, b) => a - b)
const median = seconds[seconds.length >> 1]!
process.stdout.write(
  `${JSON.stringify({device, precision, batch, imagesPerSecond: batch / median, seconds: median, peakBytes: torch().memory().peak, recorded})}\n`
)
