/** Every member of a shard is an image, a part of one, or refused by name, in whatever order and form they lie. */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Readable} from 'node:stream'
import {test, type TestContext} from 'node:test'
import {gzipSync} from 'node:zlib'
import {readBytes} from '../../../src/data/image/read-bytes.js'
import {folderOf, labelOf, listImages, type ImageRef} from '../../../src/data/sources/source.js'
import {folderFor} from '../../support/drawn.js'
import {tarOf} from '../../support/tar.js'

type Members = readonly (readonly [name: string, content: string])[]

async function list(t: TestContext, name: string, bytes: Buffer): Promise<{rows: ImageRef[]; refused: string[]}> {
  const folder = folderFor(t)
  writeFileSync(join(folder, name), bytes)
  const rows: ImageRef[] = []
  const refused: string[] = []
  for await (const ref of listImages([name], {cwd: folder}))
    if (ref.problem === undefined) rows.push(ref)
    else refused.push(`${ref.id}: ${ref.problem}`)
  return {rows, refused}
}
const contents = (rows: readonly ImageRef[]): string[] => rows.map(ref => Buffer.from(readBytes(ref)).toString())

test('a folder for temporary files that is not there is named, and no shard called damaged', async t => {
  const before = process.env['TMPDIR']
  const bytes = gzipSync(await tarOf([['a.jpg', 'A']]))
  t.after(() => (before === undefined ? delete process.env['TMPDIR'] : (process.env['TMPDIR'] = before)))
  const folder = folderFor(t)
  process.env['TMPDIR'] = join(folder, 'none')
  writeFileSync(join(folder, 's.tgz'), bytes)
  const read = async (): Promise<void> => {
    for await (const _ of listImages(['s.tgz'], {cwd: folder}));
  }
  await assert.rejects(read(), {code: 'NO_TEMPORARY_FOLDER', message: /none, cannot be written to \(ENOENT\), so .*s\.tgz is not unpacked/})
})

test('labels come to their images from before, behind and far away', async t => {
  const names = ['000', '001', '002', '003']
  const orders: Members[] = [
    [...names.map(n => [`${n}.cls`, n] as const), ...names.map(n => [`${n}.jpg`, `I${n}`] as const)],
    [...names.map(n => [`${n}.jpg`, `I${n}`] as const), ...names.map(n => [`${n}.cls`, n] as const)],
    names.flatMap(n => [[`${n}.cls`, n] as const, [`${n}.jpg`, `I${n}`] as const])
  ]
  for (const members of orders)
    for (const [name, bytes] of [
      ['s.tar', await tarOf(members)],
      ['s.tgz', gzipSync(await tarOf(members))],
      ['s.tar.gz', gzipSync(await tarOf(members))]
    ] as const) {
      const {rows, refused} = await list(t, name, bytes)
      assert.deepEqual(refused, [])
      assert.deepEqual(
        rows.map(({id}) => id),
        names.map(n => `${name}/${n}`)
      )
      assert.deepEqual(rows.map(labelOf), names)
      assert.deepEqual(
        contents(rows),
        names.map(n => `I${n}`)
      )
    }
})

test('folders inside a shard are classes as they are where the shard is unpacked', async t => {
  const images = (...names: string[]): Members => names.map(name => [name, 'I'] as const)
  const cases: readonly (readonly [string, Members, (string | undefined)[]])[] = [
    ['packed with the folder that was named', images('photos/cat/0.jpg', 'photos/dog/1.jpg'), ['cat', 'dog']],
    ['packed inside of it', images('./cat/0.jpg', './dog/1.jpg'), ['cat', 'dog']],
    ['with its whole path', images('/home/me/photos/cat/0.jpg', '/home/me/photos/dog/1.jpg'), ['cat', 'dog']],
    ['with folders in the classes', images('cat/a/0.jpg', 'dog/b/c/1.jpg', 'dog/2.jpg'), ['cat', 'dog', 'dog']],
    ['one class', images('cat/0.jpg', 'cat/1.jpg'), ['cat', 'cat']],
    ['one class of a folder', images('train/cat/0.jpg', 'train/cat/1.jpg'), ['cat', 'cat']],
    ['with paths that go up', images('../cat/0.jpg', 'x/../dog/1.jpg'), ['cat', 'dog']],
    ['no folders', images('0.jpg', './1.jpg'), [undefined, undefined]],
    ['images in the root', images('photos/0.jpg', 'photos/cat/1.jpg'), [undefined, 'cat']],
    ['a label file counts before the folder', [...images('cat/0.jpg', 'dog/1.jpg'), ['cat/0.cls', '7']], ['7', 'dog']],
    ['other members are no images', [...images('cat/0.jpg', 'dog/1.jpg'), ['notes.md', 'x']], ['cat', 'dog']]
  ]
  for (const [what, members, labels] of cases)
    for (const name of ['s.tar', 's.tgz']) {
      const tar = await tarOf(members)
      const {rows} = await list(t, name, name === 's.tar' ? tar : gzipSync(tar))
      assert.deepEqual(rows.map(labelOf), labels, `${what}, ${name}`)
    }
})

