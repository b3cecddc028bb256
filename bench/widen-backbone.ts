/**
 * Doubles the width of a trained backbone (ViT with an MLP) without changing what it computes, so that a larger one
 * can go on from what a smaller one has learnt ("Net2Net", Chen, Goodfellow and Shlens 2016, section 2.2; the split of
 * weights by random shares is ours):
 *
 *   node dist/bench/widen-backbone.js run/final/backbone.safetensors wide.safetensors [--seed 0]
 *
 * Every channel, every hidden unit of an MLP and every head is there twice in the result, so its features are those of
 * the input written twice, [x, x]. A weight w that read a channel becomes s·w and (1 − s)·w for the two copies, with s
 * drawn for each weight from a normal distribution of mean 0.5 and deviation 0.5: with equal halves the copies would
 * get the same gradients for ever and stay the same. Reads and writes the float32 safetensors of `pretrain`.
 */
import {parseArgs} from 'node:util'
import {openSafetensors, writeSafetensors, type TensorSource} from '../src/files/checkpoint/safetensors.js'
import {rng} from '../src/tensor/random.js'

const {positionals, values} = parseArgs({allowPositionals: true, options: {seed: {type: 'string', default: '0'}}})
const [from, to] = positionals
if (!from || !to) throw new Error('name the backbone.safetensors to read and the file to write')
const random = rng(Number(values.seed), 'widen')

/** Rows (`outputs` by `inputs`) with each input split over two copies: `outputs` by 2·`inputs`, [s·w, (1 − s)·w]. */
function splitInputs(rows: Float32Array, outputs: number, inputs: number): Float32Array {
  const split = new Float32Array(2 * rows.length)
  for (let output = 0; output < outputs; output++)
    for (let input = 0; input < inputs; input++) {
      const share = 0.5 + 0.5 * random.normal()
      const weight = rows[output * inputs + input]!
      split[2 * output * inputs + input] = share * weight
      split[(2 * output + 1) * inputs + input] = (1 - share) * weight
    }
  return split
}

/** Each of `groups` equal parts of a tensor written twice: [a, b, c] becomes [a, a, b, b, c, c]. */
function repeat(tensor: Float32Array, groups: number): Float32Array {
  const doubled = new Float32Array(2 * tensor.length)
  const part = tensor.length / groups
  for (let group = 0; group < groups; group++)
    for (const copy of [0, 1]) doubled.set(tensor.subarray(group * part, (group + 1) * part), (2 * group + copy) * part)
  return doubled
}

/** A tensor of the backbone at twice the width. */
function widen(name: string, shape: readonly number[], data: Float32Array): {shape: number[]; data: Float32Array} {
  // q, k and v lie one after the other, each with all heads, so each of the three is doubled by itself.
  const parts = /\.qkv\.(?:weight|bias)$/.test(name) ? 3 : 1
  if (/\.(?:qkv|proj|fc1|fc2)\.weight$/.test(name) && !name.startsWith('patch_embed')) {
    const [outputs, inputs] = shape as [number, number]
    // The copies of an output draw shares of their own, which is what lets them part.
    return {shape: [2 * outputs, 2 * inputs], data: splitInputs(repeat(data, parts), 2 * outputs, inputs)}
  }
  if (name.startsWith('patch_embed') && name.endsWith('weight')) return {shape: [2 * shape[0]!, ...shape.slice(1)], data: repeat(data, 1)}
  const channels = shape.at(-1)!
  const rows = data.length / channels
  return {shape: [...shape.slice(0, -1), 2 * channels], data: repeat(data, parts * rows)}
}

const file = await openSafetensors(from)
const wide: TensorSource[] = []
for (const [name, entry] of file.tensors) {
  if (entry.dtype !== 'F32')
    throw new Error(`${name} is ${entry.dtype}, and float32 was expected: take final/backbone.safetensors of a run`)
  const bytes = await entry.read()
  const {shape, data} = widen(name, entry.shape, new Float32Array(bytes.slice().buffer))
  wide.push({name, dtype: 'F32', shape, read: () => new Uint8Array(data.buffer)})
}
const twice = (key: string): string => String(2 * Number(file.metadata[key]))
const {step: _step, ...kept} = file.metadata
await writeSafetensors(to, wide, {...kept, width: twice('width'), heads: twice('heads'), hidden: twice('hidden')})
await file.close()
