/**
 * Weights of one backbone made to fit another shape of the same size: another patch side, another position grid, more
 * registers.
 *
 * The patch embedding is resampled by the pseudo-inverse of image resizing (FlexiViT, Beyer et al. 2023, section 3.4):
 * if B resizes a patch, the new kernel w' is the one for which ⟨B x, w'⟩ is nearest to ⟨x, w⟩ over all patches x;
 * where patches grow it is equal. Positions are resampled as the model itself would for that grid (docs/spec.md §1.4).
 * New registers start where fresh ones do.
 */
import {concat, reshape, slice, tensor, tidy} from '../tensor/tf.js'
import type {Tensor3D, Tensor4D} from '../tensor/tf.js'
import {flatten, unflatten} from '../tensor/tree.js'
import type {VitConfig} from './config.js'
import {initVit} from './init.js'
import {positionsFor, sizeWeights} from './positions.js'
import type {Vit} from './vit.js'

/** What must be equal, because no resampling leads from one to the other. */
const fixed = ['width', 'depth', 'heads', 'ffn', 'hidden', 'layerScale'] as const

/** The differences that `adapt` cannot bridge, in words; none where it can. */
export function incompatibilities(from: VitConfig, to: VitConfig): string[] {
  const found = fixed.filter(key => from[key] !== to[key]).map(key => `${key} is ${String(from[key])} there and ${String(to[key])} here`)
  if (to.registers < from.registers)
    found.push(`registers are ${from.registers} there and ${to.registers} here, and none can be taken away`)
  return found
}

/** What `adapt` changes on the way, in words; none where the shapes are the same. */
export function resamplings(from: VitConfig, to: VitConfig): string[] {
  return [
    ...(from.patch === to.patch ? [] : [`patch embedding resampled from ${from.patch} to ${to.patch} pixels`]),
    ...(from.grid === to.grid ? [] : [`positions resampled from ${from.grid} × ${from.grid} to ${to.grid} × ${to.grid}`]),
    ...(from.registers === to.registers ? [] : [`${to.registers - from.registers} registers added`])
  ]
}

/** Solves A·X = B for square A [n, n] and B [n, m], row-major float64, by elimination with row exchanges. */
function solve(a: Float64Array, b: Float64Array, n: number, m: number): Float64Array {
  const left = a.slice()
  const right = b.slice()
  for (let i = 0; i < n; i++) {
    let best = i
    for (let r = i + 1; r < n; r++) if (Math.abs(left[r * n + i]!) > Math.abs(left[best * n + i]!)) best = r
    for (const [values, width] of [
      [left, n],
      [right, m]
    ] as const)
      for (let c = 0; c < width; c++) {
        const kept = values[i * width + c]!
        values[i * width + c] = values[best * width + c]!
        values[best * width + c] = kept
      }
    const pivot = left[i * n + i]!
    for (let r = 0; r < n; r++) {
      const factor = left[r * n + i]! / pivot
      if (r === i || factor === 0) continue
      for (let c = i; c < n; c++) left[r * n + c]! -= factor * left[i * n + c]!
      for (let c = 0; c < m; c++) right[r * m + c]! -= factor * right[i * m + c]!
    }
  }
  return right.map((value, at) => value / left[Math.floor(at / m) * (n + 1)]!)
}

/**
 * The matrix A [to, from] that carries one axis of a patch kernel from `from` to `to` pixels: the pseudo-inverse of
 * Rᵀ, where R [to, from] resizes the axis (cubic, antialiased). `to` ≥ `from`: A = R(RᵀR)⁻¹; else A = (RRᵀ)⁻¹R.
 */
export function kernelWeights(from: number, to: number): Float64Array {
  const R = Float64Array.from(sizeWeights(from, to))
  const at = (row: number, column: number): number => R[row * from + column]!
  const n = Math.min(from, to)
  const gram = new Float64Array(n * n)
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      if (to >= from) for (let k = 0; k < to; k++) sum += at(k, i) * at(k, j)
      else for (let k = 0; k < from; k++) sum += at(i, k) * at(j, k)
      gram[i * n + j] = sum
    }
  if (to < from) return solve(gram, R, n, from) //                        [to, from]
  const transposed = new Float64Array(from * to)
  for (let row = 0; row < to; row++) for (let column = 0; column < from; column++) transposed[column * to + row] = at(row, column)
  const across = solve(gram, transposed, from, to) //                     [from, to]
  const out = new Float64Array(to * from)
  for (let row = 0; row < to; row++) for (let column = 0; column < from; column++) out[row * from + column] = across[column * to + row]!
  return out
}

/** Kernels [C, 3, P, P] for patches of another side, [C, 3, Q, Q]; the caller owns the result. */
export function resamplePatches(kernel: Tensor4D, to: number): Tensor4D {
  const [C, channels, from] = kernel.shape
  const A = kernelWeights(from, to)
  const values = kernel.dataSync()
  const out = new Float32Array(C * channels * to * to)
  const half = new Float64Array(to * from)
  for (let k = 0; k < C * channels; k++) {
    const base = k * from * from
    for (let y = 0; y < to; y++)
      for (let x = 0; x < from; x++) {
        let sum = 0
        for (let j = 0; j < from; j++) sum += A[y * from + j]! * values[base + j * from + x]!
        half[y * from + x] = sum
      }
    for (let y = 0; y < to; y++)
      for (let x = 0; x < to; x++) {
        let sum = 0
        for (let j = 0; j < from; j++) sum += half[y * from + j]! * A[x * from + j]!
        out[k * to * to + y * to + x] = sum
      }
  }
  return tensor(out, [C, channels, to, to])
}

/**
 * Parameters of shape `from` as parameters of shape `to`: a tree of its own, which the caller frees; `params` stay as
 * they are. `seed` draws new registers. Throws a RangeError naming all `incompatibilities`.
 */
export function adapt(params: Vit, from: VitConfig, to: VitConfig, seed: number): Vit {
  const wrong = incompatibilities(from, to)
  if (wrong.length > 0) throw new RangeError(`the weights do not fit: ${wrong.join('; ')}`)
  return tidy(() => {
    const named = flatten(params)
    if (from.patch !== to.patch) named.set('patch_embed.proj.weight', resamplePatches(params.patch_embed.proj.weight, to.patch))
    if (from.grid !== to.grid) {
      const rows = positionsFor(params.pos_embed, from, to.grid, to.grid)
      named.set('pos_embed', reshape(rows, [1, 1 + to.grid ** 2, to.width]))
    }
    if (from.registers < to.registers) {
      const fresh = initVit({...to, depth: 0}, seed).register_tokens!
      const added = slice(fresh, [0, from.registers, 0], [1, to.registers - from.registers, to.width])
      named.set('register_tokens', (params.register_tokens ? concat([params.register_tokens, added], 1) : added.clone()) as Tensor3D)
    }
    const own = [...named].map(([name, leaf]) => [name, leaf.add(0)] as [string, typeof leaf])
    return unflatten<Vit>(own)
  })
}
