/** A pool of images, whose features are computed when they are needed. */
import type {Readable} from 'node:stream'
import {counted} from '../../config/counted.js'
import {UserError} from '../../config/errors.js'
import {selectRows} from '../../curate/rows.js'
import type {RejectedImage} from '../../data/sources/image-ref.js'
import type {Measures} from '../../data/loader/measure-images.js'
import {ImageTable} from '../../data/sources/image-table.js'
import {listImages, noImages, type ImageRef} from '../../data/sources/source.js'
import type {FeatureEvent, FeatureKind, FeatureMaker} from './features.js'
import type {Pool, PoolOptions, PoolVectors, RefusedRow} from './pool.js'
import {assertNoneMissing, noneListed, REPEATED_ID, RowGate, withoutBytes, type PoolLists} from './pool-inputs.js'

type ImagePoolOptions = PoolOptions & {readonly stdin: Readable}

type ListedImages = {readonly table: ImageTable; readonly refused: RefusedRow[]; readonly inputs: number}

/** Lists the images, first those of `since`, in its order. Throws `UserError` (exit 2 or 3). */
async function listPool(options: ImagePoolOptions, {only, since}: PoolLists): Promise<ListedImages> {
  const {inputs: names, stdin, nul, onSkipped, signal} = options
  const table = new ImageTable()
  const refused: RefusedRow[] = []
  const gate = new RowGate(only)
  const kept = new Set<string>() // ids of `since` that the input has not shown yet
  for (const ref of since?.values() ?? [])
    if (gate.admit(ref.id) === 'new') {
      table.push(ref)
      kept.add(ref.id)
    }
  let inputs = 0
  for await (const ref of listImages(names, {stdin, nul, onSkipped})) {
    signal?.throwIfAborted()
    if (kept.delete(ref.id)) {
      inputs++
      continue // the table has it already
    }
    const admission = gate.admit(ref.id)
    if (admission === 'unlisted') continue
    inputs++
    if (admission === 'new') table.push({...ref, fields: gate.fields(ref)})
    else refused.push({ref: withoutBytes(ref), stage: 'read', reason: REPEATED_ID, unreadable: false})
  }
  if (table.length === 0) throw options.only === undefined ? noImages(names) : noneListed(options.only, names)
  assertNoneMissing(options.only, gate.missing(), names)
  return {table, refused, inputs: inputs + kept.size}
}

/** Opens a pool of images. Throws `UserError`: no image (exit 3), ids of `only` that are not there (exit 2). */
export async function openImagePool(options: ImagePoolOptions, maker: FeatureMaker, lists: PoolLists): Promise<Pool> {
  return new ImagePool(await listPool(options, lists), options, maker, lists.since)
}

class ImagePool implements Pool {
  readonly name: string
  readonly images = true
  readonly refused: RefusedRow[]
  readonly inputs: number
  readonly #table: ImageTable
  readonly #options: PoolOptions
  readonly #maker: FeatureMaker
  readonly #since: PoolLists['since']
  readonly #features = new Map<FeatureKind, PoolVectors>()
  /** Where each row stands in the table; shorter where images could not be read. */
  #places: Int32Array
  #measures: readonly Measures[] | undefined
  #fixed: Uint8Array | undefined

  constructor({table, refused, inputs}: ListedImages, options: PoolOptions, maker: FeatureMaker, since: PoolLists['since']) {
    this.name = options.inputs.join(', ')
    this.refused = refused
    this.inputs = inputs
    this.#table = table
    this.#options = options
    this.#maker = maker
    this.#since = since
    this.#places = Int32Array.from({length: table.length}, (_, i) => i)
    this.#setFixed()
  }

  get count(): number {
    return this.#places.length
  }

  get fixed(): Uint8Array | undefined {
    return this.#fixed
  }

  get measures(): readonly Measures[] | undefined {
    return this.#measures
  }

  ref(row: number): ImageRef {
    return this.#table.at(this.#places[row]!)!
  }

  async *prepare(kinds: readonly FeatureKind[]): AsyncGenerator<FeatureEvent> {
    const {onRejected, signal} = this.#options
    for (const kind of kinds) {
      if (this.#features.has(kind)) continue
      const reasons = new Map<string, RejectedImage>()
      const list = {length: this.count, at: (row: number) => this.ref(row)}
      const {features, good, measures} = yield* this.#maker.describe(list, kind, bad => {
        reasons.set(bad.id, bad)
        onRejected?.(bad)
      })
      if (signal?.aborted) return
      if (good.length < this.count) this.#keepOnly(good, reasons)
      this.#features.set(kind, {...features, source: features.rows})
      if (measures) this.#measures = measures
    }
    if (this.count === 0) throw this.#noneReadable()
  }

  /** Refuses the rows that could not be read, also in the features that were computed before. */
  #keepOnly(good: Int32Array, reasons: ReadonlyMap<string, RejectedImage>): void {
    const stays = new Set(good)
    for (let row = 0; row < this.count; row++)
      if (!stays.has(row)) {
        const ref = this.ref(row)
        this.refused.push({ref, stage: 'read', reason: reasons.get(ref.id)?.reason ?? 'it cannot be read', unreadable: true})
      }
    for (const [kind, vectors] of this.#features) this.#features.set(kind, {...vectors, source: selectRows(vectors.source, good)})
    const [measures, places] = [this.#measures, this.#places]
    if (measures) this.#measures = Array.from(good, row => measures[row]!)
    this.#places = Int32Array.from(good, row => places[row]!)
    this.#setFixed()
  }

  #setFixed(): void {
    const since = this.#since
    this.#fixed = since && Uint8Array.from({length: this.count}, (_, row) => (since.has(this.ref(row).id) ? 1 : 0))
  }

  #noneReadable(): UserError {
    const table = this.#table
    const first = this.refused.find(({unreadable}) => unreadable)
    return new UserError(
      `None of the ${counted(table.length, 'image')} can be read; the first, ${table.at(0)!.id}: ${first?.reason ?? ''}.`,
      {exit: 4, code: 'ALL_BAD'}
    )
  }

  features(kind: FeatureKind = 'perceptual'): PoolVectors {
    const vectors = this.#features.get(kind)
    if (!vectors) throw new Error(`The features ${kind} were not prepared.`)
    return vectors
  }

  close(): void {
    for (const {rows} of this.#features.values()) rows.close()
  }
}
