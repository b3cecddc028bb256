/**
 * Everything that is to be known of a GPU, in parts of at most eight minutes a command: the addon is compiled,
 * operators and recorded tensors are checked, and embedding, pretraining and distillation are timed. Prints a table,
 * and with `--append` adds it to bench/RESULTS.md.
 *
 * usage: [REF=…] node dist/bench/gpu/run.js [--device cuda] [--images FOLDER] [--python PYTHON] [--toy] [--append]
 *        [--parts build,conformance,verify,embed,pretrain,distill]
 * PYTHON has a torch that sees the GPU (by default the one whose libtorch is used): embedding is timed beside it,
 * compiled, on the same sizes, and pretraining beside the same step with flash attention, by the modules of a checkout
 * of facebookresearch/dinov2 that REF names, else by the same modules of our own. FOLDER holds JPEG files: features of
 * files are timed too. `--toy` takes the same way in seconds with the smallest sizes, for tests on a CPU. What could
 * not be measured is said in its row.
 */
import {spawn} from 'node:child_process'
import {appendFileSync, mkdtempSync, readFileSync, rmSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'
import {derive} from '../../src/config/derived.js'
import {readLayers, resolveFile} from '../../src/config/read-layers.js'
import {resolveSettings} from '../../src/config/settings.js'
import {findTorch} from '../../src/engine/torch/find.js'

const {values} = parseArgs({
  options: {
    device: {type: 'string', default: 'cuda'},
    parts: {type: 'string', default: 'build,conformance,verify,embed,pretrain,distill'},
    images: {type: 'string'},
    python: {type: 'string'},
    toy: {type: 'boolean', default: false},
    append: {type: 'boolean', default: false}
  }
})
const {device, toy} = values
const MINUTES = 8
const root = fileURLToPath(new URL('../../../', import.meta.url))
const at = (path: string): string => join(root, path)
const scratch = mkdtempSync(join(tmpdir(), 'dinov2-bench-gpu-'))
const onGpu = device.startsWith('cuda')

type Row = readonly [part: string, what: string, ours: string, beside: string, aim?: string]
const rows: Row[] = []
const add = (...row: Row): void => {
  rows.push(row)
  process.stderr.write(`${row.join(' · ')}\n`)
}

type Ended = {readonly status: number | null; readonly stdout: string; readonly last: string; readonly seconds: number}

/** Runs a command to its end, or to that of its eight minutes. */
function run(program: string, args: readonly string[]): Promise<Ended> {
  const from = performance.now()
  const child = spawn(program, args, {cwd: root, stdio: ['ignore', 'pipe', 'pipe'], timeout: MINUTES * 60_000})
  let [stdout, all] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => ((stdout += text), (all += text)))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (all += text))
  return new Promise(done => {
    const end = (status: number | null, why?: string): void =>
      done({status, stdout, last: why ?? all.trim().split('\n').at(-1) ?? '', seconds: (performance.now() - from) / 1000})
    child.on('error', ({message}) => end(null, message))
    child.on('close', status => end(status, status === null ? `ended after ${MINUTES} minutes or by a signal` : undefined))
  })
}
const node = (...args: string[]): Promise<Ended> => run(process.execPath, args)
const program = (...args: string[]): Promise<Ended> => node(at('bin/run.js'), ...args, '--engine', 'torch', '--device', device)

/** Share of time that the GPU was busy while `work` ran, by its own tool; undefined where there is none. */
async function busyWhile<T>(work: Promise<T>): Promise<{result: T; busy: number | undefined}> {
  if (!onGpu) return {result: await work, busy: undefined}
  const child = spawn('nvidia-smi', ['--query-gpu=utilization.gpu', '--format=csv,noheader,nounits', '-lms', '250'])
  let text = ''
  child.on('error', () => undefined)
  child.stdout.setEncoding('utf8').on('data', (more: string) => (text += more))
  const result = await work
  child.kill()
  const shares = text
    .split('\n')
    .filter(Boolean)
    .map(Number)
    .filter(share => share > 0)
  return {result, busy: shares.length > 0 ? shares.sort((a, b) => a - b)[shares.length >> 1]! / 100 : undefined}
}

/** Whether an aim is met, in words. */
const aim = (what: string, reached: number | undefined, least: number, show: (value: number) => string): string =>
  reached === undefined ? `${what}: not measured` : `${what}: ${show(reached)}, ${reached >= least ? 'met' : 'missed'}`
const times = (value: number): string => `${value.toFixed(2)} times`
const percent = (value: number): string => `${Math.round(100 * value)} %`

type Measured = {imagesPerSecond: number; peakBytes: number | null; precision?: string; recorded?: boolean}
const words = ({imagesPerSecond, peakBytes}: Measured, busy?: number): string =>
  [
    `${imagesPerSecond.toPrecision(3)} images/s`,
    ...(peakBytes ? [`${(peakBytes / 2 ** 30).toFixed(2)} GiB`] : []),
    ...(busy === undefined ? [] : [`busy ${Math.round(100 * busy)} %`])
  ].join(', ')
