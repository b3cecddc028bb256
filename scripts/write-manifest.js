/**
 * Writes `oclif.manifest.json`, the declarations of all commands, so that an installed `dinov2 --help` reads one file
 * instead of every command's module. It is made when the package is packed and taken away afterwards: in a checkout,
 * where commands change, it would hide what is new.
 */
import {rm, writeFile} from 'node:fs/promises'
import {fileURLToPath} from 'node:url'
import {Plugin} from '../dist/src/cli/oclif.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const file = `${root}oclif.manifest.json`

await rm(file, {force: true})
if (!process.argv.includes('--remove')) {
  for (const name of Object.keys(process.env)) if (name.startsWith('DINOV2_')) delete process.env[name]
  const plugin = new Plugin({errorOnManifestCreate: true, ignoreManifest: true, respectNoCacheDefault: true, root})
  await plugin.load()
  await writeFile(file, JSON.stringify(plugin.manifest))
}
