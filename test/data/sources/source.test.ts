/**
 * Folders, lists, stdin and shards become one ordered stream of images; nothing is lost, and what is passed over is
 * said.
 */
import assert from 'node:assert/strict'
import {mkdirSync, symlinkSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Readable} from 'node:stream'
import {test, type TestContext} from 'node:test'
import {UserError} from '../../../src/config/errors.js'
import {skipReason} from '../../../src/data/sources/ignored-files.js'
import {showBytes} from '../../../src/data/sources/image-ref.js'
import {splitKey} from '../../../src/data/sources/shard-samples.js'
import {
  countImages,
  expandBraces,
  labelOf,
  listImages,
  noImages,
  type ImageRef,
  type SourceNote,
  type SourceOptions
} from '../../../src/data/sources/source.js'
import {IdWatch} from '../../../src/data/sources/duplicate-ids.js'
import {folderFor} from '../../support/drawn.js'
import {tarOf} from '../../support/tar.js'

const all = async (inputs: readonly string[], options: SourceOptions = {}): Promise<ImageRef[]> => {
  const refs: ImageRef[] = []
  for await (const ref of listImages(inputs, options)) refs.push(ref)
  return refs
}
const piped = (...pieces: (string | Buffer)[]): SourceOptions => ({
  stdin: Readable.from(
    pieces.map(piece => Buffer.from(piece)),
    {objectMode: false}
  )
})
const fill = (t: TestContext, files: Record<string, string | Buffer>): string => {
  const folder = folderFor(t)
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(folder, path, '..'), {recursive: true})
    writeFileSync(join(folder, path), content)
  }
  return folder
}

test('a folder is walked in the order of the bytes of its paths, with the first folder as label', async t => {
  const folder = fill(t, {
    'b.jpg': '',
    'a/z.png': '',
    'a/y/1.png': '',
    'a.jpg': '',
    'a-b/1.jpg': '',
    'B.jpg': '',
    'é.jpg': '',
    noend: '',
    'notes.txt': '',
    '.git/x.jpg': '',
    '.h.png': ''
  })
  const notes: SourceNote[] = []
  const refs = await all([`${folder}//`], {onSkipped: note => notes.push(note)})
  const names = refs.map(({id}) => id.slice(folder.length + 1))
  assert.deepEqual(names, ['B.jpg', 'a-b/1.jpg', 'a.jpg', 'a/y/1.png', 'a/z.png', 'b.jpg', 'noend', 'é.jpg'])
  assert.deepEqual(refs.map(labelOf), [undefined, 'a-b', undefined, 'a', 'a', undefined, undefined, undefined])
  assert.deepEqual(
    notes.map(({path, reason}) => [path.slice(folder.length + 1), reason]),
    [
      ['.git', 'a hidden folder'],
      ['.h.png', 'a hidden file'],
      ['notes.txt', 'not an image by its ending .txt']
    ]
  )
  assert.equal(await countImages([folder]), 8)
})

test('relative inputs keep their names as given', async t => {
  const folder = fill(t, {'p/1.jpg': '', 'p/q/2.jpg': ''})
  const refs = await all(['p', './p/1.jpg', '.'], {cwd: folder})
  assert.deepEqual(
    refs.map(({id}) => id),
    ['p/1.jpg', 'p/q/2.jpg', './p/1.jpg', './p/1.jpg', './p/q/2.jpg']
  )
  assert.ok(refs.every(({path}) => (path as string).startsWith(folder)))
})

test('linked folders are visited once, and circles end', async t => {
  const folder = fill(t, {'in/1.jpg': '', 'out/2.jpg': ''})
  symlinkSync('..', join(folder, 'in/up'))
  symlinkSync('../out', join(folder, 'in/side'))
  const notes: SourceNote[] = []
  const refs = await all([folder], {onSkipped: note => notes.push(note)})
  assert.deepEqual(
    refs.map(({id}) => id.slice(folder.length + 1)),
    ['in/1.jpg', 'in/side/2.jpg']
  )
  assert.equal(notes.filter(({reason}) => /visited already/.test(reason)).length, 2) // in/up, and out itself
})

