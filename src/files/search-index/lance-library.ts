/**
 * The optional package `@lancedb/lancedb`: the part of it that is used, loading it, and what it says as sentences. The
 * one file that touches it.
 *
 * It and its copy of Apache Arrow are loaded by `require`, because it only takes tables made by the very copy that it
 * sees itself.
 */
import {stat} from 'node:fs/promises'
import {createRequire} from 'node:module'
import {constants} from 'node:os'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {writeError} from '../../system/write-error.js'

export type Arrow = typeof import('apache-arrow')
export type Batch = import('apache-arrow').RecordBatch

/** The part of the library that is used here; its own types need not be installed to build this program. */
export type Query = AsyncIterable<Batch> & {
  select(columns: string[]): Query
  where(predicate: string): Query
  limit(n: number): Query
  distanceType(metric: LanceMetric): Query
  nprobes(n: number): Query
  refineFactor(n: number): Query
  bypassVectorIndex(): Query
}
export type LanceMetric = 'l2' | 'dot'
export type LanceRows = {
  add(table: object): Promise<unknown>
  delete(predicate: string): Promise<{numDeletedRows: number}>
  countRows(): Promise<number>
  schema(): Promise<{readonly metadata: ReadonlyMap<string, string>}>
  query(): Query
  vectorSearch(vector: Float32Array): Query
  createIndex(column: string, options: {config: object; replace?: boolean; name?: string}): Promise<void>
  dropIndex(name: string): Promise<void>
  listIndices(): Promise<{name: string}[]>
  optimize(options: {cleanupOlderThan: Date}): Promise<unknown>
  version(): Promise<number>
  checkout(version: number): Promise<void>
  checkoutLatest(): Promise<void>
  restore(): Promise<void>
  close(): void
}
export type Connection = {
  tableNames(): Promise<string[]>
  openTable(name: string): Promise<LanceRows>
  createEmptyTable(name: string, schema: object, options: {mode: 'create' | 'overwrite'}): Promise<LanceRows>
  createTable(name: string, rows: object[], options: {mode: 'overwrite'}): Promise<LanceRows>
  close(): void
}
export type Library = {
  readonly lance: {
    connect(place: string, options: object): Promise<Connection>
    readonly Session: new (indexBytes: bigint, metadataBytes: bigint) => object
    readonly Index: {ivfPq(options: object): object; btree(): object}
  }
  readonly arrow: Arrow
}

/** Whether a name is an address (`s3://bucket/photos`) and not a path. */
export const isAddress = (place: string): boolean => /^[a-z][a-z0-9+.-]+:\/\//i.test(place)

/** Whether there is, or by its name could be, an index of this kind. */
export async function isLance(place: string): Promise<boolean> {
  return isAddress(place) || ((await stat(join(place, 'about.lance')).catch(() => undefined))?.isDirectory() ?? false)
}

const libraryName = '@lancedb/lancedb'

/** The library. Throws `UserError` (exit 5) where it is not installed or does not load. */
export function loadLibrary(from: string = import.meta.url): Library {
  process.env['LANCEDB_LOG'] ??= 'error' // or it tells on stderr of tables that it makes
  try {
    const require = createRequire(from)
    const lance = require(libraryName) as Library['lance']
    return {lance, arrow: createRequire(require.resolve(libraryName))('apache-arrow') as Arrow}
  } catch (cause) {
    const absent = (cause as {code?: string}).code === 'MODULE_NOT_FOUND'
    throw new UserError(
      absent
        ? `The optional package ${libraryName}, by which this kind of index is written and searched, is not installed.`
        : `The optional package ${libraryName} does not load: ${(cause as Error).message.split('\n')[0]}`,
      {
        exit: 5,
        code: 'NO_LANCE',
        hint: `Install it with npm install ${libraryName} (with -g where dinov2 is installed with -g), or make an index in one file: dinov2 index without --backend lance.`,
        cause
      }
    )
  }
}

/** What the system said to the library, by its name: that a file cannot grow, or that too many are open. */
function systemCode(said: string): string | undefined {
  const number = Number(/\(os error (\d+)\)/.exec(said)?.[1])
  return (['ENOSPC', 'EDQUOT', 'EFBIG', 'EMFILE', 'ENFILE'] as const).find(name => constants.errno[name] === number)
}

/** What the library says, as a sentence. */
export function lanceError(place: string, doing: string, cause: unknown): unknown {
  if (cause instanceof UserError || (cause as {name?: string}).name === 'AbortError') return cause
  const said = String((cause as Error).message ?? cause)
  const code = systemCode(said)
  if (code !== undefined && !isAddress(place))
    return writeError(place, Object.assign(new Error(`${place}: ${said.split('\n')[0]}`, {cause}), {code}))
  const message = said.split(/\n|, \/|(?<!\s)\s+Caused by/)[0]!.trim()
  return new UserError(`${place} could not be ${doing}: ${message.replace(/\.$/, '')}.`, {
    code: 'LANCE',
    hint: isAddress(place) ? 'Check the address, and the access keys in the environment.' : 'Check the folder and the room on its disk.',
    cause
  })
}

/** Memory that the library may keep of lists and of what it knows of files. */
const [listBytes, metadataBytes] = [1n << 30n, 1n << 28n]

export const connect = ({lance}: Library, place: string): Promise<Connection> =>
  lance.connect(place, {session: new lance.Session(listBytes, metadataBytes)})
