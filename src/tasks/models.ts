/**
 * The released models: what there is, what is here, and fetching one. The work of `dinov2 models list` and
 * `dinov2 models pull`.
 */
import {stat} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../config/errors.js'
import {modelsFolder, RELEASED_BASE, released, type Released} from '../files/checkpoint/model-zoo.js'
import {addressOf, isFolder} from '../files/checkpoint/pull-model.js'

export {findReleased, released, type Released} from '../files/checkpoint/model-zoo.js'
export {pullModel, type ModelPullReport, type PullRequest} from '../files/checkpoint/pull-model.js'

export type ListedModel = Released & {
  readonly url: string
  /** Where it lies on this machine; absent when it was not pulled. */
  readonly here?: string
}

/** Everything released, with what is already here. */
export async function listModels({kind, baseUrl = RELEASED_BASE}: {kind?: Released['kind']; baseUrl?: string} = {}): Promise<
  ListedModel[]
> {
  const out: ListedModel[] = []
  for (const entry of released) {
    if (kind !== undefined && entry.kind !== kind) continue
    const here = join(modelsFolder(), entry.file)
    out.push({...entry, url: addressOf(entry, baseUrl), ...((await stat(here).catch(() => undefined))?.isFile() && {here})})
  }
  return out
}

/** The list as lines for people: name, length, whether it is here, what it is. */
export function modelLines(models: readonly ListedModel[]): string[] {
  const rows = models.map(
    ({name, bytes, here, about}) => [name, bytes === undefined ? '' : size(bytes), here === undefined ? '' : 'here', about] as const
  )
  const widths = [0, 1, 2].map(column => Math.max(0, ...rows.map(row => row[column]!.length)))
  return rows.map(
    ([name, bytes, here, about]) => `${name.padEnd(widths[0]!)}  ${bytes.padStart(widths[1]!)}  ${here.padEnd(widths[2]!)}  ${about}`
  )
}

/** Bytes as people say them, in powers of ten. */
export const size = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(2)} GB` : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`

/** Several files need a folder. Throws `UserError` (exit 2) when `output` is named and is none. */
export async function toFolder(output: string | undefined): Promise<void> {
  if (output !== undefined && !(await isFolder(output)))
    throw new UserError(`${output} is no folder, and several models were named.`, {exit: 2, code: 'USAGE', hint: `mkdir -p ${output}`})
}
