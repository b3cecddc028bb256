/**
 * transformers.js with onnxruntime for Node, which users of exported models run. It weighs 475 MB, so it is no
 * development dependency: it is installed once into the cache folder, its version pinned.
 */
import {execFile} from 'node:child_process'
import {existsSync, mkdirSync, renameSync, rmSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {promisify} from 'node:util'
import {cacheFolder} from '../../src/system/paths.js'

const version = '4.3.2'

/** The folder in which `@huggingface/transformers` and `onnxruntime-node` are installed. */
export async function transformersJs(): Promise<string> {
  const folder = join(cacheFolder(), 'test-install', `transformers-js-${version}-${process.arch}`)
  if (existsSync(folder)) return folder
  const half = `${folder}.${process.pid}`
  mkdirSync(half, {recursive: true})
  writeFileSync(join(half, 'package.json'), '{"private": true}')
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(npm_|NODE_TEST)/.test(name)))
  const options = ['--ignore-scripts', '--prefer-offline', '--no-fund', '--no-audit', '--loglevel=error']
  await promisify(execFile)('npm', ['install', ...options, `@huggingface/transformers@${version}`], {cwd: half, env})
  const binaries = join(half, 'node_modules/onnxruntime-node/bin/napi-v6')
  for (const other of ['darwin', 'win32', 'linux'])
    if (other !== process.platform) rmSync(join(binaries, other), {recursive: true, force: true})
  renameSync(half, folder)
  return folder
}

/** Runs a program text as a module of that folder; → what it prints, as JSON. */
export async function inTransformersJs<T>(text: string, ...args: string[]): Promise<T> {
  const cwd = await transformersJs()
  const {stdout} = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', text, ...args], {cwd, maxBuffer: 1 << 26})
  return JSON.parse(stdout.trim().split('\n').at(-1)!) as T
}
