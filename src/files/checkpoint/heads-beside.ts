/** Whether the heads that lie beside a backbone were saved with it. */
import {createHash} from 'node:crypto'
import {UserError} from '../../config/errors.js'

/** The mark by which heads that are saved beside a backbone name it: a hash of the checksums of its tensors. */
export const backboneMark = (sums: string): string => createHash('sha256').update(sums).digest('hex').slice(0, 32)

type Described = {
  readonly path: string
  readonly metadata: Readonly<Record<string, string>>
  /** Checksums of its tensors, where they are known. */
  readonly sums?: string | undefined
}

/** Throws `UserError` where the heads beside a backbone are of another run, or of another step of it. */
export function assertSameModel(backbone: Described, heads: Described): void {
  const [own, other] = [backbone.metadata, heads.metadata]
  const differ = ['seed', 'step'].find(name => own[name] !== undefined && other[name] !== undefined && own[name] !== other[name])
  const isOther = other['backbone'] !== undefined && backbone.sums !== undefined && other['backbone'] !== backboneMark(backbone.sums)
  if (differ === undefined && !isOther) return
  const why =
    differ === undefined ? 'as their records say' : `${differ} ${other[differ]!.slice(0, 20)} there, ${own[differ]!.slice(0, 20)} here`
  throw new UserError(`${heads.path} holds the heads of another model than ${backbone.path} (${why}).`, {
    exit: 2,
    code: 'OTHER_MODEL',
    hint: 'Put both files of one run there, or take the heads away; dinov2 pretrain … --resume writes both anew.'
  })
}
