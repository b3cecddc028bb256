/**
 * Settings: what is merged, what is refused and how it is said, what follows from them, and that the files in
 * `configs` say what the table says.
 */
import assert from 'node:assert/strict'
import {mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, describe, it} from 'node:test'
import {architecture, derive, hiddenWidth, maskMaxPatches} from '../../src/config/derived.js'
import {UserError} from '../../src/config/errors.js'
import {distance, nearestName} from '../../src/config/nearest.js'
import {describeExpected, fits} from '../../src/config/expected.js'
import {defaultYaml, printSettings, settingsYaml} from '../../src/config/print-settings.js'
import {readLayers} from '../../src/config/read-layers.js'
import {currentSettings, renamedSettings} from '../../src/config/renamed.js'
import {recipeFolder} from '../../src/config/recipes.js'
import {resolveSettings, withSetting, type Settings} from '../../src/config/settings.js'
import {aliases, settingRows} from '../../src/config/table.js'

const dir = mkdtempSync(join(tmpdir(), 'dinov2-settings-'))
after(() => rmSync(dir, {recursive: true, force: true}))
let count = 0
const file = (content: string): string => {
  const path = join(dir, `s${count++}.yaml`)
  writeFileSync(path, content)
  return path
}
const load = (files: string[], sets: string[] = []): ReturnType<typeof resolveSettings> =>
  resolveSettings(readLayers(files, sets, {flags: ['engine', 'max-bad'], settings: true}).settings)
const settings = (...sets: string[]): Settings => load([], sets).settings
const refusal = (act: () => unknown): UserError => {
  try {
    act()
  } catch (error) {
    assert.ok(error instanceof UserError, String(error))
    assert.equal(error.exit, 2)
    return error
  }
  throw new Error('nothing was refused')
}

