/** The pages of docs/commands as they should be. Run by itself (`npm run command-pages`) it writes them. */
import {mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {Config} from '../../src/cli/oclif.js'
import {commandPages} from '../../src/cli/command-pages.js'
import type {Shown} from '../../src/cli/help.js'
import {root} from './source-tree.js'

const folder = join(root, 'docs/commands')

/** Guides written by hand, by the file names of their pages. */
export function guides(): ReadonlyMap<string, string> {
  const names = readdirSync(join(root, 'docs/guides'))
  return new Map(names.map(name => [name, readFileSync(join(root, 'docs/guides', name), 'utf8')]))
}

/** The pages by file name. */
export async function expectedPages(): Promise<ReadonlyMap<string, string>> {
  const config = await Config.load(root)
  const commands = await Promise.all(config.commands.map(async command => Object.assign(await command.load(), {id: command.id})))
  return commandPages(commands as unknown as Shown[], config.bin, guides())
}

if (process.argv[1] === import.meta.filename) {
  mkdirSync(folder, {recursive: true})
  const pages = await expectedPages()
  for (const name of readdirSync(folder)) if (!pages.has(name)) rmSync(join(folder, name))
  for (const [name, text] of pages) writeFileSync(join(folder, name), text)
}
