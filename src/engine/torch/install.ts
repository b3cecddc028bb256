/**
 * Bringing libtorch to this machine: a private Python environment with PyTorch's wheel, whose libraries and headers
 * are all that is wanted of it.
 *
 * The plain `torch` of Python's package index carries CUDA on x86-64 Linux, several gigabytes of it; the CPU build is
 * a tenth. So the CPU build is the default, looked for first where the user's pip looks anyway (a mirror, a folder of
 * wheels), then at PyTorch's own host or the index that `DINOV2_TORCH_INDEX` names.
 */
import {UserError} from '../../config/errors.js'
import {lastLines, type CommandOutcome} from '../../system/run-command.js'
import type {Note} from '../../system/compile.js'
import type {InstallOptions} from '../engine.js'
import {ensureVenv, pipInstall, renewVenv} from '../venv.js'
import {installedTorch, privateTorch, searchTorch, TORCH_VERSION, type TorchInfo} from './find.js'

const INDEX = 'https://download.pytorch.org/whl/cpu'

/** Sizes as of torch 2.13 for Linux on x86-64, to be said before a download starts. */
const TORCH_SIZES = {cpu: 'about 0.2 GB to download, 0.8 GB on disk', cuda: 'about 3 GB to download, 7 GB on disk'} as const

/** Attempts in order: each is one list of arguments for `pip install`. */
function attempts(cuda: boolean): string[][] {
  const index = process.env['DINOV2_TORCH_INDEX']
  const plain = `torch==${TORCH_VERSION}`
  if (index) return [[plain, '--index-url', index]]
  // Only Linux has a plain wheel with CUDA; elsewhere the plain one is the CPU (or Metal) build.
  if (cuda || process.platform !== 'linux') return [[plain]]
  // A local version label never is on the public index: finding it means that the user's own pip settings offer the
  // CPU build.
  return [[`${plain}+cpu`], [plain, '--index-url', INDEX]]
}

/**
 * Returns the libtorch that serves, installing one where none does. Errors of status 5: no Python, no wheel, no
 * download.
 */
export async function installTorch({cuda, force, note, confirm}: InstallOptions): Promise<TorchInfo> {
  const before = await searchTorch()
  if (before.torch && !force && (before.torch.cuda || !cuda)) {
    note(`libtorch ${before.torch.version} is here (${before.torch.root})`)
    return before.torch
  }
  if (before.torch && before.torch.source !== 'private' && !force)
    throw new UserError(
      `The torch ${before.torch.version} of ${before.torch.source} (${before.torch.root}) has no CUDA and comes before a private one`,
      {
        exit: 5,
        code: 'NO_CUDA',
        hint: `install torch with CUDA there, or run this with --force and then set DINOV2_TORCH=${privateTorch()}`
      }
    )
  if (!(await confirm(`PyTorch ${TORCH_VERSION} goes to ${privateTorch()}: ${TORCH_SIZES[cuda ? 'cuda' : 'cpu']}. Go on?`)))
    throw new UserError('Nothing was installed: the question was answered with no', {exit: 1, code: 'DECLINED'})
  return renewVenv(privateTorch(), () => fill(cuda, note))
}

/** What `installTorch` would do, and the libtorch that would serve where nothing is fetched. */
export async function planTorch({cuda, force}: Pick<InstallOptions, 'cuda' | 'force'>): Promise<{sentence: string; torch?: TorchInfo}> {
  const {torch} = await searchTorch()
  return torch && !force && (torch.cuda || !cuda)
    ? {sentence: `libtorch ${torch.version} is here (${torch.root})`, torch}
    : {sentence: `PyTorch ${TORCH_VERSION} would go to ${privateTorch()}: ${TORCH_SIZES[cuda ? 'cuda' : 'cpu']}`}
}

/** Makes the private environment and puts PyTorch into it. */
async function fill(cuda: boolean, note: Note): Promise<TorchInfo> {
  const python = await ensureVenv(privateTorch())
  let outcome: CommandOutcome | undefined
  for (const args of attempts(cuda)) {
    outcome = await pipInstall(python, args, note)
    if (outcome.status === 0) break
  }
  if (outcome?.status !== 0)
    throw new UserError(`pip could not install torch ${TORCH_VERSION}:\n${lastLines(outcome?.log ?? '')}`, {
      exit: 5,
      code: 'NO_DOWNLOAD',
      hint: 'set DINOV2_TORCH_INDEX to a package index that has it, or DINOV2_TORCH to a torch that is here'
    })
  const torch = installedTorch()
  if (!torch)
    throw new UserError(`pip reported success, but ${privateTorch()} holds no complete libtorch`, {
      exit: 5,
      code: 'NO_ENGINE',
      hint: 'try again with --force'
    })
  if (cuda && !torch.cuda)
    throw new UserError(`pip installed torch ${torch.version}, which has no CUDA`, {
      exit: 5,
      code: 'NO_CUDA',
      hint: `set DINOV2_TORCH_INDEX to an index of CUDA builds, such as ${INDEX.replace(/cpu$/, 'cu130')}`
    })
  return torch
}
