/** Exact GELU, x·Φ(x) (Hendrycks and Gimpel 2016), and its gated relative SiLU(a) ⊙ b (SwiGLU, Shazeer 2020). */
import {add, concat, customGrad, div, erf, exp, mul, neg, sigmoid, slice, square, sub, tidy} from '../tf.js'
import type {Tensor, Tensor2D} from '../tf.js'
import {callKernel} from './kernel.js'

/** x·Φ(x), any shape. */
export const geluForward = <T extends Tensor>(x: T): T => (callKernel('Dinov2Gelu', {x})?.[0] ?? geluReference(x)) as T

/** The reference implementation of `geluForward`. */
export const geluReference = <T extends Tensor>(x: T): T => tidy(() => mul(mul(x, 0.5), add(erf(div(x, Math.SQRT2)), 1)))

/** dy·(Φ(x) + x·φ(x)). */
export function geluBackward<T extends Tensor>(dy: T, x: T): T {
  const fused = callKernel('Dinov2GeluGrad', {dy, x})
  if (fused) return fused[0] as T
  return tidy(() => {
    const cdf = mul(add(erf(div(x, Math.SQRT2)), 1), 0.5)
    const pdf = mul(exp(neg(div(square(x), 2))), 1 / Math.sqrt(2 * Math.PI))
    return mul(dy, add(cdf, mul(x, pdf)))
  })
}

/** `geluForward` with its gradient on the tape. */
export function gelu<T extends Tensor>(x: T): T {
  const layer = customGrad((...args: unknown[]) => {
    const [a, save] = args as [Tensor, (tensors: Tensor[]) => void]
    save([a])
    return {value: geluForward(a), gradFunc: (dy: Tensor, saved: Tensor[]) => geluBackward(dy, saved[0]!)}
  })
  return layer(x) as T
}

/** SiLU of the first half times the second; ab [T, 2H] → [T, H]. */
export function swigluForward(ab: Tensor2D): Tensor2D {
  return (callKernel('Dinov2SwiGlu', {ab})?.[0] ?? swigluReference(ab)) as Tensor2D
}

/** The reference implementation of `swigluForward`. */
export const swigluReference = (ab: Tensor2D): Tensor2D =>
  tidy(() => {
    const [a, b] = halves(ab)
    return mul<Tensor2D>(mul(a, sigmoid(a)), b)
  })

/** Gradient of SiLU(a) ⊙ b for dy [T, H] → [T, 2H]. */
export function swigluBackward(dy: Tensor2D, ab: Tensor2D): Tensor2D {
  const fused = callKernel('Dinov2SwiGluGrad', {dy, ab})
  if (fused) return fused[0] as Tensor2D
  return tidy(() => {
    const [a, b] = halves(ab)
    const s = sigmoid(a)
    const slope = mul(s, add(1, mul(a, sub(1, s))))
    return concat([mul<Tensor2D>(mul(dy, b), slope), mul<Tensor2D>(dy, mul(a, s))], 1)
  })
}

function halves(ab: Tensor2D): [Tensor2D, Tensor2D] {
  const [T, H2] = ab.shape
  return [slice(ab, [0, 0], [T, H2 / 2]), slice(ab, [0, H2 / 2], [T, H2 / 2])]
}
