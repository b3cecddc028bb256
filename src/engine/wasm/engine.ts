/** The wasm engine, which comes with the package, and tfjs's plain JavaScript backend, on which tests compare. */
import {UserError} from '../../config/errors.js'
import {absent, withAutoPrecision, type Engine, type StartRequest} from '../engine.js'
import {version} from '../../tensor/tfjs/version.js'
import {startPlain, startWasm} from './start.js'

const precisions = ['fp32'] as const

export const wasmEngine: Engine<'wasm'> = {
  name: 'wasm',
  title: 'WebAssembly of tfjs, on one thread',
  precisions,
  describe: async ({cpu}) => ({
    available: true,
    version,
    where: null,
    devices: withAutoPrecision(precisions, [{...cpu, cores: 1}]),
    reason: null,
    command: null,
    remarks: []
  }),
  start: request => startOnOneThread('wasm', request, startWasm)
}

export const plainEngine: Engine<'cpu'> = {
  name: 'cpu',
  title: 'plain JavaScript of tfjs, on one thread',
  precisions,
  describe: async () => absent('it is for tests', undefined),
  start: request => startOnOneThread('cpu', request, startPlain)
}

async function startOnOneThread(
  name: string,
  {device, threads, note}: StartRequest,
  start: () => Promise<{version: string}>
): Promise<Awaited<ReturnType<Engine['start']>>> {
  if (device !== 'auto' && device !== 'cpu')
    throw new UserError(`The ${name} engine runs on the cpu only, not on ${device}`, {
      exit: 5,
      code: 'NO_DEVICE',
      hint: 'use --engine torch for other devices'
    })
  if (threads !== undefined && threads > 1) note(`the ${name} engine runs on one thread; --threads ${threads} changes nothing`)
  return {...(await start()), device: 'cpu', precision: 'fp32', threads: 1}
}
