/**
 * Where TensorFlow's tfjs backend and its binding lie.
 *
 * `@tensorflow/tfjs-node-gpu` is an optional dependency. Its binding to libtensorflow is either inside the package
 * (npm's own install step, or the link that `dinov2 engine install tensorflow` leaves there) or in the private
 * environment under the data folder. Only files are looked at here; nothing is loaded.
 */
import {existsSync, readdirSync, readFileSync} from 'node:fs'
import {createRequire} from 'node:module'
import {dirname, join} from 'node:path'
import {dataFolder} from '../../system/paths.js'
import {sitePackages} from '../venv.js'
import {parseOwnJson} from '../../system/json.js'

/** The version of TensorFlow that `engine install tensorflow` takes. */
export const TENSORFLOW_VERSION = '2.21.0'

/** The private environment of `engine install tensorflow`. */
export const privateTensorflow = (): string => join(dataFolder(), 'tensorflow')

/** The binding that `engine install tensorflow` compiles. */
export const privateBinding = (): string => join(privateTensorflow(), 'tfjs_binding.node')

/**
 * The path of the binding inside the package, as its own loader expects it; the highest N-API version that the package
 * names.
 */
export const packageBinding = (folder: string): string => join(folder, 'lib', 'napi-v8', 'tfjs_binding.node')

export type TensorflowPackage = {readonly folder: string; readonly version: string}

/** The version of the npm package that `engine install tensorflow` takes. */
export const PACKAGE_VERSION = '4.22.0'

/** Where `engine install tensorflow` puts the npm package, where it does not stand beside this one. */
export const privatePackage = (): string => join(dataFolder(), 'tensorflow-npm')

/**
 * The npm package, an optional peer of this one: beside it, or where `engine install tensorflow` put it; else null.
 */
export function tensorflowPackage(): TensorflowPackage | null {
  for (const from of [import.meta.url, join(privatePackage(), 'package.json')]) {
    try {
      const file = createRequire(from).resolve('@tensorflow/tfjs-node-gpu/package.json')
      const {version} = parseOwnJson(readFileSync(file, 'utf8')) as {version: string}
      return {folder: dirname(file), version}
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error
    }
  }
  return null
}

export type TensorflowInfo = {
  readonly package: TensorflowPackage
  readonly binding: string
  /** Version of the wheel in the private environment, where the binding rests on it. */
  readonly libtensorflow: string | null
}

/** Folder and version of the complete TensorFlow wheel in the private environment; pip writes RECORD last. */
export function privateWheel(): {folder: string; version: string; cuda: boolean} | null {
  for (const site of sitePackages(privateTensorflow())) {
    for (const name of readdirSync(site)) {
      const version = /^tensorflow(?:_cpu)?-(\d[^-]*)\.dist-info$/.exec(name)?.[1]
      const folder = join(site, 'tensorflow')
      if (version && existsSync(join(site, name, 'RECORD')) && existsSync(join(folder, 'include')))
        return {folder, version, cuda: existsSync(join(site, 'nvidia', 'cudnn'))}
    }
  }
  return null
}

/** What can be loaded, or a sentence saying what is missing. */
export function searchTensorflow(): TensorflowInfo | string {
  const found = tensorflowPackage()
  if (!found) return 'the optional package @tensorflow/tfjs-node-gpu is not installed'
  const own = packageBinding(found.folder)
  const binding = [own, privateBinding()].find(path => existsSync(path))
  if (!binding) return 'the binding of @tensorflow/tfjs-node-gpu to libtensorflow is not built'
  return {package: found, binding, libtensorflow: privateWheel()?.version ?? null}
}
