/** Which task a file of a head is for. */
import {UserError} from '../../../config/errors.js'
import {openCheckpoint} from '../../../files/checkpoint/checkpoint.js'
import type {HeadTask} from '../../../files/checkpoint/head-file.js'
import {findReleased} from '../../../files/checkpoint/model-zoo.js'
import {openSafetensors} from '../../../files/checkpoint/safetensors.js'

/**
 * The task of a head, by what its file says or the names of its tensors. Throws a `UserError` where the file is
 * missing or holds no head.
 */
export async function headTask(name: string): Promise<HeadTask> {
  const released = findReleased(name)
  if (released && released.kind !== 'backbone')
    return released.kind === 'classifier' ? 'classify' : released.kind === 'depth' ? 'depth' : 'segment'
  if (!/\.(pth|pt|bin|ckpt)$/i.test(name)) {
    const file = await openSafetensors(name)
    await file.close()
    const {task} = file.metadata
    if (task === 'classify' || task === 'depth' || task === 'segment') return task
    throw new UserError(`${name} holds no trained head of this program.`, {
      exit: 2,
      code: 'WRONG_HEAD',
      hint: 'Heads are written by linear-eval, depth-eval and seg-eval: dinov2 linear-eval … --head-out FILE'
    })
  }
  const file = await openCheckpoint(name, {tolerant: true})
  await file.close()
  const names = [...file.tensors.keys(), ...file.heads.keys()]
  const has = (pattern: RegExp): boolean => names.some(key => pattern.test(key))
  return has(/conv_depth\./) ? 'depth' : has(/conv_seg\./) ? 'segment' : 'classify'
}
