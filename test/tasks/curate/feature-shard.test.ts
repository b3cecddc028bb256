/** Features of a pool computed in shards: the run that takes them gives the bytes of one that computes them all. */
import assert from 'node:assert/strict'
import {copyFileSync, readFileSync, readdirSync, renameSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {drawnFolder} from '../../support/drawn-images.js'
import {CommandServer, folder, type Ended} from '../../support/program.js'
import {saveTiny} from '../../support/tiny-backbone.js'

const dir = folder()
const server = new CommandServer({cwd: dir, env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}})
after(() => server.end())

const stages = '--stages filter,dedup,sample --sample-target 4 --cluster-levels 3 --model tiny.safetensors --size 56 --batch 2 --max-bad 1'
const curate = (words: string, pool = 'photos'): Promise<Ended> => server.run(...`curate ${pool} ${stages} ${words}`.split(' '))
const text = (name: string): string => readFileSync(join(dir, name), 'utf8')
const kept = (): string[] => readdirSync(join(dir, 'parts')).sort()

before(async () => {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 6)
  copyFileSync(join(dir, 'photos', 'two', readdirSync(join(dir, 'photos', 'two'))[0]!), join(dir, 'photos', 'two', 'zz-copy.png'))
  writeFileSync(join(dir, 'photos', 'two', 'zzz-broken.png'), 'no image')
})

describe('curate --shard', () => {
  it('computes features of its part; a run that finds all parts gives the rows of one process and computes none', async () => {
    const whole = await curate('-o whole.jsonl --rejected whole-rejected.jsonl -q')
    assert.equal(whole.status, 0, whole.stderr)
    for (const i of [2, 0, 1]) {
      const {status, stderr} = await curate(`--cache parts --shard ${i}/3`)
      assert.equal(status, 0, stderr)
      assert.match(stderr, new RegExp(`features of [45] of 14 images \\(shard ${i}/3\\)${i === 2 ? ', 1 unreadable' : ''}, in parts/`))
    }
    assert.equal(kept().length, 6, 'three parts of two kinds')
    const merged = await curate('--cache parts -o merged.jsonl --rejected merged-rejected.jsonl')
    assert.equal(merged.status, 0, merged.stderr)
    assert.equal(text('merged.jsonl'), text('whole.jsonl'))
    assert.equal(text('merged-rejected.jsonl'), text('whole-rejected.jsonl'))
    assert.equal(kept().length, 6, 'nothing was computed anew')
    const again = await curate('--cache parts --shard 1/3 --json')
    assert.equal((JSON.parse(again.stderr.trim().split('\n').at(-1)!) as {images: number}).images, 5)
  })

  it('is refused where a part is missing, is there twice, or is of another pool', async () => {
    const part = kept().find(name => name.startsWith('perceptual.shard-1-of-3'))!
    const at = (name: string): string => join(dir, 'parts', name)
    renameSync(at(part), join(dir, 'aside.arrow'))
    const missing = await curate('--cache parts -o none.jsonl -q')
    assert.equal(missing.status, 2)
    assert.match(missing.stderr, /shard 1\/3 is missing beside parts\/perceptual\.shard-0-of-3\.arrow\.\n.*with --shard 1\/3/)
    copyFileSync(at('perceptual.shard-0-of-3.arrow'), at('perceptual.shard-0-of-3-again.arrow'))
    renameSync(join(dir, 'aside.arrow'), at(part))
    const twice = await curate('--cache parts -o none.jsonl -q')
    assert.equal(twice.status, 2)
    assert.match(twice.stderr, /perceptual\.shard-0-of-3-again\.arrow and parts\/perceptual\.shard-0-of-3\.arrow are both shard 0\/3/)
    renameSync(at('perceptual.shard-0-of-3-again.arrow'), join(dir, 'aside.arrow'))
    assert.equal((await curate('--cache parts --shard 1/3 -q', 'photos/one')).status, 0) // takes the place of the part
    const foreign = await curate('--cache parts -o none.jsonl -q')
    assert.equal(foreign.status, 2)
    assert.match(foreign.stderr, /are shards of two lists: shard 0\/3 of 14 images, and shard 1\/3 of 6/)
  })

  it('names what does not go with it', async () => {
    const cases: [string, RegExp][] = [
      ['--shard 0/2 -q', /cache/],
      ['--shard 0/2 --cache other -o kept.jsonl -q', /nothing to write to -o/],
      ['--shard 0/2 --cache other --html page.html -q', /--html=page\.html cannot also be provided when using --shard/],
      ['--shard 0/20 --cache other -q', /14 images cannot be cut into 20 shards/]
    ]
    for (const [words, said] of cases) {
      const {status, stderr} = await curate(words)
      assert.equal(status, 2, stderr)
      assert.match(stderr, said)
    }
  })
})
