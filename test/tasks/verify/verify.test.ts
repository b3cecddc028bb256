/**
 * Agreement with the recording that is committed, on torch and wasm (tensorflow: test/install); and that a falsified
 * recording does not pass.
 */
import assert from 'node:assert/strict'
import {copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, unlinkSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {defaultGolden, verify, type Check} from '../../../src/tasks/verify/verify.js'
import {memory} from '../../../src/tensor/tf.js'

const golden = defaultGolden()
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-verify-'))
after(() => rmSync(scratch, {recursive: true}))

async function all(folder: string, engine: 'torch' | 'wasm', precision?: string): Promise<Check[]> {
  const checks: Check[] = []
  for await (const check of verify({golden: folder, engine, note: () => undefined, ...(precision ? {precision} : {})})) checks.push(check)
  return checks
}
const failed = (checks: readonly Check[]): string[] =>
  checks.filter(({pass}) => !pass).map(({part, name, error, limit}) => `${part}: ${name} ${error} > ${limit}`)

test('torch agrees in fp32 and bf16, and leaves no tensor behind', async () => {
  const checks = await all(golden, 'torch')
  assert.deepEqual(failed(checks), [])
  assert.equal(memory().numTensors, 0)
  const judged = (measure: string): number => checks.filter(check => check.measure === measure && check.limit !== null).length
  // Three backbones, both training runs, every tensor of student and teacher: far more than a handful.
  assert.ok(
    judged('max') > 300 && judged('update') > 240 && judged('cosine') > 30,
    `${judged('max')} ${judged('update')} ${judged('cosine')}`
  )
})

test('wasm agrees', async () => assert.deepEqual(failed(await all(golden, 'wasm')), []))

type Lie = {file: string; change: (path: string) => void; fails: RegExp; /** Changes a whole run, and is changed alone. */ alone?: true}

/** The recording with some files changed; all others are links. */
function falsified(lies: readonly Lie[]): string {
  const folder = mkdtempSync(join(scratch, 'copy-'))
  for (const name of readdirSync(golden)) symlinkSync(join(golden, name), join(folder, name))
  for (const file of new Set(lies.map(lie => lie.file))) {
    unlinkSync(join(folder, file))
    copyFileSync(join(golden, file), join(folder, file))
  }
  for (const {file, change} of lies) change(join(folder, file))
  return folder
}

/** Changes one entry of one tensor. */
const entry =
  (name: string, index: number, change: (value: number) => number) =>
  (path: string): void => {
    const bytes = readFileSync(path)
    const length = Number(bytes.readBigUInt64LE(0))
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, {data_offsets: [number, number]}>
    const at = 8 + length + header[name]!.data_offsets[0] + 4 * index
    bytes.writeFloatLE(change(bytes.readFloatLE(at)), at)
    writeFileSync(path, bytes)
  }

type Index = {
  train: {config: {wd: number[]; momentum: number[]; lr: number[]}; steps: Record<string, number>[]}
  train_untied: {steps: Record<string, number>[]}
  param_groups: {wd_multiplier: number; lr_multiplier: number}[]
  schedule: {values: {lr: number[]}}
}
const json =
  (change: (index: Index) => void) =>
  (path: string): void => {
    const index = JSON.parse(readFileSync(path, 'utf8')) as Index
    change(index)
    writeFileSync(path, JSON.stringify(index))
  }

const lies: Readonly<Record<string, Lie>> = {
  'an output': {
    file: 'vit_plain_io.safetensors',
    change: entry('full.x_norm_patchtokens', 77, v => v + 0.001),
    fails: /^vit plain: full\.x_norm_patchtokens/
  },
  'a gradient': {
    file: 'vit_chunked_io.safetensors',
    change: entry('grad.blocks.0.1.attn.proj.weight', 9, v => v + 0.05),
    fails: /blocks\.1\.attn\.proj\.weight/
  },
  'a weight': {
    file: 'vit_reg4_swiglu.safetensors',
    change: entry('blocks.2.mlp.w3.weight', 9, v => v + 0.01),
    fails: /^vit reg4_swiglu: weights/
  },
  'a weight of the head': {file: 'dino_head.safetensors', change: entry('mlp.2.weight', 9, v => v + 0.01), fails: /^head: head\.y/},
  'a loss': {file: 'losses.safetensors', change: entry('koleo.loss', 0, v => v * 1.0001), fails: /^koleo: koleo\.loss/},
  'a Sinkhorn target': {file: 'losses.safetensors', change: entry('sinkhorn.out_temp0.05_iter3', 100, v => v + 1e-4), fails: /^sinkhorn/},
  'a constant weight decay': {
    file: 'golden.json',
    change: json(index => index.train.config.wd.fill(0.04)),
    fails: /^train: student\..* /,
    alone: true
  },
  'a momentum': {
    file: 'golden.json',
    change: json(index => (index.train.config.momentum[1] = 0.9)),
    fails: /^train: teacher\./,
    alone: true
  },
  'a decay multiplier': {
    file: 'golden.json',
    change: json(index => (index.param_groups[5]!.wd_multiplier = 1)),
    fails: /^groups train: wd_multiplier/
  },
  'a scheduled rate': {file: 'golden.json', change: json(index => (index.schedule.values.lr[5]! *= 1.0001)), fails: /^schedule: lr/},
  'a recorded step': {
    file: 'golden.json',
    change: json(index => (index.train_untied.steps[2]!['ibot']! *= 1.0001)),
    fails: /^train_untied step 3: ibot/
  },
  'an end of training': {
    file: 'train_final.safetensors',
    change: entry('student.backbone.norm.weight', 3, v => v + 0.0005),
    fails: /^train: student\.backbone\.norm\.weight/
  },
  'a centre': {
    file: 'train_untied_final.safetensors',
    change: entry('center.ibot', 3, v => v + 0.01),
    fails: /^train_untied: center\.ibot/
  },
  'a crop': {file: 'train_batches.safetensors', change: entry('1.global', 300, v => v + 5), fails: /^train step 2: /, alone: true}
}

const named = Object.entries(lies)
for (const reported of [named.filter(([, {alone}]) => !alone), ...named.filter(([, {alone}]) => alone).map(lie => [lie])])
  test(`falsified: ${reported.map(([what]) => what).join(', ')}`, async () => {
    const found = failed(await all(falsified(reported.map(([, lie]) => lie)), 'torch', 'fp32'))
    for (const [what, {fails}] of reported)
      assert.ok(
        found.some(line => fails.test(line)),
        `${what} passed; what failed: ${found.join('; ')}`
      )
  })

test('a folder without a recording is refused', async () => {
  await assert.rejects(all(scratch, 'torch'), {exit: 3, code: 'NO_INPUT'})
})
