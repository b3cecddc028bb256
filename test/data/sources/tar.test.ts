/**
 * Members of tar files are found by their headers as a library finds them by reading everything, in all formats that
 * are about; damage is named, never believed.
 */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {closeSync, fstatSync, mkdirSync, openSync, readFileSync, symlinkSync, truncateSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Readable} from 'node:stream'
import {test} from 'node:test'
import {extract} from 'tar-stream'
import {tarMembers, type TarMember} from '../../../src/data/sources/tar.js'
import {rng} from '../../../src/tensor/random.js'
import {folderFor} from '../../support/drawn.js'

function found(path: string): TarMember[] {
  const file = openSync(path, 'r')
  try {
    return [...tarMembers(file, fstatSync(file).size)]
  } finally {
    closeSync(file)
  }
}

/** Name and bytes of the plain files, by the library. */
async function expected(path: string): Promise<{name: string; bytes: Buffer}[]> {
  const reader = extract()
  Readable.from([readFileSync(path)]).pipe(reader)
  const members: {name: string; bytes: Buffer}[] = []
  for await (const member of reader) {
    const parts: Buffer[] = []
    for await (const part of member) parts.push(part as Buffer)
    if (member.header.type === 'file') members.push({name: member.header.name, bytes: Buffer.concat(parts)})
  }
  return members
}

/** Files of many sizes, names short and long, a folder and a link. */
function fill(folder: string): void {
  const random = rng(1, 'tar')
  for (let i = 0; i < 40; i++) {
    const deep = join(folder, 'in', i % 3 === 0 ? 'x' : `${'deep/'.repeat(i)}`)
    mkdirSync(deep, {recursive: true})
    const name = i % 4 === 0 ? `${'n'.repeat(90 + i)}.jpg` : i % 4 === 1 ? `größe ${i}.jpg` : `${i}.jpg`
    writeFileSync(join(deep, name), Buffer.alloc(random.chance(0.3) ? random.int(3) * 512 : random.int(40_000), i))
  }
  symlinkSync('x', join(folder, 'in', 'link'))
}

test('members of ustar, pax and GNU archives, and of archives put one behind the other', async t => {
  const folder = folderFor(t)
  fill(folder)
  for (const format of ['gnu', 'pax', 'posix', 'oldgnu']) {
    const path = join(folder, `${format}.tar`)
    execFileSync('tar', ['--format', format, '-cf', path, '-C', folder, 'in'])
    const files = found(path).filter(({type}) => type === 'file')
    assert.equal(files.length, 40)
    const whole = readFileSync(path)
    assert.deepEqual(
      files.map(({name, offset, size}) => ({name: name.toString(), bytes: whole.subarray(offset, offset + size)})),
      await expected(path)
    )
    assert.deepEqual(found(path).find(({name}) => name.toString() === 'in/link')!.type, 'symbolic link')
    assert.deepEqual(found(path).find(({name}) => name.toString() === 'in/')!.type, 'directory')
  }
  const twice = join(folder, 'twice.tar')
  writeFileSync(twice, Buffer.concat([readFileSync(join(folder, 'gnu.tar')), readFileSync(join(folder, 'pax.tar'))]))
  assert.equal(found(twice).filter(({type}) => type === 'file').length, 80)
})

test('a size above 8 GiB, as GNU writes it, is stepped over without reading', t => {
  const folder = folderFor(t)
  const path = join(folder, 'large.tar')
  const header = (name: string, size: Buffer | string): Buffer => {
    const block = Buffer.alloc(512)
    block.write(name, 0)
    block.write('0000644', 100)
    if (typeof size === 'string') block.write(size, 124)
    else size.copy(block, 124)
    block.write('ustar  ', 257)
    block.write('0', 156)
    const sum = block.reduce((a, b) => a + b, 0) + 8 * 32
    block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
    return block
  }
  const size = 9 * 2 ** 30
  const long = Buffer.alloc(12)
  long[0] = 0x80
  long.writeBigUInt64BE(BigInt(size), 4)
  const file = join(folder, 'tail')
  writeFileSync(file, Buffer.concat([header('small.jpg', '00000000005'), Buffer.from('hello').subarray(0, 5), Buffer.alloc(507)]))
  // A hole instead of nine gigabytes.
  writeFileSync(path, header('large.jpg', long))
  truncateSync(path, 512 + size)
  writeFileSync(path, readFileSync(file), {flag: 'a'})
  assert.throws(() => found(path), /without the mark of its end/)
  writeFileSync(path, Buffer.alloc(1024), {flag: 'a'})
  assert.deepEqual(
    found(path).map(({name, offset, size}) => [name.toString(), offset, size]),
    [
      ['large.jpg', 512, size],
      ['small.jpg', 512 + size + 512, 5]
    ]
  )
})

test('whatever the damage, there is an end and a reason', t => {
  const folder = folderFor(t)
  fill(folder)
  const path = join(folder, 'whole.tar')
  execFileSync('tar', ['--format', 'pax', '-cf', path, '-C', folder, 'in'])
  const whole = readFileSync(path)
  const before = found(path).length
  const damaged = join(folder, 'damaged.tar')
  let refused = 0
  for (let i = 0; i < 200; i++) {
    const random = rng(2, i)
    const bytes = Buffer.from(random.chance(0.5) ? whole.subarray(0, random.int(whole.length)) : whole)
    for (let k = 0; k < 30; k++) if (bytes.length > 0) bytes[random.int(bytes.length)] = random.int(256)
    writeFileSync(damaged, bytes)
    try {
      for (const {offset, size} of found(damaged)) assert.ok(offset + size <= bytes.length && size >= 0)
    } catch (error) {
      refused++
      assert.match((error as Error).message, /header|ends with/)
    }
  }
  assert.ok(refused > 50, `${refused}`)
  writeFileSync(damaged, '')
  assert.throws(() => found(damaged), /it is empty/)
  assert.equal(found(path).length, before)
})