test('names that are not UTF-8 survive, in folders and in lists', async t => {
  const folder = fill(t, {})
  const name = Buffer.concat([Buffer.from(`${folder}/caf`), Buffer.from([0xe9, 0xff]), Buffer.from('ü.jpg')])
  writeFileSync(name, '')
  for (const refs of [await all([folder]), await all(['-'], piped(Buffer.concat([Buffer.from('plain.jpg\n'), name, Buffer.from('\n')])))]) {
    const ref = refs.at(-1)!
    assert.equal(ref.id, `${folder}/caf\\xe9\\xffü.jpg`)
    assert.ok(Buffer.from(ref.path).equals(name))
    assert.ok(Buffer.from(ref.pathBase64!, 'base64').equals(name))
  }
  assert.equal(showBytes(Buffer.from([0x61, 0xf0, 0x9f, 0x98, 0x80, 0xf0, 0x9f, 0xc0])), 'a😀\\xf0\\x9f\\xc0')
})

test('lines on stdin: blank ones, Windows ends, a byte order mark, no last newline, pieces cut anywhere', async () => {
  const text = '\uFEFFa.jpg\r\n\r\nb c.jpg\n  \n图.jpg\nlast.jpg'
  const whole = Buffer.from(text)
  for (const cut of [1, 2, 3, 5, 7, 26, whole.length])
    assert.deepEqual(
      (
        await all(['-'], piped(...Array.from({length: Math.ceil(whole.length / cut)}, (_, i) => whole.subarray(i * cut, (i + 1) * cut))))
      ).map(({id}) => id),
      ['a.jpg', 'b c.jpg', '  ', '图.jpg', 'last.jpg'],
      `cut by ${cut}`
    )
  assert.deepEqual(await all(['-'], piped('')), [])
  assert.deepEqual(await all(['-'], piped('\n\n')), [])
})

test('NUL-separated names may hold newlines', async () => {
  const refs = await all(['-'], {...piped('a\nb.jpg\0c.jpg\0\0d.jpg'), nul: true})
  assert.deepEqual(
    refs.map(({id}) => id),
    ['a\nb.jpg', 'c.jpg', 'd.jpg']
  )
  const unasked = await all(['-'], piped('a.jpg\0b.jpg\0'))
  assert.deepEqual(
    unasked.map(({id}) => id),
    ['a.jpg', 'b.jpg']
  )
})

test('JSON Lines: fields ride along, ids are kept, broken rows are counted and not lost', async t => {
  const rows = [
    '{"path":"x/1.jpg","label":"cat","depth":"d/1.png","n":3}',
    '{"id":"second","path":"/abs/2.jpg"}',
    'oops',
    '',
    '{"label":"no path"}',
    '[1]',
    '{"path_base64":"' + Buffer.from('caf\xe9.jpg', 'latin1').toString('base64') + '"}'
  ]
  const folder = fill(t, {'lists/a.jsonl': rows.join('\n'), 'lists/b.txt': rows.join('\r\n')})
  for (const refs of [
    await all(['lists/a.jsonl'], {cwd: folder}),
    await all(['lists/b.txt'], {cwd: folder}),
    await all(['-'], {...piped(rows.join('\n')), cwd: join(folder, 'lists')})
  ]) {
    assert.equal(refs.length, 6)
    assert.deepEqual(refs[0], {
      id: 'x/1.jpg',
      path: join(folder, 'lists/x/1.jpg'),
      fields: {label: 'cat', depth: 'd/1.png', n: 3},
      base: join(folder, 'lists')
    })
    assert.equal(labelOf(refs[0]!), 'cat')
    assert.deepEqual([refs[1]!.id, refs[1]!.path], ['second', '/abs/2.jpg'])
    assert.match(refs[2]!.problem!, /line 3 of .* is not a JSON object/)
    assert.match(refs[3]!.problem!, /line 5 of .* has no path/)
    assert.match(refs[4]!.problem!, /line 6/)
    assert.equal(refs[5]!.id, 'caf\\xe9.jpg')
  }
  // A first line that only looks like JSON is a name.
  assert.deepEqual(
    (await all(['-'], piped('{x}.jpg\n{"a.jpg\n'))).map(({id}) => id),
    ['{x}.jpg', '{"a.jpg']
  )
})

