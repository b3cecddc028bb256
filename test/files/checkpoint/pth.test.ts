/**
 * Files of torch.save: recorded ones byte for byte, odd views, hostile pickles, damage anywhere, places beyond 4 GiB.
 */
import assert from 'node:assert/strict'
import {open, readFile, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {test} from 'node:test'
import type {UserError} from '../../../src/config/errors.js'
import {openCheckpoint} from '../../../src/files/checkpoint/checkpoint.js'
import {openPth, writePth} from '../../../src/files/checkpoint/pth.js'
import {openSafetensors} from '../../../src/files/checkpoint/safetensors.js'
import {elements, float32Entry} from '../../../src/files/checkpoint/tensor-entry.js'
import {dict, op, pickle, pth, pthSequence, tensor, zip} from '../../support/pickle-bytes.js'
import {golden, scratch} from '../../support/scratch.js'

const floats = (...values: number[]): Uint8Array => new Uint8Array(Float32Array.from(values).buffer)
const counting = floats(...Array.from({length: 12}, (_, i) => i))

for (const name of ['vit_plain', 'vit_reg4_swiglu', 'vit_chunked', 'dino_head'])
  test(`${name}.pth holds the tensors of ${name}.safetensors, byte for byte`, async () => {
    const torch = await openPth(golden(`${name}.pth`))
    const safe = await openSafetensors(golden(`${name}.safetensors`))
    assert.deepEqual([...torch.roots.keys()], [''])
    const tensors = torch.roots.get('')!
    assert.deepEqual([...tensors.keys()].sort(), [...safe.tensors.keys()].sort())
    for (const [key, entry] of safe.tensors) {
      const other = tensors.get(key)!
      assert.deepEqual([other.dtype, other.shape, other.byteLength], [entry.dtype, entry.shape, entry.byteLength])
      assert.deepEqual(await other.read(), await entry.read())
    }
    await torch.close()
    await safe.close()
  })

async function opens(t: Parameters<typeof scratch>[0], bytes: Buffer, options = {}): ReturnType<typeof openPth> {
  const path = join(await scratch(t), 'a.pth')
  await writeFile(path, bytes)
  const file = await openPth(path, options)
  t.after(() => file.close())
  return file
}

test('views of one storage honour offset and strides', async t => {
  const file = await opens(
    t,
    pth(
      pickle(
        dict({
          whole: tensor('0', 12, [3, 4], [4, 1]),
          transposed: tensor('0', 12, [4, 3], [1, 4]),
          column: tensor('0', 12, [3], [4], {offset: 2}),
          middle: tensor('0', 12, [2, 2], [4, 1], {offset: 5}),
          repeated: tensor('0', 12, [2, 3], [0, 1], {offset: 9}),
          loose: tensor('0', 12, [1, 4], [999, 1], {offset: 4}),
          deep: tensor('0', 12, [2, 3, 2], [1, 4, 2]),
          scalar: tensor('0', 12, [], [], {offset: 7}),
          empty: tensor('0', 12, [0, 4], [4, 1])
        })
      ),
      {0: counting}
    )
  )
  const tensors = file.roots.get('')!
  const values = async (name: string): Promise<number[]> => [...(await tensors.get(name)!.readFloat32())]
  assert.deepEqual(await values('whole'), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
  assert.deepEqual(await values('transposed'), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])
  assert.deepEqual(await values('column'), [2, 6, 10])
  assert.deepEqual(await values('middle'), [5, 6, 9, 10])
  assert.deepEqual(await values('repeated'), [9, 10, 11, 9, 10, 11])
  assert.deepEqual(await values('loose'), [4, 5, 6, 7])
  assert.deepEqual(await values('deep'), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])
  assert.deepEqual(await values('scalar'), [7])
  assert.deepEqual(await values('empty'), [])
})

