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