const measured = ({status, stdout}: Ended): Measured | undefined =>
  status === 0 ? (JSON.parse(stdout.trim().split('\n').at(-1)!) as Measured) : undefined

const archs = toy ? [['toy', 'small']] : [['ViT-S', 'vits14'], ['ViT-B', 'vitb14'], ['ViT-L', 'vitl14'], ['ViT-g', 'vitg14']] // prettier-ignore
const {python, root: torchRoot} = await findTorch()
const peer = values.python ?? python

const parts: Record<string, () => Promise<void>> = {
  async build() {
    const {status, last, seconds} = await program(
      'engine',
      'verify',
      '--precision',
      toy ? 'bf16' : 'fp32',
      '--json',
      ...(toy ? ['--golden', 'test/golden'] : [])
    )
    add(
      'build',
      `libtorch of ${torchRoot}: compiled where it was not, started, verified`,
      status === 0 ? `${seconds.toFixed(0)} s` : last,
      ''
    )
  },
  async conformance() {
    const {status, last} = await node(
      at('dist/test/conformance/run.js'),
      '--device',
      device,
      ...(toy ? ['--only', '(^|/)mat_mul_test'] : [])
    )
    add('conformance', "TensorFlow.js's operator suites", status === 0 ? last : `failed: ${last}`, '')
  },
  async verify() {
    for (const precision of toy ? ['bf16'] : ['fp32', 'tf32', 'bf16', 'fp16']) {
      if (!onGpu && (precision === 'tf32' || precision === 'fp16')) continue // a processor refuses them
      const {status, last} = await program('engine', 'verify', '--golden', 'test/golden', '--precision', precision)
      add('verify', `recorded tensors, ${precision}`, status === 0 ? last : `failed: ${last}`, '')
    }
  },
  async embed() {
    for (const [name, recipe] of archs) for (const size of toy ? [48] : [224, 518]) await embedOne(name!, recipe!, size)
    if (!values.images) return add('embed', 'files to features', 'not measured: name a folder of JPEG files by --images', '')
    const files = await program('embed', values.images, '--model', 'starter', '-o', join(scratch, 'x.npy'))
    add('embed', `files to features, ${values.images}, starter`, files.last, '')
  },
  async pretrain() {
    for (const [name, recipe] of archs.slice(0, 3)) {
      const batch = toy ? 2 : ({vits14: 64, vitb14: 32}[recipe!] ?? 16)
      const args = ['--recipe', recipe!, '--batch', String(batch), '--rounds', toy ? '1' : '10', '--device', device]
      for (const setting of pretrainSets) args.push('--set', setting)
      const {result, busy} = await busyWhile(node(at('dist/bench/gpu/measure.js'), 'pretrain', ...args))
      const found = measured(result)
      const other = await pretrainPeer(recipe!, batch, found?.precision ?? 'fp32')
      add(
        'pretrain',
        `${name}, batch ${batch}`,
        found ? `${words(found, busy)} (${found.precision})` : `failed: ${result.last}`,
        beside(other),
        [
          aim('at least 1.3 times PyTorch', found && other.found && found.imagesPerSecond / other.found.imagesPerSecond, 1.3, times),
          aim('half its memory', found?.peakBytes && other.found?.peakBytes ? other.found.peakBytes / found.peakBytes : undefined, 2, one =>
            percent(1 / one)
          ),
          aim('GPU busy at least 90 %', busy, 0.9, percent)
        ].join('; ')
      )
    }
  },
  async distill() {
    const [pictures, teacher, student] = ['pictures', 'teacher', 'student'].map(name => join(scratch, name)) as [string, string, string]
    const few = toy ? [...TOY, 'train.batch_size_per_gpu=2'].flatMap(setting => ['--set', setting]) : []
    const steps = (n: number): string[] => ['--set', `train.steps=${n}`, '--set', 'train.log_every=1']
    const begun = [
      await node(
        at('bin/run.js'),
        'samples',
        'draw',
        '-o',
        pictures,
        '--per-class',
        toy ? '1' : '20',
        '--val-per-class',
        '1',
        '--size',
        '64'
      ),
      await program('pretrain', pictures, '--config', toy ? 'small' : 'vitb14', ...few, ...steps(1), '-o', teacher),
      await program(
        'distill',
        pictures,
        '--teacher',
        teacher,
        '--config',
        toy ? 'distill-small' : 'distill-vits14',
        ...few,
        ...steps(toy ? 1 : 20),
        '-o',
        student
      )
    ]
    const failed = begun.find(({status}) => status !== 0 && status !== 6)
    const lines = failed ? [] : readFileSync(join(student, 'timings.jsonl'), 'utf8').trim().split('\n')
    const speed = (JSON.parse(lines.at(-1) ?? '{}') as {images_per_second?: number}).images_per_second
    add(
      'distill',
      toy ? 'toy' : 'ViT-B teaches ViT-S, files on the disk',
      failed ? `failed: ${failed.last}` : `${speed?.toPrecision(3)} images/s`,
      ''
    )
  }
}

