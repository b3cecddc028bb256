/**
 * The pool that is curated: its images, their features, and what cannot take part.
 *
 * It is made of images (folders, lists, shards), whose features are computed as they are needed, or of embeddings,
 * whose rows are its images. Every input row ends up either in the pool or among `refused` with a reason: unreadable
 * images, and rows whose id was there before.
 */
import {counted} from '../../config/counted.js'
import {stat} from 'node:fs/promises'
import {extname} from 'node:path'
import {Readable} from 'node:stream'
import {UserError} from '../../config/errors.js'
import {fileBytes} from '../../system/plain-file.js'
import type {RejectedImage} from '../../data/loader/batches.js'
import type {Measures} from '../../data/loader/measure-images.js'
import {listChunks, listImages, noImages, type ImageRef, type SourceNote} from '../../data/sources/source.js'
import {ImageTable} from '../../data/sources/image-table.js'
import {detectFormat, openAll, openEmbeddings, assertSameProvenance} from '../../files/embeddings/embeddings.js'
import {ByteReader} from '../../files/embeddings/bytes.js'
import {npyMatrix} from '../../files/embeddings/npy.js'
import {fileRows, MatrixBuilder, type MatrixRows} from '../../files/search-index/matrix-file.js'
import {selectRows, type RowSource} from '../../curate/rows.js'
import {
  comparable,
  isPerceptual,
  measuresOf,
  type FeatureEvent,
  type FeatureMaker,
  type FeatureKind,
  type PoolFeatures
} from './features.js'

/** A row of the input that is not in the pool, and why. */
export type Refused = {readonly ref: ImageRef; readonly stage: 'read'; readonly reason: string; readonly bad: boolean}

export type PoolOptions = {
  readonly inputs: readonly string[]
  readonly stdin?: Readable
  readonly nul?: boolean
  /** A list: rows with other ids do not take part; its fields ride along. */
  readonly only?: string
  /** A list of what was kept by an earlier run: these rows stay, whatever comes. */
  readonly since?: string
  readonly onRejected?: (bad: RejectedImage) => void
  readonly onSkipped?: (note: SourceNote) => void
  readonly signal?: AbortSignal
}

export type Pool = {
  readonly name: string
  readonly count: number
  /** Rows of the input, those refused included. */
  readonly inputs: number
  ref(row: number): ImageRef
  readonly refused: readonly Refused[]
  /** 1 for rows that an earlier run kept. */
  readonly fixed: Uint8Array | undefined
  /** Whether its images can be opened: otherwise there are only vectors. */
  readonly images: boolean
  /**
   * Vectors of that kind, one a row; computed at first use, which may refuse images: then rows are renumbered, so all
   * kinds are asked for before any work.
   */
  prepare(kinds: readonly FeatureKind[]): AsyncGenerator<FeatureEvent>
  features(kind: FeatureKind | undefined): PoolFeatures & {readonly source: RowSource}
  /** Measures of the rows; undefined where they are not known. */
  readonly measures: readonly Measures[] | undefined
  close(): void
}

const vectorEndings = new Set(['.arrow', '.arrows', '.parquet', '.pq', '.npy', '.safetensors'])

