/**
 * What can happen to an output while it is written, tried on every command that writes: a full disk, a limit on the
 * size of files, a reader that leaves, a device that takes nothing, an output that exists, two writers of one file,
 * and `kill -9` at any moment. A file is whole or absent, and an exit status of 0 means that it is there.
 */
import assert from 'node:assert/strict'
import {existsSync, lstatSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, watch} from 'node:fs'
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {setTimeout as wait} from 'node:timers/promises'
import {fileURLToPath} from 'node:url'
import {openHead, saveHead} from '../../src/files/checkpoint/head-file.js'
import {rng} from '../../src/tensor/random.js'
import {drawnRooms} from '../support/drawn-depth.js'
import {drawnFolder} from '../support/drawn-images.js'
import {drawnScenes} from '../support/drawn-masks.js'
import {CommandServer, folder, realBinary, shell as runShell, start, type Ended} from '../support/program.js'
import {saveTiny, tiny} from '../support/tiny-backbone.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4'}
const patience = 60_000

/** Whether a user may mount a small file system of their own here; else no disk can be filled, as the test says. */
const mayMount = (await runShell(realBinary, 'unshare -rm sh -c "mount -t tmpfs -o size=64k tmpfs /mnt"')).status === 0
const FULL = 'mount -t tmpfs -o size=64k tmpfs full && { head -c 65536 /dev/zero > full/fill; : > full/spare; } 2> /dev/null'

const server = new CommandServer({env, cwd: dir, patience})
/** Sees a full disk in the folder `full`, which is empty for all others. */
const fullDisk = new CommandServer({env, cwd: dir, patience, shell: FULL, launcher: ['unshare', '-rm']})
/** May write no file of more than a KiB, less than any of the outputs that are tried on it. */
const limited = new CommandServer({env, cwd: dir, patience, shell: 'ulimit -f 1'})
after(() => [server, fullDisk, limited].forEach(one => one.end()))
const run = (args: readonly string[]): Promise<Ended> => server.run(...args)
const shell = (line: string): Promise<Ended> =>
  runShell(realBinary, `export DINOV2_ENGINE=wasm DINOV2_WORKERS=1 DINOV2_BATCH=4; ${line}`, dir)

const model = ['--model', 'tiny.safetensors', '--size', '28']
const sets = ['--train', 'photos', '--val', 'photos', ...model]
const embed = ['embed', 'photos', ...model]
const backbone = ['--model', 'tiny.safetensors']
const segment = [...backbone, '--cached', '--size', '56', '--steps', '2', '--baseline', 'none']

type Writer = {
  readonly words: readonly string[]
  /** How the name of the output ends; that of a folder does not. */
  readonly ending: string
  /** Whether it writes rows or a report to stdout. */
  readonly rows?: boolean
  /** The flag of the output, where it is not -o. */
  readonly flag?: string
}

/** The whole command line of a writer. */
const to = ({words, flag = '-o'}: Writer, output: string, ...more: readonly string[]): string[] => [...words, flag, output, '-q', ...more]

