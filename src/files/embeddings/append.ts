/**
 * Whole outputs that get more rows: they are written again with the new ones behind, and only where there are new
 * ones.
 */
import {UserError} from '../../config/errors.js'
import {formatNamed, formatOf} from './formats.js'
import {openEmbeddings} from './open.js'
import {replaceEmbeddings, type OutputOptions} from './output.js'
import {provenanceDifferences} from './provenance.js'
import type {EmbeddingOutput} from './resumable.js'
import {rowsOf, type NamedRow} from './rows.js'

/** The rows of a file, in order. */
async function* rowsIn(path: string): AsyncGenerator<NamedRow> {
  const {rows, close} = await openEmbeddings(path)
  try {
    for await (const batch of rows) yield* rowsOf(batch)
  } finally {
    await close()
  }
}

/**
 * Opens the whole output at `target` to add rows. Its own rows count as resumed, and nothing is written before the
 * first new row comes.
 *
 * Throws `UserError` (exit 2) where it has another format, was made in another way than `meta` says, or is damaged.
 */
export async function appendEmbeddings(target: string, options: OutputOptions): Promise<EmbeddingOutput> {
  const whole = await openEmbeddings(target)
  await whole.close()
  const {name} = formatOf(target, options.format)
  if (whole.format !== name)
    throw new UserError(`${target} is there, whole, but as ${whole.format}, not as ${name}.`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: `Give --format ${whole.format} to add rows to it, --force to replace it, or name another output.`
    })
  const record = formatNamed(name)
    .sideFiles?.(target)
    .find(({final}) => final?.endsWith('.meta.json'))?.final
  if (whole.meta.fingerprint === null)
    throw new UserError(
      `${target} is there, whole, but does not say how its vectors were made${record === undefined ? '' : ` (${record} would)`}.`,
      {exit: 2, code: 'OUTPUT_EXISTS', hint: 'Give --force to replace it, or name another output.'}
    )
  const parts = provenanceDifferences(whole.meta, options.meta)
  if (parts.length > 0)
    throw new UserError(`${target} is there, whole, but was made in another way (${parts.join(', ')}).`, {
      exit: 2,
      code: 'OUTPUT_EXISTS',
      hint: 'Give --force to replace it, or name another output.'
    })
  let resumed = 0
  for await (const _row of rowsIn(target)) resumed++
  let output: EmbeddingOutput | undefined
  const begin = async (): Promise<EmbeddingOutput> => {
    const copy = await replaceEmbeddings(target, {...options, csvSafe: options.csvSafe === true || whole.csvSafe === true})
    const {rows} = await openEmbeddings(target)
    for await (const batch of rows) await copy.write(batch)
    return copy
  }
  return {
    format: whole.format,
    resumed,
    resumedRows: () => rowsIn(target),
    async write(batch) {
      output ??= await begin()
      await output.write(batch)
    },
    commit: async () => output?.commit(),
    keep: async () => (await output?.keep()) ?? false
  }
}
