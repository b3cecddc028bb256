/**
 * What one command writes, every other one that takes its kind reads: models in all forms, heads, embeddings in all
 * formats, indexes, lists and reports. And predictions that are interrupted go on.
 */
import assert from 'node:assert/strict'
import {existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, test} from 'node:test'
import {openBackbone, readBackbone} from '../../src/files/checkpoint/backbone.js'
import {formatNames} from '../../src/files/embeddings/embeddings.js'
import {exportModel, exportFormats} from '../../src/tasks/export.js'
import {planTeacher} from '../../src/tasks/train/teacher.js'
import {CommandServer, folder, realBinary, run as runProgram, type Ended} from '../support/program.js'
import {copyEmbeddings} from '../support/vectors.js'

const dir = folder()
const at = (...names: string[]): string => join(dir, ...names)
const env = {DINOV2_ENGINE: 'torch', DINOV2_DEVICE: 'cpu', DINOV2_PRECISION: 'fp32', DINOV2_THREADS: '1', DINOV2_WORKERS: '1'}
const run = (...args: string[]): Promise<Ended> => runProgram(realBinary, args, {env, cwd: dir})

const server = new CommandServer({env, cwd: dir})
after(() => server.end())

/** Runs commands, and names each that ends otherwise than well. */
async function all(commands: readonly (readonly string[])[]): Promise<void> {
  const failed: string[] = []
  for (const args of commands) {
    const {status, stderr} = await server.run(...args)
    if (status !== 0) failed.push(`${args.join(' ')} ended with ${status}: ${stderr.slice(-400)}`)
  }
  assert.deepEqual(failed, [])
}

const recipe = `
dino: {head_n_prototypes: 16, head_bottleneck_dim: 8, head_hidden_dim: 16}
train: {batch_size_per_gpu: 4, steps: 2, workers: 1}
student: {arch: custom, embed_dim: 16, depth: 4, num_heads: 2, patch_size: 8, layerscale: 1.0}
optim: {epochs: 10, warmup_epochs: 1}
crops: {local_crops_number: 1, global_crops_size: 32, local_crops_size: 16}
`
const size = ['--size', '32']
/** By the name that a user gives. */
const models = [
  'run',
  'run/final',
  'run/final/backbone.safetensors',
  'step',
  'plain.st',
  'heads.st',
  'meta.pth',
  'teacher.pth',
  'hf',
  'timm'
]
const students = ['student', 'headless']

before(async () => {
  writeFileSync(at('recipe.yaml'), recipe)
  await all([
    ['samples', 'draw', '-o', 'drawn', '--classes', '2', '--per-class', '3', '--val-per-class', '2', '--size', '32', '--maps', '-q']
  ])
  const trained = async (...args: string[]): Promise<void> => {
    const {status, stderr} = await run(...args, '--config', 'recipe.yaml', '-q')
    assert.ok(status === 0 || status === 6, stderr) // so short a run may be judged either way
  }
  await trained('pretrain', 'drawn/train', '-o', 'run')
  const export_ = (output: string, to: 'safetensors' | 'meta' | 'hf' | 'timm', withHeads = false): Promise<unknown> =>
    exportModel({model: at('run'), output: at(output), to, withHeads, toolVersion: 'test'})
  for (const [output, to, withHeads] of [
    ['plain.st', 'safetensors'],
    ['heads.st', 'safetensors', true],
    ['meta.pth', 'meta'],
    ['teacher.pth', 'meta', true],
    ['hf', 'hf'],
    ['timm', 'timm']
  ] as const)
    await export_(output, to, withHeads)
  const [step] = readdirSync(at('run', 'checkpoints'))
  models[models.indexOf('step')] = `run/checkpoints/${step}`
  await trained('distill', 'drawn/train', '--teacher', 'run', '-o', 'student')
  await trained('distill', 'drawn/train', '--teacher', 'plain.st', '-o', 'headless')
})

test('every form of a model is the same model: opened, exported to every format, and as a teacher', async () => {
  const numbers = async (model: string): Promise<Map<string, Float32Array>> => {
    const {config, checkpoint} = await openBackbone(at(model))
    const found = new Map<string, Float32Array>()
    // timm has no mask token
    for await (const {name, data} of readBackbone(config, checkpoint)) if (name !== 'mask_token') found.set(name, data)
    await checkpoint.close()
    return found
  }
  const expected = await numbers('run')
  for (const model of [...models, ...students]) {
    const found = await numbers(model)
    if (students.includes(model)) assert.deepEqual([...found.keys()], [...expected.keys()], model)
    else assert.deepEqual(found, expected, model)
    const {heads} = await planTeacher(at(model), 'auto')
    assert.equal(heads !== undefined, /^run(\/final|\/checkpoints.*)?$|heads.st|teacher|student/.test(model), `heads of ${model}`)
    for (const to of exportFormats) await exportModel({model: at(model), to, output: at(`of-${to}`), toolVersion: 'test', dryRun: true})
  }
})

