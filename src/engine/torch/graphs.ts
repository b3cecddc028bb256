/**
 * CUDA graphs for the torch engine: passes that are recorded once and repeated (`tensor/ops/recorded.ts`).
 *
 * `DINOV2_CUDA_GRAPHS=1` asks for them. The addon behind them (`native/graphs`) alone needs the headers of CUDA; it is
 * compiled and loaded where they are asked for on a CUDA device, and never otherwise.
 */
import {createRequire} from 'node:module'
import {compileAddon, type Note} from '../../system/compile.js'
import type {RecordingRef} from '../../tensor/ops/recorded.js'
import {registerKernel} from '../../tensor/tf.js'
import type {KernelConfig, NamedTensorInfoMap, TensorInfo} from '../../tensor/tf.js'
import {inPlace, op, refuseCopies, run, torch as native} from './binding.js'
import type {Handle} from './binding.js'
import {GRAPH_HEADERS, graphsRecipe, missingCudaHeaders} from './build.js'
import type {TorchInfo} from './find.js'
import {keepConstants, keptConstants} from './kernels/constants.js'
import {define, handleOf} from './kernels/define.js'

/** A recorded pass, with the memory that it reads and writes. */
type Recording = {
  readonly graph: number
  readonly operand: Handle
  /** Until the recording has ended there is none. */
  result?: Handle
  /** Constants that it reads. */
  constants: readonly Handle[]
}

const recordings = new Map<number, Recording>()
let serves = false

/** Whether the environment asks for graphs. */
const wanted = (): boolean => process.env['DINOV2_CUDA_GRAPHS'] === '1'

/**
 * Makes ready what records passes on `device`, where it is asked for; says why where it cannot be had. To be called
 * whenever the engine starts.
 */
export async function startGraphs(torch: TorchInfo, device: string, note: Note): Promise<void> {
  serves = false
  if (!wanted()) return
  if (!/^(cuda|sim)/.test(device)) return note(`graphs are for CUDA devices, so DINOV2_CUDA_GRAPHS changes nothing on ${device}`)
  if (device.startsWith('cuda')) {
    const missing = missingCudaHeaders(torch, GRAPH_HEADERS)
    if (missing.length > 0)
      return note(`graphs are left out: ${missing.join(' and ')} of CUDA's headers are not here; set CUDA_HOME to a toolkit that has them`)
    createRequire(import.meta.url)(await compileAddon(graphsRecipe(torch), note))
  }
  register()
  serves = true
}

let registered = false

function register(): void {
  if (registered) return
  registered = true
  defineAction('Dinov2CanRecord', (_, {answer}) => {
    ;(answer as {records: boolean}).records = serves
  })
  define('Dinov2BeginRecording', ({x}, {ref}) => {
    const operand = run('clone', handleOf(x!), null) as Handle
    let graph
    try {
      graph = Number(run('dinov2_graphs::begin', operand))
    } catch (error) {
      native().release(operand)
      throw error
    }
    refuseCopies(true)
    keepConstants()
    recordings.set(graph, {graph, operand, constants: []})
    ;(ref as RecordingRef).number = graph
    return op('alias', operand)
  })
  defineAction('Dinov2EndRecording', ({y}, {ref}) => {
    const found = recordings.get((ref as RecordingRef).number)!
    found.result = run('alias', handleOf(y!)) as Handle
    leaveRecording(found)
    run('dinov2_graphs::end', found.graph)
  })
  define('Dinov2Replay', ({x}, {ref}) => {
    const {graph, operand, result} = recordings.get((ref as RecordingRef).number)!
    inPlace('copy_', operand, handleOf(x!), true)
    run('dinov2_graphs::replay', graph)
    return op('clone', result!, null)
  })
  defineAction('Dinov2ForgetRecording', (_, {ref}) => {
    const {number} = ref as RecordingRef
    const found = recordings.get(number)
    if (!found) return
    recordings.delete(number)
    if (found.result === undefined) leaveRecording(found)
    run('dinov2_graphs::release', found.graph)
    for (const handle of [found.operand, ...(found.result ? [found.result] : []), ...found.constants]) native().release(handle)
  })
}

/** What is asked of the device from here on is not recorded. */
function leaveRecording(found: Recording): void {
  refuseCopies(false)
  found.constants = keptConstants()
}

/** Registers a kernel without a result. */
function defineAction(name: string, body: (inputs: Record<string, TensorInfo>, attrs: Record<string, unknown>) => void): void {
  registerKernel({
    kernelName: name,
    backendName: 'torch',
    kernelFunc: ({inputs, attrs}: {inputs: NamedTensorInfoMap; attrs?: unknown}) => {
      body(inputs as Record<string, TensorInfo>, attrs as Record<string, unknown>)
      return []
    }
  } as unknown as KernelConfig)
}