describe('merging', () => {
  it('lays files over defaults and --set over files, and remembers where each came from', () => {
    const first = file('optim:\n  epochs: 3\n  warmup_epochs: 1\ncrops: {local_crops_number: 2}\n')
    const second = file('optim:\n  epochs: 4\n')
    const {settings, sources} = load([first, second], ['crops.local_crops_number=6', 'ibot.mask_ratio_min_max=0.2,0.4'])
    assert.deepEqual([settings.optim.epochs, settings.optim.warmup_epochs, settings.crops.local_crops_number], [4, 1, 6])
    assert.deepEqual(settings.ibot.mask_ratio_min_max, [0.2, 0.4])
    assert.deepEqual(
      ['optim.epochs', 'optim.warmup_epochs', 'crops.local_crops_number', 'optim.base_lr'].map(path => sources.get(path)),
      [`${second}:2`, `${first}:3`, '--set', 'default']
    )
  })

  it('freezes the whole', () => {
    const made = settings()
    assert.throws(() => ((made.optim as {epochs: number}).epochs = 1), TypeError)
    assert.throws(() => ((made.crops.global_crops_scale as [number, number])[0] = 0), TypeError)
  })

  it('takes other spellings', () => {
    assert.deepEqual([settings('train.batch=5').train.batch_size_per_gpu, settings('train.num_workers=2').train.workers], [5, 2])
    for (const path of [...Object.values(aliases), ...Object.values(renamedSettings)])
      assert.ok(
        [...settingRows()].some(([name]) => name === path),
        path
      )
  })

  it('takes old names, says so, and reads the records of old runs', () => {
    const read = readLayers([file('train: {accumulate: 2, decode: shrunk}\n')], ['train.accumulate=4'], {flags: [], settings: true})
    const {grad_accumulation, decode} = resolveSettings(read.settings).settings.train
    assert.deepEqual([grad_accumulation, decode], [4, 'scaled'])
    assert.deepEqual(
      read.deprecated.map(sentence => sentence.replace(/^.*\.yaml/, 'FILE')),
      [
        'FILE:1: train.accumulate is deprecated; the setting is called train.grad_accumulation now',
        'FILE:1: train.decode=shrunk is deprecated; the value is called scaled now',
        '--set: train.accumulate is deprecated; the setting is called train.grad_accumulation now'
      ]
    )
    assert.deepEqual(currentSettings({train: {accumulate: 3, decode: 'shrunk', seed: 1}}), {
      train: {grad_accumulation: 3, decode: 'scaled', seed: 1}
    })
    assert.throws(() => readLayers([], ['train.accumulate=2'], {flags: [], settings: false}), /is a setting of training/)
  })

  it('keeps flags apart from settings', () => {
    const {flags, settings} = readLayers([file('engine: torch\nmax-bad: 3%\noptim: {epochs: 2}\n')], ['engine=wasm'], {
      flags: ['engine', 'max-bad'],
      settings: true
    })
    assert.deepEqual(
      flags.map(({name, value}) => [name, value]),
      [
        ['max-bad', '3%'],
        ['engine', 'wasm']
      ]
    )
    assert.equal(settings.length, 1)
  })

  it('puts a later value above all', () => {
    const {settings, sources} = withSetting(load([], ['train.seed=1']), 'train.seed', 7, 'command line')
    assert.deepEqual([settings.train.seed, sources.get('train.seed')], [7, 'command line'])
  })

  it('reads back what it writes', () => {
    const made = load(['small'], ['student.layerscale=1e-7', 'student.pretrained_weights=a: b#c'])
    assert.deepEqual(load([file(settingsYaml(made.settings))]).settings, made.settings)
    const printed = printSettings(
      [
        {name: 'engine', value: 'auto', source: 'default'},
        {name: 'threads', value: undefined, source: 'default'}
      ],
      made
    )
    assert.deepEqual(load([file(printed)]).settings, made.settings)
    assert.match(printed, /^ {2}layerscale: 1e-7 +# --set$/m)
    assert.match(printed, /^# threads: not set$/m)
  })
})

describe('refusals', () => {
  it('name all that is wrong at once, with line, nearest name and range', () => {
    const path = file('optim:\n  epohs: 3\ntrain:\n  batch_size_per_gpu: 0\nmodel: x\n')
    const {message} = refusal(() => load([path], ['crops.blurr=paper', 'base_lr=1', 'nonsense']))
    assert.match(message, new RegExp(`${path}:2: there is no setting optim.epohs. Did you mean optim.epochs\\?`))
    assert.match(message, /crops\.blurr\. Did you mean crops\.blur\?/)
    assert.match(message, /no setting base_lr\. Did you mean optim\.base_lr\?/)
    assert.match(message, /--set nonsense: expected KEY=VALUE/)
    assert.match(message, new RegExp(`${path}:5: there is no setting model`))
  })

  it('say the range, the options and the kind', () => {
    for (const [set, wanted] of [
      ['train.batch=0', 'a whole number of at least 1'],
      ['train.batch=1.5', 'a whole number of at least 1'],
      ['optim.layerwise_decay=0', 'a number above 0 up to 1'],
      ['optim.base_lr=fast', 'a number of at least 0'],
      ['ibot.mask_ratio_min_max=0.5,0.1', 'two numbers from 0 to 1, the smaller first'],
      ['crops.blur=none', 'one of released, paper'],
      ['ibot.separate_head=yes', 'true or false'],
      ['student.depth=0', 'a whole number from 1 to 1024, or null']
    ] as const) {
      assert.ok(refusal(() => settings(set)).message.includes(`expected ${wanted} for`), refusal(() => settings(set)).message)
    }
    assert.match(
      refusal(() => load([file('optim:\n  base_lr: "4e-3"\n')])).message,
      /s\d+\.yaml:2: expected a number of at least 0 for optim\.base_lr, but received "4e-3"/
    )
  })

  it("say what to use instead of Meta's keys that have no place, and accept those that ask for nothing else", () => {
    const theirs = file(
      'MODEL:\n  WEIGHTS: ""\ncompute_precision:\n  grad_scaler: true\n  teacher:\n    backbone: {sharding_strategy: SHARD_GRAD_OP}\ntrain:\n  dataset_path: ImageNet22k\n  num_workers: 4\n' +
        'student:\n  block_chunks: 4\n  qkv_bias: true\n  ffn_bias: false\noptim:\n  lr: 0.\n'
    )
    const lines = refusal(() => load([theirs])).message.split('\n')
    assert.equal(lines.length, 3)
    assert.match(lines[0]!, /compute_precision\.grad_scaler has no place here: choose the number format with --precision/)
    assert.match(lines[1]!, /train\.dataset_path has no place here: name the images on the command line/)
    assert.match(lines[2]!, /student\.ffn_bias/)
  })

  it('tell what is wrong with the file', () => {
    assert.match(refusal(() => load([file('optim:\n  epochs: 3\n  epochs: 4\n')])).message, /:3: optim.epochs stands there twice/)
    assert.match(refusal(() => load([file('- 1\n')])).message, /expected sections/)
    assert.match(refusal(() => load(['smal'])).hint!, /recipe small/)
    assert.match(refusal(() => load(['./none.yaml'])).hint!, /vitl14/)
    assert.equal(load([file('# nothing\n'), file('optim:\n')]).settings.optim.epochs, 100)
  })

  it('that has the name of a recipe stands above it, and a folder of that name does not', t => {
    const before = process.cwd()
    t.after(() => process.chdir(before))
    process.chdir(dir)
    mkdirSync('small') // as the output of a run with --config small -o small
    assert.equal(load(['small']).settings.student.embed_dim, 192)
    writeFileSync('tiny', 'student: {arch: custom, embed_dim: 24}')
    assert.equal(load(['tiny']).settings.student.embed_dim, 24)
    mkdirSync('mine')
    assert.match(refusal(() => load(['mine'])).message, /mine cannot be read: it is a folder/)
  })
})

describe('the table', () => {
  it('has for every setting a sentence and a default that fits', () => {
    for (const [path, setting] of settingRows()) {
      assert.match(setting.description, /^[A-Z\d].*[.]$/, path)
      assert.ok(fits(setting, setting.default), `${path}: ${describeExpected(setting)}`)
    }
  })

  it('is what configs/default.yaml says (npm run configs writes it anew)', () => {
    assert.equal(readFileSync(join(recipeFolder, 'default.yaml'), 'utf8'), defaultYaml())
    assert.deepEqual(load(['default']).settings, settings())
  })

  it('knows every recipe, and each says under its schema the command to run', () => {
    const names = readdirSync(recipeFolder).filter(name => name.endsWith('.yaml'))
    assert.ok(names.length >= 13)
    for (const name of names) {
      const made = load([join(recipeFolder, name)], name === 'highres.yaml' ? ['student.patch_size=14'] : []) // it takes sizes from weights
      assert.ok(derive(made.settings).steps > 0)
      const [, first] = readFileSync(join(recipeFolder, name), 'utf8').split('\n')
      if (name !== 'default.yaml')
        assert.match(
          first!,
          new RegExp(`^# dinov2 ${name.startsWith('distill-') ? 'distill .*--teacher' : 'pretrain'} .*--config ${name.slice(0, -5)}`)
        )
    }
  })
})

describe('what follows', () => {
  it("gives Meta's sizes, steps and rates", () => {
    const large = derive(load(['vitl14']).settings, 96)
    assert.deepEqual(
      [large.steps, large.curves.lr.warmup, large.curves.lastLayerLr.frozen, large.curves.teacherTemperature.warmup],
      [625_000, 100_000, 1250, 37_500]
    )
    assert.ok(Math.abs(large.lr - 3.4641e-4) < 1e-8)
    assert.deepEqual(
      [large.vit.width, large.vit.depth, large.vit.hidden, large.globalGrid, large.localGrid, large.maskMaxPatches],
      [1024, 24, 2736, 16, 7, 128]
    )
    assert.deepEqual([large.dinoHead.bottleneck, large.ibotHead!.bottleneck, large.ibotHead!.prototypes], [384, 256, 131_072])
    assert.ok(Math.abs(derive(load(['vitl16-short']).settings, 32).lr - 5.6569e-3) < 1e-7)
    assert.deepEqual(
      [384, 768, 1024, 1536].map(width => hiddenWidth(width, 'swiglu')),
      [1024, 2048, 2736, 4096]
    )
    assert.deepEqual([maskMaxPatches(224, 14), maskMaxPatches(224, 16), maskMaxPatches(518, 14)], [128, 98, 666])
  })

  it('gives the small recipe 1000 steps, 100 of warm-up and 10 with the last layer at rest', () => {
    const {steps, lr, curves, vit, localGrid} = derive(load(['small']).settings)
    assert.deepEqual([steps, curves.lr.warmup, curves.lastLayerLr.frozen, curves.teacherTemperature.total], [1000, 100, 10, 0])
    assert.ok(Math.abs(lr - 1.41421e-3) < 1e-8)
    assert.deepEqual([vit.width, vit.depth, vit.heads, vit.patch, vit.grid, localGrid, vit.layerScale], [192, 6, 3, 8, 6, 3, true])
  })

  it('gives the recipe of a day the settings of medium at twice the width and ten times the length', () => {
    const {settings: day} = load(['day'])
    const {settings: medium} = load(['medium'])
    assert.deepEqual(
      {
        ...day,
        train: {...day.train, OFFICIAL_EPOCH_LENGTH: 0, checkpoint_every: 0},
        student: {...day.student, embed_dim: 128, num_heads: 2}
      },
      {...medium, train: {...medium.train, OFFICIAL_EPOCH_LENGTH: 0, checkpoint_every: 0}}
    )
    const {steps, vit} = derive(day)
    assert.deepEqual([steps, vit.width, vit.heads, vit.depth], [10 * derive(medium).steps, 256, 4, 4])
    const short = ['train.steps=1800', 'train.checkpoint_every=300']
    assert.deepEqual(derive(load(['day'], short).settings).curves, derive(load(['medium'], short).settings).curves)
  })

  it('takes all lengths in proportion under train.steps', () => {
    const {steps, curves} = derive(load(['vitl14'], ['train.steps=10000']).settings)
    assert.deepEqual([steps, curves.lr.warmup, curves.lastLayerLr.frozen, curves.teacherTemperature.warmup], [10_000, 1600, 20, 600])
  })

  it('refuses what contradicts itself', () => {
    const said = (...sets: string[]): string => refusal(() => derive(settings(...sets))).message
    assert.match(said('student.arch=custom', 'student.depth=3'), /needs student\.embed_dim/)
    assert.match(said('student.depth=3'), /student\.arch is vit_large/)
    assert.match(
      said('student.arch=custom', 'student.embed_dim=100', 'student.depth=3', 'student.num_heads=3'),
      /not a multiple of student\.num_heads/
    )
    assert.match(said('crops.local_crops_size=97'), /crops\.local_crops_size 97 is not a multiple/)
    assert.match(said('optim.epochs=5'), /longer than the whole run/)
  })

  it('grows stochastic depth from block to block where it is not uniform', () => {
    const {dropPath} = derive(settings('student.arch=vit_small', 'student.drop_path_uniform=false', 'student.drop_path_rate=0.22'))
    assert.deepEqual([dropPath[0], dropPath.at(-1), dropPath.length], [0, 0.22, 12])
    assert.equal(architecture(settings('student.layerscale=0')).layerScale, false)
  })
})

describe('nearest', () => {
  it('counts single changes, swaps included', () => {
    assert.deepEqual([distance('kitten', 'sitting'), distance('ab', 'ba'), distance('', 'abc'), distance('same', 'same')], [3, 1, 3, 0])
  })
  it('suggests what is near and nothing else', () => {
    assert.equal(nearestName('ouptut', ['output', 'force']), 'output')
    assert.equal(nearestName('EPOCHS', ['epochs']), 'epochs')
    assert.equal(nearestName('zebra', ['output', 'force']), undefined)
  })
})
