/**
 * The package as users get it: packed, and installed into a prefix of its own. What takes long (dependencies, the
 * addon compiled for the package, Node of other versions) is kept in the cache folder by what it depends on; the
 * package itself is packed and unpacked anew each time.
 */
import {execFile} from 'node:child_process'
import {createHash} from 'node:crypto'
import {cpSync, existsSync, mkdirSync, readFileSync, readdirSync, renameSync, rmSync, symlinkSync} from 'node:fs'
import {join} from 'node:path'
import {promisify} from 'node:util'
import {PACKAGE_VERSION, TENSORFLOW_VERSION} from '../../src/engine/tensorflow/find.js'
import {cacheFolder, packageFolder} from '../../src/system/paths.js'

const run = promisify(execFile)
const root = packageFolder()
const cache = join(cacheFolder(), 'test-install')

const hashOf = (...files: string[]): string => {
  const hash = createHash('sha256')
  for (const file of files) hash.update(readFileSync(join(root, file)))
  return hash.digest('hex').slice(0, 16)
}

/** npm, free of what the npm that runs the tests has set. */
async function npm(args: readonly string[], cwd: string): Promise<string> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|NODE_TEST)/.test(name)))
  const {stdout} = await run('npm', [...args, '--no-fund', '--no-audit', '--loglevel=error'], {cwd, env, maxBuffer: 1 << 28})
  return stdout
}

/** Packs the built tree as `npm publish` would; → the tarball and the paths inside. */
export async function pack(folder: string): Promise<{tarball: string; files: readonly string[]}> {
  // A copy, since packing leaves files in the tree that other tests must not see.
  const copy = join(folder, 'copy')
  const {files, scripts} = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    files: string[]
    scripts: Record<string, string>
  }
  for (const name of ['package.json', 'scripts', 'dist/bundled.json', 'package-lock.json', ...files])
    if (existsSync(join(root, name))) cpSync(join(root, name), join(copy, name), {recursive: true, preserveTimestamps: true})
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'))
  const prebuilt = join(cache, 'prebuilt')
  if (existsSync(prebuilt)) cpSync(prebuilt, join(copy, 'prebuilt'), {recursive: true, preserveTimestamps: true})
  // What `prepack` does after the build.
  for (const step of scripts['prepack']!.split(' && ').filter(step => !step.includes('npm run'))) {
    const [program, ...args] = step.split(' ')
    await run(program === 'node' ? process.execPath : program!, args, {cwd: copy})
  }
  rmSync(prebuilt, {recursive: true, force: true})
  cpSync(join(copy, 'prebuilt'), prebuilt, {recursive: true})
  const [packed] = JSON.parse(await npm(['pack', '--json', '--ignore-scripts', '--pack-destination', folder], copy)) as [
    {filename: string; files: {path: string}[]}
  ]
  return {tarball: join(folder, packed.filename), files: packed.files.map(({path}) => path)}
}

/** How install scripts fare: run, are skipped, or fail as they do without a compiler and Node's headers. */
export type Scripts = 'with' | 'without' | 'failing'

/** What npm is told for each. */
const scriptOptions: Readonly<Record<Scripts, readonly string[]>> = {
  with: [],
  without: ['--ignore-scripts'],
  failing: ['--nodedir=/nowhere']
}

/**
 * Installs the tarball globally into an empty prefix, from the cache where its dependencies have been installed so
 * before; → the prefix.
 */
export async function install(tarball: string, folder: string, scripts: Scripts): Promise<string> {
  const prefix = join(folder, `${scripts}-scripts`)
  const kept = join(cache, `${hashOf('package-lock.json', 'package.json')}-${process.arch}-${scripts}`)
  if (!existsSync(kept)) {
    const half = `${kept}.${process.pid}`
    mkdirSync(half, {recursive: true})
    const options = ['--omit=dev', '--prefer-offline', ...scriptOptions[scripts]]
    await npm(['install', '--global', '--prefix', half, ...options, tarball], folder)
    renameSync(half, kept)
  }
  cpSync(kept, prefix, {recursive: true, verbatimSymlinks: true})
  const home = join(prefix, 'lib/node_modules/dinov2')
  for (const name of readdirSync(home)) if (name !== 'node_modules') rmSync(join(home, name), {recursive: true})
  await run('tar', ['xzf', tarball, '--strip-components=1', '-C', home])
  return prefix
}

/** The program `node` of a major version: this one's, or that of the npm package for this machine. */
export async function nodeOf(major: number): Promise<string> {
  if (Number(process.versions.node.split('.')[0]) === major) return process.execPath
  const folder = join(cache, `node-${major}`)
  const name = `node-${process.platform}-${process.arch}`
  const program = join(folder, 'lib/node_modules', name, 'bin/node')
  if (!existsSync(program)) await npm(['install', '--global', '--prefix', folder, '--ignore-scripts', `${name}@${major}`], root)
  return program
}

/** A data folder for `engine install tensorflow`, kept in the cache: installed once, checked by later runs. */
export const tensorflowData = (): string => join(cache, `tensorflow-${TENSORFLOW_VERSION}-${PACKAGE_VERSION}-${process.arch}`)

/** How many bytes of files lie below a folder, as `du` counts them. */
export const diskUsage = async (folder: string): Promise<number> => Number((await run('du', ['-sk', folder])).stdout.split('\t')[0]) * 1024
