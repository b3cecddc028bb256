/**
 * What can happen to an output while it is written, tried on every command that writes: a full disk, a reader that
 * leaves, a device that takes nothing, two writers of one file, and `kill -9` at any moment. A file is whole or
 * absent, and an exit status of 0 means that it is there.
 */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, readFileSync, statSync} from 'node:fs'
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, describe, it} from 'node:test'
import {setTimeout as wait} from 'node:timers/promises'
import {fileURLToPath} from 'node:url'
import {openHead, saveHead} from '../../src/files/checkpoint/head-file.js'
import {rng} from '../../src/tensor/random.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnFolder} from '../support/drawn-images.js'
import {drawnScenes} from '../support/drawn-masks.js'
import {folder, realBinary, run as runProgram, shell as runShell, start, type Ended} from '../support/program.js'
import {saveTiny, tiny} from '../support/tiny-backbone.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4'}
const run = (args: readonly string[]): Promise<Ended> => runProgram(realBinary, args, {env, cwd: dir})
const shell = (line: string): Promise<Ended> =>
  runShell(realBinary, `export DINOV2_ENGINE=wasm DINOV2_WORKERS=1 DINOV2_BATCH=4; ${line}`, dir)

const model = ['--model', 'tiny.safetensors', '--size', '28']
const sets = ['--train', 'photos', '--val', 'photos', ...model]
const embed = ['embed', 'photos', ...model]
const backbone = ['--model', 'tiny.safetensors']
const segment = [...backbone, '--cached', '--size', '56', '--steps', '2', '--baseline', 'none']

/** Each writer: its words without the output, and the ending of the output; a folder has none. */
const writers: Readonly<Record<string, {readonly words: readonly string[]; readonly ending: string; readonly rows?: boolean}>> = {
  'embed to Arrow': {words: embed, ending: '.arrow', rows: true},
  'embed to Parquet': {words: embed, ending: '.parquet'},
  'embed to npy': {words: embed, ending: '.npy'},
  'embed to JSON Lines': {words: embed, ending: '.jsonl'},
  'embed to CSV': {words: embed, ending: '.csv'},
  'embed to safetensors': {words: embed, ending: '.safetensors'},
  index: {words: ['index', 'vectors.arrow'], ending: '.index'},
  search: {words: ['search', 'photos.index', 'vectors.arrow', '-k', '2'], ending: '.jsonl', rows: true},
  'knn-eval': {words: ['knn-eval', ...sets, '-k', '1', '--baseline', 'pixels'], ending: '.json', rows: true},
  'linear-eval': {words: ['linear-eval', ...sets, '--cached', '--steps', '4', '--baseline', 'majority'], ending: '.json', rows: true},
  'retrieval-eval': {words: ['retrieval-eval', 'photos', ...model, '--query', 'all'], ending: '.json', rows: true},
  'depth-eval': {
    words: [
      'depth-eval',
      '--train',
      'rooms/images/train',
      '--val',
      'rooms/images/val',
      '--depths',
      'rooms/depth',
      ...model,
      '--cached',
      '--steps',
      '4'
    ],
    ending: '.json',
    rows: true
  },
  'curate filter': {words: ['curate', 'filter', 'photos'], ending: '.jsonl', rows: true},
  'curate dedup': {words: ['curate', 'dedup', 'photos'], ending: '.jsonl', rows: true},
  'visualize pca': {words: ['visualize', 'pca', 'photos', ...model], ending: '.png'},
  'export to Meta': {words: ['export', 'tiny.safetensors', '--to', 'meta'], ending: '.pth'},
  'export to Hugging Face': {words: ['export', 'tiny.safetensors', '--to', 'hf'], ending: ''},
  'export to ONNX': {words: ['export', 'tiny.safetensors', '--to', 'onnx', '--size', '56'], ending: ''},
  'samples draw': {words: ['samples', 'draw', '--per-class', '1', '--val-per-class', '0', '--size', '32'], ending: ''}
}

