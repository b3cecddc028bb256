/** Outputs are whole or absent: committed, refused, failed, interrupted, linked, devices and folders. */
import assert from 'node:assert/strict'
import {execFile} from 'node:child_process'
import {mkdir, open, readdir, readFile, readlink, stat, symlink, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import {pathToFileURL} from 'node:url'
import {promisify} from 'node:util'
import {UserError} from '../../src/config/errors.js'
import {atomicFile, atomicFolder, openAtomic} from '../../src/system/atomic.js'
import {openGrowing} from '../../src/system/plain-file.js'
import {scratch} from '../support/scratch.js'

const left = async (folder: string): Promise<string[]> => (await readdir(folder)).sort()

test('a file appears when it is committed, not before', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'out.bin')
  const output = await openAtomic(path)
  await output.handle.write(Buffer.from('hello'))
  assert.deepEqual(
    (await left(folder)).filter(name => !name.startsWith('.')),
    []
  )
  await output.commit()
  assert.equal(await readFile(path, 'utf8'), 'hello')
  assert.deepEqual(await left(folder), ['out.bin'])
  await output.abort() // after commit it does nothing
  assert.deepEqual(await left(folder), ['out.bin'])
})

test('an existing output is refused without force, with status 2 and the flag named, and replaced with it', async t => {
  const path = join(await scratch(t), 'out.bin')
  await writeFile(path, 'old')
  await assert.rejects(
    openAtomic(path),
    (error: UserError) =>
      error instanceof UserError && error.exit === 2 && error.code === 'OUTPUT_EXISTS' && /--force/.test(error.hint ?? '')
  )
  await atomicFile(path, temporary => writeFile(temporary, 'new'), {force: true})
  assert.equal(await readFile(path, 'utf8'), 'new')
})

test('an output that appears while the command runs is not overwritten', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'out.bin')
  const output = await openAtomic(path)
  await writeFile(path, 'of another process')
  await assert.rejects(output.commit(), /exists already/)
  assert.equal(await readFile(path, 'utf8'), 'of another process')
  assert.deepEqual(await left(folder), ['out.bin'])
})

test('a writer that fails leaves the old file and nothing else', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'out.bin')
  await writeFile(path, 'old')
  const fails = atomicFile(
    path,
    async temporary => {
      await writeFile(temporary, 'half')
      throw new Error('no more')
    },
    {force: true}
  )
  await assert.rejects(fails, /no more/)
  assert.equal(await readFile(path, 'utf8'), 'old')
  assert.deepEqual(await left(folder), ['out.bin'])
})

test('a process that exits in the middle takes its temporary files with it', async t => {
  const folder = await scratch(t)
  const module = pathToFileURL(join(import.meta.dirname, '../../src/system/atomic.js')).href
  const program = `import {openAtomic} from ${JSON.stringify(module)}
    const output = await openAtomic(${JSON.stringify(join(folder, 'out.bin'))})
    await output.handle.write(Buffer.from('half'))
    process.exit(7)`
  await assert.rejects(promisify(execFile)(process.execPath, ['--input-type=module', '-e', program]), {code: 7})
  assert.deepEqual(await left(folder), [])
})

test('a link stays a link and what it names is replaced', async t => {
  const folder = await scratch(t)
  await writeFile(join(folder, 'real.bin'), 'old')
  await symlink('real.bin', join(folder, 'link.bin'))
  await atomicFile(join(folder, 'link.bin'), temporary => writeFile(temporary, 'new'), {force: true})
  assert.equal(await readlink(join(folder, 'link.bin')), 'real.bin')
  assert.equal(await readFile(join(folder, 'real.bin'), 'utf8'), 'new')
})

test('a device is written to, never replaced', async () => {
  const output = await openAtomic('/dev/null')
  await output.handle.write(Buffer.from('gone'))
  await output.commit()
  assert.ok((await stat('/dev/null')).isCharacterDevice())
})

test('a missing folder is named with the command that makes it', async t => {
  const path = join(await scratch(t), 'deep', 'out.bin')
  await assert.rejects(openAtomic(path), (error: UserError) => /does not exist/.test(error.message) && /^mkdir -p /.test(error.hint ?? ''))
})

test('an input that is missing inside the writer is not taken for a missing output folder', async t => {
  const path = join(await scratch(t), 'out.bin')
  const fails = atomicFile(path, async () => void (await open('/no/such/input')))
  await assert.rejects(fails, {code: 'ENOENT', path: '/no/such/input'})
})

test('a folder appears whole and replaces another only with force', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'model')
  const fill =
    (content: string) =>
    async (temporary: string): Promise<void> => {
      await mkdir(join(temporary, 'inner'))
      await writeFile(join(temporary, 'inner', 'a.txt'), content)
    }
  await atomicFolder(path, fill('one'))
  await assert.rejects(atomicFolder(path, fill('two')), /exists already/)
  await atomicFolder(path, fill('three'), {force: true})
  assert.equal(await readFile(join(path, 'inner', 'a.txt'), 'utf8'), 'three')
  const fails = atomicFolder(
    path,
    async temporary => {
      await fill('half')(temporary)
      throw new Error('no more')
    },
    {force: true}
  )
  await assert.rejects(fails, /no more/)
  assert.equal(await readFile(join(path, 'inner', 'a.txt'), 'utf8'), 'three')
  assert.deepEqual(await left(folder), ['model'])
})

test(
  'a pipe with a name gets the bytes where it has a reader, and is refused where nobody reads',
  {skip: process.platform === 'win32'},
  async t => {
    const path = join(await scratch(t), 'pipe')
    await promisify(execFile)('mkfifo', [path])
    const reader = promisify(execFile)('cat', [path])
    const output = await openAtomic(path)
    await output.handle.write(Buffer.from('hello'))
    await output.commit()
    assert.equal((await reader).stdout, 'hello')
    await assert.rejects(openAtomic(path), {name: 'UserError', code: 'NO_READER'})
    assert.ok((await stat(path)).isFIFO())
  }
)

test('a folder or a pipe in the place of a file that grows is refused, and stays', {skip: process.platform === 'win32'}, async t => {
  const folder = await scratch(t)
  await promisify(execFile)('mkfifo', [join(folder, 'pipe')])
  await mkdir(join(folder, 'folder'))
  for (const name of ['pipe', 'folder'])
    for (const anew of [false, true])
      await assert.rejects(openGrowing(join(folder, name), {anew}), {
        name: 'UserError',
        exit: 2,
        message: new RegExp(`is a ${name}, but a file is written there`)
      })
  assert.deepEqual(await left(folder), ['folder', 'pipe'])
})