test('CSV with a path column: quoted commas and newlines, other columns ride along', async t => {
  const csv = '\uFEFFlabel,path,group\r\ncat,"a, ""b"".jpg",1\r\n\r\ndog,"two\nlines.jpg",2\r\n,,\r\n'
  const folder = fill(t, {'list.csv': csv, 'list.tsv': 'path\tlabel\na.jpg\tx\n'})
  for (const refs of [await all(['list.csv'], {cwd: folder}), await all(['-'], {...piped(csv), cwd: folder})]) {
    assert.deepEqual(
      refs.slice(0, 2).map(({id, fields}) => [id, fields]),
      [
        ['a, "b".jpg', {label: 'cat', group: '1'}],
        ['two\nlines.jpg', {label: 'dog', group: '2'}]
      ]
    )
    assert.match(refs[2]!.problem!, /has no path/)
  }
  assert.deepEqual((await all(['list.tsv'], {cwd: folder}))[0]!.fields, {label: 'x'})
  const broken = await all(['-'], piped('path,label\na.jpg,x\n"b.jpg,y\nc.jpg,z'))
  assert.equal(broken[0]!.id, 'a.jpg')
  assert.match(broken.at(-1)!.problem!, /table stdin cannot be read/)
})

test('tar shards: keys end at the first dot of the base name; side members become fields', async t => {
  const tar = await tarOf([
    ['a.b/0001.jpg', 'IMAGE1'],
    ['a.b/0001.json', '{"caption":"one","label":"x"}'],
    ['a.b/0001.cls', '7\n'],
    ['a.b/0002.txt', 'two words'],
    ['a.b/0002.png', 'IMAGE2'],
    ['a.b/0002.extra.png', 'IMAGE3'],
    ['a.b/0003.json', '{}'],
    ['.hidden.jpg', 'H'],
    [`${'long/'.repeat(40)}ü.png`, 'IMAGE4'],
    ['bare', 'IMAGE5']
  ])
  const folder = fill(t, {'s-00.tar': tar, 's-01.tar': tar.subarray(0, 700), 's-02.tar': 'no tar at all'.repeat(100)})
  const notes: SourceNote[] = []
  const refs = await all(['s-00.tar'], {cwd: folder, onSkipped: note => notes.push(note)})
  assert.deepEqual(
    refs.map(({id}) => id),
    [
      's-00.tar/a.b/0001',
      's-00.tar/a.b/0002',
      's-00.tar/a.b/0002.extra.png',
      's-00.tar/a.b/0003.json',
      `s-00.tar/${'long/'.repeat(40)}ü`,
      's-00.tar/bare'
    ]
  )
  assert.deepEqual(
    refs.map(({range, problem}) => problem ?? tar.toString('utf8', range!.offset, range!.offset + range!.size)),
    [
      'IMAGE1',
      'IMAGE2',
      'it is a second image of the key a.b/0002, whose image is a.b/0002.png',
      'there is no image of its key, a.b/0003',
      'IMAGE4',
      'IMAGE5'
    ]
  )
  assert.deepEqual(
    refs.slice(0, 2).map(({fields}) => fields),
    [{caption: 'one', label: '7', json_label: 'x'}, {text: 'two words'}]
  )
  assert.ok(refs.every(({bytes, path}) => bytes === undefined && path === join(folder, 's-00.tar'))) // listed, not read
  assert.deepEqual(
    notes.map(({reason}) => reason),
    ['a hidden file']
  )
  const damaged = await all(['s-{01..02}.tar'], {cwd: folder})
  assert.ok(damaged.filter(({problem}) => /damaged or no tar/.test(problem ?? '')).length === 2)
  assert.deepEqual(splitKey(Buffer.from('a/b.c/d.e.f')), {key: Buffer.from('a/b.c/d'), kind: 'e.f'})
})