/** Whether these first bytes are those of embeddings, of whatever format. */
function isVectors(head: Uint8Array): boolean {
  const format = detectFormat(head)
  if (format === undefined) return false
  const text = Buffer.from(head.buffer, head.byteOffset, head.byteLength).toString('utf8')
  if (format.name === 'jsonl') return /"vector"\s*:\s*\[/.test(text) || text.includes('"dinov2"')
  if (format.name === 'csv') return /(^|,)"?v0"?(,|\r|\n)/.test(text)
  return true
}

/** What the inputs are. Throws `UserError` (exit 2) where some are images and some embeddings. */
async function kindOf(inputs: readonly string[], stdin: Readable): Promise<{vectors: boolean; stdin: Readable}> {
  const found: {name: string; vectors: boolean}[] = []
  let piped = stdin
  for (const name of inputs) {
    if (name === '-') {
      const bytes = new ByteReader(stdin)
      found.push({name: 'stdin', vectors: isVectors(await bytes.peek(1 << 16))})
      piped = Readable.from(bytes.chunks())
      continue
    }
    const ending = extname(name).toLowerCase()
    if (vectorEndings.has(ending)) found.push({name, vectors: true})
    else if (['.jsonl', '.ndjson', '.csv'].includes(ending) && (await stat(name).catch(() => undefined))?.isFile()) {
      const bytes = new ByteReader(fileBytes(name))
      found.push({name, vectors: isVectors(await bytes.peek(1 << 16))})
      await bytes.close()
    } else found.push({name, vectors: false})
  }
  const [first, other] = [found[0], found.find(({vectors}) => vectors !== found[0]?.vectors)]
  if (first && other)
    throw new UserError(
      `${first.name} holds ${first.vectors ? 'embeddings' : 'images'}, but ${other.name} ${other.vectors ? 'embeddings' : 'images'}.`,
      {
        exit: 2,
        code: 'MIXED_INPUTS',
        hint: 'A pool is made of one or the other; --cache keeps features of images from run to run.'
      }
    )
  return {vectors: first?.vectors ?? false, stdin: piped}
}

/** Opens a pool. Throws `UserError`: nothing there (exit 3), inputs of two kinds, ids that are not there (exit 2). */
export async function openPool(options: PoolOptions, maker: FeatureMaker): Promise<Pool> {
  const {inputs} = options
  const {vectors, stdin} = await kindOf(inputs, options.stdin ?? process.stdin)
  const only = options.only === undefined ? undefined : await listed(options.only)
  const since = options.since === undefined ? undefined : await listed(options.since)
  const pool = vectors
    ? await vectorPool({...options, stdin}, maker, only, since)
    : await imagePool({...options, stdin}, maker, only, since)
  return pool
}

/** Rows of a list by id. */
async function listed(path: string): Promise<Map<string, ImageRef>> {
  const rows = new Map<string, ImageRef>()
  for await (const chunk of listChunks([path])) for (const ref of chunk) if (!rows.has(ref.id)) rows.set(ref.id, ref)
  return rows
}

const withoutBytes = ({bytes: _, ...ref}: ImageRef): ImageRef => ref

/** Takes ids in turn: the reason for which a row does not take part, or undefined. */
function gate(only: ReadonlyMap<string, ImageRef> | undefined): {admit(id: string): 'in' | 'out' | 'twice'; missing(): string[]} {
  const seen = new Set<string>()
  return {
    admit(id) {
      if (only && !only.has(id)) return 'out'
      if (seen.has(id)) return 'twice'
      seen.add(id)
      return 'in'
    },
    missing: () => (only ? [...only.keys()].filter(id => !seen.has(id)) : [])
  }
}

const again = 'its id was there before'

const noneListed = (list: string, inputs: readonly string[]): UserError =>
  new UserError(`There is no image to work on: none of ${inputs.join(', ')} is in ${list}.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Ids of the list are written as the stage before printed them; did it keep none?'
  })

const notThere = (list: string, missing: readonly string[], inputs: readonly string[]): UserError =>
  new UserError(
    `${missing.length} of the ids in ${list} ${missing.length === 1 ? 'is' : 'are'} not in ${inputs.join(', ')}: ${missing.slice(0, 3).join(', ')}${missing.length > 3 ? ', …' : ''}.`,
    {
      exit: 2,
      code: 'UNKNOWN_ID',
      hint: 'Ids must be those of the inputs; name all the files that hold them.'
    }
  )

async function imagePool(
  options: PoolOptions & {stdin: Readable},
  maker: FeatureMaker,
  only: Map<string, ImageRef> | undefined,
  since: Map<string, ImageRef> | undefined
): Promise<Pool> {
  const {inputs, stdin, nul, onSkipped, onRejected, signal} = options
  const table = new ImageTable()
  const refused: Refused[] = []
  let rows = 0
  const {admit, missing} = gate(only)
  const known = new Set<string>()
  for (const ref of since?.values() ?? [])
    if (admit(ref.id) === 'in') {
      table.push(withoutBytes(ref))
      known.add(ref.id)
    }
  for await (const ref of listImages(inputs, {stdin, nul, onSkipped})) {
    signal?.throwIfAborted()
    if (known.delete(ref.id)) {
      rows++
      continue // it is in already, from the list of what was kept
    }
    const found = admit(ref.id)
    if (found === 'out') continue
    rows++
    if (found === 'in') table.push(withoutBytes(only ? {...ref, fields: {...ref.fields, ...only.get(ref.id)!.fields}} : ref))
    else refused.push({ref: withoutBytes(ref), stage: 'read', reason: again, bad: false})
  }
  rows += known.size
  if (table.length === 0) throw options.only === undefined ? noImages(inputs) : noneListed(options.only, inputs)
  const lost = missing()
  if (lost.length > 0) throw notThere(options.only!, lost, inputs)
  let numbers = Int32Array.from({length: table.length}, (_, i) => i)
  const made = new Map<FeatureKind, PoolFeatures & {readonly source: RowSource}>()
  let measures: readonly Measures[] | undefined
  const fixedOf = (): Uint8Array | undefined => since && Uint8Array.from(numbers, i => (since.has(table.at(i)!.id) ? 1 : 0))
  let fixed = fixedOf()
  return {
    name: inputs.join(', '),
    images: true,
    refused,
    get inputs() {
      return rows
    },
    get count() {
      return numbers.length
    },
    get fixed() {
      return fixed
    },
    get measures() {
      return measures
    },
    ref: row => table.at(numbers[row]!)!,
    async *prepare(kinds) {
      for (const kind of kinds) {
        if (made.has(kind)) continue
        const before = numbers
        const list = {length: before.length, at: (i: number) => table.at(before[i]!)}
        const reasons = new Map<string, RejectedImage>()
        const {
          features,
          good,
          measures: found
        } = yield* maker.describe(list, kind, bad => {
          reasons.set(bad.id, bad)
          onRejected?.(bad)
        })
        if (signal?.aborted) return
        const stays = new Set(good)
        for (let i = 0; i < before.length; i++)
          if (!stays.has(i)) {
            const ref = table.at(before[i]!)!
            refused.push({ref, stage: 'read', reason: reasons.get(ref.id)?.reason ?? 'it cannot be read', bad: true})
          }
        // What was made before loses the rows that could not be read this time.
        for (const [other, {rows: matrix, source, ...rest}] of made)
          made.set(other, {...rest, rows: matrix, source: good.length === before.length ? source : selectRows(source, good)})
        if (measures && good.length < before.length) measures = Array.from(good, i => measures![i]!)
        made.set(kind, {...features, source: features.rows})
        if (found) measures = found
        numbers = Int32Array.from(good, i => before[i]!)
        fixed = fixedOf()
      }
      if (numbers.length === 0)
        throw new UserError(
          `None of the ${counted(table.length, 'image')} can be read; the first, ${table.at(0)!.id}: ${refused.find(({bad}) => bad)?.reason ?? ''}.`,
          {
            exit: 4,
            code: 'ALL_BAD'
          }
        )
    },
    features(kind) {
      const found = made.get(kind ?? 'perceptual')
      if (!found) throw new Error(`The features ${kind ?? 'perceptual'} were not prepared.`)
      return found
    },
    close() {
      for (const {rows: matrix} of made.values()) matrix.close()
    }
  }
}

async function vectorPool(
  options: PoolOptions & {stdin: Readable},
  maker: FeatureMaker,
  only: Map<string, ImageRef> | undefined,
  since: Map<string, ImageRef> | undefined
): Promise<Pool> {
  const {inputs, stdin, signal} = options
  const refused: Refused[] = []
  const table = new ImageTable()
  const {admit, missing} = gate(only)
  let inputRows = 0
  // An array of NumPy's is read where it lies, however large; other formats are unpacked.
  const lies =
    inputs.length === 1 && inputs[0] !== '-' && inputs[0]!.toLowerCase().endsWith('.npy')
      ? await npyMatrix(inputs[0]!).catch(() => undefined)
      : undefined
  const source = lies ? await openEmbeddings(inputs[0]!) : await openAll(inputs, {stdin, ignoreLength: true})
  const {meta} = source
  const chosen: number[] = []
  const builder = new MatrixBuilder(meta.dim, maker.making.memory / 2)
  const measured: Measures[] = []
  try {
    let at = 0
    for await (const {ids, vectors, fields} of source.rows) {
      signal?.throwIfAborted()
      const bad = vectors.findIndex(x => !Number.isFinite(x))
      if (bad >= 0)
        throw new UserError(`The vector of ${ids[Math.floor(bad / meta.dim)]!} holds a number that is not finite.`, {
          code: 'NOT_FINITE',
          hint: 'Leave the row out, or embed the image again with --precision fp32.'
        })
      for (const [i, id] of ids.entries()) {
        const found = admit(id)
        if (found === 'out') continue
        inputRows++
        const path = fields[i]!['path']
        const {path: _, ...rest} = fields[i]!
        const ref: ImageRef = {id, path: typeof path === 'string' ? path : id, fields: only ? {...rest, ...only.get(id)!.fields} : rest}
        if (found === 'twice') {
          refused.push({ref, stage: 'read', reason: again, bad: false})
          continue
        }
        table.push(ref)
        const measures = measuresOf(fields[i]!)
        if (measures) measured.push(measures)
        chosen.push(at + i)
        if (!lies) builder.append(comparable(vectors.slice(i * meta.dim, (i + 1) * meta.dim), meta))
      }
      at += ids.length
    }
  } finally {
    await source.close()
  }
  const lost = missing()
  if (lost.length > 0) throw notThere(options.only!, lost, inputs)
  if (table.length === 0)
    throw new UserError(`There is no row in ${inputs.join(', ')}.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: 'Did the command that writes it fail?'
    })
  const have = new Set<string>()
  if (since) for (let i = 0; i < table.length; i++) have.add(table.at(i)!.id)
  const unknown = [...(since?.keys() ?? [])].filter(id => !have.has(id))
  if (unknown.length > 0) throw notThere(options.since!, unknown, inputs)
  const fixed = since && Uint8Array.from({length: table.length}, (_, i) => (since.has(table.at(i)!.id) ? 1 : 0))
  let rows: MatrixRows = builder.finish()
  let matrix: RowSource = rows
  if (lies) {
    rows = fileRows(inputs[0]!, lies.at, lies.count, lies.dim, {made: block => void comparable(block, meta)})
    matrix = chosen.length === lies.count ? rows : selectRows(rows, Int32Array.from(chosen))
  }
  const features = {kind: 'given' as const, meta, rows, source: matrix}
  return {
    name: inputs.join(', '),
    images: false,
    count: table.length,
    inputs: inputRows,
    refused,
    fixed,
    measures: measured.length === table.length ? measured : undefined,
    ref: row => table.at(row)!,
    async *prepare() {},
    features: () => features,
    close: () => rows.close()
  }
}

