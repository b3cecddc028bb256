/** The outcome of curation as rows: kept ones and rejected ones, in the order of the pool. */
import {dirname, isAbsolute, relative, resolve} from 'node:path'
import {changeFile} from '../../data/sources/container-names.js'
import type {ImageRef} from '../../data/sources/source.js'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {fieldsOf} from '../embed/embedder.js'
import type {CurationOutcome} from './outcome.js'

/** Where rows go. */
export type RowOutput = {
  /** Paths in rows are written relative to its folder; `-` is stdout. */
  readonly output: string
  readonly write: (text: string) => Promise<void>
}

/** Writes the rows of the pool, and those that were refused. */
export async function writeRows(
  outcome: CurationOutcome,
  kept: RowOutput,
  rejected: RowOutput | undefined,
  signal: AbortSignal
): Promise<void> {
  const {pool, stageFields} = outcome
  const isKept = new Uint8Array(pool.count)
  for (const row of outcome.kept) isKept[row] = 1
  const [keptRows, rejectedRows] = [new RowWriter(kept), rejected && new RowWriter(rejected)]
  for (let row = 0; row < pool.count; row++) {
    if (row % 1024 === 0) signal.throwIfAborted()
    await (isKept[row] ? keptRows : rejectedRows)?.add(pool.ref(row), stageFields(row))
  }
  if (rejectedRows) for (const {ref, stage, reason} of pool.refused) await rejectedRows.add(ref, {stage, reason})
  await keptRows.flush()
  await rejectedRows?.flush()
}

/** Writes rows as lines of JSON, many at once. */
class RowWriter {
  readonly #output: RowOutput
  readonly #paths: ListPaths
  #text = ''

  constructor(output: RowOutput) {
    this.#output = output
    this.#paths = listPaths(output.output)
  }

  async add(ref: ImageRef, fields: Fields): Promise<void> {
    this.#text += JSON.stringify(rowOf(ref, fields, this.#paths)) + '\n'
    if (this.#text.length > 1 << 16) await this.flush()
  }

  async flush(): Promise<void> {
    if (this.#text === '') return
    await this.#output.write(this.#text)
    this.#text = ''
  }
}

/**
 * How a list names files: relative to its own folder, so that it can be read where it lies. Absolute names stay
 * absolute.
 */
type ListPaths = {image(ref: ImageRef): string; beside(name: string, base: string): string}

function listPaths(output: string): ListPaths {
  const folder = output === '-' || output.startsWith('/dev/') ? resolve('') : dirname(resolve(output))
  return {
    image({id, path}) {
      const name = typeof path === 'string' ? path : id
      if (name === '' || (isAbsolute(name) && isAbsolute(id))) return name
      return changeFile(name, file => relative(folder, resolve(file)) || file)
    },
    beside: (name, base) => (isAbsolute(name) ? name : relative(folder, resolve(base, name)))
  }
}

/** Fields that name a file beside the image. */
const fileFields = ['depth', 'mask'] as const

/** One row of a list: the fields that it came with, then those of the stages. */
function rowOf(ref: ImageRef, stageFields: Fields, paths: ListPaths): object {
  const {path: _, path_base64: __, ...fields} = fieldsOf(ref)
  const moved: Record<string, string> = {}
  for (const name of fileFields) {
    const value = fields[name]
    if (typeof value === 'string' && ref.base !== undefined) moved[name] = paths.beside(value, ref.base)
  }
  return {
    id: ref.id,
    path: paths.image(ref),
    ...(typeof ref.path === 'string' ? {} : {path_base64: Buffer.from(ref.path).toString('base64')}),
    ...(ref.range ? {range: [ref.range.offset, ref.range.size]} : {}),
    ...withoutVerdict(fields),
    ...moved,
    ...stageFields
  }
}

/** Fields without the verdict of an earlier run; `twin` is the name that `similar_to` had in older lists. */
const withoutVerdict = ({stage: _, reason: __, similar_to: ___, twin: ____, ...fields}: Fields): Fields => fields
