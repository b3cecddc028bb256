/**
 * Every input of images, taken from the declarations of the commands, given as a folder, as a tar file and as a
 * compressed tar on stdin: the same images, the same classes, the same result.
 */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {Config} from '../../src/cli/oclif.js'
import {commandLines, drawInputs, model} from '../support/command-lines.js'
import {CommandServer, folder} from '../support/program.js'
import {projectFolder} from '../support/scratch.js'

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1', DINOV2_BATCH: '4', HF_HUB_OFFLINE: '1'}
const server = new CommandServer({env, cwd: dir, patience: 120_000})
after(() => server.end())

const training = '--config recipe.yaml --eval-images photos --eval-val photos --eval-every 1'
/** Lines whose inputs are images, where the usual ones take vectors or need more. */
const lines: Readonly<Record<string, string>> = {
  ...commandLines,
  curate: 'photos --stages filter --filter-seeds photos --model tiny.safetensors -o out.jsonl',
  'curate:cluster': `photos ${model} --levels 2 -o out.jsonl`,
  'curate:decontaminate': `photos ${model} --against photos -o out.jsonl`,
  'curate:dedup': `photos ${model} -o out.jsonl`,
  'curate:filter': 'photos --seeds photos --model tiny.safetensors -o out.jsonl',
  'curate:mislabelled': `photos ${model} -o out.jsonl`,
  'curate:outliers': `photos ${model} -o out.jsonl`,
  'curate:retrieve': `photos ${model} --seeds photos --per-seed 1 -o out.jsonl`,
  'curate:sample': `photos ${model} --levels 2 --target 2 -o out.jsonl`,
  'depth-eval': `${commandLines['depth-eval']} --test rooms/images/val --out-of-domain rooms/images/val`,
  distill: `photos --teacher tiny.safetensors ${training} -o run`,
  'knn-eval': `${commandLines['knn-eval']} --test photos`,
  'linear-eval': `${commandLines['linear-eval']} --test photos`,
  pretrain: `photos ${training} -o run`,
  search: 'photos.index photos --model tiny.safetensors -o out.jsonl',
  'seg-eval': `${commandLines['seg-eval']} --test scenes/images/val`,
  'visualize:match': `first second ${model} -o out.jsonl`,
  'visualize:neighbours': 'photos.index photos --model tiny.safetensors -o out.html'
}
const recipe = `
dino: {head_n_prototypes: 16, head_bottleneck_dim: 8, head_hidden_dim: 16}
train: {batch_size_per_gpu: 4, steps: 1, workers: 1}
student: {arch: custom, embed_dim: 16, depth: 2, num_heads: 2, patch_size: 14, layerscale: 1.0}
optim: {epochs: 10, warmup_epochs: 1}
crops: {local_crops_number: 1, global_crops_size: 28, local_crops_size: 14}
`

/** Folders of images that lines name. */
const sets = ['photos', 'first', 'second', ...['rooms', 'scenes'].flatMap(set => ['train', 'val'].map(part => `${set}/images/${part}`))]
/** Arguments and flags that take images. */
const isImages = (name: string, helpValue: unknown): boolean =>
  /^(images|inputs|queries|a|b)$/.test(name) || helpValue === 'SET' || helpValue === 'NAME=INPUT'

type Case = {readonly name: string; readonly words: readonly string[]; readonly place: number}
const config = await Config.load(projectFolder())
const cases: Case[] = []
const missing: string[] = []
for (const {id, args, flags, hidden} of config.commands) {
  if (hidden) continue
  const words = lines[id]?.split(' ') ?? []
  const add = (name: string, place: number): void => {
    if (sets.includes(words[place] ?? '')) cases.push({name: `${id.replaceAll(':', ' ')} ${name}`, words, place})
    else missing.push(`${id} ${name}`)
  }
  for (const [i, arg] of Object.keys(args).entries()) if (isImages(arg, undefined)) add(arg.toUpperCase(), i)
  for (const [flag, declared] of Object.entries(flags))
    if (declared.type === 'option' && !declared.deprecated && isImages('', (declared as {helpValue?: string}).helpValue))
      add(`--${flag}`, words.indexOf(`--${flag}`) + 1)
}

/**
 * Fields that tell how long something took, what an input was called and where a file was written; and of a contact
 * sheet, how many neighbours are not the query itself, which is known by its name.
 */