const depthHead = ['--head', 'depth.safetensors']
const segmentHead = ['--head', 'segment.safetensors']
/** Writers that end through the same code as one of the above: they meet a full disk, and an output that is there. */
const alike: Readonly<Record<string, {readonly words: readonly string[]; readonly ending: string}>> = {
  'seg-eval': {
    words: ['seg-eval', ...['--train', 'scenes/images/train', '--val', 'scenes/images/val', '--masks', 'scenes/masks'], ...segment],
    ending: '.json'
  },
  'predict classify': {words: ['predict', 'classify', 'photos', ...model, '--head', 'classes.safetensors'], ending: '.jsonl'},
  'predict depth': {words: ['predict', 'depth', 'rooms/images/val', ...backbone, ...depthHead], ending: ''},
  'predict segment': {words: ['predict', 'segment', 'scenes/images/val', ...backbone, ...segmentHead], ending: ''},
  report: {words: ['report', 'run'], ending: '.html'},
  'curate retrieve': {words: ['curate', 'retrieve', 'vectors.arrow', '--seeds', 'one=vectors.arrow', '--per-seed', '2'], ending: '.jsonl'},
  'curate cluster': {words: ['curate', 'cluster', 'vectors.arrow', '--levels', '2'], ending: '.jsonl'},
  'curate sample': {words: ['curate', 'sample', 'clusters.jsonl', '--target', '3'], ending: '.jsonl'},
  'curate outliers': {words: ['curate', 'outliers', 'vectors.arrow'], ending: '.jsonl'},
  'curate mislabelled': {words: ['curate', 'mislabelled', 'vectors.arrow'], ending: '.jsonl'},
  'curate decontaminate': {words: ['curate', 'decontaminate', 'photos', '--against', 'scenes/images/val'], ending: '.jsonl'},
  curate: {words: ['curate', 'photos', '--stages', 'filter,dedup'], ending: '.jsonl'},
  'visualize attention': {words: ['visualize', 'attention', 'photos', '--limit', '2', ...model], ending: '.png'},
  'visualize similarity': {words: ['visualize', 'similarity', 'photos', '--limit', '2', '--at', '0.5,0.5', ...model], ending: '.html'},
  'visualize match': {words: ['visualize', 'match', 'photos/one/000.png', 'photos/two/000.png', ...model], ending: '.png'},
  'visualize match to rows': {words: ['visualize', 'match', 'photos/one/000.png', 'photos/two/000.png', ...model], ending: '.jsonl'},
  'visualize neighbours': {words: ['visualize', 'neighbours', 'photos.index', 'vectors.arrow', '-k', '2'], ending: '.html'},
  'visualize depth': {words: ['visualize', 'depth', 'rooms/images/val', ...backbone, ...depthHead], ending: '.png'},
  explore: {words: ['explore', 'photos', ...model], ending: ''},
  'visualize segment': {words: ['visualize', 'segment', 'scenes/images/val', ...backbone, ...segmentHead], ending: '.png'}
}

/** Commands with an output that are tried elsewhere. */
const elsewhere: Readonly<Record<string, string>> = {
  pretrain: 'test/tasks/train/pretrain.test.ts and test/files/run',
  distill: 'test/tasks/train/distill.test.ts and test/files/run',
  'models pull': 'test/system/download.test.ts',
  'samples pull': 'test/tasks/samples.test.ts'
}