test('roots, parameters, other types and plain data beside them are understood', async t => {
  const rebuilt = Buffer.concat([
    op.global('torch._utils', '_rebuild_parameter'),
    tensor('1', 3, [3], [1], {storage: 'BFloat16Storage'}),
    op.true,
    op.emptyDict,
    op.tuple3,
    op.reduce
  ])
  const set = Buffer.concat([op.global('builtins', 'set'), op.emptyList, op.mark, op.int(3), op.appends, op.tuple1, op.reduce])
  const ordered = Buffer.concat([
    op.global('collections', 'OrderedDict'),
    op.emptyTuple,
    op.reduce,
    op.string('b'),
    tensor('0', 12, [2], [1]),
    op.setItem
  ])
  const withState = Buffer.concat([ordered, dict({_metadata: op.emptyDict}), op.build])
  const third = Buffer.concat([
    op.global('torch._utils', '_rebuild_tensor_v3'),
    op.mark,
    op.mark,
    op.string('storage'),
    op.global('torch.storage', 'UntypedStorage'),
    op.string('2'),
    op.string('cpu'),
    op.int(4),
    op.tuple,
    op.persistent,
    op.int(1),
    op.int(2),
    op.tuple1,
    op.int(1),
    op.tuple1,
    op.false,
    op.emptyDict,
    op.global('torch', 'uint8'),
    op.tuple,
    op.reduce
  ])
  const file = await opens(
    t,
    pth(pickle(dict({teacher: dict({a: rebuilt, c: third}), model: withState, epoch: op.int(7), seen: set, nothing: op.none})), {
      0: counting,
      1: new Uint8Array(Uint16Array.of(0x3f80, 0x4000, 0xbf80).buffer),
      2: Uint8Array.of(9, 8, 7, 6)
    })
  )
  assert.deepEqual([...file.roots.keys()], ['teacher', 'model'])
  const [a, c] = ['a', 'c'].map(name => file.roots.get('teacher')!.get(name)!)
  assert.equal(a!.dtype, 'BF16')
  assert.deepEqual([...(await a!.readFloat32())], [1, 2, -1])
  assert.equal(c!.dtype, 'U8')
  assert.deepEqual([...(await c!.read())], [8, 7])
  assert.deepEqual([...(await file.roots.get('model')!.get('b')!.readFloat32())], [0, 1])
})