/** What a peer in PyTorch reached, or why nothing is known of it. */
type Peer = {readonly found: Measured | undefined; readonly busy?: number | undefined; readonly why: string}
const beside = ({found, busy, why}: Peer): string => (found ? words(found, busy) : `not measured: ${why}`)

async function askPeer(...args: string[]): Promise<Peer> {
  if (!peer) return {found: undefined, why: 'no Python with torch'}
  const {result, busy} = await busyWhile(run(peer, args))
  return {found: measured(result), busy, why: result.last}
}

/** What the recipes of both sides have in common: one head, and plain layers after attention. */
const ALIKE = ['ibot.separate_head=false', 'student.ffn_layer=mlp']
/** What is small enough to show the way, of the recipe `small`. */
const TOY = ['student.depth=1', 'dino.head_n_prototypes=64', 'dino.head_hidden_dim=64', 'crops.local_crops_number=2']
const settingsFor = (recipe: string) => resolveSettings(readLayers([recipe], pretrainSets, {flags: [], settings: true}).settings).settings
const pretrainSets = [...ALIKE, ...(toy ? TOY : [])]

/** The same step of pretraining in PyTorch: by the reference's modules where REF names them, else by our own. */
function pretrainPeer(recipe: string, batch: number, precision: string): Promise<Peer> {
  const settings = settingsFor(recipe)
  const {vit} = derive(settings)
  const {crops, dino, student} = settings
  const shape = {
    width: vit.width,
    depth: vit.depth,
    heads: vit.heads,
    patch: vit.patch,
    side: crops.global_crops_size,
    locals: crops.local_crops_number,
    local_side: crops.local_crops_size,
    hidden: dino.head_hidden_dim,
    bottleneck: dino.head_bottleneck_dim,
    drop_path: student.drop_path_rate
  }
  const numbers = [precision, batch, recipe, dino.head_n_prototypes, toy ? 1 : 20].map(String)
  return askPeer(at('bench/peers/pretrain.py'), ...numbers, device, JSON.stringify(shape))
}

/** Batches of `embed` from pixels in memory: plain, on a GPU also as graphs, and compiled in PyTorch. */
async function embedOne(name: string, recipe: string, size: number): Promise<void> {
  const {vit} = derive(resolveFile(recipe).settings)
  const batch = toy ? 2 : Math.max(4, Math.floor((32_768 / (size / vit.patch) ** 2) * (recipe === 'vitg14' ? 0.5 : 1)))
  const rounds = toy ? 1 : 20
  const what = `${name}, ${size} px, batch ${batch}, pixels to cls`
  const args = ['--recipe', recipe, '--size', String(size), '--batch', String(batch), '--rounds', String(rounds), '--device', device]
  const {result, busy} = await busyWhile(node(at('dist/bench/gpu/measure.js'), 'embed', ...args))
  const found = measured(result)
  const shape = [vit.width, vit.depth, vit.heads, vit.patch, size, batch, rounds].map(String)
  const other = await askPeer(at('bench/gpu/peer.py'), ...shape, device, found?.precision ?? 'fp32')
  const aimOf = (ours: Measured | undefined): string =>
    aim('at least PyTorch, compiled', ours && other.found && ours.imagesPerSecond / other.found.imagesPerSecond, 1, times)
  add('embed', what, found ? `${words(found, busy)} (${found.precision})` : `failed: ${result.last}`, beside(other), aimOf(found))
  if (!onGpu) return
  const repeated = await busyWhile(node(at('dist/bench/gpu/measure.js'), 'embed', ...args, '--graphs'))
  const graphs = measured(repeated.result)
  const ours = graphs?.recorded ? words(graphs, repeated.busy) : `failed: not recorded; ${repeated.result.last}`
  add('embed', `${what}, as a CUDA graph`, ours, beside(other), aimOf(graphs))
}

try {
  for (const part of values.parts.split(',')) {
    if (!parts[part]) throw new Error(`there is no part ${part}; expected some of ${Object.keys(parts).join(', ')}`)
    await parts[part]()
  }
  const table = [
    '| part | what | dinov2 | PyTorch | aim |',
    '| --- | --- | --- | --- | --- |',
    ...rows.map(([part, what, ours, beside, wanted = '']) => `| ${[part, what, ours, beside, wanted].join(' | ')} |`)
  ].join('\n')
  process.stdout.write(`${table}\n`)
  if (values.append) appendFileSync(at('bench/RESULTS.md'), `\n## On ${device}\n\n${table}\n`)
  process.exitCode = rows.some(([, , ours]) => ours.startsWith('failed')) ? 1 : 0
} finally {
  rmSync(scratch, {recursive: true, force: true})
}
