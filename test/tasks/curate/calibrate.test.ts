/** The calibrated threshold does not depend on how many copies the pool holds, and the best of the copies is kept. */
import assert from 'node:assert/strict'
import {mkdir, readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {before, test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {Config} from '../../../src/cli/oclif.js'
import sharp, {type Sharp} from 'sharp'
import Dedup from '../../../commands/curate/dedup.js'
import {rng} from '../../../src/tensor/random.js'
import {folder} from '../../support/program.js'

const dir = folder()
const config = await Config.load(fileURLToPath(new URL('../../../../', import.meta.url)))
before(() => process.chdir(dir))

/** A texture of coarse and fine random spots; `grain` is the number of fine ones across. */
async function texture(number: number, side = 72, grain = 24): Promise<Buffer> {
  const random = rng(4, number)
  const layer = (cells: number): Promise<Buffer> =>
    sharp(Buffer.from(Array.from({length: cells * cells * 3}, () => Math.floor(256 * random.uniform()))), {
      raw: {width: cells, height: cells, channels: 3}
    })
      .resize(side, side, {kernel: 'cubic'})
      .raw()
      .toBuffer()
  const [coarse, fine] = [await layer(7), await layer(grain)]
  return sharp(Buffer.from(coarse.map((value, i) => (value + fine[i]!) >> 1)), {raw: {width: side, height: side, channels: 3}})
    .png()
    .toBuffer()
}

/** Copies of an image, none as good as it. */
const worse = [
  (image: Sharp) => image.jpeg({quality: 60}),
  (image: Sharp) => image.jpeg({quality: 40}),
  (image: Sharp) => image.resize(48, 48).png(),
  (image: Sharp) => image.webp({quality: 70}),
  (image: Sharp) => image.greyscale().jpeg({quality: 90}),
  (image: Sharp) => image.blur(0.8).jpeg({quality: 80})
]

/** Copies of which two have less in common with each other than each has with its original. */
const harsh = [
  (image: Sharp) => image.jpeg({quality: 40}),
  (image: Sharp) => image.resize(54, 54).jpeg({quality: 20}),
  (image: Sharp) => image.jpeg({quality: 25}),
  (image: Sharp) => image.resize(54, 54).jpeg({quality: 60})
]

async function dedup(name: string, unique: number, copies: number, kinds = worse, grain = 24) {
  await mkdir(join(dir, name))
  for (let i = 0; i < unique; i++) {
    const image = await texture(i, 72, grain)
    await writeFile(join(dir, name, `z${i}-original.png`), image)
    for (let c = 0; c < copies; c++)
      await writeFile(join(dir, name, `a${i}-${c}.img`), await kinds[(i + c) % kinds.length]!(sharp(image)).toBuffer())
  }
  const list = join(dir, `${name}.txt`)
  const paths = Array.from({length: unique}, (_, i) => [
    `${name}/z${i}-original.png`,
    ...Array.from({length: copies}, (_, c) => `${name}/a${i}-${c}.img`)
  ])
  await writeFile(list, paths.flat().join('\n'))
  const write = process.stderr.write.bind(process.stderr)
  let stderr = ''
  process.stderr.write = (text: string | Uint8Array) => {
    stderr += String(text)
    return true
  }
  try {
    await Dedup.run([list, '--calibrate', '--calibration-images', '60', '--workers', '0', '-o', `${name}.jsonl`], config)
  } finally {
    process.stderr.write = write
  }
  const kept = (await readFile(join(dir, `${name}.jsonl`), 'utf8'))
    .trim()
    .split('\n')
    .map(line => (JSON.parse(line) as {id: string}).id)
  return {kept, threshold: Number(/threshold (0\.\d+) for a precision/.exec(stderr)?.[1]), stderr}
}

test('the threshold is the same for pools with 0 %, 50 % and 85 % copies; originals stay and copies go', async () => {
  const pools = [await dedup('none', 40, 0), await dedup('half', 40, 1), await dedup('most', 20, 6)]
  for (const [i, {kept, threshold, stderr}] of pools.entries()) {
    assert.deepEqual(
      kept.filter(id => !id.includes('original')),
      [],
      stderr
    )
    assert.equal(kept.length, [40, 40, 20][i], stderr)
    assert.ok(Math.abs(threshold - pools[0]!.threshold) < 0.1, `${threshold} and ${pools[0]!.threshold}`)
  }
})

test('copies that are far from each other are no pairs of different images', async () => {
  const [none, many] = [await dedup('plain', 40, 0, harsh, 48), await dedup('harsh', 20, 8, harsh, 48)]
  assert.ok(Math.abs(many.threshold - none.threshold) < 0.1, `${many.threshold} and ${none.threshold}: ${many.stderr}`)
  assert.deepEqual([many.kept.length, many.kept.filter(id => !id.includes('original'))], [20, []], many.stderr)
})

test('images that only resemble each other are not taken for copies', async () => {
  // The same coarse layout, other detail.
  const coarse = await sharp(await texture(1, 7))
    .resize(96, 96, {kernel: 'cubic'})
    .removeAlpha()
    .raw()
    .toBuffer()
  await mkdir(join(dir, 'alike'))
  for (let i = 0; i < 30; i++) {
    const random = rng(5, i)
    const fine = await sharp(Buffer.from(Array.from({length: 32 * 32 * 3}, () => Math.floor(70 * random.uniform()))), {
      raw: {width: 32, height: 32, channels: 3}
    })
      .resize(96, 96)
      .raw()
      .toBuffer()
    await sharp(Buffer.from(coarse.map((value, k) => Math.round(value * 0.7) + fine[k]!)), {raw: {width: 96, height: 96, channels: 3}})
      .png()
      .toFile(join(dir, 'alike', `${i}.png`))
  }
  await Dedup.run(['alike', '--calibrate', '--workers', '0', '-q', '-o', 'alike.jsonl'], config)
  assert.equal((await readFile(join(dir, 'alike.jsonl'), 'utf8')).trim().split('\n').length, 30)
})

test('a pool of two different images is too small to lower the threshold', async () => {
  await mkdir(join(dir, 'pair'))
  for (const number of [1, 2]) await writeFile(join(dir, 'pair', `${number}.png`), await texture(number))
  const plain = await Dedup.run(['pair', '--workers', '0', '-q', '-o', 'pair.jsonl'], config)
  const calibrated = await Dedup.run(['pair', '--calibrate', '--workers', '0', '-q', '-f', '-o', 'pair.jsonl'], config)
  for (const report of [plain, calibrated]) assert.match(JSON.stringify(report), /"threshold":0\.9,"neighbours"/)
  assert.equal((await readFile(join(dir, 'pair.jsonl'), 'utf8')).trim().split('\n').length, 2)
})
