/**
 * One step of `dinov2 distill` beside a PyTorch loop of the same with the reference's modules: images a second and
 * memory, on this machine; and what students side by side save.
 *
 * usage: REF=… PYTHON=… node dist/bench/distill.js [--teacher b] [--student s] [--batch 4] [--prototypes 16384]
 * [--precision bf16] [--repeats 3] [--steps 3] [--peer bf16|fp32|none]
 *        [--memory fast|balanced|small] [--students 2] [--threads N]
 * REF is a checkout of facebookresearch/dinov2. Random weights and pixels, 2 × 224 px and 8 × 98 px an image; separate
 * heads for DINO and iBOT; the patch loss on all patches, Sinkhorn–Knopp, KoLeo, clipping, AdamW, the average of the
 * student. Each repeat is a process of its own, ours and the peer's by turns; the first step is left out. With
 * `--students` a further row: so many equal students in one process, from one pass of the teacher; its images a second
 * are those that each student sees. Memory is the peak of the process, Node or Python included.
 */
import {execFileSync} from 'node:child_process'
import {readFileSync} from 'node:fs'
import {availableParallelism, cpus} from 'node:os'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {startEngine} from '../src/engine/start.js'
import type {VitConfig} from '../src/model/config.js'
import {initHead, initVit} from '../src/model/init.js'
import {castForInference} from '../src/model/vit.js'
import type {ParamMap} from '../src/optim/adamw.js'
import {TeacherTargetCache} from '../src/tasks/train/teacher.js'
import type {Teacher} from '../src/tasks/train/teacher.js'
import {withAllPatchesInLoss} from '../src/tasks/train/batch-parts.js'
import {castHead} from '../src/tasks/train/teacher-targets.js'
import {trainStep} from '../src/tasks/train/train-step.js'
import type {StepBatch} from '../src/tasks/train/batch-parts.js'
import type {StepSettings, TrainState} from '../src/tasks/train/step-types.js'
import {dispose, randomNormal, tidy, zeros, zerosLike} from '../src/tensor/tf.js'
import type {Tensor, Tensor2D} from '../src/tensor/tf.js'
import {flatten} from '../src/tensor/tree.js'

const {values} = parseArgs({
  options: {
    teacher: {type: 'string', default: 'b'},
    student: {type: 'string', default: 's'},
    batch: {type: 'string', default: '4'},
    prototypes: {type: 'string', default: '16384'},
    precision: {type: 'string', default: 'bf16'},
    peer: {type: 'string', default: 'bf16'},
    memory: {type: 'string', default: 'fast'},
    repeats: {type: 'string', default: '3'},
    steps: {type: 'string', default: '3'},
    students: {type: 'string', default: '2'},
    threads: {type: 'string', default: String(availableParallelism())},
    worker: {type: 'string'}
  }
})

const sizes = {s: [384, 12, 6], b: [768, 12, 12], l: [1024, 24, 16]} as const
const vitOf = (arch: keyof typeof sizes): VitConfig => {
  const [width, depth, heads] = sizes[arch]
  return {
    ...{width, depth, heads, patch: 14, ffn: 'mlp', hidden: 4 * width, registers: 0, grid: 16, layerScale: true},
    ...{interpolateOffset: 0.1, interpolateAntialias: false}
  }
}

type Measured = {seconds: number[]; cpu: number[]; peak: number}
const [B, K, steps] = [Number(values.batch), Number(values.prototypes), Number(values.steps)]

/** A frozen teacher with random weights; float32 is let go as soon as its copy is there. */
function teacherOf(vit: VitConfig, precision: 'bf16' | 'fp32'): Teacher {
  const masters = initVit(vit, 1)
  const {params} = castForInference(masters, precision)
  const kept = new Set<Tensor>(flatten(params).values())
  dispose([...flatten(masters).values()].filter(leaf => !kept.has(leaf)))
  const size = (bottleneck: number) => ({layers: 3, hidden: 2048, bottleneck, prototypes: K})
  const copyOf = (name: string) => {
    const head = initHead({width: vit.width, ...size(256)}, 1, name)
    const copy = castHead(head, precision)
    dispose([...flatten({head}).values()])
    return copy
  }
  return {
    ...{path: 'random', vit, parameters: 0, bytes: () => 0, precision, fingerprint: '', backbone: params},
    heads: {dino_head: size(256), ibot_head: size(256)},
    copies: {dino: copyOf('dino_head'), ibot: copyOf('ibot_head')},
    dispose: () => undefined
  }
}

function studentOf(vit: VitConfig, seed: number): TrainState {
  const head = (name: string) => initHead({width: vit.width, hidden: 2048, bottleneck: 256, prototypes: K, layers: 3}, seed, name)
  const student = flatten({backbone: initVit(vit, seed), dino_head: head('dino_head'), ibot_head: head('ibot_head')})
  const copy = (make: (x: Tensor) => Tensor): ParamMap => new Map([...student].map(([name, leaf]) => [name, make(leaf)]))
  return {student, teacher: copy(leaf => tidy(() => leaf.add(0))), moments: {m: copy(zerosLike), v: copy(zerosLike)}, step: 0}
}