const OTHER = /second|waiting|^(set|name|path|predicted|mask|pictures|missing|sameLabel|inputs|tests|outOfDomain)$/i
/** A report with the same names whatever held the images. */
function plain(text: string): unknown {
  const named = text.replaceAll(/(stdin|[\w-]+\.tar)\/(?=photos|first|second|rooms|scenes)/g, '').replaceAll(/\.png(?=["/])/g, '')
  return JSON.parse(named, (key, value: unknown) => (OTHER.test(key) ? undefined : value))
}

const reports = new Map<string, unknown>()
async function report({words, name}: Case, place: number, value: string, piped?: string): Promise<unknown> {
  const command = name.split(' ').filter(word => /^[a-z]/.test(word))
  const line = [...command, ...words.with(place, value), '--json', '-q', '--force']
  const {status, stdout, stderr} = await server.runIn({}, line, piped === undefined ? undefined : join(dir, piped))
  const training = /pretrain|distill/.test(name)
  assert.ok(status === 0 || (training && status === 6), `${line.join(' ')} ended with ${status}: ${stderr}`)
  const json = (stdout.trim() === '' ? stderr : stdout).trim().split('\n').at(-1)!
  return training ? readFileSync(join(dir, 'run', 'metrics.jsonl'), 'utf8') : plain(json)
}

before(async () => {
  await drawInputs(dir, server)
  writeFileSync(join(dir, 'recipe.yaml'), recipe)
  for (const [name, from] of [
    ['first', 'photos/one/000.png'],
    ['second', 'photos/two/000.png']
  ] as const)
    execFileSync('bash', ['-c', `mkdir ${name} && cp ${from} ${name}/0.png`], {cwd: dir})
  for (const set of sets) {
    execFileSync('tar', ['--sort=name', '-cf', `${set.replaceAll('/', '-')}.tar`, set], {cwd: dir})
    execFileSync('tar', ['--sort=name', '-czf', `${set.replaceAll('/', '-')}.tgz`, set], {cwd: dir})
  }
})

describe('images in a tar', () => {
  it('are refused by their own names, not by that of the tar', async () => {
    const cut = readFileSync(join(dir, 'photos/one/000.png')).subarray(0, 300)
    mkdirSync(join(dir, 'bad'))
    writeFileSync(join(dir, 'bad/cut.png'), cut)
    execFileSync('bash', ['-c', 'cp photos/one/000.png bad/good.png; tar -cf bad.tar bad; tar -czf bad.tgz bad'], {cwd: dir})
    for (const [name, piped] of [['bad.tar'], ['bad.tgz'], ['-', 'bad.tgz']]) {
      const {status, stderr} = await server.runIn(
        {},
        [...`embed ${name} ${model} --max-bad 1 --bad bad.jsonl -o bad.arrow --force`.split(' ')],
        piped && join(dir, piped)
      )
      assert.equal(status, 0, stderr)
      const id = `${name === '-' ? 'stdin' : name}/bad/cut`
      assert.match(stderr, new RegExp(`^skipped ${id}: it is a PNG that is cut off`, 'm'))
      const row = JSON.parse(readFileSync(join(dir, 'bad.jsonl'), 'utf8')) as {id: string; path: string}
      assert.deepEqual([row.id, row.path], [id, id])
    }
  })

  it('cannot come twice through one stdin', async () => {
    for (const line of ['pretrain - --eval-images - -o never', 'knn-eval --train - --val - --model tiny.safetensors']) {
      const {status, stderr} = await server.runIn({}, line.split(' '), join(dir, 'photos.tar'))
      assert.equal(status, 2)
      assert.match(stderr, /stdin \(-\) is named twice/)
    }
  })

  it('have a line for each input that is declared', () => {
    assert.deepEqual(missing, [])
    assert.ok(cases.length > 40, `${cases.length} cases`)
  })

  for (const one of cases)
    it(one.name, async () => {
      const set = one.words[one.place]!
      const key = one.words.join(' ') + one.name.replace(/ (--[\w-]+|[A-Z]+)$/, '')
      const expected = reports.get(key) ?? (await report(one, one.place, set))
      reports.set(key, expected)
      const tar = set.replaceAll('/', '-')
      assert.deepEqual(await report(one, one.place, `${tar}.tar`), expected)
      assert.deepEqual(await report(one, one.place, '-', `${tar}.tgz`), expected)
    })
})