test('the folder of an id is none where it is a shard, a Parquet file or stdin itself', () => {
  for (const id of ['s.tar/0', 'a/s.tar.gz/0', 's.TGZ/0', 'a/p.parquet/3', 'stdin/0', '0.jpg', '../0.jpg', 'cat/../0.jpg'])
    assert.equal(folderOf(id), undefined, id)
  for (const id of ['cat/0.jpg', 's.tar/cat/0', 'stdin/cat/0', 'a/stdin/cat/0.jpg']) assert.equal(folderOf(id), 'cat', id)
})

test('names with dots of their own keep their images and their side files', async t => {
  const members: Members = [0, 1, 2].flatMap(i => [
    [`train.v1/Track 0.${i} (clean).jpg`, `I${i}`] as const,
    [`train.v1/Track 0.${i} (clean).json`, `{"n":${i}}`] as const,
    [`train.v1/Track 0.${i} (clean).cls`, `c${i}`] as const
  ])
  const {rows, refused} = await list(t, 's.tar', await tarOf(members))
  assert.deepEqual(refused, [])
  assert.deepEqual(
    rows.map(({id}) => id),
    [0, 1, 2].map(i => `s.tar/train.v1/Track 0.${i} (clean)`)
  )
  assert.deepEqual(
    rows.map(({fields}) => fields),
    [0, 1, 2].map(i => ({n: i, label: `c${i}`}))
  )
  const single = await list(
    t,
    's.tar',
    await tarOf([
      ['Track 1.0.jpg', 'I'],
      ['Track 1.0.json', '{"n":1}']
    ])
  )
  assert.deepEqual(single.rows[0]!.fields, {n: 1})
})

test('rows and refused members are all members that could be images, and each is named with its key', async t => {
  const {rows, refused} = await list(
    t,
    's.tar',
    await tarOf([
      ['a.jpg', 'A'],
      ['a.png', 'second'],
      ['a.seg.png', 'mask'],
      ['b.json', '{}'],
      ['c.cls', '1'],
      ['d.jpg', 'D'],
      ['d.json', '[1]'],
      ['e.jpg', 'E'],
      ['a.jpg', 'again']
    ])
  )
  assert.deepEqual(contents(rows), ['A', 'D', 'E'])
  assert.deepEqual(refused.map(line => line.slice(0, line.indexOf(':'))).sort(), [
    's.tar/a.jpg',
    's.tar/a.png',
    's.tar/a.seg.png',
    's.tar/b.json',
    's.tar/c.cls',
    's.tar/d.json'
  ])
  assert.match(refused.join('\n'), /a\.png: it is a second image of the key a, whose image is a\.jpg/)
  assert.match(refused.join('\n'), /b\.json: there is no image of its key, b/)
  assert.match(refused.join('\n'), /d\.json: it is no JSON object/)
})

test('side members that come twice, are empty or no UTF-8 are refused by name; the first and the folder count', async t => {
  const {rows, refused} = await list(
    t,
    's.tar',
    await tarOf([
      ['cat/a.jpg', 'A'],
      ['cat/a.json', '{"label":"one"}'],
      ['cat/a.json', '{"label":"two"}'],
      ['cat/b.jpg', 'B'],
      ['cat/b.cls', ' \n'],
      ['cat/c.jpg', 'C'],
      ['cat/c.cls', Buffer.from([0x63, 0x61, 0x66, 0xe9])],
      ['cat/d.jpg', 'D'],
      ['cat/d.json', '{"label":["x","y"],"user":9007199254740993}']
    ])
  )
  assert.deepEqual(rows.map(labelOf), ['one', 'cat', 'cat', 'x,y'])
  assert.equal(rows[3]!.fields['user'], '9007199254740993')
  assert.deepEqual(refused.sort(), [
    's.tar/cat/a.json: it is a second member of this name',
    's.tar/cat/b.cls: it is empty',
    's.tar/cat/c.cls: its text is not UTF-8'
  ])
})

test('fields of a side file replace neither the id nor the place of an image, nor its label file', async t => {
  const side = '{"label":"json","id":"dup","path":"x.jpg","range":[0,5],"folder":"f","reason":"r","path_base64":"eA==","caption":"c"}'
  for (const members of [
    [
      ['0.json', side],
      ['0.cls', 'cls'],
      ['0.jpg', 'I']
    ],
    [
      ['0.jpg', 'I'],
      ['0.cls', 'cls'],
      ['0.json', side]
    ]
  ] as const) {
    const {rows} = await list(t, 's.tar', await tarOf(members))
    assert.equal(rows[0]!.id, 's.tar/0')
    assert.deepEqual(contents(rows), ['I'])
    assert.deepEqual(rows[0]!.fields, {
      label: 'cls',
      json_label: 'json',
      json_id: 'dup',
      json_path: 'x.jpg',
      json_range: [0, 5],
      json_folder: 'f',
      json_reason: 'r',
      json_path_base64: 'eA==',
      caption: 'c'
    })
  }
})

