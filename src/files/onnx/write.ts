/** Writes an ONNX model: one file, or with the bytes of large tensors in a second one beside it. */
import {open, type FileHandle} from 'node:fs/promises'
import {basename} from 'node:path'
import {byteLength, encodeModel, type ExternalPlace, type OnnxInitializer, type OnnxModel} from './model.js'

/** A protocol buffer holds less than 2 GiB; some is left for the graph. */
const MAX_INSIDE_BYTES = 2 ** 31 - 2 ** 24
/** Tensors below this stay in the model's file, as programs that infer shapes read them. */
const MIN_EXTERNAL_BYTES = 1024
/** Offsets are multiples of this, so that the second file can be mapped into memory. */
const ALIGNMENT = 4096

export type OnnxWriteOptions = {
  /** Bytes of tensors above which they go into a second file. */
  readonly externalAbove?: number
  readonly onTensor?: () => void
}

/** The ending of the second file's name, as optimum and transformers.js expect it. */
export const externalSuffix = '_data'

/** Whether the bytes of the tensors go into a second file. */
export const needsExternal = ({graph}: OnnxModel, externalAbove = MAX_INSIDE_BYTES): boolean =>
  graph.initializers.reduce((sum, tensor) => sum + byteLength(tensor), 0) > externalAbove

/**
 * Writes the model to `path`, which must not exist; one tensor is held at a time. Throws what the file system throws,
 * and an `Error` where a tensor has another number of bytes than its shape, which is a defect of the caller.
 */
export async function writeOnnx(path: string, model: OnnxModel, {externalAbove, onTensor}: OnnxWriteOptions = {}): Promise<void> {
  const isExternal = needsExternal(model, externalAbove)
  const places = isExternal ? externalPlaces(model.graph.initializers, basename(path) + externalSuffix) : new Map<string, ExternalPlace>()
  const {start, tensors} = encodeModel(model, places)
  const file = await open(path, 'wx')
  let data: FileHandle | undefined
  try {
    if (isExternal) data = await open(path + externalSuffix, 'wx')
    await file.writeFile(start)
    for (const [i, tensor] of model.graph.initializers.entries()) {
      const bytes = await tensor.read()
      if (bytes.length !== byteLength(tensor))
        throw new Error(`Expected ${byteLength(tensor)} bytes for ${tensor.name} but received ${bytes.length}`)
      await file.writeFile(tensors[i]!)
      const place = places.get(tensor.name)
      if (place) await writeAt(data!, bytes, place.offset)
      else await file.writeFile(bytes)
      onTensor?.()
    }
  } finally {
    await data?.close()
    await file.close()
  }
}

async function writeAt(file: FileHandle, bytes: Uint8Array, offset: number): Promise<void> {
  for (let at = 0; at < bytes.length;) at += (await file.write(bytes, at, bytes.length - at, offset + at)).bytesWritten
}

function externalPlaces(initializers: readonly OnnxInitializer[], file: string): Map<string, ExternalPlace> {
  const places = new Map<string, ExternalPlace>()
  let offset = 0
  for (const tensor of initializers) {
    const length = byteLength(tensor)
    if (length < MIN_EXTERNAL_BYTES) continue
    places.set(tensor.name, {file, offset, length})
    offset = Math.ceil((offset + length) / ALIGNMENT) * ALIGNMENT
  }
  return places
}
