/**
 * Compiles the image code for the package that is packed (`prebuilt/`), so that installing it needs no compiler on
 * machines like this one. `--remove` takes it away again.
 */
import {rm} from 'node:fs/promises'
import {fileURLToPath} from 'node:url'
import {prebuildNative} from '../dist/src/data/augment/native-crops.js'

await rm(fileURLToPath(new URL('../prebuilt', import.meta.url)), {recursive: true, force: true})
if (!process.argv.includes('--remove')) process.stderr.write(`${await prebuildNative()}\n`)