test('a student of a teacher without heads opens by its name in every command that takes a model', async () => {
  const m = ['--model', 'headless']
  const sets = ['--train', 'drawn/train', '--val', 'drawn/val']
  const few = ['--baseline', 'none', '--cached', '--steps', '2']
  await all([
    ['embed', 'drawn/val/', ...m, ...size, '-o', 'h.arrow'],
    ['linear-eval', ...sets, ...m, ...size, ...few, '--head-out', 'linear.safetensors', '-o', 'linear.json'],
    ['depth-eval', ...sets, '--depths', 'drawn/depth', ...m, ...size, ...few, '--head-out', 'depth.safetensors', '-o', 'depth.json'],
    ['seg-eval', ...sets, '--masks', 'drawn/masks', ...m, ...size, ...few, '--head-out', 'seg.safetensors', '-o', 'seg.json'],
    ['knn-eval', ...sets, ...m, ...size, '-k', '1', '--baseline', 'none', '-o', 'knn.json'],
    ['retrieval-eval', 'drawn/val', ...m, ...size, '--baseline', 'none', '-o', 'retrieval.json']
  ])
  await all([
    ['index', 'h.arrow', '-o', 'h.index'],
    ['predict', 'classify', 'drawn/val', ...m, '--head', 'linear.safetensors', '-o', 'classes.jsonl'],
    ['predict', 'depth', 'drawn/val', ...m, '--head', 'depth.safetensors', '-o', 'depth'],
    ['predict', 'segment', 'drawn/val', ...m, '--head', 'seg.safetensors', '-o', 'masks'],
    ['visualize', 'pca', 'drawn/val', ...m, '-o', 'pca.png'],
    ['visualize', 'attention', 'drawn/val', ...m, '--limit', '1', '-o', 'attention.png'],
    ['visualize', 'similarity', 'drawn/val', ...m, '--limit', '2', '-o', 'similarity.html'],
    ['visualize', 'depth', 'drawn/val', ...m, '--limit', '1', '--head', 'depth.safetensors', '-o', 'depth.png'],
    ['visualize', 'segment', 'drawn/val', ...m, '--limit', '1', '--head', 'seg.safetensors', '-o', 'seg.png'],
    ['curate', 'dedup', 'drawn/val', '--features', 'model', ...m, '-o', 'unique.jsonl'],
    ['export', 'headless', '--to', 'hf', '-o', 'headless-hf'],
    ['pretrain', 'drawn/val', '--init', 'headless', '--set', 'train.steps=1', '--set', 'train.batch_size_per_gpu=2', '-n'],
    ['distill', 'drawn/val', '--teacher', 'headless', '--config', 'recipe.yaml', '-n'],
    ['report', 'run', 'student', 'headless', '-o', 'report.html']
  ])
  // The list in another folder names images outside of it, two of each name.
  const inside = readFileSync(at('unique.jsonl'), 'utf8').replaceAll('"path":"', '"path":"../')
  mkdirSync(at('lists'))
  writeFileSync(at('lists', 'unique.jsonl'), inside)
  // An index, a list, predictions and the exported folder in the commands that take them.
  await all([
    ['search', 'h.index', 'drawn/val', '--model', 'headless-hf', '-k', '1'],
    ['visualize', 'neighbours', 'h.index', 'drawn/val', ...m, '-k', '1', '-o', 'neighbours.html'],
    ['embed', 'unique.jsonl', ...m, ...size, '-o', 'unique.arrow'],
    ['predict', 'depth', 'lists/unique.jsonl', ...m, '--head', 'depth.safetensors', '--max-bad', '0', '-o', 'depth-of-list'],
    ['visualize', 'depth', 'drawn/val', ...m, '--depths', 'depth', '--limit', '1', '--head', 'depth.safetensors', '-o', 'beside.png']
  ])
})

