/**
 * Starting the engine that a command asked for.
 *
 * `auto` takes the first engine of the registry that starts, and reports which. An engine, device or precision asked
 * for by name is never replaced: where it is absent, the error (status 5) says why and how to get it.
 */
import {counted} from '../config/counted.js'
import {UserError} from '../config/errors.js'
import {noteOnStderr} from '../system/compile.js'
import {assertAddressSpace} from '../system/free-memory.js'
import {checkPrecision, type Engine} from './engine.js'
import {engineOf, engines, type AnyEngine, type EngineInfo, type EngineRequest} from './registry.js'

export type {EngineInfo, EngineRequest} from './registry.js'

/**
 * Starts one engine and makes it tfjs's current backend.
 * Errors of status 5: the engine, device or precision is not to be had here.
 */
export async function startEngine(request: EngineRequest = {}): Promise<EngineInfo> {
  const {engine = 'auto', note = noteOnStderr} = request
  if (engine !== 'auto') return start(engineOf(engine), request)
  const refusals: {engine: Engine; error: UserError}[] = []
  for (const candidate of engines) {
    try {
      const info = await start(candidate, request)
      const threads = counted(info.threads, 'thread')
      note(`engine ${info.engine} ${info.version} on ${info.device}, ${info.precision}, ${threads}`)
      const faster = refusals.find(refusal => refusal.engine.installation)
      if (faster) note(`${faster.error.message}; \`dinov2 engine install ${faster.engine.name}\` brings a faster engine`)
      return info
    } catch (error) {
      if (!(error instanceof UserError) || error.exit !== 5) throw error
      refusals.push({engine: candidate, error})
    }
  }
  throw new UserError(`No engine serves:\n${refusals.map(({engine: {name}, error}) => `  ${name}: ${error.message}`).join('\n')}`, {
    exit: 5,
    code: 'NO_ENGINE',
    hint: 'see `dinov2 engine list`'
  })
}

let running: EngineInfo | undefined

/** The engine that was started last; undefined before one was. */
export const runningEngine = (): EngineInfo | undefined => running

/** Whether a device computes while the host goes on, so that its numbers are better read later. */
export const worksAhead = (engine = running): boolean => engine?.engine === 'torch' && engine.device !== 'cpu'

/** What a native library and its threads reserve. */
const LIBRARY_ADDRESSES = 1.5e9

async function start<Name extends AnyEngine>(engine: Engine<Name>, request: EngineRequest): Promise<EngineInfo & {engine: Name}> {
  const {device = 'auto', precision = 'auto', threads, note = noteOnStderr} = request
  checkPrecision(engine, precision)
  if (engine.installation) assertAddressSpace(LIBRARY_ADDRESSES, `The ${engine.name} engine`)
  const info = {engine: engine.name, ...(await engine.start({device, precision, threads, note}))}
  running = info
  return info
}