test('a pickle that calls, makes or sets anything unlisted is refused by name', async t => {
  const folder = await scratch(t)
  const command = op.string('touch /tmp/should-not-be')
  const good = {w: tensor('0', 12, [12], [1])}
  const cases: Record<string, [Buffer, string]> = {
    'os.system by REDUCE': [Buffer.concat([op.global('os', 'system'), command, op.tuple1, op.reduce]), 'os.system'],
    'posix.system by STACK_GLOBAL': [
      Buffer.concat([op.string('posix'), op.string('system'), op.stackGlobal, command, op.tuple1, op.reduce]),
      'posix.system'
    ],
    'eval mentioned, not called': [op.global('builtins', 'eval'), 'builtins.eval'],
    'exec of Python 2': [Buffer.concat([op.global('__builtin__', 'exec'), command, op.tuple1, op.reduce]), '__builtin__.exec'],
    getattr: [Buffer.concat([op.global('builtins', 'getattr'), command, op.tuple1, op.reduce]), 'builtins.getattr'],
    'subprocess by INST': [Buffer.concat([op.mark, command, op.inst('subprocess', 'Popen')]), 'subprocess.Popen'],
    'subprocess by OBJ': [Buffer.concat([op.mark, op.global('subprocess', 'Popen'), command, op.object]), 'subprocess.Popen'],
    'a class by NEWOBJ': [
      Buffer.concat([op.global('code', 'InteractiveInterpreter'), op.emptyTuple, op.newObject]),
      'code.InteractiveInterpreter'
    ],
    'a class by NEWOBJ_EX': [Buffer.concat([op.global('ctypes', 'CDLL'), op.emptyTuple, op.emptyDict, op.newObjectEx]), 'ctypes.CDLL'],
    'the state of a listed function by BUILD': [
      Buffer.concat([op.global('torch._utils', '_rebuild_tensor_v2'), dict({__code__: op.none}), op.build]),
      'torch._utils._rebuild_tensor_v2'
    ],
    'the state of a tensor by BUILD': [Buffer.concat([tensor('0', 12, [1], [1]), dict({__reduce__: op.none}), op.build]), 'sets the state'],
    'deep in a list of a dictionary': [
      Buffer.concat([op.emptyList, dict({x: Buffer.concat([op.emptyList, op.global('runpy', '_run_code'), op.append])}), op.append]),
      'runpy._run_code'
    ],
    'dropped from the stack at once': [Buffer.concat([op.none, op.global('os', 'popen'), op.pop]), 'os.popen'],
    'an attribute path of a module': [
      Buffer.concat([op.string('torch'), op.string('serialization.os.system'), op.stackGlobal]),
      'torch.serialization.os.system'
    ],
    'torch.load': [op.global('torch', 'load'), 'torch.load'],
    'a name of Object.prototype': [op.global('constructor', ''), 'constructor.'],
    'a type that is data, called': [Buffer.concat([op.global('builtins', 'type'), op.emptyTuple, op.reduce]), 'builtins.type'],
    'a string, called': [Buffer.concat([op.string('os.system'), command, op.tuple1, op.reduce]), 'calls a value of type string'],
    'the extension registry': [Buffer.from([0x82, 1]), 'extension registry']
  }
  for (const [name, [evil, said]] of Object.entries(cases))
    for (const [place, pickled] of [
      ['beside', pickle(dict({...good, evil}))],
      ['before', pickle(Buffer.concat([evil, op.pop, dict(good)]))],
      ['inside', pickle(dict({teacher: dict({...good, evil})}))]
    ] as const) {
      const path = join(folder, 'evil.pth')
      await writeFile(path, pth(pickled, {0: counting}))
      await assert.rejects(openPth(path), (error: UserError) => {
        assert.equal(error.code, 'UNSAFE_PICKLE', `${name}, ${place}: ${error.message}`)
        assert.ok(error.message.includes(said) && error.message.startsWith(path), `${name}, ${place}: ${error.message}`)
        return true
      })
    }
})

const foreign = (module: string, name: string): Buffer =>
  Buffer.concat([
    op.global(module, name),
    op.emptyTuple,
    op.newObject,
    dict({x: op.int(1)}),
    op.build,
    op.string('key'),
    op.int(2),
    op.setItem
  ])

test('an mmcv file is refused, and read by its state_dict alone when that is asked for', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'head.pth')
  const state = dict({'decode_head.conv_seg.weight': tensor('0', 12, [3, 4], [4, 1])})
  const bytes = pth(
    pickle(
      dict({
        meta: dict({config: foreign('mmcv.utils.config', 'ConfigDict')}),
        state_dict: state,
        other: dict({w: tensor('0', 12, [1], [1])})
      })
    ),
    {0: counting}
  )
  await writeFile(path, bytes)
  await assert.rejects(
    openPth(path),
    (error: UserError) => /mmcv\.utils\.config\.ConfigDict/.test(error.message) && /state_dict/.test(error.hint ?? '')
  )
  const file = await openPth(path, {tolerant: true})
  assert.deepEqual([...file.roots.keys()], ['state_dict'])
  assert.equal((await file.roots.get('state_dict')!.get('decode_head.conv_seg.weight')!.readFloat32())[5], 5)
  await file.close()

  await writeFile(
    path,
    pth(pickle(dict({state_dict: dict({a: tensor('0', 12, [1], [1]), b: foreign('some.module', 'Thing')})})), {0: counting})
  )
  await assert.rejects(openPth(path, {tolerant: true}), /state_dict holds an object of some\.module\.Thing named b/)
  for (const [module, name] of [
    ['os', 'system'],
    ['builtins', 'eval'],
    ['subprocess', 'Popen'],
    ['importlib', 'import_module']
  ] as const) {
    await writeFile(path, pth(pickle(dict({state_dict: state, meta: foreign(module, name)})), {0: counting}))
    await assert.rejects(openPth(path, {tolerant: true}), {code: 'UNSAFE_PICKLE', message: new RegExp(`${module}\\.${name}`)})
  }
})

