/**
 * Passes of a fixed shape that a device records once and then repeats as one launch.
 *
 * What is asked of a GPU one operator at a time can cost the host more than it costs the GPU. Where the engine can
 * record (CUDA graphs), a pass that came several times with one shape is recorded; each further batch of that shape is
 * copied to where the recorded pass reads, and what it writes is copied out. All other batches take the plain way, and
 * so does everything where the engine cannot record.
 *
 * A recording is held against the plain pass once, on a batch that it did not see while it was made. Where it cannot
 * be made, or disagrees, it is left out, which is said.
 */
import {abs, div, max, sub, tidy, zerosLike} from '../tf.js'
import type {Tensor} from '../tf.js'
import {callKernel} from './kernel.js'

/** How an engine's kernels name a recording; none has number −1. */
export type RecordingRef = {number: number}

/** A function of one tensor that is asked for again and again. */
export type RepeatedPass = {
  /** The result for x, the caller's. */
  run(x: Tensor): Tensor
  /** Whether a recording serves now. */
  recorded(): boolean
  /** Lets what is recorded go; the pass may go on, and records anew. */
  [Symbol.dispose](): void
}

/** So many batches of one shape in a row take the plain way, and warm up what runs for the first time. */
const WARM_UP = 3
/** Largest difference over the largest entry: a library may choose another form of a product for another stream. */
const LIMIT = 1e-2

type Recording = {readonly shape: string; readonly ref: RecordingRef}

/**
 * `body` as a pass that the engine may record. It may read nothing but its operand and tensors that outlive this, and
 * gives one tensor. `note` receives why it is not recorded, where it cannot be; `name` stands for it in the sentence.
 */
export function repeatedPass(name: string, body: (x: Tensor) => Tensor, note: (sentence: string) => void): RepeatedPass {
  let recording: Recording | undefined
  let [last, times, refused] = ['', 0, false]
  const forget = (): void => {
    if (recording) callKernel('Dinov2ForgetRecording', {}, {ref: recording.ref})
    recording = undefined
  }
  return {
    run(x) {
      const shape = x.shape.join()
      if (recording?.shape === shape) return replayed(recording.ref, x)
      const y = body(x)
      times = shape === last ? times + 1 : 1
      last = shape
      if (times <= WARM_UP || refused || !canRecord()) return y
      forget()
      const {ref, why} = recordedOrWhyNot(x, body, y)
      if (ref) recording = {shape, ref}
      else {
        refused = true
        note(`${name} of shape [${x.shape.join(', ')}] is not recorded as a graph: ${why}`)
      }
      return y
    },
    recorded: () => recording !== undefined,
    [Symbol.dispose]: forget
  }
}

/** Whether the device that runs records passes. */
function canRecord(): boolean {
  const answer = {records: false}
  callKernel('Dinov2CanRecord', {}, {answer})
  return answer.records
}

/** A recording whose replay for x gives what is expected, or why there is none. */
function recordedOrWhyNot(x: Tensor, body: (x: Tensor) => Tensor, expected: Tensor): {ref?: RecordingRef; why?: string} {
  const ref: RecordingRef = {number: -1}
  try {
    record(ref, x, body)
    const off = difference(ref, x, expected)
    if (off <= LIMIT) return {ref}
    callKernel('Dinov2ForgetRecording', {}, {ref})
    return {why: `its replay is off by ${off} of the largest entry, at most ${LIMIT} is allowed`}
  } catch (error) {
    callKernel('Dinov2ForgetRecording', {}, {ref})
    return {why: (error as Error).message.split('\n')[0]!}
  }
}

/** Records `body` for operands of the shape of x; throws where something in it cannot be recorded. */
function record(ref: RecordingRef, x: Tensor, body: (x: Tensor) => Tensor): void {
  tidy(() => {
    const blank = zerosLike(x) // so that a replay which does not read its operand is found out
    const [operand] = callKernel('Dinov2BeginRecording', {x: blank}, {ref})!
    const y = tidy(() => body(operand!))
    callKernel('Dinov2EndRecording', {y}, {ref})
  })
}

const replayed = (ref: RecordingRef, x: Tensor): Tensor => callKernel('Dinov2Replay', {x}, {ref})![0]!

/** Largest difference over the largest entry, of a replay and what is expected; no number where one is none. */
function difference(ref: RecordingRef, x: Tensor, expected: Tensor): number {
  const off = tidy(() => div(max(abs(sub(replayed(ref, x), expected))), max(abs(expected))))
  const [found] = off.dataSync<'float32'>()
  off.dispose()
  return found!
}
