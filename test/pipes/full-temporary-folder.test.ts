/**
 * A folder of temporary files without room: what needs none is done whole, what needs some ends with a sentence that
 * names the place, and nothing is reported as done that is not.
 */
import assert from 'node:assert/strict'
import {existsSync, mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {CommandServer, folder, realBinary, shell} from '../support/program.js'

const mayMount = (await shell(realBinary, 'unshare -rm sh -c "mount -t tmpfs -o size=64k tmpfs /mnt"')).status === 0
const skip = !mayMount && 'no user namespaces here'
const dir = folder()
const temporary = join(dir, 'full')
const patience = 60_000
const roomy = new CommandServer({env: {}, cwd: dir, patience})
const full = new CommandServer({
  env: {TMPDIR: temporary},
  cwd: dir,
  patience,
  shell: 'mount -t tmpfs -o size=64k tmpfs full && { head -c 65536 /dev/zero > full/fill; } 2> /dev/null',
  launcher: ['unshare', '-rm']
})

/** Larger, as a graph, than what is left of the folder. */
const rows = Array.from({length: 400}, (_, i) =>
  JSON.stringify({id: `i${i}`, vector: Array.from({length: 32}, (_x, d) => Math.sin(i * 7 + d))})
)

before(() => {
  mkdirSync(temporary)
  writeFileSync(join(dir, 'vectors.jsonl'), `${rows.join('\n')}\n`)
})
after(() => Promise.all([roomy.end(), full.end()]))

for (const kind of ['exact', 'hnsw'])
  test(`index --kind ${kind}, and a search in it`, {skip}, async () => {
    const build = (to: string): string[] => ['index', 'vectors.jsonl', '--kind', kind, '-o', to, '-q']
    assert.equal((await roomy.run(...build(`${kind}-whole.index`))).status, 0)
    const made = await full.run(...build(`${kind}.index`))
    if (made.status === 0) assert.deepEqual(readFileSync(join(dir, `${kind}.index`)), readFileSync(join(dir, `${kind}-whole.index`)))
    else {
      assert.ok(made.status !== null && made.status !== 70, made.stderr)
      assert.ok(made.stderr.includes(temporary), made.stderr)
      assert.ok(!existsSync(join(dir, `${kind}.index`)))
    }
    const search = ['search', `${kind}-whole.index`, 'vectors.jsonl', '-k', '2', '-q']
    const [whole, found] = [await roomy.run(...search), await full.run(...search)]
    assert.equal(whole.status, 0, whole.stderr)
    if (found.status === 0) assert.equal(found.stdout, whole.stdout)
    else {
      assert.ok(found.status !== null && found.status !== 70, found.stderr)
      assert.ok(found.stderr.includes(temporary), found.stderr)
    }
  })
