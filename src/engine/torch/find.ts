/**
 * Where libtorch comes from.
 *
 * Three places are asked in order: the folder that `DINOV2_TORCH` names, the `torch` that `python3` would import, and
 * the private environment that `dinov2 engine install torch` makes. Only files are read (version.py as text, the
 * presence of libraries); torch's own Python code never runs.
 */
import {existsSync, readFileSync, readdirSync} from 'node:fs'
import {join, resolve} from 'node:path'
import {UserError} from '../../config/errors.js'
import {dataFolder} from '../../system/paths.js'
import {sitePackages} from '../venv.js'
import {torchOfPython} from './python-torch.js'

/** One libtorch on this machine. */
export type TorchInfo = {
  /** The folder that holds `lib/libtorch_cpu.so` and `include/`. */
  readonly root: string
  /** As torch writes it, e.g. `2.13.0+cpu`. */
  readonly version: string
  /** Whether this libtorch was built with CUDA (says nothing about a GPU being present). */
  readonly cuda: boolean
  /** Value of _GLIBCXX_USE_CXX11_ABI it was compiled with. */
  readonly cxx11abi: 0 | 1
  /** The interpreter it belongs to, where there is one. */
  readonly python: string | null
  /** Which of the three places named it. */
  readonly source: 'DINOV2_TORCH' | 'python3' | 'private'
}

/** The oldest libtorch whose headers and operators the addon is written for. */
const OLDEST_TORCH = [2, 11] as const
/** The version that `engine install torch` installs. */
export const TORCH_VERSION = '2.13.0'

const LIBRARY = process.platform === 'darwin' ? 'libtorch_cpu.dylib' : 'libtorch_cpu.so'

/** The private environment of `engine install torch`. */
export const privateTorch = (): string => join(dataFolder(), 'torch')

/**
 * All places where a folder that somebody named may hold a libtorch: itself, `torch` below it, or the packages of an
 * environment.
 */
const candidates = (folder: string): string[] => [folder, join(folder, 'torch'), ...sitePackages(folder).map(site => join(site, 'torch'))]

/** Reads what `root` says of itself; null when there is no complete libtorch. */
function read(root: string, source: TorchInfo['source'], python: string | null): TorchInfo | null {
  if (!existsSync(join(root, 'lib', LIBRARY)) || !existsSync(join(root, 'include', 'ATen'))) return null
  const text = (path: string): string => (existsSync(join(root, path)) ? readFileSync(join(root, path), 'utf8') : '')
  // A wheel carries version.py; the zip that PyTorch offers for C++ carries build-version.
  const version = /__version__\s*=\s*['"]([^'"]+)/.exec(text('version.py'))?.[1] ?? text('build-version').trim()
  if (!version) return null
  const abi = /GLIBCXX_USE_CXX11_ABI=([01])/.exec(text('share/cmake/Torch/TorchConfig.cmake'))?.[1] ?? '1'
  const cuda = existsSync(join(root, 'lib', 'libtorch_cuda.so'))
  return {root, version, cuda, cxx11abi: abi === '0' ? 0 : 1, python, source}
}

/** `2.13.0+cpu` → [2, 13]. */
const numbers = (version: string): [number, number] => {
  const [major = 0, minor = 0] = version.split('.').map(part => Number.parseInt(part, 10) || 0)
  return [major, minor]
}

/** Whether the addon is known to build against `version`. */
export const recentEnough = (version: string): boolean => {
  const [major, minor] = numbers(version)
  return major > OLDEST_TORCH[0] || (major === OLDEST_TORCH[0] && minor >= OLDEST_TORCH[1])
}

/**
 * The complete libtorch in the private environment. pip writes RECORD last: without it an installation was
 * interrupted.
 */
export function installedTorch(): TorchInfo | null {
  for (const site of sitePackages(privateTorch())) {
    if (!readdirSync(site).some(name => /^torch-.*\.dist-info$/.test(name) && existsSync(join(site, name, 'RECORD')))) continue
    const torch = read(join(site, 'torch'), 'private', join(privateTorch(), 'bin', 'python'))
    if (torch) return torch
  }
  return null
}

export type Search = {
  readonly torch: TorchInfo | null
  /** Why places that were looked at do not serve, one sentence each. */ readonly passedOver: readonly string[]
}

/**
 * Looks for a libtorch in the three places. Python is asked anew unless `fresh` is false.
 * A folder that `DINOV2_TORCH` names and that does not serve is an error of status 5: what was asked for by name is
 * never replaced quietly.
 */
export async function searchTorch(env: Readonly<Record<string, string | undefined>> = process.env, {fresh = true} = {}): Promise<Search> {
  const oldest = OLDEST_TORCH.join('.')
  const passedOver: string[] = []
  const named = env['DINOV2_TORCH']
  if (named) {
    const folder = resolve(named)
    const found = candidates(folder)
      .map(root => read(root, 'DINOV2_TORCH', existsSync(join(folder, 'bin', 'python')) ? join(folder, 'bin', 'python') : null))
      .find(torch => torch !== null)
    const absent = {exit: 5, code: 'NO_ENGINE', hint: 'point DINOV2_TORCH at the folder `torch` inside site-packages, or unset it'}
    if (!found)
      throw new UserError(
        `DINOV2_TORCH names ${folder}, but neither it nor a torch package inside holds lib/${LIBRARY} and include/ATen`,
        absent
      )
    if (!recentEnough(found.version)) throw new UserError(`DINOV2_TORCH names torch ${found.version}; expected ${oldest} or newer`, absent)
    return {torch: found, passedOver}
  }
  const python = (await torchOfPython({fresh}))?.torch
  const imported = python && read(python.root, 'python3', python.python)
  if (imported && recentEnough(imported.version)) return {torch: imported, passedOver}
  if (imported) passedOver.push(`torch ${imported.version} of ${imported.python} is older than ${oldest}`)
  else if (python) passedOver.push(`the torch that ${python.python} imports from ${python.root} has no ${LIBRARY} or no headers`)
  const own = installedTorch()
  if (own && recentEnough(own.version)) return {torch: own, passedOver}
  if (own) passedOver.push(`the private torch ${own.version} is older than ${oldest}`)
  else if (existsSync(privateTorch())) passedOver.push(`the private environment ${privateTorch()} holds no complete torch`)
  return {torch: null, passedOver}
}

/** The libtorch to use, or an error of status 5 that says where it was looked for and which command installs one. */
export async function findTorch(): Promise<TorchInfo> {
  const {torch, passedOver} = await searchTorch(process.env, {fresh: false})
  if (torch) return torch
  const looked = passedOver.length > 0 ? passedOver.join('; ') : 'python3 imports no torch, and none was installed by this program'
  throw new UserError(`libtorch is not here: ${looked}`, {
    exit: 5,
    code: 'NO_ENGINE',
    hint: 'run `dinov2 engine install torch`, or set DINOV2_TORCH to the folder of a torch package'
  })
}