test('damaged pickles and impossible tensors are refused, never crash', async t => {
  const folder = await scratch(t)
  const cases: [string, Buffer, RegExp][] = [
    ['no protocol', Buffer.from('}.'), /does not begin with its protocol/],
    ['protocol 0', Buffer.concat([op.proto(0), op.emptyDict, op.stop]), /protocol is 0/],
    ['cut', pickle(dict({a: op.string('abc')})).subarray(0, -4), /ends in the middle/],
    ['no stop', Buffer.concat([op.proto(), op.emptyDict]), /ends in the middle/],
    ['empty stack', pickle(), /takes more from its stack/],
    ['left over', pickle(op.none, op.none), /left over/],
    ['no mark', pickle(op.none, op.tuple), /did not open/],
    ['recall', pickle(op.get(7)), /recalls value 7/],
    ['append', pickle(op.none, op.none, op.append), /not a list/],
    ['text integer', pickle(Buffer.from('I01\n')), /opcode 0x49/],
    ['long string', pickle(Buffer.from([0x58, 0xff, 0xff, 0xff, 0x7f])), /ends in the middle/],
    ['huge frame', pickle(Buffer.concat([Buffer.from([0x8e]), Buffer.alloc(8, 0xff)])), /ends in the middle/],
    ['a list at the top', pickle(op.emptyList), /no dictionary/],
    ['no tensors', pickle(dict({a: op.int(1)})), /holds no tensors/],
    ['reaches beyond', pickle(dict({a: tensor('0', 12, [13], [1])})), /reaches to element 13 of a storage with 12/],
    ['stride beyond', pickle(dict({a: tensor('0', 12, [2], [100])})), /reaches to element 101/],
    ['offset beyond', pickle(dict({a: tensor('0', 12, [1], [1], {offset: 12})})), /reaches to element 13/],
    ['negative', pickle(dict({a: tensor('0', 12, [-1], [1])})), /shape is not a tuple of counts/],
    ['overflow', pickle(dict({a: tensor('0', 12, [2 ** 30, 2 ** 30], [2 ** 30, 1])})), /reaches to element/],
    ['blown up', pickle(dict({a: tensor('0', 12, [2 ** 30, 2 ** 10], [0, 0])})), /claims/],
    ['no such storage', pickle(dict({a: tensor('9', 12, [1], [1])})), /storage 9\) are missing/],
    ['short storage', pickle(dict({a: tensor('0', 100, [1], [1])})), /should have 400 bytes, but 48 are there/],
    [
      'complex',
      pickle(dict({a: tensor('0', 12, [1], [1], {storage: 'ComplexFloatStorage'})})),
      /torch\.ComplexFloatStorage, which is not on the list/
    ]
  ]
  for (const [name, pickled, message] of cases) {
    const path = join(folder, 'bad.pth')
    await writeFile(path, pth(pickled, {0: counting}))
    await assert.rejects(openPth(path), (error: UserError) => {
      assert.equal(error.name, 'UserError', `${name}: ${error.stack}`)
      assert.match(error.message, message, name)
      return true
    })
  }
})

test('bombs of copies and of nesting end early', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'bomb.pth')
  // A list of a thousand, copied twenty thousand times.
  const list = Buffer.concat([op.emptyList, op.put(1), op.mark, ...Array.from({length: 1000}, () => op.none), op.appends, op.pop])
  const copy = Buffer.concat([op.global('builtins', 'list'), op.put(2), op.pop])
  const again = Buffer.concat([op.get(2), op.get(1), op.tuple1, op.reduce])
  await writeFile(path, pth(pickle(op.none, list, copy, ...Array.from({length: 20_000}, () => again))))
  await assert.rejects(openPth(path), /copies its own lists beyond any measure/)
  // Lists within lists, and a dictionary that holds itself: nothing recurses into them.
  const deep = Buffer.concat([...Array.from({length: 100_000}, () => op.emptyList), ...Array.from({length: 99_999}, () => op.append)])
  await writeFile(path, pth(pickle(dict({deep, a: tensor('0', 12, [1], [1])})), {0: counting}))
  await (await openPth(path)).close()
  const self = Buffer.concat([
    op.emptyDict,
    op.put(5),
    op.string('self'),
    op.get(5),
    op.setItem,
    op.string('a'),
    tensor('0', 12, [1], [1]),
    op.setItem
  ])
  await writeFile(path, pth(pickle(self), {0: counting}))
  await (await openPth(path)).close()
})

