/**
 * Decoding and cropping for training, beside what else could do it: photos a second of one core, on this machine, in
 * one run.
 *
 * usage: node dist/bench/augment.js FOLDER [--count 100] [--repeats 3] [--peers decode,resize,all,torch]
 * PYTHON names a Python with pillow (and torch, numpy for the mode torch). 2 × 224² + 8 × 98² views a photo, the
 * published recipe. Rates are a second of processor time, all threads together, which other work on the machine
 * disturbs less than wall time; the best of the repeats counts. Prints a table in Markdown.
 */
import {execFileSync} from 'node:child_process'
import {cpus} from 'node:os'
import {parseArgs} from 'node:util'
import sharp from 'sharp'
import {multiCrop} from '../src/data/augment/multi-crop.js'
import {decodeRgb} from '../src/data/image/decode.js'
import {loadNative, readyNative} from '../src/data/augment/native-crops.js'
import {planViews, shrinkOf, viewBytes, type CropSettings, type ViewPlan} from '../src/data/augment/crop-params.js'
import type {Raster} from '../src/data/image/resample.js'
import {listImages, type ImageRef} from '../src/data/sources/source.js'

const {positionals, values} = parseArgs({
  allowPositionals: true,
  options: {
    count: {type: 'string', default: '100'},
    repeats: {type: 'string', default: '3'},
    peers: {type: 'string', default: 'decode,resize,all,torch'}
  }
})
const folder = positionals[0]
if (!folder) throw new Error('name a folder of photos')
const python = process.env['PYTHON'] ?? 'python3'
const crops: CropSettings = {globalSize: 224, localSize: 98, globalScale: [0.32, 1], localScale: [0.05, 0.32], localCount: 8}

const refs: ImageRef[] = []
for await (const ref of listImages([folder])) if (/\.jpe?g$/i.test(ref.id) && refs.push(ref) === Number(values.count)) break
const images: Raster[] = []
for (const ref of refs) images.push(await decodeRgb(ref))
const path = await readyNative()
if (path === undefined) throw new Error('the native code cannot be had')
const native = loadNative(path)

const out = new Uint8Array(viewBytes(crops))
const plansOf = (i: number): ViewPlan[] => planViews(1, i, images[i]!.width, images[i]!.height, crops)
const bare = (i: number): ViewPlan[] => plansOf(i).map(({size, box}) => ({size, box, flip: false, changes: [], solarize: false}))

const shrink = (width: number, height: number): number => shrinkOf(width, height, crops)

/** What each candidate does with photo number i. */
const work: Record<string, (i: number) => unknown> = {
  'decode: sharp (libvips), full size': i => decodeRgb(refs[i]!),
  'crop and resize: sharp, a pipeline a crop': async i => {
    const {width, height, data} = images[i]!
    for (const {size, box} of bare(i))
      await sharp(data, {raw: {width, height, channels: 3}})
        .extract({left: box.x, top: box.y, width: box.width, height: box.height})
        .resize(size, size, {fit: 'fill', kernel: 'cubic'})
        .raw()
        .toBuffer()
  },
  'crop and resize: native': i => native.views(images[i]!, bare(i), out),
  'all of it, decoded already: TypeScript': i => multiCrop(1, i, images[i]!, crops, {out}),
  'all of it, decoded already: native': i => multiCrop(1, i, images[i]!, crops, {out, native}),
  'decode and all of it: TypeScript': async i => multiCrop(1, i, await decodeRgb(refs[i]!), crops, {out}),
  'decode and all of it: native': async i => multiCrop(1, i, await decodeRgb(refs[i]!), crops, {out, native}),
  'decode and all of it: native, train.decode=scaled': async i => multiCrop(1, i, await decodeRgb(refs[i]!, {shrink}), crops, {out, native})
}

const processor = (): number => {
  const {user, system} = process.cpuUsage()
  return (user + system) / 1e6
}

/** Photos a second of processor time. */
async function measure(job: (i: number) => unknown): Promise<number> {
  for (let i = 0; i < Math.min(10, refs.length); i++) await job(i)
  let best = 0
  for (let r = 0; r < Number(values.repeats); r++) {
    const before = processor()
    for (let i = 0; i < refs.length; i++) await job(i)
    best = Math.max(best, refs.length / (processor() - before))
  }
  return best
}

const PEERS: Readonly<Record<string, string>> = {
  decode: 'decode: Pillow',
  resize: 'crop and resize: Pillow',
  torch: 'crop and resize: PyTorch, interpolate on tensors',
  all: 'decode and all of it: Pillow'
}

const pixels = images.reduce((sum, {width, height}) => sum + width * height, 0) / images.length / 1e6
console.log(`${refs.length} photos of ${pixels.toFixed(2)} megapixels on average; ${cpus()[0]?.model ?? 'unknown processor'}, one core\n`)
console.log('| what | photos/s a core |\n| --- | ---: |')
const rows: [string, number][] = []
for (const [name, job] of Object.entries(work)) rows.push([name, await measure(job)])
for (const mode of values.peers.split(',').filter(Boolean)) {
  const said = execFileSync(python, [new URL('../../bench/peers/augment.py', import.meta.url).pathname, folder, values.count, mode], {
    encoding: 'utf8'
  })
  rows.push([PEERS[mode] ?? mode, (JSON.parse(said) as {processor: number}).processor])
}
rows.sort(([a], [b]) => (a < b ? -1 : 1))
for (const [name, rate] of rows) console.log(`| ${name} | ${rate.toFixed(rate < 100 ? 1 : 0)} |`)
