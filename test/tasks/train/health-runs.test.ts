/** Warnings about learning, each brought about by settings through the binary that users run. */
import assert from 'node:assert/strict'
import {readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {folder, realBinary, run, type Ended} from '../../support/program.js'
import {drawStripes} from '../../support/stripes.js'

const root = folder()
const recipe = `
dino: {head_n_prototypes: 32, head_bottleneck_dim: 16, head_hidden_dim: 32}
train: {batch_size_per_gpu: 8, steps: 60, OFFICIAL_EPOCH_LENGTH: 10, centering: sinkhorn_knopp, workers: 1, log_every: 2}
student: {arch: custom, embed_dim: 32, depth: 2, num_heads: 2, patch_size: 8, drop_path_rate: 0.2, layerscale: 1.0}
teacher: {momentum_teacher: 0.98, warmup_teacher_temp: 0.04, teacher_temp: 0.04, warmup_teacher_temp_epochs: 0}
optim: {epochs: 6, warmup_epochs: 1, base_lr: 0.02, layerwise_decay: 1.0, patch_embed_lr_mult: 1.0, weight_decay_end: 0.04}
crops: {local_crops_number: 2, global_crops_size: 32, local_crops_size: 16}
`

before(async () => {
  writeFileSync(join(root, 'recipe.yaml'), recipe)
  await drawStripes(join(root, 'pictures'))
})

const pretrain = (name: string, ...settings: string[]): Promise<Ended> =>
  run(realBinary, [
    ...['pretrain', join(root, 'pictures'), '--config', join(root, 'recipe.yaml'), '-o', join(root, name), '--engine', 'torch'],
    ...['--device', 'cpu', '--precision', 'fp32', '--threads', '1', ...settings.flatMap(setting => ['--set', setting])]
  ])

const lastLine = (name: string): Record<string, number> =>
  JSON.parse(
    readFileSync(join(root, name, 'metrics.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .at(-1)!
  ) as Record<string, number>

test('targets of too high a temperature, and a loss that hardly leaves a uniform guess, name what to change', async () => {
  const {status, stderr} = await pretrain('warm')
  assert.equal(status, 0, stderr)
  assert.match(stderr, /warning: step \d+: the targets of the teacher say little: their entropy is \d\d % .* lower teacher\.teacher_temp/)
  assert.match(stderr, /warning: step \d+: little is learned: late in the run .* raise optim\.base_lr or lower teacher\.teacher_temp/)
  assert.match(stderr, /after 60 steps\. not collapsed, but the targets of the teacher say little/)
  const {feature_rank, prototype_use} = lastLine('warm')
  assert.ok(feature_rank! > 0.3 && feature_rank! <= 1, `rank ${feature_rank}`)
  assert.ok(prototype_use! > 0.2 && prototype_use! < 1.5, `use ${prototype_use}`)
})

test('a colder teacher has targets of lower entropy', async () => {
  const {status, stderr} = await pretrain('cold', 'teacher.teacher_temp=0.004', 'teacher.warmup_teacher_temp=0.004')
  assert.equal(status, 0, stderr)
  assert.doesNotMatch(stderr, /the targets of the teacher say little/)
})

test('features that shrink to one direction are called a collapse, by rank and by prototypes', async () => {
  const decay = ['optim.weight_decay=100', 'optim.weight_decay_end=100', 'dino.koleo_loss_weight=0', 'optim.base_lr=0.05']
  const {status, stderr} = await pretrain('collapsed', ...decay, 'teacher.momentum_teacher=0.5')
  assert.equal(status, 6, stderr)
  assert.match(stderr, /the features of the teacher lie almost on one line: .* raise dino\.koleo_loss_weight/)
  assert.match(stderr, /almost all images fall on the same prototypes: .* train\.centering=sinkhorn_knopp/)
  const {feature_rank, prototype_use} = lastLine('collapsed')
  assert.ok(feature_rank! < 0.01 && prototype_use! < 0.01)
})