/** Writers, each with an end of its own. */
const writers: Readonly<Record<string, Writer>> = {
  'embed to Arrow': {words: embed, ending: '.arrow', rows: true},
  'embed to Parquet': {words: embed, ending: '.parquet'},
  'embed to npy': {words: [...embed, '--pool', 'cls+mean'], ending: '.npy'},
  'embed to JSON Lines': {words: embed, ending: '.jsonl'},
  'embed to CSV': {words: embed, ending: '.csv'},
  'embed to safetensors': {words: embed, ending: '.safetensors'},
  'embed a shard': {words: [...embed, '--shard', '1/2'], ending: '.arrow'},
  index: {words: ['index', 'vectors.arrow'], ending: '.index'},
  'index as a graph': {words: ['index', 'vectors.arrow', '--kind', 'hnsw'], ending: '.index'},
  search: {words: ['search', 'photos.index', 'vectors.arrow', '-k', '2'], ending: '.jsonl', rows: true},
  'knn-eval': {words: ['knn-eval', ...sets, '-k', '1', '--baseline', 'none'], ending: '.json', rows: true},
  'linear-eval': {words: ['linear-eval', ...sets, '--cached', '--steps', '2', '--baseline', 'majority'], ending: '.json', rows: true},
  'a head of linear-eval': {
    words: ['linear-eval', ...sets, '--cached', '--steps', '2', '--baseline', 'majority'],
    ending: '.safetensors',
    flag: '--head-out'
  },
  'retrieval-eval': {words: ['retrieval-eval', 'photos', ...model, '--query', 'all', '--baseline', 'none'], ending: '.json', rows: true},
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
      '2',
      '--baseline',
      'none'
    ],
    ending: '.json',
    rows: true
  },
  'curate filter': {words: ['curate', 'filter', 'photos'], ending: '.jsonl', rows: true},
  'curate dedup': {words: ['curate', 'dedup', 'photos'], ending: '.jsonl', rows: true},
  'visualize pca': {words: ['visualize', 'pca', 'photos', ...model], ending: '.png'},
  report: {words: ['report', 'run'], ending: '.html'},
  'curate outliers': {words: ['curate', 'outliers', 'vectors.arrow'], ending: '.jsonl'},
  'curate mislabelled': {words: ['curate', 'mislabelled', 'vectors.arrow'], ending: '.jsonl'},
  'visualize match': {words: ['visualize', 'match', 'photos/one/000.png', 'photos/two/000.png', ...model], ending: '.png'},
  'visualize match to rows': {words: ['visualize', 'match', 'photos/one/000.png', 'photos/two/000.png', ...model], ending: '.jsonl'},
  explore: {words: ['explore', 'photos', ...model], ending: ''},
  'export to safetensors': {words: ['export', 'tiny.safetensors', '--to', 'safetensors'], ending: '.safetensors'},
  'export to timm': {words: ['export', 'tiny.safetensors', '--to', 'timm'], ending: ''},
  'export to Meta': {words: ['export', 'tiny.safetensors', '--to', 'meta'], ending: '.pth'},
  'export to Hugging Face': {words: ['export', 'tiny.safetensors', '--to', 'hf'], ending: ''},
  'export to ONNX': {words: ['export', 'tiny.safetensors', '--to', 'onnx', '--size', '56'], ending: ''},
  'samples draw': {words: ['samples', 'draw', '--per-class', '1', '--val-per-class', '0', '--size', '32'], ending: ''}
}

/** A training of one step; its checkpoint has more than 64 KiB. */
const pretrain = [
  ...['pretrain', 'photos', '--engine', 'torch', '--device', 'cpu', '--precision', 'fp32', '--threads', '1'],
  ...['dino.head_n_prototypes=16', 'dino.head_bottleneck_dim=8', 'dino.head_hidden_dim=16', 'train.batch_size_per_gpu=2', 'train.steps=1'],
  ...['train.OFFICIAL_EPOCH_LENGTH=1', 'train.workers=1', 'optim.epochs=1', 'optim.warmup_epochs=0', 'student.arch=custom'],
  ...['student.embed_dim=32', 'student.depth=2', 'student.num_heads=2', 'student.patch_size=8'],
  ...['teacher.warmup_teacher_temp_epochs=0', 'crops.local_crops_number=2', 'crops.global_crops_size=32', 'crops.local_crops_size=16']
].flatMap(word => (/^[a-zA-Z_.]+=/.test(word) ? ['--set', word] : [word]))

