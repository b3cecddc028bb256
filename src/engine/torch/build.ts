/**
 * The addon of the torch engine, compiled against the libtorch that was found.
 *
 * A wheel of PyTorch carries headers and libraries, so g++ is all that is needed. The result is kept by torch version,
 * ABI, CUDA, sources and command line (`build/compile.ts`): an old addon is never loaded into a new libtorch.
 */
import {existsSync, readdirSync} from 'node:fs'
import {dirname, join} from 'node:path'
import {compileAddon, compiledAddon, nodeFlags, sharedFlags, type Note, type Recipe} from '../../system/compile.js'
import {packageFolder} from '../../system/paths.js'
import {findTorch, type TorchInfo} from './find.js'

export type {Note} from '../../system/compile.js'

/**
 * Folders with the CUDA runtime's headers: the toolkit's, or those of the packages that PyTorch's CUDA wheels depend
 * on; last those that Triton brings, which has some that no other package has.
 */
function cudaIncludes(torch: TorchInfo): string[] {
  const modules = dirname(torch.root)
  const nvidia = join(modules, 'nvidia')
  const packages = existsSync(nvidia) ? readdirSync(nvidia).map(name => join(nvidia, name)) : []
  const toolkits = [process.env['CUDA_HOME'], process.env['CUDA_PATH'], '/usr/local/cuda'].filter(home => home !== undefined)
  const folders = [...toolkits, ...packages].flatMap(home => [join(home, 'include'), join(home, 'include/cccl')])
  return [...folders, join(modules, 'triton/backends/nvidia/include')].filter(folder => existsSync(folder))
}

/** Those of CUDA's headers that are nowhere, of the ones that an addon needs. */
export function missingCudaHeaders(torch: TorchInfo, headers: readonly string[]): string[] {
  const folders = cudaIncludes(torch)
  return headers.filter(header => !folders.some(folder => existsSync(join(folder, header))))
}

const includeFlags = (folders: readonly string[]): string[] => folders.flatMap(folder => ['-isystem', folder])

/**
 * How an addon is compiled and linked against `torch`. It asks libtorch alone for what CUDA has, and needs no header
 * of CUDA.
 */
export function torchFlags(torch: TorchInfo): {compile: string[]; link: string[]} {
  const lib = join(torch.root, 'lib')
  const includes = [join(torch.root, 'include'), join(torch.root, 'include/torch/csrc/api/include')]
  const openmp = process.platform === 'darwin' ? [] : ['-fopenmp']
  // libtorch's headers warn about themselves: -isystem keeps the log to our own lines.
  const compile = [...nodeFlags(), ...openmp, `-D_GLIBCXX_USE_CXX11_ABI=${torch.cxx11abi}`, ...includeFlags(includes)]
  // libtorch_cuda registers its kernels when it is loaded; no symbol of ours needs it, so the linker must not drop it.
  const libraries = torch.cuda ? ['-Wl,--no-as-needed', '-ltorch_cpu', '-lc10', '-ltorch_cuda', '-lc10_cuda'] : ['-ltorch_cpu', '-lc10']
  const link = [...sharedFlags(), ...openmp, `-L${lib}`, `-Wl,-rpath,${lib}`, ...libraries]
  return {compile, link}
}

/** What an addon that records graphs includes of CUDA. */
export const GRAPH_HEADERS = ['cuda_runtime_api.h', 'crt/host_defines.h'] as const

/** What an addon with NCCL includes of CUDA; the last is in no package that PyTorch's wheels depend on. */
export const NCCL_HEADERS = ['nccl.h', 'cuda_runtime_api.h', 'crt/host_defines.h', 'nv/target'] as const

/** How the addon of process groups is compiled, at the first run of several processes; `native/processes`. */
export function processesRecipe(torch: TorchInfo): Recipe {
  const {compile, link} = torchFlags(torch)
  const nccl = torch.cuda && missingCudaHeaders(torch, NCCL_HEADERS).length === 0
  return {
    what: 'the process group of the torch engine',
    folder: 'native/processes',
    tag: `processes-${torch.version}-abi${torch.cxx11abi}-${nccl ? 'nccl' : 'gloo'}`,
    compile: [
      ...compile,
      ...(nccl ? ['-DDINOV2_NCCL', ...includeFlags(cudaIncludes(torch))] : []),
      ...includeFlags([join(packageFolder(), 'native/processes/gloo-headers')])
    ],
    link,
    starting: `compiling the process group against libtorch ${torch.version} (once, about a minute)`,
    hint: 'expected torch 2.11 or newer and g++ 11 or newer; `dinov2 engine install torch` brings a libtorch that fits'
  }
}

/** How the addon that records CUDA graphs is compiled, where they are first asked for; `native/graphs`. */
export function graphsRecipe(torch: TorchInfo): Recipe {
  const {compile, link} = torchFlags(torch)
  return {
    what: 'what records graphs for the torch engine',
    folder: 'native/graphs',
    tag: `graphs-${torch.version}-abi${torch.cxx11abi}`,
    compile: [...compile, ...includeFlags(cudaIncludes(torch))],
    link,
    starting: `compiling what records CUDA graphs against libtorch ${torch.version} (once, about a minute)`,
    hint: 'leave DINOV2_CUDA_GRAPHS unset to go on without them'
  }
}

/** How the addon is compiled against `torch`. */
function recipe(torch: TorchInfo): Recipe {
  return {
    what: 'the torch engine',
    folder: 'native',
    tag: `${torch.version}-abi${torch.cxx11abi}-${torch.cuda ? 'cuda' : 'cpu'}`,
    ...torchFlags(torch),
    starting: `compiling the torch engine against libtorch ${torch.version} (once, about a minute)`,
    hint: 'expected torch 2.11 or newer and g++ 11 or newer; `dinov2 engine install torch` brings a libtorch that fits'
  }
}

/**
 * The path of the addon compiled for `torch`; compiles it when it is not in the cache, saying so by `note`.
 * Errors of status 5: no compiler, or a compilation that fails.
 */
export const buildAddon = (torch: TorchInfo, note?: Note): Promise<string> => compileAddon(recipe(torch), note)

/** The addon's path if it is compiled already, else null. */
export const builtAddon = (torch: TorchInfo): string | null => compiledAddon(recipe(torch))

/**
 * Finds libtorch, compiles the addon where needed, and says where both lie. Errors of status 5 when either cannot be
 * had.
 */
export async function locateAddon(note?: Note): Promise<{addon: string; torch: TorchInfo}> {
  const torch = await findTorch()
  return {addon: await buildAddon(torch, note), torch}
}
