/** The torch engine: libtorch through the addon of this package, on processors, NVIDIA and Apple GPUs. */
import {UserError} from '../../config/errors.js'
import {absent, autoPrecision, withAutoPrecision, type Devices, type Engine, type EngineDescription, type StartRequest} from '../engine.js'
import {cpuDevice, cudaDevices} from '../machine.js'
import {buildAddon, builtAddon, locateAddon} from './build.js'
import {searchTorch} from './find.js'
import {checkKernelsOn, placeOf, verdictLines} from './self-check.js'

const precisions = ['fp32', 'tf32', 'bf16', 'fp16'] as const
const command = 'dinov2 engine install torch'

export const torchEngine: Engine<'torch'> = {
  name: 'torch',
  title: 'libtorch through the addon of dinov2',
  precisions,
  installation: {
    command,
    compilesAddons: true,
    async install(options) {
      const {installTorch} = await import('./install.js')
      const torch = await installTorch(options)
      await buildAddon(torch, options.note)
      return torch.root
    },
    async plan(options) {
      const {planTorch} = await import('./install.js')
      const {sentence, torch} = await planTorch(options)
      return [sentence, torch && builtAddon(torch) ? 'its addon is compiled' : 'its addon would be compiled with g++']
    }
  },
  describe,
  start,
  async checkForms() {
    const [{onCpu}, {checkAllForms}] = await Promise.all([import('./kernels/device.js'), import('./kernels/all-forms.js')])
    if (!onCpu()) checkAllForms()
  }
}

async function describe({cpu, gpus}: Devices): Promise<Omit<EngineDescription, 'engine' | 'title'>> {
  let search
  try {
    search = await searchTorch()
  } catch (error) {
    if (!(error instanceof UserError)) throw error
    return absent(error.message, error.hint)
  }
  const {torch, passedOver} = search
  if (!torch) return absent(passedOver.length > 0 ? passedOver.join('; ') : 'no libtorch was found', command)
  const remarks = [...passedOver]
  if (!builtAddon(torch)) remarks.push('the addon is compiled at first use, in less than a minute')
  for (const gpu of torch.cuda ? gpus : []) remarks.push(...verdictLines(placeOf(gpu, torch.version)).map(line => `${gpu.name}: ${line}`))
  const idle = gpus.length > 0 && !torch.cuda
  if (idle) remarks.push(`${gpus[0]!.title} lies idle: this libtorch has no CUDA`)
  return {
    available: true,
    version: torch.version,
    where: torch.root,
    devices: withAutoPrecision(precisions, torch.cuda ? [...gpus, cpu] : [cpu]),
    reason: null,
    command: idle ? `${command} --cuda` : null,
    remarks
  }
}

async function start({device, precision, threads, note}: StartRequest): Promise<Awaited<ReturnType<Engine['start']>>> {
  const {addon, torch} = await locateAddon(note)
  const chosenDevice = device === 'auto' ? (torch.cuda && (await cudaDevices()).length > 0 ? 'cuda' : 'cpu') : device
  if ((precision === 'tf32' || precision === 'fp16') && !/^(cuda|sim)/.test(chosenDevice))
    throw new UserError(`${precision} is a format of NVIDIA GPUs, and the torch engine would compute on ${chosenDevice}`, {
      exit: 5,
      code: 'NO_PRECISION',
      hint: 'it is for CUDA devices; the other precisions compute here as well'
    })
  const {startTorch} = await import('./backend.js')
  let running
  try {
    running = await startTorch({addon, device: chosenDevice, threads, tf32: precision === 'tf32'})
  } catch (cause) {
    const lacksCuda = chosenDevice.startsWith('cuda') && !torch.cuda
    const hint = lacksCuda ? `run \`${command} --cuda\` for a libtorch with CUDA` : 'see `dinov2 engine list` for what is here'
    throw new UserError(`The torch engine does not start on ${chosenDevice}: ${firstLine(cause)}`, {
      exit: 5,
      code: 'NO_DEVICE',
      hint,
      cause
    })
  }
  await (await import('./graphs.js')).startGraphs(torch, running.device, note)
  const gpu = running.device.startsWith('cuda') ? (await cudaDevices()).find(({name}) => name === running.device) : undefined
  checkKernelsOn(gpu && placeOf(gpu, torch.version))
  const bf16 = running.device.startsWith('cuda') || (running.device === 'cpu' && cpuDevice().bf16)
  return {
    version: torch.version,
    device: running.device,
    precision: precisions.find(known => known === precision) ?? autoPrecision(precisions, {bf16}),
    threads: running.threads
  }
}

const firstLine = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]!
