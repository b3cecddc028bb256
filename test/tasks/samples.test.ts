/**
 * Sample folders: drawn ones are whole, reproducible and never overwrite photos; pulled ones come from a server on the
 * loopback.
 */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {mkdir, mkdtemp, readdir, readFile, rm, writeFile} from 'node:fs/promises'
import {createServer, type Server} from 'node:http'
import type {AddressInfo} from 'node:net'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {gzipSync} from 'node:zlib'
import {pack} from 'tar-stream'
import type {PhotoSet} from '../../src/files/photo-sets.js'
import {chooseClasses, drawSamples, PHOTO_SETS, photoSet, pullSamples} from '../../src/tasks/samples.js'

let folder: string
before(async () => void (folder = await mkdtemp(join(tmpdir(), 'samples-'))))
after(async () => rm(folder, {recursive: true}))

const few = {classes: 'star,bricks', perClass: 2, valPerClass: 1, size: 16, seed: 0, format: 'png', force: false} as const

test('a folder is drawn whole and says how; the same settings give the same bytes', async () => {
  const [first, second] = [join(folder, 'a'), join(folder, 'b')]
  const report = await drawSamples({...few, output: first})
  assert.deepEqual(report.classes, ['bricks', 'star'])
  assert.deepEqual([report.train, report.val], [4, 2])
  assert.deepEqual((await readdir(first, {recursive: true})).filter(name => name.endsWith('.png')).sort(), [
    'train/bricks/000.png',
    'train/bricks/001.png',
    'train/star/000.png',
    'train/star/001.png',
    'val/bricks/000.png',
    'val/star/000.png'
  ])
  const again = await drawSamples({...few, output: second})
  assert.equal(again.sha256, report.sha256)
  const other = await drawSamples({...few, seed: 1, output: second, force: true})
  assert.notEqual(other.sha256, report.sha256)
  assert.equal((JSON.parse(await readFile(join(second, 'samples.json'), 'utf8')) as {seed: number}).seed, 1)
  // a larger set holds the smaller one
  const larger = join(folder, 'larger')
  await drawSamples({...few, classes: '16', perClass: 3, output: larger, format: 'png'})
  assert.deepEqual(await readFile(join(larger, 'train/star/001.png')), await readFile(join(first, 'train/star/001.png')))
})

test('an existing folder is refused, and one that was not drawn also with force', async () => {
  const output = join(folder, 'photos')
  await mkdir(output)
  await writeFile(join(output, 'holiday.jpg'), 'x')
  await assert.rejects(drawSamples({...few, output}), {code: 'OUTPUT_EXISTS', exit: 2})
  await assert.rejects(drawSamples({...few, output, force: true}), {code: 'OUTPUT_EXISTS', message: /not made by dinov2 samples/})
  assert.deepEqual(await readdir(output), ['holiday.jpg'])
})

test('an interrupted drawing leaves nothing', async () => {
  const control = new AbortController()
  const output = join(folder, 'stopped')
  await assert.rejects(drawSamples({...few, output, signal: control.signal, onPicture: () => control.abort(new Error('stop'))}), /stop/)
  assert.ok(!(await readdir(folder)).some(name => name.includes('stopped')))
})

test('classes are chosen by count or by name, and wrong ones are answered with the list', () => {
  assert.equal(chooseClasses('16').length, 16)
  assert.deepEqual(chooseClasses('2'), ['bricks', 'star'])
  assert.deepEqual(chooseClasses('mug, fish,mug'), ['fish', 'mug'])
  assert.throws(() => chooseClasses('17'), {exit: 2, message: /1 to 16/})
  assert.throws(() => chooseClasses('dog'), {exit: 2, hint: /bottle, box/})
})

/** A gzipped tar of the given files. */
async function tgz(files: Readonly<Record<string, string>>): Promise<Buffer> {
  const archive = pack()
  for (const [name, content] of Object.entries(files)) archive.entry({name}, content)
  archive.entry({name: 'link', type: 'symlink', linkname: '/etc/passwd'})
  archive.finalize()
  const pieces: Buffer[] = []
  for await (const piece of archive) pieces.push(piece as Buffer)
  return gzipSync(Buffer.concat(pieces))
}

async function served(files: Readonly<Record<string, Buffer>>): Promise<{server: Server; asked: string[]; base: string}> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(request.url!)
    const body = files[request.url!.slice(1)]
    if (body) response.writeHead(200, {'content-length': body.length}).end(body)
    else response.writeHead(404).end()
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return {server, asked, base: `http://127.0.0.1:${(server.address() as AddressInfo).port}`}
}

