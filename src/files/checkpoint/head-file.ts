/**
 * Trained heads in files: safetensors with the head's tensors, and in its metadata the task, what the head is, and
 * what it was trained on.
 *
 * A head reads the features of one backbone; its fingerprint is written down and compared when the head is used again.
 */
import {UserError} from '../../config/errors.js'
import {parseJsonObject, type JsonObject} from '../../system/json.js'
import {classifierParts, depthParts, impossiblePart, segmentParts, type SpecParts} from './head-spec.js'
import {openSafetensors, createSafetensors} from './safetensors.js'
import {float32Bytes} from './tensor-entry.js'

export type HeadTask = 'classify' | 'depth' | 'segment'
export type HeadTensors = ReadonlyMap<string, {readonly shape: readonly number[]; readonly data: Float32Array}>

export type SavedHead = {
  readonly task: HeadTask
  readonly tensors: HeadTensors
  /** What kind of head it is and how its input is made: plain values, as each task defines them. */
  readonly spec: object
  /** Fingerprint of the backbone, number of images, scores: plain values. */
  readonly trainedOn: {readonly fingerprint: string} & Readonly<Record<string, unknown>>
}

const partsOf: Readonly<Record<HeadTask, SpecParts>> = {classify: classifierParts, depth: depthParts, segment: segmentParts}

const wrong = (message: string, hint: string): UserError => new UserError(message, {exit: 2, code: 'WRONG_HEAD', hint})

const damagedHead = (path: string, cause?: unknown, why = 'what it says of itself is not readable'): UserError =>
  new UserError(`${path} is a damaged head: ${why}.`, {
    code: 'BAD_CHECKPOINT',
    hint: 'Train it again, or fetch it again.',
    cause
  })

/** One of the two records of a head. Throws `UserError` where it is no object. */
function record(text: string, path: string): JsonObject {
  try {
    return parseJsonObject(text)
  } catch (cause) {
    throw damagedHead(path, cause)
  }
}

/**
 * Writes a head whole or not at all. Throws a `UserError` where the file exists without `force` (exit 2), or a number
 * is not finite (exit 6).
 */
export async function saveHead(
  path: string,
  {task, tensors, spec, trainedOn}: SavedHead,
  {force = false}: {force?: boolean} = {}
): Promise<void> {
  for (const [name, {data}] of tensors)
    if (data.some(x => !Number.isFinite(x)))
      throw new UserError(`The head came out with numbers that are not finite (${name}), so ${path} is not written.`, {
        exit: 6,
        code: 'NOT_FINITE',
        hint: 'Train it at a lower learning rate, or with more images.'
      })
  const specs = [...tensors].map(([name, {shape}]) => ({name, dtype: 'F32' as const, shape}))
  const metadata = {format: 'dinov2 head', task, spec: JSON.stringify(spec), trained_on: JSON.stringify(trainedOn)}
  const writer = await createSafetensors(path, specs, metadata, {force})
  try {
    for (const [name, {data}] of tensors) await writer.write(name, float32Bytes(data))
    await writer.commit()
  } catch (error) {
    await writer.abort()
    throw error
  }
}

/**
 * Reads a head. Throws a `UserError`: the file is missing, damaged or says what cannot be, holds no head, a head of
 * another task, or one for another backbone than `backbone` (a fingerprint).
 */
export async function openHead(
  path: string,
  wanted: {task: HeadTask; backbone?: string}
): Promise<{tensors: HeadTensors; spec: object; trainedOn: {fingerprint: string} & Record<string, unknown>}> {
  const file = await openSafetensors(path)
  try {
    const {task, spec, trained_on: made} = file.metadata as Record<string, string | undefined>
    if (task === undefined || spec === undefined || made === undefined)
      throw wrong(
        `${path} holds no trained head of this program.`,
        'Heads are written by linear-eval, depth-eval and seg-eval with --head-out.'
      )
    if (task !== wanted.task)
      throw wrong(
        `${path} is a head for ${task}, but one for ${wanted.task} is needed.`,
        `Use it with: dinov2 predict ${task} … --head ${path}`
      )
    const trainedOn = record(made, path)
    const {fingerprint} = trainedOn
    if (typeof fingerprint !== 'string') throw damagedHead(path)
    if (wanted.backbone !== undefined && fingerprint !== wanted.backbone)
      throw wrong(
        `${path} was trained on features of another backbone: ${fingerprint.slice(0, 12)}… there, ${wanted.backbone.slice(0, 12)}… here.`,
        'Give the backbone that the head was trained with, or train the head anew.'
      )
    const tensors = new Map<string, {shape: readonly number[]; data: Float32Array}>()
    for (const [name, entry] of file.tensors) {
      const data = await entry.readFloat32()
      if (data.some(x => !Number.isFinite(x))) throw damagedHead(path, undefined, `its ${name} holds a number that is not finite`)
      tensors.set(name, {shape: entry.shape, data})
    }
    const own = record(spec, path)
    const problem = impossiblePart(own, partsOf[wanted.task])
    if (problem !== undefined) throw damagedHead(path, undefined, problem)
    return {tensors, spec: own, trainedOn: {...trainedOn, fingerprint}}
  } finally {
    await file.close()
  }
}