const depthHead = ['--head', 'depth.safetensors']
const segmentHead = ['--head', 'segment.safetensors']
/** Writers that end through the same code as one of the above: they meet a full disk, and an output that is there. */
const alike: Readonly<Record<string, Writer>> = {
  'index into LanceDB': {words: ['index', 'vectors.arrow', '--backend', 'lance'], ending: '.lance'},
  'seg-eval': {
    words: ['seg-eval', ...['--train', 'scenes/images/train', '--val', 'scenes/images/val', '--masks', 'scenes/masks'], ...segment],
    ending: '.json'
  },
  'predict classify': {words: ['predict', 'classify', 'photos', ...model, '--head', 'classes.safetensors'], ending: '.jsonl'},
  'predict depth': {words: ['predict', 'depth', 'rooms/images/val', ...backbone, ...depthHead], ending: ''},
  'predict segment': {words: ['predict', 'segment', 'scenes/images/val', ...backbone, ...segmentHead], ending: ''},
  'curate retrieve': {words: ['curate', 'retrieve', 'vectors.arrow', '--seeds', 'one=vectors.arrow', '--per-seed', '2'], ending: '.jsonl'},
  'curate cluster': {words: ['curate', 'cluster', 'vectors.arrow', '--levels', '2'], ending: '.jsonl'},
  'curate sample': {words: ['curate', 'sample', 'clusters.jsonl', '--target', '3'], ending: '.jsonl'},
  'curate decontaminate': {words: ['curate', 'decontaminate', 'photos', '--against', 'scenes/images/val'], ending: '.jsonl'},
  curate: {words: ['curate', 'photos', '--stages', 'filter,dedup'], ending: '.jsonl'},
  'shards of what is kept': {words: ['curate', 'filter', 'photos', '--materialize', 'tar'], ending: '', flag: '--to'},
  'copies of what is kept': {words: ['curate', 'filter', 'photos', '--materialize', 'copy'], ending: '', flag: '--to'},
  'what curate rejects': {words: ['curate', 'filter', 'photos', '--min-side', '4000'], ending: '.jsonl', flag: '--rejected'},
  'a page of knn-eval': {words: writers['knn-eval']!.words, ending: '.html', flag: '--html'},
  'a page of search': {words: writers['search']!.words, ending: '.html', flag: '--html'},
  'visualize attention': {words: ['visualize', 'attention', 'photos', '--limit', '2', ...model], ending: '.png'},
  'visualize similarity': {words: ['visualize', 'similarity', 'photos', '--limit', '2', '--at', '0.5,0.5', ...model], ending: '.html'},
  'visualize neighbours': {words: ['visualize', 'neighbours', 'photos.index', 'vectors.arrow', '-k', '2'], ending: '.html'},
  'visualize depth': {words: ['visualize', 'depth', 'rooms/images/val', ...backbone, ...depthHead], ending: '.png'},
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
  bytes.replaceAll(/"(seconds|images_per_second|imagesPerSecond|rate|output|command|milliseconds)":\s*("[^"]*"|[\d.e+-]+|\{[^}]*\})/g, '')

/** All files under a path, with their bytes: what two runs are compared by. */
function contents(path: string): Map<string, string> {
  const all = new Map<string, string>()
  const visit = (at: string, name: string): void => {
    if (statSync(at).isDirectory()) for (const entry of readdirSync(at).sort()) visit(join(at, entry), `${name}/${entry}`)
    else all.set(name, comparable(readFileSync(at).toString('latin1')))
  }
  if (existsSync(path)) visit(path, '')
  for (const side of [path.replace(/\.npy$/, '.jsonl'), `${path}.meta.json`, path.replace(/\.npy$/, '.meta.json')])
    if (side !== path && existsSync(side)) visit(side, side.slice(path.length - 4))
  return all
}

/**
 * As `contents`, without the lock that a killed process leaves for the next one to take over; of a LanceDB table,
 * whose files have names by chance and times, what a search finds in it.
 */
async function left(path: string): Promise<Map<string, string>> {
  if (!path.endsWith('.lance')) return new Map([...contents(path)].filter(([name]) => !name.endsWith('.lock')))
  const {status, stdout, stderr} = await run(['search', path, 'vectors.arrow', '-k', '6'])
  assert.equal(status, 0, stderr)
  return new Map([['found', stdout]])
}

before(async () => {
  await mkdir(join(dir, 'full'))
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

/** A full disk: a sentence, a status that is not 0, and neither an output nor a part of one. */
async function meetsFullDisk(writer: Writer): Promise<void> {
  const {status, stderr} = await fullDisk.run(...to(writer, `full/out${writer.ending}`))
  assert.ok(status !== 0 && status !== 70, `status ${status}: ${stderr}`)
  assert.match(stderr, /no space|full/i)
  // `predict` writes maps one by one, each whole, and a record for --resume; `embed` keeps a partial output for it
  const place = `/proc/${fullDisk.pid}/cwd/full`
  const left = readdirSync(place, {recursive: true, encoding: 'utf8'}).sort()
  assert.deepEqual(
    left.filter(
      entry =>
        !entry.endsWith('.partial') && !(writer.words[0] === 'predict' && /^out(\/([^.][^/]*\.png|\.predictions\.jsonl))?$/.test(entry))
    ),
    ['fill', 'spare'],
    stderr
  )
  assert.equal(statSync(join(place, 'fill')).size, 65536)
  for (const entry of left) if (!['fill', 'spare'].includes(entry)) rmSync(join(place, entry), {recursive: true, force: true})
}

/** Waits until a file is made in a folder, or the program has ended. */
function stirred(place: string, ended: Promise<unknown>): Promise<void> {
  return new Promise(done => {
    const watcher = watch(place, () => end())
    const end = (): void => {
      watcher.close()
      done()
    }
    ended.then(end, end)
  })
}

/** Without --force an output that exists is refused, and stays as it is to the byte. */
async function refusesWhatIsThere(writer: Writer, output: string): Promise<void> {
  const whole = contents(output)
  const {status, stderr} = await run(to(writer, output))
  assert.equal(status, 2, stderr)
  assert.deepEqual(contents(output), whole)
}

/**
 * Two writers of one output: the first, a process of its own, is stopped as soon as it has begun a file, and goes on
 * when the second has ended. A small file can be whole by then. Returns what they leave, and how long the first ran.
 */
async function race(writer: Writer, place: string, output: string): Promise<{whole: Map<string, string>; took: number}> {
  const began = performance.now()
  const {child, ended} = start(realBinary, to(writer, output), {env, cwd: dir})
  await stirred(place, ended)
  child.kill('SIGSTOP')
  const stopped = performance.now()
  const second = await server.run(...to(writer, output, '--force'))
  const paused = performance.now() - stopped
  child.kill('SIGCONT')
  const first = await ended
  assert.ok(!second.waited, 'the second writer waits for the first')
  assert.ok(first.status === 0 || second.status === 0, first.stderr + second.stderr)
  // one may be refused, for the output exists or the other has it, but neither fails
  for (const {status, stderr} of [first, second]) assert.ok(status === 0 || status === 2, `status ${status}: ${stderr}`)
  const whole = await left(output)
  assert.ok(whole.size > 0)
  assert.deepEqual(
    readdirSync(place).filter(entry => !entry.startsWith('out') || /partial|tmp/.test(entry)),
    []
  )
  return {whole, took: performance.now() - began - paused}
}

const survivesOthers =
  'two writers, no --force, and kill -9 at any moment: one whole file, no part of another, and a rerun ends in the same bytes'

async function meetsOthers(name: string, writer: Writer): Promise<void> {
  const place = join(dir, `race-${name.replaceAll(' ', '-')}`)
  await mkdir(place)
  const output = join(place, `out${writer.ending}`)
  const {whole, took} = await race(writer, place, output)
  await refusesWhatIsThere(writer, output)
  const {child, ended} = start(realBinary, to(writer, output, '--force'), {env, cwd: dir})
  await wait(took * rng(5, name).uniform(0.1, 0.9))
  child.kill('SIGKILL')
  await ended
  assert.deepEqual(await left(output), whole)
  const again = await run(to(writer, output, '--force'))
  assert.equal(again.status, 0, again.stderr)
  assert.deepEqual(await left(output), whole)
}

for (const [name, writer] of Object.entries(writers)) {
  describe(name, () => {
    const line = writer.words.join(' ')

    it('full disk', {skip: !mayMount && 'no user namespaces here'}, () => meetsFullDisk(writer))

    it(survivesOthers, () => meetsOthers(name, writer))

    if (writer.rows) {
      it('a reader that leaves: quiet, status 0', async () => {
        const {status, stderr} = await shell(`$P ${line} -q | true; exit \${PIPESTATUS[0]}`)
        assert.equal(status, 0, stderr)
        assert.doesNotMatch(stderr, /EPIPE|Error/)
      })

      it('a device that takes nothing: a sentence and a status that is not 0', async () => {
        for (const flags of ['', '--json']) {
          const {status, stderr} = await shell(`$P ${line} ${flags} -q > /dev/full`)
          assert.ok(status !== 0 && status !== 70, `${flags} status ${status}: ${stderr}`)
          assert.match(stderr, /No room left on the disk for stdout/)
        }
      })
    }
  })
}

for (const [name, writer] of Object.entries(alike)) {
  describe(name, () => {
    it('full disk', {skip: !mayMount && 'no user namespaces here'}, () => meetsFullDisk(writer))

    it(survivesOthers, () => meetsOthers(name, writer))
  })
}

describe('links in an output folder made by others: nothing is written through them', () => {
  for (const [name, writer] of Object.entries({...writers, ...alike}).filter(([, {ending}]) => ending === ''))
    it(name, async () => {
      const place = join(dir, `links-${name.replaceAll(' ', '-')}`)
      const [output, precious, outside] = ['out', 'precious', 'outside'].map(entry => join(place, entry)) as [string, string, string]
      await mkdir(outside, {recursive: true})
      await writeFile(precious, 'precious')
      const first = await run(to(writer, output, '--force'))
      assert.equal(first.status, 0, first.stderr)
      const files = readdirSync(output, {recursive: true, encoding: 'utf8'}).filter(entry => lstatSync(join(output, entry)).isFile())
      assert.ok(files.length > 0)
      const within = files.find(entry => entry.includes('/'))?.split('/')[0]
      for (const replaced of [...files, ...(within === undefined ? [] : [within])]) {
        rmSync(join(output, replaced), {recursive: true, force: true})
        symlinkSync(replaced === within ? outside : precious, join(output, replaced))
        if (replaced === files.at(-1) || replaced === within) {
          const {status, stderr} = await run(to(writer, output, '--force'))
          assert.ok(status === 0 || (status === 2 && /is a link/.test(stderr)), `status ${status}: ${stderr}`)
        }
      }
      assert.equal(readFileSync(precious, 'utf8'), 'precious')
      assert.deepEqual(readdirSync(outside), [])
    })
})

describe('a limit on the size of files (ulimit -f)', () => {
  /** Of fewer bytes than the limit. */
  const small = /^(search|.*-eval|report|curate.*|visualize neighbours|predict .*|visualize match to rows|samples draw)$/
  for (const [name, writer] of Object.entries({...writers, ...alike}))
    it(`${name}: a sentence that names the output, a status that is not 0, and no cut file`, async () => {
      const place = join(dir, `limited-${name.replaceAll(' ', '-')}`)
      await mkdir(place)
      const output = join(place, `out${writer.ending}`)
      const {status, stderr} = await limited.run(...to(writer, output))
      if (status === 0 && small.test(name)) return
      assert.ok(status !== null && status !== 0 && status !== 70, `status ${status}: ${stderr}`)
      assert.match(stderr, /larger than a file may be|ulimit -f/)
      assert.ok(stderr.includes(output), stderr)
      assert.deepEqual(
        readdirSync(place).filter(entry => !entry.endsWith('.partial')),
        []
      )
    })

  it('shards that are cut in a picture: the folder is named and absent', async () => {
    const {status, stderr} = await shell('ulimit -f 3; $P curate filter photos --materialize tar --to cut-shards -q > /dev/null')
    assert.equal(status, 1, stderr)
    assert.match(stderr, /cut-shards would be larger than a file may be here/)
    assert.ok(!existsSync(join(dir, 'cut-shards')))
  })

  it('a checkpoint of pretrain: a sentence, a status that is not 0, and no cut file', async () => {
    const roomy = new CommandServer({env: {}, cwd: dir, patience, shell: 'ulimit -f 64'})
    try {
      const {status, stderr} = await roomy.run(...pretrain, '-o', 'trained', '-q')
      assert.ok(status !== null && status !== 0 && status !== 70, `status ${status}: ${stderr}`)
      assert.match(stderr, /large|big|limit/i)
      const left = readdirSync(join(dir, 'trained'), {recursive: true, encoding: 'utf8'})
      assert.deepEqual(
        left.filter(entry => entry.includes('safetensors') || statSync(join(dir, 'trained', entry)).size >= 65536),
        []
      )
    } finally {
      await roomy.end()
    }
  })
})

it('predict to a device keeps no rows beside it, and says so where --resume is asked for', async () => {
  const words = [...alike['predict classify']!.words, '-o', '/dev/null']
  const plain = await run(words)
  assert.equal(plain.status, 0, plain.stderr)
  assert.ok(!existsSync('/dev/null.partial'))
  const resumed = await run([...words, '--resume'])
  assert.equal(resumed.status, 2)
  assert.match(resumed.stderr, /Beside \/dev\/null no rows are kept/)
})

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
