/** The tensorflow engine: libtensorflow through `@tensorflow/tfjs-node-gpu`. */
import {availableParallelism} from 'node:os'
import {absent, withAutoPrecision, type Devices, type Engine, type EngineDescription} from '../engine.js'
import {privateWheel, searchTensorflow} from './find.js'

const precisions = ['fp32'] as const
const command = 'dinov2 engine install tensorflow'

export const tensorflowEngine: Engine<'tensorflow'> = {
  name: 'tensorflow',
  title: 'libtensorflow through @tensorflow/tfjs-node-gpu',
  precisions,
  installation: {
    command,
    compilesAddons: false,
    async install(options) {
      const {installTensorflow} = await import('./install.js')
      return (await installTensorflow(options)).binding
    },
    async plan(options) {
      const {planTensorflow} = await import('./install.js')
      return planTensorflow(options)
    }
  },
  describe,
  async start({device, threads}) {
    const {startTensorflow} = await import('./start.js')
    return {...(await startTensorflow({device, threads})), precision: 'fp32', threads: threads ?? availableParallelism()}
  }
}

async function describe({cpu, gpus}: Devices): Promise<Omit<EngineDescription, 'engine' | 'title'>> {
  const found = searchTensorflow()
  if (typeof found === 'string') return absent(found, command)
  const cuda = privateWheel()?.cuda ?? false
  const idle = gpus.length > 0 && !cuda && found.libtensorflow !== null
  const binding = `tfjs-node-gpu ${found.package.version}`
  return {
    available: true,
    version: found.libtensorflow ? `${found.libtensorflow} (${binding})` : binding,
    where: found.binding,
    devices: withAutoPrecision(precisions, idle ? [cpu] : [...gpus, cpu]),
    reason: null,
    command: idle ? `${command} --cuda` : null,
    remarks: idle ? [`${gpus[0]!.title} lies idle: this libtensorflow has no CUDA`] : []
  }
}
