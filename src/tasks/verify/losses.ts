/** The recorded head and losses: values and gradients of each, Sinkhorn–Knopp and centering. */
import {openCheckpoint} from '../../files/checkpoint/checkpoint.js'
import {dinoLossReference, ibotLossReference} from '../../loss/dino-reference.js'
import {koleoLoss} from '../../loss/koleo.js'
import {centeredDense, nextCenter, sinkhornDense} from '../../loss/targets-reference.js'
import {headBackward, headForward, prototypes, prototypesBackward} from '../../model/head.js'
import type {Head} from '../../model/head.js'
import {linearForward} from '../../tensor/ops/linear.js'
import {dispose, matMul, reshape, slice, tidy, zeros} from '../../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D, Tensor3D} from '../../tensor/tf.js'
import {disposeTree, unflatten, leaves, type Tree} from '../../tensor/tree.js'
import {check, compareTensor, LIMITS, maxError, type Check} from './checks.js'
import {need, engineTensor, type Golden, type RecordedTensor} from './golden.js'

type Computed = {[name: string]: Tensor}

const FILE = 'losses'
/** The reference's temperatures of students and teachers in this file. */
const [STUDENT, SINKHORN, CENTERED] = [0.1, 0.05, 0.04]

/** Everything in `dino_head` and `losses`, in float32. */
export async function* verifyLosses(golden: Golden): AsyncGenerator<Check> {
  const io = await golden.tensors(FILE)
  const at = <T extends Tensor>(name: string): T => engineTensor<T>(need(io, name, FILE))
  yield* verifyHead(golden, io)

  yield* judge('sinkhorn', io, LIMITS.forward, () => ({'sinkhorn.out_temp0.05_iter3': sinkhornDense(at('sinkhorn.in'), SINKHORN)}))
  yield* judge('dino', io, LIMITS.gradient, () => {
    const {loss, gradient} = dinoLossReference(at('dino.student'), at<Tensor3D>('dino.teacher'), STUDENT)
    return {'dino.loss': reshape(loss, [1]), 'dino.gstudent': gradient}
  })
  yield* judge('centering', io, LIMITS.forward, () => {
    // The first targets are made with the centre zero; the centre then moves by these scores.
    const scores = at<Tensor2D>('sinkhorn.in')
    const first = zeros([1, scores.shape[1]]) as Tensor2D
    const center = nextCenter(first, scores)
    return {
      'center.first': centeredDense(scores, first, CENTERED),
      'center.second': centeredDense(scores, center, CENTERED),
      'center.center': center
    }
  })
  yield* judge('ibot', io, LIMITS.gradient, () => {
    // The padding rows take part in the totals of the prototypes, as in the reference; the loss leaves them out.
    const student = at<Tensor2D>('ibot.student')
    const targets = sinkhornDense(at('ibot.teacher_logits_padded'), SINKHORN)
    const images = need(io, 'ibot.masks', FILE).shape[0]!
    const {loss, gradient} = ibotLossReference(student, slice(targets, [0, 0], student.shape), at<Tensor1D>('ibot.weight'), images, STUDENT)
    return {'ibot.teacher_sinkhorn_padded': targets, 'ibot.loss': reshape(loss, [1]), 'ibot.gstudent': gradient}
  })
  yield ibotWeights(io)
  yield* judge('koleo', io, LIMITS.gradient, () => {
    const {loss, gradient} = koleoLoss(at('koleo.x'))
    return {'koleo.loss': reshape(loss, [1]), 'koleo.gx': gradient}
  })
}

/**
 * Computes what is recorded under the same names and judges each; `limit` is that of gradients, losses and outputs
 * have their own.
 */
async function* judge(
  part: string,
  io: ReadonlyMap<string, RecordedTensor>,
  limit: number,
  compute: () => Computed
): AsyncGenerator<Check> {
  const computed = tidy(compute)
  try {
    for (const [name, value] of Object.entries(computed)) {
      const own = /\.g(student|x)$/.test(name) ? limit : LIMITS.forward
      yield await compareTensor(part, name, value, need(io, name, FILE), own)
    }
  } finally {
    dispose(computed)
  }
}

/** The projection head: scores of recorded inputs, and the gradient of Σ scores·gy. */
async function* verifyHead(golden: Golden, io: ReadonlyMap<string, RecordedTensor>): AsyncGenerator<Check> {
  const head = unflatten<Tree>(
    [...(await golden.tensors('dino_head'))].map(([name, recorded]) => [name, engineTensor(recorded)] as const)
  ) as unknown as Head
  yield await verifyHeadFile(golden)
  const {y, dx, grads} = tidy(() => {
    const [x, gy] = [engineTensor<Tensor2D>(need(io, 'head.x', FILE)), engineTensor<Tensor2D>(need(io, 'head.gy', FILE))]
    const {z, saved} = headForward(x, head) //                      [R, D]
    const w = prototypes(head) //                                   [K, D]
    const back = headBackward(matMul(gy, w), saved, head)
    const last = prototypesBackward(matMul(gy, z, true, false), head)
    return {y: linearForward(z, {weight: w}), dx: back.dx, grads: {mlp: back.mlp, last_layer: last}}
  })
  try {
    yield await compareTensor('head', 'head.y', y, need(io, 'head.y', FILE), LIMITS.forward)
    yield await compareTensor('head', 'head.gx', dx, need(io, 'head.gx', FILE), LIMITS.gradient)
    const computed = new Map(leaves(grads as unknown as Tree))
    for (const [name, recorded] of io) {
      if (!name.startsWith('head.grad.')) continue
      const value = computed.get(name.slice('head.grad.'.length))
      yield value ? await compareTensor('head', name, value, recorded, LIMITS.gradient) : check('head', name, 'max', NaN, LIMITS.gradient)
    }
  } finally {
    dispose([y, dx])
    disposeTree(grads as unknown as Tree)
    disposeTree(head as unknown as Tree)
  }
}

/** The pickled head must hold the very numbers of the safetensors file. */
async function verifyHeadFile(golden: Golden): Promise<Check> {
  const checkpoint = await openCheckpoint(golden.path('dino_head.pth'))
  try {
    let differing = 0
    for (const [name, {data}] of await golden.tensors('dino_head')) {
      const other = await checkpoint.tensors.get(name)?.readFloat32()
      differing += data.filter((value, i) => !Object.is(value, other?.[i])).length
    }
    return check('head', 'weights: .pth as .safetensors', 'count', differing, 0)
  } finally {
    await checkpoint.close()
  }
}

/** One over the masked patches of the image, for each masked patch. */
function ibotWeights(io: ReadonlyMap<string, RecordedTensor>): Check {
  const {data, shape} = need(io, 'ibot.masks', FILE)
  const [images, N] = shape as [number, number]
  const weights: number[] = []
  for (let i = 0; i < images; i++) {
    const count = data.subarray(i * N, (i + 1) * N).reduce((sum, masked) => sum + masked, 0)
    for (let j = 0; j < count; j++) weights.push(1 / count)
  }
  return check('ibot', 'ibot.weight', 'max', maxError(weights, need(io, 'ibot.weight', FILE).data), LIMITS.forward)
}
