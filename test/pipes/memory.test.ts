/** Too little memory: the main commands under limits of the system end well, or with status 5 and bytes. */
import assert from 'node:assert/strict'
import {spawnSync} from 'node:child_process'
import {readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {before, describe, it} from 'node:test'
import sharp from 'sharp'
import {report} from '../../src/cli/errors.js'
import {UserError} from '../../src/config/errors.js'
import {drawnFolder} from '../support/drawn-images.js'
import {folder, realBinary, shell} from '../support/program.js'
import {saveTiny} from '../support/tiny-backbone.js'

const dir = folder()
const model = '--model tiny.safetensors --no-crop --resize 280 --batch 16'
const commands: Readonly<Record<string, string>> = {
  embed: `embed photos ${model} -o vectors.arrow --force`,
  index: 'index rows.jsonl --kind hnsw -o rows.index --force',
  'knn-eval': `knn-eval --train photos --val photos ${model} -k 1 --baseline pixels`,
  'pretrain, one step':
    'pretrain photos -o run --force --config small --set train.steps=1 --set train.batch_size_per_gpu=4 --set train.workers=0'
}
/** In bytes; in the first two nothing can run, in the others some things can. */
const limits = ['--data=200000000', '--as=1500000000', '--data=1000000000', '--as=14000000000']

const hasLimits = spawnSync('prlimit', ['--version']).status === 0

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 8)
  const row = (n: number): string => JSON.stringify({id: `i${n}`, vector: Array.from({length: 256}, (_, d) => Math.sin(n * 7 + d))})
  writeFileSync(join(dir, 'rows.jsonl'), Array.from({length: 2000}, (_, n) => row(n)).join('\n'))
})

describe('under a limit of memory', {concurrency: 2, skip: !hasLimits && 'no prlimit here'}, () => {
  for (const [name, words] of Object.entries(commands))
    it(`${name}: status 0, or 5 with a sentence`, async () => {
      const statuses: (number | null)[] = []
      for (const limit of limits) {
        const line = `export DINOV2_ENGINE=wasm DINOV2_WORKERS=1; prlimit ${limit} $P ${words} -q`
        const {status, stderr} = await shell(realBinary, line, dir)
        // a run of one step learns nothing, which is status 6; images that cannot be decoded for want of memory are 4
        const also = name.startsWith('pretrain') ? [4, 6] : []
        assert.ok([0, 5, ...also].includes(status!), `${limit}: status ${status}: ${stderr}`)
        if (status === 4 || status === 5) assert.match(stderr, /error: .*(memory|address space|WebAssembly)/, limit)
        assert.doesNotMatch(stderr, /Initialization of backend|^ +at /m, limit) // what a library prints of itself
        statuses.push(status)
      }
      assert.deepEqual(statuses.slice(0, 2), [5, 5])
    })
})

describe('a panorama', {skip: !hasLimits && 'no prlimit here'}, () => {
  const limited = (words: string): ReturnType<typeof shell> =>
    shell(realBinary, `export DINOV2_ENGINE=wasm DINOV2_WORKERS=1; prlimit --data=1500000000 $P ${words} -q`, dir)

  before(() =>
    sharp({create: {width: 30_000, height: 200, channels: 3, background: '#678'}})
      .png()
      .toFile(join(dir, 'photos', 'wall.png'))
  )

  it('is refused by its name and with what would fit, before an image is computed', async () => {
    for (const words of [
      'embed photos --model tiny.safetensors --no-crop --resize 196 -o wide.jsonl',
      'visualize attention photos/wall.png --model tiny.safetensors --size 196 -o wide.png'
    ]) {
      const {status, stderr} = await limited(words)
      assert.equal(status, 5, stderr)
      assert.match(stderr, /wall\.png of 29400 × 196 pixels needs about .* GB in this model, and .* of memory may be used/)
      assert.match(stderr, /What would fit: images whose short side is \d+ pixels/)
    }
    assert.deepEqual(
      readdirSync(dir).filter(name => name.startsWith('wide')),
      []
    )
  })

  it('goes through with a crop', async () => {
    const {status, stderr} = await limited('embed photos/wall.png --model tiny.safetensors --size 56 -o crop.jsonl')
    assert.equal(status, 0, stderr)
  })
})

describe('an error that means too little memory', () => {
  const reported = (error: Error): ReturnType<typeof report> => report(error, {bin: 'dinov2', version: '1'})

  it('has status 5 and says what was asked for and what is free, whoever threw it', () => {
    const errors: readonly (readonly [Error, RegExp])[] = [
      [new RangeError('Array buffer allocation failed'), /more was asked for/],
      [new RangeError('Invalid typed array length: 123456789012'), /an array of 123456789012 numbers/],
      [
        Object.assign(new Error('not enough memory: 2000000000 bytes were asked for while 5 were held'), {code: 'OUT_OF_MEMORY'}),
        /2\.00 GB/
      ],
      [new RangeError('WebAssembly.Memory(): could not allocate memory'), /more was asked for/],
      [Object.assign(new Error('memory access out of bounds'), {name: 'RuntimeError'}), /more was asked for/],
      [Object.assign(new Error('Worker terminated due to reaching memory limit'), {code: 'ERR_WORKER_OUT_OF_MEMORY'}), /more was/],
      [Object.assign(new Error('spawn ENOMEM'), {code: 'ENOMEM'}), /more was/],
      [new Error('it failed', {cause: new Error('std::bad_alloc')}), /more was/]
    ]
    for (const [error, words] of errors) {
      const {exit, lines} = reported(error)
      assert.equal(exit, 5, error.message)
      assert.match(lines[0]!, /^error: There is not enough memory: .* and .* (MB|GB) are free/)
      assert.match(lines[0]!, words)
    }
  })

  it('is not every error of lengths: those stay defects', () => {
    for (const message of [
      'Invalid typed array length: -1',
      'Invalid array length',
      'offset is out of bounds',
      'Invalid typed array length: 7'
    ])
      assert.equal(reported(new RangeError(message)).exit, 70, message)
  })

  it('comes first where letting go of something failed behind it', () => {
    const first = new UserError('It is so.', {exit: 3, code: 'X'})
    const both = Object.assign(new Error('An error was suppressed'), {
      name: 'SuppressedError',
      error: new Error('later'),
      suppressed: first
    })
    assert.equal(reported(both).exit, 3)
  })
})