test('a real file cut or scratched anywhere gives a sentence or its tensors, never another error', async t => {
  const path = join(await scratch(t), 'hurt.pth')
  const whole = await readFile(golden('dino_head.pth'))
  for (let part = 0; part < whole.length; part += 977) {
    await writeFile(path, whole.subarray(0, part))
    await assert.rejects(openPth(path), {name: 'UserError'}, `${part} bytes`)
  }
  const pickleAt = whole.indexOf('ccollections') - 2
  let seed = 1
  for (let i = 0; i < 400; i++) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    const hurt = Buffer.from(whole)
    hurt[pickleAt + (seed % 884)] = seed >>> 24
    await writeFile(path, hurt)
    try {
      const file = await openPth(path)
      for (const dict of file.roots.values()) for (const entry of dict.values()) await entry.read()
      await file.close()
    } catch (error) {
      assert.equal((error as Error).name, 'UserError', (error as Error).stack)
    }
  }
})

test('other files are recognized, with a way out', async t => {
  const folder = await scratch(t)
  const cases: [string, Buffer, RegExp, RegExp][] = [
    ['empty', Buffer.alloc(0), /is empty/, /again/],
    ['plain pickle', pickle(op.none), /a pickle, but not one of torch\.save/, /executes what is in it/],
    [
      'tar',
      Buffer.concat([Buffer.alloc(257), Buffer.from('ustar\0'), Buffer.alloc(249)]),
      /before version 0\.2/,
      /torch\.save\(torch\.load\(/
    ],
    ['web page', Buffer.from('<!DOCTYPE html><title>Sign in</title>'), /begins with "<!DOCTYPE ht"/, /web server/],
    ['other zip', zip({'a.txt': Buffer.from('a')}), /not one of torch\.save/, /^$/],
    ['script', zip({'m/data.pkl': pickle(op.none), 'm/constants.pkl': pickle(op.none)}), /TorchScript/, /torch\.jit\.load/],
    ['big-endian', zip({'m/data.pkl': pickle(op.none), 'm/byteorder': Buffer.from('big')}), /big-endian/, /common/],
    ['compressed', zip({'m/data.pkl': pickle(op.none)}, {method: 8}), /is compressed/, /torch\.save/]
  ]
  for (const [name, bytes, message, hint] of cases) {
    const path = join(folder, `${name}.pth`)
    await writeFile(path, bytes)
    await assert.rejects(openPth(path), (error: UserError) => {
      assert.match(error.message, message, name)
      assert.match(error.hint ?? '', hint, name)
      return true
    })
  }
  await assert.rejects(openPth(join(folder, 'absent.pth')), {exit: 3})
  await assert.rejects(openPth(folder), /is a folder/)
})

test('what is written is read again, flat and under a root, with 32 and with 64 bits', async t => {
  const folder = await scratch(t)
  const tensors = [
    float32Entry('blocks.0.w', [2, 3], Float32Array.of(1, 2, 3, 4, 5, 6)),
    float32Entry('scalar', [], Float32Array.of(7)),
    float32Entry('empty', [0, 3], new Float32Array(0))
  ]
  for (const root of [undefined, 'teacher'])
    for (const zip64Above of [undefined, 0]) {
      const path = join(folder, `${root}-${zip64Above}.pth`)
      await writePth(path, tensors, {root, zip64Above})
      const file = await openPth(path)
      const dict = file.roots.get(root ?? '')!
      assert.deepEqual([...dict.keys()], ['blocks.0.w', 'scalar', 'empty'])
      for (const entry of tensors) {
        assert.deepEqual(dict.get(entry.name)!.shape, entry.shape)
        assert.deepEqual(await dict.get(entry.name)!.read(), await entry.read())
      }
      await file.close()
      const again = join(folder, 'again.pth')
      await writePth(again, tensors, {root, zip64Above, force: true})
      assert.ok((await readFile(path)).equals(await readFile(again)))
    }
})

test('a tensor beyond 4 GiB is read at its place (a sparse file)', async t => {
  const path = join(await scratch(t), 'large.pth')
  const far = 5 * 2 ** 30
  const handle = await open(path, 'w')
  // The archive of a small file, its storage moved far away: local header and directory are put behind the hole by
  // hand.
  const small = pth(pickle(dict({a: tensor('0', 12, [12], [1])})), {0: counting})
  const local = small.lastIndexOf('PK\x03\x04', small.indexOf('PK\x01\x02')) // of version, the last record
  const storage = small.lastIndexOf('PK\x03\x04', local - 1)
  const directory = small.indexOf('PK\x01\x02')
  const end = small.lastIndexOf('PK\x05\x06')
  await handle.write(small, 0, storage, 0)
  await handle.write(small, storage, directory - storage, far)
  const entries: Buffer[] = []
  for (let at = directory; at < end;) {
    const next = small.indexOf('PK\x01\x02', at + 4)
    const entry = Buffer.from(small.subarray(at, next < 0 ? end : next))
    const place = entry.readUInt32LE(42)
    if (place >= storage) {
      const extra = Buffer.alloc(12)
      extra.writeUInt16LE(1, 0)
      extra.writeUInt16LE(8, 2)
      extra.writeBigUInt64LE(BigInt(far + place - storage), 4)
      entry.writeUInt32LE(0xffffffff, 42)
      entry.writeUInt16LE(12, 30)
      entries.push(entry, extra)
    } else entries.push(entry)
    at = next < 0 ? end : next
  }
  const rewritten = Buffer.concat(entries)
  const start = far + directory - storage
  const end64 = Buffer.alloc(56)
  end64.write('PK\x06\x06', 'latin1')
  for (const [i, value] of [4, 4, rewritten.length, start].entries()) end64.writeBigUInt64LE(BigInt(value), 24 + 8 * i)
  const locator = Buffer.alloc(20)
  locator.write('PK\x06\x07', 'latin1')
  locator.writeBigUInt64LE(BigInt(start + rewritten.length), 8)
  const last = Buffer.from(small.subarray(end))
  last.writeUInt32LE(0xffffffff, 16)
  await handle.write(Buffer.concat([rewritten, end64, locator, last]), 0, undefined, start)
  await handle.close()
  const file = await openPth(path)
  const a = file.roots.get('')!.get('a')!
  assert.equal(elements(a.shape), 12)
  assert.equal((await a.readFloat32())[11], 11)
  await file.close()
})

test('what training scripts keep beside the weights is passed over, and never stands for a tensor', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'training.pth')
  const w = tensor('0', 12, [3, 4], [4, 1])
  const dtype = Buffer.concat([op.global('numpy', 'dtype'), op.string('f8'), op.false, op.true, op.tuple3, op.reduce, dict({}), op.build])
  const scalar = (module: string): Buffer =>
    Buffer.concat([op.global(module, 'scalar'), dtype, op.string('12345678'), op.tuple2, op.reduce])
  const object = (module: string, name: string): Buffer =>
    Buffer.concat([op.global(module, name), op.emptyTuple, op.newObject, dict({lr: op.int(1)}), op.build])
  const path_ = (module: string, name: string): Buffer => Buffer.concat([op.global(module, name), op.string('/data'), op.tuple1, op.reduce])
  const factory = Buffer.concat([op.global('collections', 'defaultdict'), op.global('builtins', 'list'), op.tuple1, op.reduce])
  const beside = {
    old: scalar('numpy.core.multiarray'),
    lr: scalar('numpy._core.multiarray'),
    args: object('argparse', 'Namespace'),
    path: path_('pathlib', 'PosixPath'),
    windows: path_('pathlib._local', 'PureWindowsPath'),
    config: object('omegaconf.dictconfig', 'DictConfig'),
    any: op.global('typing', 'Any'),
    number: op.global('__builtin__', 'long'),
    history: factory
  }
  await writeFile(path, pth(pickle(dict({...beside, model: dict({w})})), {0: counting}))
  const file = await openPth(path)
  assert.deepEqual([...file.roots.keys()], ['model'])
  assert.equal((await file.roots.get('model')!.get('w')!.readFloat32())[5], 5)
  await file.close()
  await writeFile(path, pth(pickle(dict({state_dict: dict({w, v: beside.lr})})), {0: counting}))
  await assert.rejects(openPth(path), /state_dict holds an object of numpy\._core\.multiarray\.scalar named v/)
  for (const [module, name] of [
    ['pathlib', 'os'],
    ['numpy', 'load'],
    ['omegaconf', 'a.b.os.system'],
    ['types', 'FunctionType'],
    ['numpy.lib', 'scalar']
  ] as const) {
    await writeFile(path, pth(pickle(dict({model: dict({w}), x: path_(module, name)})), {0: counting}))
    await assert.rejects(openPth(path), {code: 'UNSAFE_PICKLE', hint: /dinov2 export/})
  }
})