/** Another set of images (seeds, a benchmark), with vectors that may be compared with those of a pool. */
export type OtherSet = {
  readonly name: string
  readonly ids: readonly string[]
  readonly vectors: Float32Array /* [n, D] */
}

/**
 * Loads another set: embeddings, or images that are described as the pool's were.
 * Throws `UserError`: nothing there (exit 3), made in another way than the pool's vectors (exit 2).
 */
export async function* openOther(
  name: string,
  inputs: readonly string[],
  {kind, meta}: PoolFeatures,
  maker: FeatureMaker,
  options: Pick<PoolOptions, 'stdin' | 'nul' | 'onRejected' | 'onSkipped' | 'signal'> & {readonly pool: string}
): AsyncGenerator<FeatureEvent, OtherSet> {
  const {vectors: given, stdin} = await kindOf(inputs, options.stdin ?? process.stdin)
  const builder = new MatrixBuilder(meta.dim, Infinity)
  const ids: string[] = []
  const take = (rows: MatrixRows): OtherSet => {
    const vectors = rows.gather(Int32Array.from({length: rows.count}, (_, i) => i))
    return {name, ids, vectors}
  }
  if (given) {
    const source = await openAll(inputs, {stdin, ignoreLength: true})
    try {
      assertSameProvenance({name: options.pool, meta}, source, {ignoreLength: true})
      for await (const {ids: some, vectors} of source.rows) {
        builder.append(comparable(vectors, meta))
        ids.push(...some)
      }
    } finally {
      await source.close()
    }
    if (ids.length === 0)
      throw new UserError(`There is no row in ${inputs.join(', ')}.`, {
        exit: 3,
        code: 'NO_INPUT',
        hint: 'Did the command that writes it fail?'
      })
    return take(builder.finish())
  }
  const wanted: FeatureKind = kind === 'given' ? (isPerceptual(meta) ? 'perceptual' : 'model') : kind
  if (kind === 'given') {
    const own = await maker.meta(wanted) // throws where a model is needed and none was named
    assertSameProvenance({name: options.pool, meta}, {name, meta: own}, {ignoreLength: true})
  }
  const table = new ImageTable()
  const {nul, onSkipped} = options
  for await (const ref of listImages(inputs, {stdin, nul, onSkipped})) table.push(withoutBytes(ref))
  if (table.length === 0) throw noImages(inputs)
  const {features, good} = yield* maker.describe(table, wanted, bad => options.onRejected?.(bad))
  if (good.length === 0 && !options.signal?.aborted)
    throw new UserError(`None of the ${counted(table.length, 'image')} of ${name} can be read.`, {
      exit: 4,
      code: 'ALL_BAD',
      hint: 'Give --bad FILE to see why.'
    })
  for (const i of good) ids.push(table.at(i)!.id)
  const set = take(features.rows)
  features.rows.close()
  return set
}
