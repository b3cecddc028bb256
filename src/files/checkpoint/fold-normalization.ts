/** A model's own mean and deviation, multiplied into its patch embedding. */
import {imageMean, imageStd} from '../../tensor/ops/patches.js'
import type {NamedTensor} from './backbone.js'
import {isImageNet, type Normalization} from './preprocessing.js'

/**
 * The tensors of a backbone as a model that takes images normalized by ImageNet's values and computes the same.
 *
 * With x = (p − m) / s for pixels p and ImageNet's m and s, the model's own input is (p − m′) / s′ = x · s / s′ +
 * (m − m′) / s′: a factor on each channel of the patch kernel [C, 3, P, P], and a sum over its entries in the bias
 * [C]. The tensors pass unchanged where the model has ImageNet's values.
 */
export async function* foldNormalization(tensors: AsyncIterable<NamedTensor>, normalization: Normalization): AsyncGenerator<NamedTensor> {
  if (isImageNet(normalization)) return yield* tensors
  const {mean, std} = normalization
  let shifts: Float64Array | undefined // [C]
  for await (const tensor of tensors) {
    if (tensor.name === 'patch_embed.proj.weight') {
      const [width, channels, ...sides] = tensor.shape as [number, number, number, number]
      const area = sides[0] * sides[1]
      const data = tensor.data.slice()
      shifts = new Float64Array(width)
      for (let i = 0; i < data.length; i++) {
        const channel = Math.trunc(i / area) % channels
        const row = Math.trunc(i / (area * channels))
        shifts[row]! += (data[i]! * (imageMean[channel]! - mean[channel]!)) / std[channel]!
        data[i]! *= imageStd[channel]! / std[channel]!
      }
      yield {...tensor, data}
    } else if (tensor.name === 'patch_embed.proj.bias') {
      if (!shifts) throw new Error('The patch kernel comes before its bias, in the order of expectedShapes')
      yield {...tensor, data: tensor.data.map((value, i) => value + shifts![i]!)}
    } else yield tensor
  }
}
