/**
 * KoLeo (Sablayrolles et al. 2019; docs/spec.md §2.4): −mean log of the distance to the nearest neighbour within a
 * batch, on unit vectors.
 *
 * Float32 throughout: ε = 1e-8 would vanish in half precision, and two equal images would give infinity. B rows, C
 * channels.
 */
import {
  add,
  div,
  gather,
  log,
  matMul,
  maximum,
  mean,
  mul,
  neg,
  scalar,
  norm,
  sqrt,
  square,
  sub,
  sum,
  tidy,
  unsortedSegmentSum,
  argMax,
  eye,
  zerosLike
} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D} from '../tensor/tf.js'
import {callKernel} from '../tensor/ops/kernel.js'

const eps = 1e-8

/**
 * x [B, C] → loss and its gradient [B, C]. The choice of the neighbour carries no gradient; both ends of the distance
 * do.
 */
export function koleoLoss(x: Tensor2D): {loss: Scalar; gradient: Tensor2D} {
  if (x.shape[0] < 2) return tidy(() => ({loss: scalar(0), gradient: zerosLike(x)})) // no neighbour, no loss
  const fused = callKernel('Dinov2Koleo', {x}, {eps})
  return fused ? {loss: fused[0] as Scalar, gradient: fused[1] as Tensor2D} : koleoReference(x)
}

/** The reference implementation of `koleoLoss`. */
const koleoReference = (x: Tensor2D): {loss: Scalar; gradient: Tensor2D} =>
  tidy(() => {
    const B = x.shape[0]
    const length = maximum<Tensor2D>(norm(x, 2, 1, true), eps)
    const u = div<Tensor2D>(x, length)
    const near = argMax<Tensor1D>(sub(matMul(u, u, false, true), mul(eye(B), 3)), 1) // never a row itself: u·u ≤ 1
    const gap = add<Tensor2D>(sub(u, gather(u, near)), eps) //                   [B, C]
    const distance = sqrt<Tensor2D>(sum<Tensor2D>(square(gap), 1, true)) //                [B, 1]
    const loss = neg(mean(log(add(distance, eps)))) as Scalar
    const slope = div<Tensor2D>(gap, mul(mul(distance, add(distance, eps)), -B)) // d loss / d gap
    const du = sub<Tensor2D>(slope, unsortedSegmentSum(slope, near, B))
    const gradient = div<Tensor2D>(sub(du, mul(u, sum(mul(du, u), 1, true))), length)
    return {loss, gradient}
  })