test('brace ranges', () => {
  assert.deepEqual(expandBraces('s-{008..011}.tar'), ['s-008.tar', 's-009.tar', 's-010.tar', 's-011.tar'])
  assert.deepEqual(expandBraces('{1..2}/{9..10}.tar'), ['1/9.tar', '1/10.tar', '2/9.tar', '2/10.tar'])
  assert.deepEqual(expandBraces('plain.tar'), ['plain.tar'])
  assert.throws(() => expandBraces('{3..1}.tar'), /backwards/)
})

test('inputs that cannot be are refused at once, with the right status', async t => {
  const folder = fill(t, {'a.jpg': '', 'x.tar.xz': ''})
  const fails = (inputs: string[], exit: number, message: RegExp): Promise<void> =>
    assert.rejects(
      all(inputs, {cwd: folder}),
      (error: Error) => error instanceof UserError && error.exit === exit && message.test(error.message)
    )
  await fails(['a.jpg', 'b.jpg', 'c'], 3, /no file or folder of these names: b.jpg, c/)
  await fails(['s-{0..2}.tar'], 3, /s-0.tar, s-1.tar, s-2.tar/)
  await fails(['x.tar.xz'], 2, /compressed tar/)
  await assert.rejects(all(['-', '-'], piped('a\n')), /named twice/)
  await assert.rejects(all(['-'], piped(Buffer.alloc(17 << 20, 'a'))), /longer than/)
  assert.equal(noImages([folder]).exit, 3)
  assert.match(noImages([]).message, /no input was named/)
})

test('ids that come twice are reported once, and both are kept', async () => {
  const notes: SourceNote[] = []
  const refs = await all(['-'], {...piped('a\nb\na\na\nb\nc\n'), onSkipped: note => notes.push(note)})
  assert.equal(refs.length, 6)
  assert.deepEqual(
    notes.map(({kind, path}) => [kind, path]),
    [
      ['duplicate', 'a'],
      ['duplicate', 'b']
    ]
  )
  const watch = new IdWatch()
  for (let i = 0; i < 300_000; i++) assert.equal(watch.again(`photos/${i}.jpg`), false)
  assert.equal(watch.again('photos/123456.jpg'), true)
})

test('which names are images', () => {
  for (const name of ['a.jpg', 'a', 'a.JPEG', 'a.weird', 'a.b.png', 'a.heic', 'a.001']) assert.equal(skipReason(name), undefined, name)
  for (const name of ['.a.jpg', 'Thumbs.db', 'a.txt', 'a.JSON', 'a.mp4', 'desktop.ini', 'a.tar']) assert.ok(skipReason(name), name)
})

test('two hundred thousand lines: quick, in order, and read no faster than they are used', async () => {
  let made = 0
  async function* lines(): AsyncGenerator<Buffer> {
    for (let i = 0; i < 200; i++) {
      made++
      yield Buffer.from(Array.from({length: 1000}, (_, j) => `photos/class/${i * 1000 + j}.jpg\n`).join(''))
    }
  }
  const start = performance.now()
  let n = 0
  for await (const ref of listImages(['-'], {stdin: Readable.from(lines(), {objectMode: true, highWaterMark: 2})})) {
    if (n % 10_007 === 0) assert.equal(ref.id, `photos/class/${n}.jpg`)
    if (n === 5000) assert.ok(made < 16, `${made} blocks were read for 5000 lines`)
    n++
  }
  assert.equal(n, 200_000)
  assert.ok(performance.now() - start < 10_000)
  // Leaving early lets the source go.
  const source = Readable.from(lines(), {objectMode: true})
  for await (const _ of listImages(['-'], {stdin: source})) break
  assert.ok(source.destroyed)
})
