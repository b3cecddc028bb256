/** Every old name of a flag of every command still works, warns on stderr and gives the present name. */
import assert from 'node:assert/strict'
import {fileURLToPath} from 'node:url'
import {before, test} from 'node:test'
import {Config} from '../../src/cli/oclif.js'
import {realBinary, run} from '../support/program.js'

let old: [command: string, name: string, alias: string, boolean: boolean][]

before(async () => {
  const config = await Config.load(fileURLToPath(new URL('../../../', import.meta.url)))
  old = config.commands.flatMap(command =>
    Object.entries(command.flags).flatMap(([name, flag]) =>
      (flag.aliases ?? []).map((alias): [string, string, string, boolean] => [command.id, name, alias, flag.type === 'boolean'])
    )
  )
})

test('there are old names, and each is reported with the new one', async () => {
  for (const known of ['wd', 'step-images', 'pictures', 'rows', 'blocks', 'tries', 'queries'])
    assert.ok(
      old.some(([, , alias]) => alias === known),
      known
    )
  for (const [command, name, alias, boolean] of old) {
    // The value is wrong for most flags: the old name is reported before values are looked at.
    const {stderr} = await run(realBinary, [
      ...command.split(':'),
      `--${alias}`,
      ...(boolean ? [] : ['1']),
      '--no-such-flag-of-any-command=1'
    ])
    assert.match(stderr, new RegExp(`warning: --${alias} is deprecated.*--${name} now`), `${command} --${alias}: ${stderr}`)
  }
})
