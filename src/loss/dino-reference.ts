/**
 * The DINO and iBOT losses over scores that exist whole, as the reference writes them: for checks, and where batches
 * are small.
 */
import {div, fill, gather, reshape, sum, tensor1d, tidy} from '../tensor/tf.js'
import type {Scalar, Tensor1D, Tensor2D, Tensor3D} from '../tensor/tf.js'
import {crossEntropy} from './cross-entropy.js'

export type LossWithGradient = {loss: Scalar; gradient: Tensor2D}

/**
 * DINO (Caron et al. 2021, eq. 3): Σ over student crops and teacher crops of the mean cross-entropy over images.
 * student [m·B, K] crop-major, teacher [g, B, K]; every student crop is compared with every teacher crop.
 */
export function dinoLossReference(student: Tensor2D, teacher: Tensor3D, temperature = 0.1): LossWithGradient {
  return tidy(() => {
    const [, B, K] = teacher.shape
    const image = Int32Array.from({length: student.shape[0]}, (_, i) => i % B) // [m·B]
    const targets = gather(reshape(sum(teacher, 0), [B, K]) as Tensor2D, tensor1d(image, 'int32')) // [m·B, K]
    const {losses, gradient} = crossEntropy(student, targets, fill([student.shape[0]], 1 / B), temperature)
    return {loss: sum<Scalar>(losses), gradient}
  })
}

/**
 * iBOT (Zhou et al. 2022, eq. 2) on masked patches: Σⱼ weightⱼ·CE(teacherⱼ, studentⱼ) / images.
 * student, teacher [n, K]; weights [n] are one over the masked patches of the image; `images` counts masked and
 * unmasked ones alike.
 */
export function ibotLossReference(
  student: Tensor2D,
  teacher: Tensor2D,
  weights: Tensor1D,
  images: number,
  temperature = 0.1
): LossWithGradient {
  return tidy(() => {
    const {losses, gradient} = crossEntropy(student, teacher, div(weights, images), temperature)
    return {loss: sum<Scalar>(losses), gradient}
  })
}