test('what a label or text file says other than the JSON beside it does not lose what the JSON says', async t => {
  const fields = async (json: string): Promise<unknown> => {
    const members = [
      ['0.jpg', 'I'],
      ['0.cls', '3'],
      ['0.txt', 'a cat'],
      ['0.json', json]
    ] as const
    return (await list(t, 's.tar', await tarOf(members))).rows[0]!.fields
  }
  assert.deepEqual(await fields('{"label":"cat","text":"ein Kater"}'), {
    label: '3',
    text: 'a cat',
    json_label: 'cat',
    json_text: 'ein Kater'
  })
  assert.deepEqual(await fields('{"label":3,"text":null}'), {label: '3', text: 'a cat'})
  assert.deepEqual(await fields('{"label":"cat","json_label":"own"}'), {label: '3', text: 'a cat', json_label: 'own'})
})

test('a shard is known by its bytes, whatever its name says, also in the oldest form', async t => {
  const folder = folderFor(t)
  const tar = await tarOf([['cat/1.png', 'I']])
  const old = Buffer.from(tar)
  old.fill(0, 257, 265)
  old.write('        ', 148)
  const sum = old.subarray(0, 512).reduce((a, b) => a + b, 0)
  old.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  for (const [name, bytes] of [
    ['gzip.tar', gzipSync(tar)],
    ['plain.tgz', tar],
    ['old.tar', old]
  ] as const) {
    const named = await list(t, name, bytes)
    assert.deepEqual([contents(named.rows), named.refused], [['I'], []], name)
    const piped: ImageRef[] = []
    for await (const ref of listImages(['-'], {cwd: folder, stdin: Readable.from([bytes])})) piped.push(ref)
    assert.deepEqual(contents(piped), ['I'], `${name} on stdin`)
  }
})

test('what comes through stdin and is neither list nor tar is refused in one sentence', async () => {
  for (const [head, what] of [
    ['BZh91AY&SY', /bzip2/],
    ['\xfd7zXZ\0', /xz/],
    ['\x28\xb5\x2f\xfd', /zstd/],
    ['PK\x03\x04', /zip archive/],
    ['\x89PNG\r\n', /an image itself/],
    ['\xff\xd8\xff\xe0', /an image itself/]
  ] as const)
    await assert.rejects(
      async () => {
        for await (const ref of listImages(['-'], {stdin: Readable.from([Buffer.from(head + 'rest\n', 'latin1')])})) assert.fail(ref.id)
      },
      {code: 'PIPED_OTHER', message: what}
    )
})

test('a compressed shard that unpacks to very much is given up', async t => {
  const member = Buffer.from((await tarOf([['a.jpg', 'first']])).subarray(0, 1024))
  // gzip members one behind the other: one with an image, then zeros without end
  const zeros = gzipSync(Buffer.alloc(64 << 20), {level: 9})
  const bomb = Buffer.concat([gzipSync(member), ...Array.from({length: 40}, () => zeros)])
  const {refused} = await list(t, 's.tgz', bomb)
  assert.match(refused[0]!, /unpacks to more than 200 times its length/)
})

test('a shard that is cut anywhere gives the images before the cut and says so', async t => {
  const whole = await tarOf(Array.from({length: 6}, (_, i) => [`${i}.jpg`, `I${i}`] as const))
  for (const [name, cut] of [
    ['s.tar', whole.subarray(0, whole.length - 1024)], // without the mark of its end
    ['s.tar', whole.subarray(0, 4 * 1024 + 300)],
    ['s.tar', whole.subarray(0, 4 * 1024 + 512)],
    ['s.tgz', gzipSync(whole).subarray(0, -9)],
    ['s.tar', Buffer.alloc(0)],
    ['s.tgz', Buffer.from('no gzip')]
  ] as const) {
    const {rows, refused} = await list(t, name, Buffer.from(cut))
    assert.equal(refused.length, 1, `${name}, ${cut.length} bytes: ${refused.join()}`)
    assert.match(refused[0]!, /^s\.(tar|tgz): the shard is damaged/)
    assert.deepEqual(
      contents(rows),
      Array.from({length: rows.length}, (_, i) => `I${i}`)
    )
  }
  assert.equal((await list(t, 's.tar', whole)).refused.length, 0)
})

test('a pipe called shard is refused and not waited for', async t => {
  const folder = folderFor(t)
  execFileSync('mkfifo', [join(folder, 'p.tar'), join(folder, 'p.tgz'), join(folder, 'p.jpg')])
  const problems: string[] = []
  for await (const ref of listImages(['p.tar', 'p.tgz', 'p.jpg'], {cwd: folder})) {
    problems.push(ref.problem ?? '')
    if (ref.problem === undefined) assert.throws(() => readBytes(ref), /a device or a pipe/)
  }
  assert.match(problems[0]!, /is a pipe, but a file was expected/)
  assert.match(problems[1]!, /is a pipe, but a file was expected/)
})

test('a tar without members on stdin holds no images, and is no list of strange names', async () => {
  const found: ImageRef[] = []
  for (const bytes of [Buffer.alloc(10_240), gzipSync(Buffer.alloc(10_240))])
    for await (const ref of listImages(['-'], {stdin: Readable.from([bytes])})) found.push(ref)
  assert.deepEqual(found, [])
})
