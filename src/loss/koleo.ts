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

const eps = 1e-8

/**
 * x [B, C] → loss and its gradient [B, C]. The choice of the neighbour carries no gradient; both ends of the distance
 * do.
 */
export function koleoLoss(x: Tensor2D): {loss: Scalar; gradient: Tensor2D} {
  const B = x.shape[0]
  return tidy(() => {
    if (B < 2) return {loss: scalar(0), gradient: zerosLike(x)} // no neighbour, no loss
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
}
