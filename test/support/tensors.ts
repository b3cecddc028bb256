/** Tensors of a file as numbers, for tests that compare files. */
import {openSafetensors} from '../../src/files/checkpoint/safetensors.js'

/** All tensors of a safetensors file as float32. */
export async function readTensors(path: string): Promise<Map<string, Float32Array>> {
  const file = await openSafetensors(path)
  try {
    const all = new Map<string, Float32Array>()
    for (const [name, entry] of file.tensors) all.set(name, await entry.readFloat32())
    return all
  } finally {
    await file.close()
  }
}
