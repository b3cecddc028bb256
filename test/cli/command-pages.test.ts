/** docs/commands says of every command what its declaration says, and its links lead somewhere. */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, readFileSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {test} from 'node:test'
import {expectedPages} from '../support/command-pages.js'
import {root} from '../support/source-tree.js'

const folder = join(root, 'docs/commands')

test('the pages are those that the declarations give (npm run command-pages writes them)', async () => {
  const pages = await expectedPages()
  assert.ok(pages.size > 35)
  assert.deepEqual(readdirSync(folder).sort(), [...pages.keys()].sort())
  for (const [name, text] of pages) assert.equal(readFileSync(join(folder, name), 'utf8'), text, name)
  const embed = pages.get('embed.md')!
  for (const part of ['dinov2 embed [IMAGES…] [FLAGS]', '`--max-bad ', '| `IMAGES`', '| 4 ', 'dinov2 embed photos --model starter'])
    assert.ok(embed.includes(part), `${part}\n${embed}`)
})

test('links within the documents lead to files that are there', () => {
  const files = ['README.md', ...readdirSync(join(root, 'docs'), {recursive: true, encoding: 'utf8'}).map(name => join('docs', name))]
  const broken: string[] = []
  for (const file of files.filter(name => name.endsWith('.md')))
    for (const [, target] of readFileSync(join(root, file), 'utf8').matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g))
      if (!/^[a-z]+:/.test(target!) && !existsSync(join(root, dirname(file), target!))) broken.push(`${file}: ${target}`)
  assert.deepEqual(broken, [])
})

test('codes of errors in the documents are codes of the program', () => {
  const sources = ['src', 'commands'].flatMap(dir =>
    readdirSync(join(root, dir), {recursive: true, encoding: 'utf8'})
      .filter(name => name.endsWith('.ts'))
      .map(name => readFileSync(join(root, dir, name), 'utf8'))
  )
  const codes = new Set(sources.flatMap(text => [...text.matchAll(/code: '([A-Z_]+)'/g)].map(([, code]) => code!)))
  const named = [...readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8').matchAll(/`([A-Z]+(?:_[A-Z]+)+|UNHEALTHY)`/g)].map(
    ([, code]) => code!
  )
  const settings = ['PIP_INDEX_URL', 'DINOV2_TORCH_INDEX', 'CUDA_HOME']
  assert.deepEqual(
    named.filter(code => !codes.has(code) && !settings.includes(code)),
    []
  )
  assert.ok(named.length > 12)
})