const archived = (url: string, bytes: Buffer): PhotoSet['archives'][0] => ({
  url,
  bytes: bytes.length,
  sha256: createHash('sha256').update(bytes).digest('hex')
})

test('a set is fetched, checked, unpacked by its rule and cleaned up; names that break out are left out', async () => {
  const bytes = await tgz({
    'flower_photos/LICENSE.txt': 'credits',
    ...Object.fromEntries(Array.from({length: 20}, (_, i) => [`flower_photos/roses/${i}.jpg`, `rose ${i}`])),
    'flower_photos/tulips/a.jpg': 'tulip',
    'flower_photos/../../evil.jpg': 'evil',
    'flower_photos/roses/../x.jpg': 'evil'
  })
  const {server, base} = await served({'flower_photos.tgz': bytes})
  try {
    const output = join(folder, 'flowers')
    const set = {...photoSet('flowers'), archives: [archived(`${base}/flower_photos.tgz`, bytes)]} as PhotoSet
    const report = await pullSamples({set, output, force: false})
    assert.equal(report.train + report.val, 21)
    assert.ok(report.val >= 1 && report.train > report.val)
    assert.equal(report.classes, 2)
    assert.equal(await readFile(join(output, 'LICENSE.txt'), 'utf8'), 'credits')
    const names = (await readdir(folder, {recursive: true})).filter(name => /evil|x\.jpg|link|download/.test(name))
    assert.deepEqual(names, [])
  } finally {
    server.close()
  }
})

test('a set with lists of its splits follows them', async () => {
  const images = await tgz({
    'images/Bombay_1.jpg': 'a',
    'images/Bombay_2.jpg': 'b',
    'images/basset_hound_7.jpg': 'c',
    'images/Bombay_3.mat': 'no',
    'images/Sphynx_9.jpg': 'in no list'
  })
  const lists = await tgz({
    'annotations/trainval.txt': 'Bombay_1 1 1 1\nbasset_hound_7 2 2 1\n',
    'annotations/test.txt': 'Bombay_2 1 1 1\n',
    'annotations/trimaps/x.png': 'big'
  })
  const {server, asked, base} = await served({'images.tar.gz': images, 'annotations.tar.gz': lists})
  try {
    const output = join(folder, 'pets')
    const set = {
      ...photoSet('pets'),
      archives: [archived(`${base}/images.tar.gz`, images), archived(`${base}/annotations.tar.gz`, lists)]
    } as PhotoSet
    await pullSamples({set, output, force: false})
    assert.deepEqual((await readdir(output, {recursive: true})).filter(name => name.endsWith('.jpg')).sort(), [
      'train/basset_hound/basset_hound_7.jpg',
      'train/bombay/Bombay_1.jpg',
      'val/bombay/Bombay_2.jpg'
    ])
    assert.deepEqual(asked, ['/images.tar.gz', '/annotations.tar.gz'])
  } finally {
    server.close()
  }
})

test('a wrong archive is refused and nothing is left in its place', async () => {
  const bytes = Buffer.from('not a gzip')
  const {server, base} = await served({'x.tgz': bytes})
  try {
    const output = join(folder, 'wrong')
    const right = {...photoSet('flowers'), archives: [archived(`${base}/x.tgz`, bytes)]} as PhotoSet
    await assert.rejects(pullSamples({set: right, output, force: false}), {code: 'BAD_ARCHIVE'})
    const wrong = {...right, archives: [{...right.archives[0], sha256: '0'.repeat(64)}]} as PhotoSet
    await rm(`${output}.download`, {recursive: true})
    await assert.rejects(pullSamples({set: wrong, output, force: false}), {code: 'CHECKSUM'})
    assert.ok(!(await readdir(folder)).includes('wrong'))
  } finally {
    server.close()
  }
})

test('every set says where it comes from and under which terms', () => {
  for (const {name, licence, home, about, archives} of PHOTO_SETS) {
    assert.ok(licence.length > 10 && about.length > 20 && home.startsWith('https://'), name)
    for (const {url, bytes, sha256} of archives) assert.ok(url.startsWith('https://') && bytes > 1e6 && /^[0-9a-f]{64}$/.test(sha256), name)
  }
  assert.throws(() => photoSet('mnist'), {exit: 2, hint: /flowers, imagenette, pets/})
})