test('a Git LFS pointer is named as such, whatever kind of model file it stands for', async t => {
  const folder = await scratch(t)
  const pointer = `version https://git-lfs.github.com/spec/v1\noid sha256:${'a'.repeat(64)}\nsize 88000000\n`
  for (const name of ['a.pth', 'a.safetensors', 'pytorch_model.bin']) {
    await writeFile(join(folder, name), pointer)
    await assert.rejects(openCheckpoint(join(folder, name)), {code: 'LFS_POINTER', message: /Git LFS pointer.* 88000000 bytes/})
  }
  await writeFile(join(folder, 'config.json'), '{"model_type": "dinov2"}')
  await assert.rejects(openCheckpoint(folder), {code: 'LFS_POINTER', message: /pytorch_model\.bin is a Git LFS pointer/})
})

test('a zip directory that gives a name to the bytes of another record is refused', async t => {
  const path = join(await scratch(t), 'swapped.pth')
  const bytes = pth(pickle(dict({a: tensor('0', 12, [12], [1]), b: tensor('1', 12, [12], [1])})), {0: counting, 1: counting})
  const name = Buffer.from('archive/data/1')
  bytes.write('archive/data/0', bytes.indexOf(name)) // in the local header, not in the directory
  await writeFile(path, bytes)
  const file = await openPth(path)
  t.after(() => file.close())
  await assert.rejects(file.roots.get('')!.get('b')!.readFloat32(), {code: 'BAD_CHECKPOINT', message: /another record lies where/})
})

