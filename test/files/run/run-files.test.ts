/** Files of a run: what grows beside a full disk, the lock of a folder, the sweep, and records of TensorBoard. */
import assert from 'node:assert/strict'
import {fork} from 'node:child_process'
import {mkdir, readdir, readFile, rm, symlink, writeFile} from 'node:fs/promises'
import {hostname} from 'node:os'
import {join} from 'node:path'
import {test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {AppendFile} from '../../../src/files/run/append-file.js'
import {clearRun, openRun, removeTemporaries} from '../../../src/files/run/run-folder.js'
import {lockName, lockRun} from '../../../src/system/lock.js'
import {crc32c, openEvents, tfRecord} from '../../../src/files/run/tensorboard.js'
import {writeState} from '../../../src/files/checkpoint/training-state.js'
import {scratch} from '../../support/scratch.js'

if (process.argv[2] === 'take the lock') {
  // One of several processes that want the same folder at the same moment.
  await lockRun(process.argv[3]!).then(
    ({release}) => {
      process.once('message', () => void release().then(() => process.exit()))
      process.send!('taken')
    },
    (error: Error) => void process.send!(error.message, () => process.exit())
  )
} else tests()

function tests(): void {
  test('a growing file keeps the lines up to the given step, and cuts off the rest', async t => {
    const path = join(await scratch(t), 'lines')
    await writeFile(path, 'one\ntwo\nthr')
    const file = await AppendFile.open(path, 8)
    await file.append('three\n')
    assert.equal(await file.close(), undefined)
    assert.equal(await readFile(path, 'utf8'), 'one\ntwo\nthree\n')
  })

  test('on a full disk pieces wait, nothing is thrown, and closing says what is missing', async () => {
    const file = await AppendFile.open('/dev/full')
    await file.append('one\n')
    await file.append('two\n')
    assert.match(file.failure!.message, /No room left on the disk for \/dev\/full/)
    assert.equal((await file.close())!.code, 'DISK_FULL')
  })

  test('links in a run folder made by others are refused before anything is written or removed', async t => {
    const place = await scratch(t)
    const [run, other] = [join(place, 'run'), join(place, 'other')]
    await mkdir(join(run, 'checkpoints'), {recursive: true})
    await mkdir(join(run, 'final'))
    await mkdir(other)
    const victim = join(other, 'step-0000001.safetensors')
    await writeFile(victim, 'precious')
    await writeFile(join(run, 'config.yaml'), '')
    await writeFile(join(run, 'metrics.jsonl'), '')
    for (const name of ['timings.jsonl', 'run.lock', 'final/backbone.safetensors', 'checkpoints/step-0000001.safetensors', 'tensorboard']) {
      await symlink(name === 'tensorboard' ? other : victim, join(run, name))
      for (const how of [{resume: true}, {force: true}, {resume: true, make: false}])
        await assert.rejects(openRun(run, how), {exit: 2, code: 'IS_LINK', message: new RegExp(`${name} is a link`)})
      await rm(join(run, name))
    }
    await openRun(run, {force: true})
    await rm(join(run, 'checkpoints'), {recursive: true})
    await symlink(other, join(run, 'checkpoints'))
    await assert.rejects(openRun(run, {force: true}), {code: 'IS_LINK'})
    // and one that is planted afterwards is not written through
    await symlink(victim, join(run, 'lines'))
    await assert.rejects(AppendFile.open(join(run, 'lines')), {code: 'IS_LINK'})
    await symlink(victim, join(run, `run.lock.${process.pid}`))
    await (await lockRun(run)).release()
    await symlink(run, join(place, 'alias')) // a link to the whole folder is the user's own
    await rm(join(run, 'checkpoints'))
    await openRun(join(place, 'alias'), {force: true})
    assert.equal(await readFile(victim, 'utf8'), 'precious')
  })

  test('a folder has one master; the lock of a dead process is taken over by one of several', async t => {
    const folder = await scratch(t)
    const lock = await lockRun(folder)
    await assert.rejects(lockRun(folder), {exit: 2, code: 'RUN_LOCKED', message: new RegExp(`Another process \\(${process.pid}\\)`)})
    await lock.release()
    assert.deepEqual(await readdir(folder), [])
    await writeFile(join(folder, lockName), JSON.stringify({pid: 2 ** 22 + 1, host: hostname(), began: 'long ago'}))
    const children = Array.from({length: 4}, () => fork(fileURLToPath(import.meta.url), ['take the lock', folder]))
    const gone = children.map(child => new Promise(done => child.once('exit', done)))
    const said = await Promise.all(children.map(child => new Promise<string>(done => child.once('message', word => done(String(word))))))
    assert.equal(said.filter(word => word === 'taken').length, 1, said.join('; '))
    for (const [i, child] of children.entries()) if (said[i] === 'taken') child.send('go')
    await Promise.all(gone)
    assert.deepEqual(await readdir(folder), [])
    await assert.rejects(lockRun('/proc'), {exit: 1, code: 'WRITE'})
  })

  test('a new run is begun in an empty folder or in that of a run, and takes away what a run wrote alone', async t => {
    const folder = await scratch(t)
    const run = join(folder, 'deep', 'run')
    await openRun(run, {make: false})
    assert.deepEqual(await readdir(folder), [])
    await openRun(run)
    await openRun(run)
    for (const name of ['config.yaml', 'metrics.jsonl', 'notes.txt']) await writeFile(join(run, name), '')
    await mkdir(join(run, 'checkpoints'))
    for (const name of ['step-0000001.safetensors', '.step-0000002.safetensors.tmp-1-1', 'mine.safetensors'])
      await writeFile(join(run, 'checkpoints', name), '')
    await assert.rejects(openRun(run), {exit: 2, code: 'OUTPUT_EXISTS'})
    await openRun(run, {resume: true})
    await openRun(run, {force: true})
    await removeTemporaries(run)
    assert.deepEqual((await readdir(join(run, 'checkpoints'))).sort(), ['mine.safetensors', 'step-0000001.safetensors'])
    await clearRun(run)
    assert.deepEqual((await readdir(run)).sort(), ['checkpoints', 'config.yaml', 'notes.txt'])
    assert.deepEqual(await readdir(join(run, 'checkpoints')), ['mine.safetensors'])
    await assert.rejects(openRun(join(folder, 'absent'), {resume: true}), {exit: 3})
    await assert.rejects(openRun(join(run, 'notes.txt')), {exit: 2, code: 'NOT_A_FOLDER'})
  })

  test('a checkpoint lets go of its tensors before it is on the disk, and holds a bounded part of them', async t => {
    const run = await scratch(t)
    const size = 4 << 20 // 16 MiB each
    let [reading, most] = [0, 0]
    const tensors = Array.from({length: 12}, (_, i) => ({
      name: `student.${i}`,
      shape: [size],
      async read() {
        most = Math.max(most, ++reading)
        return new Float32Array(size).fill(i)
      }
    }))
    let named = false
    const {copied, written} = writeState(run, 7, tensors, {}, async () => void (named = true))
    await copied
    assert.ok(!named, 'the file has no name yet when training goes on')
    assert.equal(reading, 12)
    assert.equal(await written, join(run, 'checkpoints', 'step-0000007.safetensors'))
    await writeFile(join(run, 'file'), '')
    await assert.rejects(writeState(join(run, 'file'), 1, tensors, {}).written, {
      name: 'UserError',
      message: /cannot be written \(ENOTDIR\)/
    })
  })

  test('CRC-32C and records are those of the format', async t => {
    assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283)
    assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa) // RFC 3720, B.4
    const record = tfRecord(Buffer.from('abc'))
    assert.deepEqual([record.length, Number(record.readBigUInt64LE(0)), record.subarray(12, 15).toString()], [19, 3, 'abc'])
    const folder = join(await scratch(t), 'tensorboard')
    const events = await openEvents(folder, 1)
    await events.write(3, {'loss/total': 1.5})
    await events.close()
    const [name] = await readdir(folder)
    assert.match(name!, /^events\.out\.tfevents\.\d{10}\.\d{6}\./)
  })
}