describe('embeddings in every format', () => {
  const sets = ['train', 'val'] as const
  before(() => all(sets.map(set => ['embed', `drawn/${set}`, '--model', 'run', ...size, '-o', `${set}.arrow`])))
  for (const format of formatNames)
    test(format, async () => {
      const of = (set: string): string => `${format}-${set}.${format}` // .npy has a .jsonl beside it
      for (const set of sets) await copyEmbeddings(at(`${set}.arrow`), at(of(set)))
      await all([
        ['index', of('train'), '-o', `${format}.index`],
        ['knn-eval', '--train', of('train'), '--val', of('val'), '-k', '1', '--baseline', 'none'],
        ['retrieval-eval', of('val'), '--baseline', 'none'],
        ['curate', 'cluster', of('train'), '--levels', '3,2', '-o', `${format}-clusters.jsonl`],
        ['curate', 'retrieve', of('train'), '--seeds', of('val'), '-o', `${format}-grown.jsonl`]
      ])
      await all([
        ['index', '-o', `${format}.index`, '--add', of('val')],
        ['visualize', 'neighbours', `${format}.index`, of('val'), '-k', '1', '--root', dir, '-o', `${format}.html`]
      ])
      const found = await run('search', `${format}.index`, of('val'), '-k', '1', '-q')
      const rows = found.stdout
        .trim()
        .split('\n')
        .map(line => JSON.parse(line) as {query: string; id: string})
      assert.deepEqual(
        rows.map(({id}) => id),
        rows.map(({query}) => query),
        found.stderr
      )
    })
  test('clusters are sampled', () => all([['curate', 'sample', 'arrow-clusters.jsonl', '--target', '3', '-o', 'sample.jsonl']]))
})

describe('predictions that end with status 4 go on with --resume to the rows of a straight run', () => {
  before(() => {
    const images = readdirSync(at('drawn', 'val'), {recursive: true})
      .map(String)
      .filter(name => name.endsWith('.png'))
      .sort()
    assert.equal(images.length, 4)
    const named = images.map(name => `drawn/val/${name}`)
    writeFileSync(at('list.txt'), [...named.slice(0, 2), 'absent.png', ...named.slice(2), ''].join('\n'))
  })
  for (const [kind, head, output] of [
    ['classify', 'linear.safetensors', 'c.jsonl'],
    ['depth', 'depth.safetensors', 'd'],
    ['segment', 'seg.safetensors', 's']
  ] as const)
    test(kind, async () => {
      const predict = (...more: string[]): Promise<Ended> =>
        run('predict', kind, 'list.txt', '--model', 'headless', '--head', head, '-o', output, ...more)
      const rowsOf = ({stdout}: Ended): string => (kind === 'classify' ? readFileSync(at(output), 'utf8') : stdout)
      const refused = await predict('--max-bad', '0')
      assert.equal(refused.status, 4, refused.stderr)
      assert.match(refused.stderr, /4 rows are kept in .*; --resume with a larger --max-bad goes on/)
      const again = await predict('--max-bad', '1')
      assert.equal(again.status, 2, again.stderr)
      assert.match(again.stderr, /(exists and is not empty|was left by an interrupted run)[^]*--resume/)
      const other = await run('predict', kind, 'list.txt', '--model', 'run', '--head', head, '-o', output, '--resume', '--max-bad', '1')
      assert.equal(other.status, 2, other.stderr)
      // A map or mask that is gone is written again, though its row was kept.
      const files =
        kind === 'classify'
          ? []
          : readdirSync(at(output), {recursive: true})
              .map(String)
              .filter(name => name.endsWith('.png'))
      if (kind !== 'classify') {
        assert.equal(files.length, 4)
        rmSync(at(output, files[0]!))
      }
      const resumed = await predict('--resume', '--max-bad', '1')
      assert.equal(resumed.status, 0, resumed.stderr)
      for (const file of files) assert.ok(existsSync(at(output, file)), file)
      const rows = rowsOf(resumed)
      const straight = await predict('--force', '--max-bad', '1')
      assert.equal(straight.status, 0, straight.stderr)
      assert.equal(rows, rowsOf(straight))
      assert.equal(rows.trim().split('\n').length, 4)
      assert.ok(!existsSync(at(`${output}.partial`)))
      if (kind === 'classify') {
        const whole = await predict('--resume')
        assert.equal(whole.status, 2)
        assert.match(whole.stderr, /c\.jsonl is there, whole, so there is nothing to go on with[^]*--force/)
      }
    })

  test('rows are neither kept nor gone on from where there is no place for them', async () => {
    for (const [kind, head] of [
      ['classify', 'linear.safetensors'],
      ['segment', 'seg.safetensors']
    ] as const) {
      const {status, stderr} = await run('predict', kind, 'list.txt', '--model', 'headless', '--head', head, '--resume')
      assert.equal(status, 2)
      assert.match(stderr, /no rows are kept[^]*Give -o/)
    }
  })
})