/** Takes steps with `count` students from one teacher. */
async function own(count: number): Promise<Measured> {
  const precision = values.precision as 'bf16' | 'fp32'
  await startEngine({engine: 'torch', device: 'cpu', precision, threads: Number(values.threads), note: () => undefined})
  const vit = vitOf(values.student as 's')
  const teacher = teacherOf(vitOf(values.teacher as 'b'), precision)
  const states = Array.from({length: count}, (_, i) => studentOf(vit, 2 + i))
  const bare = {
    globals: randomNormal([2 * B, 224, 224, 3], 0, 1, 'float32', 1),
    locals: randomNormal([8 * B, 98, 98, 3], 0, 1, 'float32', 2),
    masks: zeros([2 * B, 256]) as Tensor2D,
    indices: new Int32Array(0),
    weights: new Float32Array(0)
  }
  const batch = withAllPatchesInLoss(bare, 2 * B, 256) as StepBatch
  const settings: StepSettings = {
    ...{vit, precision, centering: 'sinkhorn_knopp', dinoWeight: 1, ibotWeight: 1, regularizers: {koleo: 0.1}, studentTemp: 0.1},
    ...{dropPath: [], memory: values.memory as 'fast', clipGrad: 3, betas: [0.9, 0.999], eps: 1e-8},
    rules: {depth: vit.depth, layerwiseDecay: 1, patchEmbedLrMult: 0.2}
  }
  const rates = {lr: 1e-4, lastLayerLr: 1e-4, wd: 0.04, momentum: 0.99, teacherTemp: 0.05}
  const cache = new TeacherTargetCache(
    teacher,
    states.map(() => 16),
    224
  )
  const found: Measured = {seconds: [], cpu: [], peak: 0}
  for (let step = 0; step <= steps; step++) {
    const [begun, before] = [performance.now(), process.cpuUsage()]
    for (const [i, state] of states.entries())
      states[i] = trainStep(state, batch, rates, settings, undefined, (parts, widths) =>
        cache.targets(step, parts, 16, widths, rates, settings)
      ).state
    const {user, system} = process.cpuUsage(before)
    if (step === 0) continue
    found.seconds.push((performance.now() - begun) / 1e3)
    found.cpu.push((user + system) / 1e6)
  }
  found.peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) / 2 ** 20
  return found
}

const last = (text: string): Measured => JSON.parse(text.trim().split('\n').at(-1)!) as Measured

function ours(count: number): Measured {
  const same = ['teacher', 'student', 'batch', 'prototypes', 'precision', 'memory', 'steps', 'threads'] as const
  const args = [process.argv[1]!, '--worker', String(count), ...same.flatMap(key => [`--${key}`, values[key]])]
  return last(execFileSync(process.execPath, args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit']}))
}

function peer(): Measured {
  const file = fileURLToPath(new URL('../../bench/peers/distill.py', import.meta.url))
  const args = ['-W', 'ignore', file, values.peer, values.batch, values.teacher, values.student, values.prototypes, values.steps]
  const env = {...process.env, THREADS: values.threads}
  return last(execFileSync(process.env['PYTHON'] ?? 'python3', args, {encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], env}))
}

if (values.worker) console.log(JSON.stringify(await own(Number(values.worker))))
else {
  if (values.peer !== 'none' && !process.env['REF'])
    throw new Error('name a checkout of facebookresearch/dinov2 in REF, or leave the peer out with --peer none')
  const rows = new Map<string, Measured>()
  const count = Number(values.students)
  const note = (name: string, {seconds, cpu, peak}: Measured): void => {
    const row = rows.get(name) ?? {seconds: [], cpu: [], peak: 0}
    rows.set(name, {seconds: [...row.seconds, ...seconds], cpu: [...row.cpu, ...cpu], peak: Math.max(row.peak, peak)})
    console.error(`${name}: ${seconds.map(s => s.toFixed(2)).join(' ')} s, peak ${peak.toFixed(2)} GiB`)
  }
  const [one, several, theirs] = [
    `dinov2 ${values.precision}, ${values.memory}`,
    `dinov2, ${count} students side by side`,
    `PyTorch ${values.peer}`
  ]
  for (let repeat = 0; repeat < Number(values.repeats); repeat++) {
    const jobs = [
      () => note(one, ours(1)),
      ...(values.peer === 'none' ? [] : [() => note(theirs, peer())]),
      ...(count > 1 ? [() => note(several, ours(count))] : [])
    ]
    for (const job of repeat % 2 ? jobs.reverse() : jobs) job()
  }
  const sorted = (row: Measured): number[] => [...row.seconds].sort((a, b) => a - b)
  const best = (row: Measured): number => B / sorted(row)[0]!
  const median = (row: Measured): number => B / sorted(row)[Math.floor(row.seconds.length / 2)]!
  const mine = rows.get(one)!
  console.log(`${cpus()[0]?.model}, ${values.threads} threads, node ${process.version}`)
  console.log(
    `ViT-${values.teacher.toUpperCase()}/14 teaches ViT-${values.student.toUpperCase()}/14, batch ${B}, 2×224 + 8×98, K = ${K} in each of two heads\n`
  )
  console.log('| | images/s, best | median | ours is (best / median) | CPU s a step | peak GiB |\n| --- | --- | --- | --- | --- | --- |')
  for (const [name, row] of rows) {
    const ratio = name === theirs ? `${(best(mine) / best(row)).toFixed(2)} × / ${(median(mine) / median(row)).toFixed(2)} ×` : ''
    console.log(
      `| ${name} | ${best(row).toFixed(2)} | ${median(row).toFixed(2)} | ${ratio} | ${Math.min(...row.cpu).toFixed(2)} | ${row.peak.toFixed(2)} |`
    )
  }
  const together = rows.get(several)
  if (together)
    console.log(
      `\n${count} students one after the other would take ${count} × ${Math.min(...mine.cpu).toFixed(2)} CPU seconds a step; side by side they take ${Math.min(...together.cpu).toFixed(2)}: ` +
        `${(100 * (1 - Math.min(...together.cpu) / (count * Math.min(...mine.cpu)))).toFixed(0)} % less.`
    )
}