test('the sequence of pickles that torch.save wrote before version 1.6: views, parts of storages, roots', async t => {
  const view = Buffer.concat([op.mark, op.string('v'), op.int(4), op.int(8), op.tuple])
  const file = await opens(
    t,
    pthSequence(
      pickle(
        dict({
          model: dict({
            column: tensor('a', 12, [3], [4], {offset: 2, part: op.none}),
            part: tensor('a', 12, [2, 2], [4, 1], {offset: 1, part: view}),
            last: tensor('b', 2, [2], [1], {part: op.none})
          })
        })
      ),
      {b: floats(-1, -2), a: counting}
    )
  )
  const tensors = file.roots.get('model')!
  const values = async (name: string): Promise<number[]> => [...(await tensors.get(name)!.readFloat32())]
  assert.deepEqual(await values('column'), [2, 6, 10])
  assert.deepEqual(await values('part'), [5, 6, 9, 10])
  assert.deepEqual(await values('last'), [-1, -2])
})

test('an old file is as safe as a new one: harmful names, cuts anywhere, impossible lengths', async t => {
  const folder = await scratch(t)
  const path = join(folder, 'old.pth')
  const open = async (bytes: Buffer): Promise<UserError | undefined> => {
    await writeFile(path, bytes)
    try {
      const file = await openPth(path)
      await file.close()
      return undefined
    } catch (error) {
      return error as UserError
    }
  }
  const call = Buffer.concat([op.global('os', 'system'), op.string('true'), op.tuple1, op.reduce])
  assert.match((await open(pthSequence(pickle(call))))!.message, /os\.system.*Nothing in it was executed/)
  const whole = pthSequence(pickle(dict({a: tensor('a', 12, [12], [1], {part: op.none})})), {a: counting})
  assert.equal(await open(whole), undefined)
  for (let length = 15; length < whole.length; length++) {
    const error = await open(whole.subarray(0, length))
    assert.equal(error?.name, 'UserError', `cut to ${length} bytes`)
  }
  const outside = Buffer.concat([op.mark, op.string('v'), op.int(8), op.int(8), op.tuple])
  const cases: [Buffer, RegExp][] = [
    [pthSequence(pickle(dict({a: tensor('a', 12, [12], [1], {part: outside})})), {a: counting}), /part of a storage/],
    [pthSequence(pickle(dict({a: tensor('a', 99, [99], [1], {part: op.none})})), {a: counting}), /should have 396 bytes, but 48/],
    [pthSequence(pickle(dict({a: tensor('a', 12, [12], [1], {part: op.none})})), {b: counting}), /keys of its storages/],
    [pthSequence(pickle(dict({a: tensor('a', 12, [12], [1], {part: op.none})}))), /numbers \(storage a\) are missing/]
  ]
  for (const [bytes, words] of cases) assert.match((await open(bytes))?.message ?? 'read', words)
})

