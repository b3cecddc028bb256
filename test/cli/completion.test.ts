/** Completion as bash sees it: the script of the real program is sourced and asked what may come next. */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {describe, it} from 'node:test'
import {completionScript, type Completed} from '../../src/cli/completion.js'
import {fishCompletion} from '../../src/cli/fish-completion.js'
import {folder, realBinary, run, shell} from '../support/program.js'

const commands: Completed[] = [
  {
    id: 'embed',
    flags: {
      engine: {type: 'option', options: ['auto', 'torch']},
      output: {type: 'option', char: 'o'},
      crop: {type: 'boolean', allowNo: true}
    }
  },
  {id: 'engine:list', flags: {json: {type: 'boolean'}}},
  {id: 'pretrain', flags: {config: {type: 'option'}, set: {type: 'option'}}}
]
const dir = folder()
const script = join(dir, 'completion.bash')
writeFileSync(script, completionScript('bash', 'dinov2', commands, {config: ['small'], set: ['optim.epochs=']}))

/** What bash offers for the last of `words`. */
async function offered(...words: string[]): Promise<string[]> {
  const list = words.map(word => `'${word}'`).join(' ')
  const {stdout, stderr} = await shell(
    '',
    `source ${script}; COMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _dinov2_complete; printf '%s\\n' "\${COMPREPLY[@]}"`
  )
  assert.equal(stderr, '')
  return stdout.split('\n').filter(Boolean)
}

describe('completion', {concurrency: 2}, () => {
  it('offers commands and what follows within a topic', async () => {
    assert.deepEqual(await offered('dinov2', ''), ['embed', 'engine', 'help', 'pretrain'])
    assert.deepEqual(await offered('dinov2', 'e'), ['embed', 'engine'])
    assert.deepEqual(await offered('dinov2', 'engine', ''), ['list'])
    assert.deepEqual(await offered('dinov2', 'help', 'p'), ['pretrain'])
  })

  it('offers flags of the command, and the options of a flag', async () => {
    assert.deepEqual(await offered('dinov2', 'embed', '--'), ['--help', '--engine', '--output', '--crop', '--no-crop'])
    assert.deepEqual(await offered('dinov2', 'embed', 'photos', '--engine', ''), ['auto', 'torch'])
    assert.deepEqual(await offered('dinov2', 'embed', '--engine', '=', 'to'), ['torch'])
    assert.deepEqual(await offered('dinov2', 'embed', '--engine=to'), ['--engine=torch'])
    assert.deepEqual(await offered('dinov2', 'pretrain', '--config', ''), ['small'])
    assert.deepEqual(await offered('dinov2', 'pretrain', '--set', 'opt'), ['optim.epochs='])
  })

  it('leaves file names to the shell', async () => {
    assert.deepEqual(await offered('dinov2', 'embed', 'ph'), [])
    assert.deepEqual(await offered('dinov2', 'embed', '-o', ''), [])
  })

  it('writes a line for fish for each command, flag and option', async () => {
    const made = fishCompletion('dinov2', commands, {config: ['small']})
    for (const line of [
      `complete -c dinov2 -n '__dinov2_at \\'\\'' -f -a 'embed engine help pretrain'`,
      `complete -c dinov2 -n '__dinov2_at \\'engine\\'' -a 'list'`,
      `complete -c dinov2 -n '__dinov2_at \\'embed\\'' -l engine -x -a 'auto torch'`,
      `complete -c dinov2 -n '__dinov2_at \\'embed\\'' -l output -s o -r`,
      `complete -c dinov2 -n '__dinov2_at \\'embed\\'' -l no-crop`,
      `complete -c dinov2 -n '__dinov2_at \\'pretrain\\'' -l config -x -a 'small'`
    ])
      assert.ok(made.split('\n').includes(line), `${line}\n${made}`)
    const {stdout, status} = await run(realBinary, ['completion', 'fish'])
    assert.equal(status, 0)
    // Quotation marks pair up on every line, whatever stands in the summaries.
    for (const line of stdout.split('\n')) assert.equal(line.replaceAll(/\\['\\]/g, '').split("'").length % 2, 1, line)
    assert.match(stdout, /-l max-bad -r -d '/)
  })

  it('is written by the real program', async () => {
    const {stdout, status} = await run(realBinary, ['completion', 'bash'])
    assert.equal(status, 0)
    writeFileSync(join(dir, 'real.bash'), stdout)
    assert.deepEqual((await shell('', `bash -n ${join(dir, 'real.bash')} && echo fine`)).stdout, 'fine\n')
    assert.match(stdout, /complete -o bashdefault -o default -F _dinov2_complete dinov2/)
    assert.match((await run(realBinary, ['completion', 'zsh'])).stdout, /bashcompinit/)
    assert.equal((await run(realBinary, ['completion', 'tcsh'])).status, 2)
  })
})
