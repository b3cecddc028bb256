/** The Dockerfile: known instructions, sources of COPY that are there, stages and arguments that are declared. */
import assert from 'node:assert/strict'
import {existsSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'
import {realBinary, run} from '../support/program.js'

const root = packageFolder()
type Instruction = {readonly name: string; readonly text: string}

/** Instructions with their continued lines joined, without comments. */
function instructions(text: string): Instruction[] {
  const lines = text.split('\n').filter(line => !/^\s*(#|$)/.test(line))
  return lines
    .join('\n')
    .replaceAll(/\\\n\s*/g, ' ')
    .split('\n')
    .map(line => /^([A-Z]+)\s+(.+)$/.exec(line))
    .map(match => {
      assert.ok(match, 'every line begins with an instruction')
      return {name: match[1]!, text: match[2]!}
    })
}

test('the Dockerfile builds from what is there, and asks the program for flags that it has', async () => {
  const all = instructions(readFileSync(join(root, 'Dockerfile'), 'utf8'))
  const known = ['FROM', 'RUN', 'WORKDIR', 'COPY', 'ARG', 'ENV', 'ENTRYPOINT', 'CMD']
  assert.deepEqual(
    all.filter(({name}) => !known.includes(name)),
    []
  )
  assert.equal(all[0]!.name, 'FROM')
  const packs = all.find(({text}) => text.includes('--pack-destination'))
  assert.match(packs!.text, /mkdir (\S+) && npm pack --pack-destination \1$/, 'npm pack does not make its folder')
  const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').trim().split('\n')
  const stages = new Set<string>()
  const named = new Set<string>() // of ARG and ENV in the present stage
  for (const {name, text} of all) {
    if (name === 'FROM') {
      assert.match(text, /^node:\d+-[\w-]+( AS \w+)?$/, 'an image of a fixed major version')
      const stage = / AS (\w+)$/.exec(text)?.[1]
      if (stage) stages.add(stage)
      named.clear()
    }
    if (name === 'ARG') named.add(/^\w+/.exec(text)![0])
    if (name === 'ENV') for (const [, variable] of text.matchAll(/(\w+)=/g)) named.add(variable!)
    if (name === 'COPY') {
      const from = /^--from=(\w+) /.exec(text)?.[1]
      if (from) assert.ok(stages.has(from), `the stage ${from}`)
      else
        for (const source of text.split(/\s+/).slice(0, -1)) {
          assert.ok(existsSync(join(root, source)), source)
          assert.ok(!ignored.includes(source), `${source} is ignored`)
        }
    }
    if (name === 'RUN') {
      for (const [, variable] of text.matchAll(/\$\{?(\w+)/g)) assert.ok(named.has(variable!), `$${variable} is declared`)
      if (text.includes('apt-get install')) assert.match(text, /apt-get update .*--no-install-recommends .*rm -rf \/var\/lib\/apt\/lists/)
    }
    if (name === 'ENTRYPOINT' || name === 'CMD') assert.ok(Array.isArray(JSON.parse(text)), `${name} in the form of a list`)
  }
  const install = all.find(({text}) => text.includes('engine install'))!
  const {stdout: help} = await run(realBinary, ['engine', 'install', '--help'])
  for (const [flag] of install.text.matchAll(/--\w+/g)) assert.ok(help.includes(flag), flag)
  // What packing needs must reach the first stage.
  for (const needed of ['scripts', 'src', 'commands', 'native', 'configs', 'models', 'tsconfig.json'])
    assert.ok(!ignored.includes(needed), needed)
})