test('a pickle longer than what is read at first is read to its end', async t => {
  const many = Object.fromEntries(Array.from({length: 2000}, (_, i) => [`layers.${i}.weight`, tensor('a', 12, [12], [1], {part: op.none})]))
  const file = await opens(t, pthSequence(pickle(dict(many)), {a: counting}))
  assert.equal(file.roots.get('')!.size, 2000)
})

test('dictionaries of tensors are found some levels deep; those of optimizers are not taken for models', async t => {
  const one = tensor('0', 12, [12], [1])
  const nested = dict({
    epoch: op.int(3),
    optimizer: dict({exp_avg: dict({'backbone.cls_token': one})}),
    checkpoint: dict({model: dict({state_dict: dict({'module.cls_token': one})})})
  })
  const file = await opens(t, pth(pickle(nested), {0: counting}))
  assert.deepEqual([...file.roots.keys()], ['checkpoint.model.state_dict'])
  let deep = dict({weight: one})
  for (let level = 0; level < 40; level++) deep = dict({inner: deep})
  await assert.rejects(opens(t, pth(pickle(deep), {0: counting})), /holds no tensors/)
})

test('records are held against their checksums, whole or in part; those without any are read', async t => {
  const path = join(await scratch(t), 'sums.pth')
  await writePth(path, [float32Entry('a', [3], Float32Array.of(1, 2, 3))])
  const whole = await readFile(path)
  const at = whole.indexOf(Buffer.from(Float32Array.of(1, 2, 3).buffer))
  whole[at]! ^= 1
  await writeFile(path, whole)
  const file = await openPth(path)
  await assert.rejects(file.roots.get('')!.get('a')!.read(), /the record archive\/data\/0 does not match its checksum/)
  await file.close()
})

test('what tensors do not tell is recorded beside them, and torch.load passes it over', async t => {
  const path = join(await scratch(t), 'a.pth')
  await writePth(path, [float32Entry('a', [2], Float32Array.of(1, 2))], {metadata: {heads: '3'}})
  const file = await openPth(path)
  t.after(() => file.close())
  assert.deepEqual(file.metadata, {heads: '3'})
  const strange = zip({
    'm/data.pkl': pickle(dict({a: tensor('0', 12, [12], [1])})),
    'm/data/0': counting,
    'm/extra/dinov2.json': Buffer.from('[1')
  })
  assert.deepEqual((await opens(t, strange)).metadata, {})
})