/** Reports say how long they took and which files they were asked to write; those are not compared. */
const comparable = (bytes: string): string =>
  bytes.replaceAll(/"(seconds|images_per_second|imagesPerSecond|rate|output|command|milliseconds)":\s*("[^"]*"|[\d.e+-]+)/g, '')

/** All files under a path, with their bytes: what two runs are compared by. */
function contents(path: string): Map<string, string> {
  const all = new Map<string, string>()
  const visit = (at: string, name: string): void => {
    if (statSync(at).isDirectory()) for (const entry of readdirSync(at).sort()) visit(join(at, entry), `${name}/${entry}`)
    else all.set(name, comparable(readFileSync(at).toString('latin1')))
  }
  if (existsSync(path)) visit(path, '')
  for (const side of [`${path}.jsonl`, `${path.replace(/\.npy$/, '')}.jsonl`])
    if (path.endsWith('.npy') && existsSync(side)) visit(side, 'side')
  return all
}

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 3)
  await drawnRooms(join(dir, 'rooms'), 'train', 4)
  await drawnRooms(join(dir, 'rooms'), 'val', 2, 4)
  const made = await run([...embed, '-o', 'vectors.arrow'])
  assert.equal(made.status, 0, made.stderr)
  await drawnScenes(join(dir, 'scenes'), 'train', 3)
  await drawnScenes(join(dir, 'scenes'), 'val', 2, 3)
  await mkdir(join(dir, 'run'))
  await writeFile(join(dir, 'run', 'metrics.jsonl'), '{"step":1,"loss":{"dino":7.5}}\n{"step":2,"loss":{"dino":7.25}}\n')
  const prepared = await Promise.all(
    [
      ['index', 'vectors.arrow', '-o', 'photos.index'],
      ['curate', 'cluster', 'vectors.arrow', '--levels', '2', '-o', 'clusters.jsonl'],
      [...writers['linear-eval']!.words, '--head-out', 'classes.safetensors'],
      [...writers['depth-eval']!.words, '--head-out', 'depth.safetensors']
    ].map(words => run(words))
  )
  for (const {status, stderr} of prepared) assert.equal(status, 0, stderr)
  const {trainedOn} = await openHead(join(dir, 'depth.safetensors'), {task: 'depth'})
  await saveSegmentHead(join(dir, 'segment.safetensors'), trainedOn.fingerprint)
})

/** A head for three classes on the last block, with weights of no meaning. */
async function saveSegmentHead(path: string, fingerprint: string): Promise<void> {
  const [K, D] = [3, tiny.width]
  const filled = (shape: readonly number[], value: (i: number) => number): {shape: readonly number[]; data: Float32Array} => ({
    shape,
    data: Float32Array.from({length: shape.reduce((a, b) => a * b, 1)}, (_, i) => value(i))
  })
  const tensors = new Map([
    ['bn.weight', filled([D], () => 1)],
    ['bn.bias', filled([D], () => 0)],
    ['bn.running_mean', filled([D], () => 0)],
    ['bn.running_var', filled([D], () => 1)],
    ['conv_seg.weight', filled([K, D], Math.sin)],
    ['conv_seg.bias', filled([K], Math.cos)]
  ])
  const classes = ['a', 'b', 'c'].map((name, id) => ({id, name, colour: [id, 80 * id, 255]}))
  const view = {layers: [tiny.depth - 1], size: 56, crop: null, stride: null, scales: [1], flip: false}
  await saveHead(path, {task: 'segment', tensors, spec: {kind: 'linear', ...view, classes, ignored: []}, trainedOn: {fingerprint}})
}

/** Whether a user may mount a small file system of their own here; else no disk can be filled, as the test says. */
const mayMount = (await runShell(realBinary, 'unshare -rm sh -c "mount -t tmpfs -o size=64k tmpfs /mnt"')).status === 0

/** A full disk: a sentence, a status that is not 0, and neither an output nor a part of one. */
async function meetsFullDisk(line: string, ending: string): Promise<void> {
  const mount = join(dir, 'full')
  await mkdir(mount, {recursive: true})
  const inside = `mount -t tmpfs -o size=64k tmpfs full && { head -c 65536 /dev/zero > full/fill; : > full/spare; }; $P ${line} -o full/out${ending} -q; s=$?; echo left: >&2; (cd full && find . -mindepth 1 | sort | cut -c3-) >&2; exit $s`
  const {status, stderr} = await shell(`export P; unshare -rm bash -c '${inside}'`)
  assert.ok(status !== 0 && status !== 70, `status ${status}: ${stderr}`)
  assert.match(stderr, /no space|full/i)
  // what lies in the folder afterwards: `predict` writes maps one by one, each whole, and a record for --resume;
  // `embed` keeps a partial output for it
  const left = stderr.slice(stderr.indexOf('left:')).split(/\s+/).slice(1, -1)
  assert.deepEqual(
    left.filter(
      entry =>
        !entry.endsWith('.partial') && !(line.startsWith('predict ') && /^out(\/([^.][^/]*\.png|\.predictions\.jsonl))?$/.test(entry))
    ),
    ['fill', 'spare'],
    stderr
  )
}

