/** The pages of docs/commands as they should be. Run by itself (`npm run command-pages`) it writes them. */
import {mkdirSync, readdirSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Config} from '../../src/cli/oclif.js'
import {commandPages} from '../../src/cli/command-pages.js'
import type {Shown} from '../../src/cli/help.js'
import {root} from './source-tree.js'

const folder = join(root, 'docs/commands')

/** The pages by file name. */
export async function expectedPages(): Promise<ReadonlyMap<string, string>> {
  const config = await Config.load(root)
  const commands = await Promise.all(config.commands.map(async command => Object.assign(await command.load(), {id: command.id})))
  return commandPages(commands as unknown as Shown[], config.bin)
}

if (process.argv[1] === import.meta.filename) {
  mkdirSync(folder, {recursive: true})
  const pages = await expectedPages()
  for (const name of readdirSync(folder)) if (!pages.has(name)) rmSync(join(folder, name))
  for (const [name, text] of pages) writeFileSync(join(folder, name), text)
}
