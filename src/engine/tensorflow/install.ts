/**
 * Building the binding of `@tensorflow/tfjs-node-gpu` to libtensorflow.
 *
 * npm's own install step downloads libtensorflow 2.9 from its vendor's store. Here the library comes from TensorFlow's
 * Python wheel instead, which is newer and reachable wherever pip is. The binding is two C++ files over N-API; they
 * are compiled with g++ against the wheel's headers directly, which gives what the package's node-gyp recipe gives
 * without fetching Node's headers. It lies in the private environment; where node_modules is writable, the package
 * also gets `deps/` and `lib/` pointing there, so that it works for other programs too.
 */
import {existsSync, lstatSync, renameSync, rmSync, symlinkSync, writeFileSync} from 'node:fs'
import {createRequire} from 'node:module'
import {dirname, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {lastLines, runCommand} from '../../system/run-command.js'
import type {Note} from '../../system/compile.js'
import type {InstallOptions} from '../engine.js'
import {ensureVenv, pipInstall, renewVenv} from '../venv.js'
import {
  packageBinding,
  PACKAGE_VERSION,
  privateBinding,
  privatePackage,
  privateTensorflow,
  privateWheel,
  tensorflowPackage,
  TENSORFLOW_VERSION,
  type TensorflowPackage
} from './find.js'
import {makeFoldersSync} from '../../system/make-folders.js'

/** Sizes as of TensorFlow 2.21 for Linux on x86-64. */
const TENSORFLOW_SIZES = {cpu: 'about 0.3 GB to download, 1.4 GB on disk', cuda: 'about 3.5 GB to download, 7 GB on disk'} as const

/** The wheel whose libraries are taken: the CPU build has a name of its own on x86-64 Linux. */
const requirement = (cuda: boolean): string[] => {
  if (cuda) return [`tensorflow[and-cuda]==${TENSORFLOW_VERSION}`]
  const name = process.platform === 'linux' && process.arch === 'x64' ? 'tensorflow-cpu' : 'tensorflow'
  // Only the library is wanted: its Python dependencies stay away.
  return ['--no-deps', `${name}==${TENSORFLOW_VERSION}`]
}

/**
 * Installs what is missing and returns the binding's path. Errors of status 5: no package, no wheel, no compiler, a
 * failed compilation.
 */
export async function installTensorflow({cuda, force, note, confirm}: InstallOptions): Promise<{binding: string; version: string}> {
  const npm = tensorflowPackage() ?? (await installPackage(note))
  const own = packageBinding(npm.folder)
  if (existsSync(own) && !lstatSync(own).isSymbolicLink() && !force && !cuda) {
    note(`the package brings its own binding (${own})`)
    return {binding: own, version: npm.version}
  }
  let wheel = privateWheel()
  if (!wheel || force || (cuda && !wheel.cuda)) {
    const size = TENSORFLOW_SIZES[cuda ? 'cuda' : 'cpu']
    if (!(await confirm(`TensorFlow ${TENSORFLOW_VERSION} goes to ${privateTensorflow()}: ${size}. Go on?`)))
      throw new UserError('Nothing was installed: the question was answered with no', {exit: 1, code: 'DECLINED'})
    wheel = await renewVenv(privateTensorflow(), () => fill(cuda, note))
  } else note(`TensorFlow ${wheel.version} is here (${wheel.folder})`)
  if (!existsSync(privateBinding())) {
    note('compiling the binding of @tensorflow/tfjs-node-gpu (about 15 seconds)')
    await compileBinding(npm.folder, wheel.folder)
  }
  linkIntoPackage(npm.folder, wheel.folder, note)
  return {binding: privateBinding(), version: wheel.version}
}

/** What `installTensorflow` would do. */
export function planTensorflow({cuda, force}: Pick<InstallOptions, 'cuda' | 'force'>): string[] {
  const npm = tensorflowPackage()
  const wheel = privateWheel()
  const sentences = [
    npm
      ? `@tensorflow/tfjs-node-gpu ${npm.version} is here (${npm.folder})`
      : `@tensorflow/tfjs-node-gpu ${PACKAGE_VERSION} would go to ${privatePackage()} (30 MB to download, 150 MB on disk)`
  ]
  const own = npm && packageBinding(npm.folder)
  if (own && existsSync(own) && !lstatSync(own).isSymbolicLink() && !force && !cuda)
    return [...sentences, `the package brings its own binding (${own})`]
  sentences.push(
    wheel && !force && (wheel.cuda || !cuda)
      ? `TensorFlow ${wheel.version} is here (${wheel.folder})`
      : `TensorFlow ${TENSORFLOW_VERSION} would go to ${privateTensorflow()}: ${TENSORFLOW_SIZES[cuda ? 'cuda' : 'cpu']}`
  )
  return [
    ...sentences,
    existsSync(privateBinding()) && !force ? 'the binding is compiled' : 'the binding would be compiled (about 15 seconds)'
  ]
}

/** Puts the npm package into a folder of its own under the data folder, without its install step, which downloads. */
async function installPackage(note: Note): Promise<TensorflowPackage> {
  const folder = privatePackage()
  note(`@tensorflow/tfjs-node-gpu ${PACKAGE_VERSION} goes to ${folder} (30 MB to download, 150 MB on disk)`)
  makeFoldersSync(folder)
  const wanted = {private: true, dependencies: {'@tensorflow/tfjs-node-gpu': PACKAGE_VERSION}}
  writeFileSync(join(folder, 'package.json'), JSON.stringify(wanted))
  const options = ['--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error']
  const {status, log, missing} = await runCommand('npm', ['install', ...options], {cwd: folder})
  const found = status === 0 ? tensorflowPackage() : null
  if (found) return found
  throw new UserError(`npm could not install @tensorflow/tfjs-node-gpu ${PACKAGE_VERSION}: ${missing ?? `\n${lastLines(log)}`}`, {
    exit: 5,
    code: 'NO_PACKAGE',
    hint: `run \`npm install --ignore-scripts\` in ${folder} and see what stands in its way`
  })
}

/** Makes the private environment and puts TensorFlow's wheel into it. */
async function fill(cuda: boolean, note: Note): Promise<NonNullable<ReturnType<typeof privateWheel>>> {
  const python = await ensureVenv(privateTensorflow())
  const {status, log} = await pipInstall(python, requirement(cuda), note)
  const wheel = status === 0 ? privateWheel() : null
  if (wheel) return wheel
  throw new UserError(`pip could not install TensorFlow ${TENSORFLOW_VERSION}:\n${lastLines(log)}`, {
    exit: 5,
    code: 'NO_DOWNLOAD',
    hint: `TensorFlow ${TENSORFLOW_VERSION} needs Python 3.10 to 3.13; PIP_INDEX_URL names another package index`
  })
}

/** Compiles the package's two source files against the wheel's headers and libraries. */
async function compileBinding(folder: string, wheel: string): Promise<void> {
  const {include_dir: napi} = createRequire(import.meta.url)('node-api-headers') as {include_dir: string}
  const darwin = process.platform === 'darwin'
  const compiler = process.env['CXX'] || (darwin ? 'clang++' : 'g++')
  const libraries = darwin
    ? ['libtensorflow_cc.2.dylib', 'libtensorflow_framework.2.dylib']
    : ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2']
  const half = `${privateBinding()}.${process.pid}`
  const args = [
    ...['-std=c++17', '-O2', '-fPIC', '-shared', '-w', '-DNAPI_VERSION=8', `-I${napi}`, `-I${join(wheel, 'include')}`],
    ...['tfjs_backend.cc', 'tfjs_binding.cc'].map(name => join(folder, 'binding', name)),
    ...libraries.map(name => join(wheel, name)),
    ...[`-Wl,-rpath,${wheel}`, ...(darwin ? ['-undefined', 'dynamic_lookup'] : []), '-o', half]
  ]
  const {status, log, missing} = await runCommand(compiler, args)
  if (missing)
    throw new UserError(`The C++ compiler \`${compiler}\` cannot be started (${missing})`, {
      exit: 5,
      code: 'NO_COMPILER',
      hint: 'sudo apt install g++'
    })
  if (status !== 0) {
    const file = join(privateTensorflow(), 'failed-binding.log')
    writeFileSync(file, `${compiler} ${args.join(' ')}\n\n${log}`)
    throw new UserError(`Compiling the binding to libtensorflow failed:\n${lastLines(log)}\nThe whole log is ${file}`, {
      exit: 5,
      code: 'COMPILE_FAILED',
      hint: 'expected g++ 9 or newer and TensorFlow 2.21'
    })
  }
  renameSync(half, privateBinding())
}

/**
 * Gives the package its `deps/lib`, `deps/include` and `lib/napi-v8` as links; where node_modules is read-only it goes
 * without.
 */
function linkIntoPackage(folder: string, wheel: string, note: Note): void {
  const links: [target: string, path: string][] = [[join(wheel, 'include'), join(folder, 'deps', 'include')]]
  for (const [from, to] of [
    ['libtensorflow_cc', 'libtensorflow'],
    ['libtensorflow_framework', 'libtensorflow_framework']
  ] as const)
    for (const name of [`${to}.so`, `${to}.so.2`]) links.push([join(wheel, `${from}.so.2`), join(folder, 'deps', 'lib', name)])
  links.push([privateBinding(), packageBinding(folder)])
  try {
    for (const [target, path] of links) {
      makeFoldersSync(dirname(path))
      rmSync(path, {recursive: true, force: true})
      symlinkSync(target, path)
    }
  } catch (error) {
    note(
      `${folder} is not writable (${(error as NodeJS.ErrnoException).code ?? 'error'}): dinov2 uses the binding from ${privateTensorflow()}`
    )
  }
}