for (const [name, {words, ending, rows}] of Object.entries(writers)) {
  describe(name, () => {
    const line = words.join(' ')

    it('full disk', {skip: !mayMount && 'no user namespaces here'}, () => meetsFullDisk(line, ending))

    it('two writers of one output, and kill -9 at any moment: one whole file, no part of another, and a rerun ends in the same bytes', async () => {
      const place = join(dir, `race-${name.replaceAll(' ', '-')}`)
      await mkdir(place)
      const to = join(place, `out${ending}`)
      const began = performance.now()
      const [a, b] = await Promise.all([run([...words, '-o', to, '-q']), run([...words, '-o', to, '-q', '--force'])])
      const took = performance.now() - began
      assert.ok(a.status === 0 || b.status === 0, a.stderr + b.stderr)
      for (const {status, stderr} of [a, b]) assert.notEqual(status, 70, stderr)
      const whole = contents(to)
      assert.ok(whole.size > 0)
      assert.deepEqual(
        readdirSync(place).filter(entry => !entry.startsWith('out') || /partial|tmp/.test(entry)),
        []
      )
      const {child, ended} = start(realBinary, [...words, '-o', to, '-q', '--force'], {env, cwd: dir})
      await wait(took * rng(5, name).uniform(0.1, 0.9))
      child.kill('SIGKILL')
      await ended
      assert.deepEqual(contents(to), whole)
      const again = await run([...words, '-o', to, '-q', '--force'])
      assert.equal(again.status, 0, again.stderr)
      assert.deepEqual(contents(to), whole)
    })

    if (rows) {
      it('a reader that leaves: quiet, status 0', async () => {
        const {status, stderr} = await shell(`$P ${line} -q | true; exit \${PIPESTATUS[0]}`)
        assert.equal(status, 0, stderr)
        assert.doesNotMatch(stderr, /EPIPE|Error/)
      })

      it('a device that takes nothing: a sentence and a status that is not 0', async () => {
        for (const flags of ['', '--json']) {
          const {status, stderr} = await shell(`$P ${line} ${flags} -q > /dev/full`)
          assert.ok(status !== 0 && status !== 70, `${flags} status ${status}: ${stderr}`)
          assert.match(stderr, /no space|full|ENOSPC/i)
        }
      })
    }
  })
}

for (const [name, {words, ending}] of Object.entries(alike)) {
  describe(name, () => {
    it('full disk', {skip: !mayMount && 'no user namespaces here'}, () => meetsFullDisk(words.join(' '), ending))

    it('an output that is there stays as it is without --force', async () => {
      const to = join(dir, `alike-${name.replaceAll(' ', '-')}${ending}`)
      const first = await run([...words, '-o', to, '-q'])
      assert.equal(first.status, 0, first.stderr)
      const whole = contents(to)
      assert.ok(whole.size > 0)
      const second = await run([...words, '-o', to, '-q'])
      assert.equal(second.status, 2, second.stderr)
      assert.deepEqual(contents(to), whole)
    })
  })
}

it('every command with an output is tried here, or elsewhere', async () => {
  const root = fileURLToPath(new URL('../../commands', import.meta.url))
  const tried = Object.values({...writers, ...alike}).map(({words}) => words)
  for (const file of readdirSync(root, {recursive: true, encoding: 'utf8'}).filter(path => path.endsWith('.js'))) {
    const {default: command} = (await import(join(root, file))) as {default: {flags?: Record<string, unknown>}}
    const id = file
      .replace(/\.js$/, '')
      .split('/')
      .filter((word, i, all) => !(word === 'index' && all.length > 1 && i > 0))
    if (command.flags?.['output'] === undefined || id.join(' ') in elsewhere) continue
    assert.ok(
      tried.some(words => id.every((word, i) => words[i] === word)),
      `${id.join(' ')} writes, but is not in the table of this test`
    )
  }
})
