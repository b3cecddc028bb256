/**
 * Bundles the compiled program into few files, `dist/bundle`, which `bin/run.js` prefers where they are newer than the
 * last compilation. Opening some hundred modules one by one took most of the time before a command began.
 *
 *     core.js       what every call runs: the front door and its help
 *     program.js    all commands and tasks; a module runs when it is first imported
 *     commands/     one line a command, because oclif loads commands by file
 *     package.json, oclif.manifest.json   the declarations of all commands, so that help loads none of them
 *
 * Files that the program finds beside its modules stay where they are: `import.meta.url` means the compiled module.
 * So do the bundles of oclif and TensorFlow.js, and threads, which start from the compiled modules.
 */
import {mkdir, readdir, readFile, rm, writeFile} from 'node:fs/promises'
import {dirname, relative} from 'node:path'
import {fileURLToPath, pathToFileURL} from 'node:url'
import {build} from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const dist = `${root}dist/`
const folder = `${dist}bundle/`

/** What every call runs. Its modules are one instance for `program.js` too. */
const coreModules = ['src/cli/main.js', 'src/cli/help.js']

/** Bundled before, by scripts/bundle.js. */
const isBundled = path => /\/src\/cli\/oclif\.js$/.test(path)

/** Names a file of `dist` from `dist/bundle`. */
const fromBundle = path => `../${relative(dist, path).replaceAll('\\', '/')}`

/** Reads compiled modules for a bundle; packages and modules of Node are loaded when the module that asks for them runs. */
const compiled = {
  name: 'compiled',
  setup(plugin) {
    plugin.onResolve({filter: /^[^./]/}, ({path, kind}) => {
      if (kind === 'entry-point') return undefined
      return kind === 'import-statement' ? {path, namespace: 'package'} : {path, external: true}
    })
    plugin.onLoad({filter: /.*/, namespace: 'package'}, ({path}) => ({contents: `module.exports = require(${JSON.stringify(path)})`}))
    plugin.onLoad({filter: /\.js$/, namespace: 'file'}, async ({path}) => {
      const text = await readFile(path, 'utf8')
      return {contents: text.replaceAll('import.meta.url', `new URL(${JSON.stringify(fromBundle(path))}, import.meta.url).href`)}
    })
    plugin.onResolve({filter: /^\./}, ({path, importer}) => {
      const target = fileURLToPath(new URL(path, pathToFileURL(importer)))
      return isBundled(target) ? {path: fromBundle(target), external: true} : undefined
    })
  }
}

const common = {
  outdir: folder,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  minifyWhitespace: true,
  minifySyntax: true,
  banner: {js: `import {createRequire as __createRequire} from 'node:module'\nconst require = __createRequire(import.meta.url)`},
  legalComments: 'none',
  metafile: true,
  logLevel: 'error'
}

const entry = (name, contents) => ({stdin: {contents, resolveDir: dist, sourcefile: `${dist}${name}.js`}, entryNames: name})

/** The paths of the compiled commands, below `dist/commands`. */
async function commandFiles() {
  const found = await readdir(`${dist}commands`, {recursive: true})
  return found.filter(name => name.endsWith('.js')).sort()
}

/** The modules of `core.js`: what `coreModules` import. */
async function bundleCore() {
  const first = await build({...common, entryPoints: coreModules.map(name => dist + name), plugins: [compiled], write: false})
  const modules = Object.keys(first.metafile.inputs)
    .filter(name => /(^|\/)dist\/(src|commands)\//.test(name))
    .map(name => name.slice(name.lastIndexOf('dist/') + 'dist/'.length))
  const text = modules.map(name => `export * from './${name}'`).join('\n')
  await build({...common, ...entry('core', text), plugins: [compiled]})
  return new Set(modules.map(name => dist + name))
}

async function bundleRest(core, names) {
  const shared = {
    name: 'shared',
    setup(plugin) {
      plugin.onResolve({filter: /^\./}, ({path, importer}) => {
        const target = fileURLToPath(new URL(path, pathToFileURL(importer)))
        return core.has(target) ? {path: './core.js', external: true} : undefined
      })
    }
  }
  const table = names.map(name => `${JSON.stringify(name)}: () => import('./commands/${name}')`).join(',\n')
  await build({...common, ...entry('program', `export const commands = {${table}}`), plugins: [shared, compiled]})
}

/** Writes what oclif reads, and one file for each command. */
async function writeCommands(names) {
  for (const name of names) {
    const up = '../'.repeat(name.split('/').length)
    await mkdir(dirname(`${folder}commands/${name}`), {recursive: true})
    await writeFile(
      `${folder}commands/${name}`,
      `import {commands} from '${up}program.js'\nexport default (await commands[${JSON.stringify(name)}]()).default\n`
    )
  }
  const {name, version, description, type, oclif} = JSON.parse(await readFile(`${root}package.json`, 'utf8'))
  for (const variable of Object.keys(process.env)) if (variable.startsWith('DINOV2_')) delete process.env[variable]
  await writeFile(`${folder}package.json`, JSON.stringify({name, version, description, type, oclif: {...oclif, commands: './commands'}}))
  const {Plugin} = await import(pathToFileURL(`${dist}src/cli/oclif.js`).href)
  const plugin = new Plugin({errorOnManifestCreate: true, ignoreManifest: true, respectNoCacheDefault: true, root: folder})
  await plugin.load()
  await writeFile(`${folder}oclif.manifest.json`, JSON.stringify(plugin.manifest))
}

/** Bundles the program from `dist`; the bundles of packages must be there. */
export async function bundleProgram() {
  await rm(folder, {recursive: true, force: true})
  await mkdir(folder, {recursive: true})
  const names = await commandFiles()
  await bundleRest(await bundleCore(), names)
  await writeCommands(names)
}
