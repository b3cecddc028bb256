/**
 * Outputs are whole or absent because all of them are given their names by `src/system/atomic.ts`, or grow under a
 * lock. The places that write to the disk are read from the sources: a new one goes through there, or fails here until
 * it says why it need not. So what `test/pipes/write-faults.test.ts` finds of one writer holds for those like it.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {filesUnder, importsOf, readText} from './support/source-tree.js'

/** Functions of `node:fs` that make, fill, replace or rename files. */
const WRITING = /^(append|copy|write)File(Sync)?$|^(cp|link|rename|symlink|truncate)(Sync)?$|^createWriteStream$/
/** Openings for writing. */
const OPENING = /\bopen(Sync)?\([^()]*(\([^()]*\)[^()]*)*, '(w|a|r\+|wx|ax|w\+|a\+)'/

const filled = 'fills a temporary folder, or a file in one, that its caller gives the name'
const own = 'writes a temporary file of its own, which no command gives out'
const growing = 'grows as a partial output under a lock, and is renamed when it is whole'

/** Those that do not go through `atomic.ts` themselves. */
const others: Readonly<Record<string, string>> = {
  'src/system/atomic.ts': 'is the way itself',
  'src/system/named-pipe.ts': 'opens pipes for atomic.ts',
  'src/system/lock.ts': 'makes locks',
  'src/system/download.ts': growing,
  'src/system/kept-answers.ts': 'renames a whole file of its own',
  'src/system/compile.ts': 'renames a whole folder in the cache of compiled addons',
  'src/engine/venv.ts': 'renames a whole environment of Python',
  'src/engine/tensorflow/install.ts': 'renames a whole folder of the engine',
  'src/files/checkpoint/pull-hub-model.ts': 'keeps to the cache of the hub: downloads, links to them, and renames',
  'src/files/embeddings/csv.ts': growing,
  'src/files/embeddings/jsonl.ts': growing,
  'src/files/embeddings/resumable.ts': growing,
  'src/files/tar-shards.ts': filled,
  'src/files/onnx/write.ts': filled,
  'src/tasks/explore/pictures.ts': filled,
  'src/data/sources/image-spool.ts': own,
  'src/files/embeddings/spool.ts': own,
  'src/files/search-index/matrix-file.ts': own,
  'src/files/search-index/vector-index.ts': own,
  'src/tasks/train/cost-probe.ts': own
}

/** Names that a text takes from `node:fs`. */
const taken = (text: string): string[] =>
  [...text.matchAll(/import \{([^}]*)\} from 'node:fs(?:\/promises)?'/g)].flatMap(([, names]) => names!.split(',').map(name => name.trim()))

test('whatever writes to the disk goes through system/atomic.ts, or says why it need not', () => {
  const writing = [...filesUnder('src'), ...filesUnder('commands')].filter(path => {
    const text = readText(path)
    return taken(text).some(name => WRITING.test(name)) || OPENING.test(text)
  })
  assert.ok(writing.length > 25, `${writing.length} files`)
  const atomic = writing.filter(path => importsOf(path).some(({to, kind}) => to === 'src/system/atomic.ts' && kind !== 'type'))
  assert.deepEqual(
    writing.filter(path => !atomic.includes(path) && others[path] === undefined),
    []
  )
  // the table says nothing of files that do not write
  assert.deepEqual(
    Object.keys(others).filter(path => !writing.includes(path)),
    []
  )
})

test('folders are made with those above them in one way, which ends everywhere', () => {
  const own = /\bmkdir(Sync)?\([^()]*(\([^()]*(\([^()]*\)[^()]*)*\)[^()]*)*recursive/
  const others = [...filesUnder('src'), ...filesUnder('commands')].filter(path => own.test(readText(path)))
  assert.deepEqual(others, [])
  assert.match('await mkdir(dirname(join(a, b)), {recursive: true})', own)
})

test('what is said of those that fill a folder is so: whoever calls them goes through system/atomic.ts', () => {
  const imports = [...filesUnder('src'), ...filesUnder('commands')].flatMap(importsOf)
  for (const [path] of Object.entries(others).filter(([, way]) => way === filled)) {
    const callers = imports.filter(({to, kind}) => to === path && kind !== 'type').map(({from}) => from)
    assert.ok(callers.length > 0, path)
    assert.deepEqual(
      callers.filter(from => !imports.some(found => found.from === from && found.to === 'src/system/atomic.ts' && found.kind !== 'type')),
      [],
      path
    )
  }
})
