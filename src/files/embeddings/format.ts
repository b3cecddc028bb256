/**
 * What an embedding format is: how it is known, read, written and continued. One file of this folder exports one
 * such value; `formats.ts` lists them.
 */
import type {FileHandle} from 'node:fs/promises'
import type {ByteReader, Sink} from './bytes.js'
import type {TableColumns} from './columns.js'
import type {TableCheck} from './content-check.js'
import type {EmbeddingMeta} from './provenance.js'
import type {EmbeddingBatch, NamedRow} from './rows.js'

/** Where rows are read from. */
export type Source = {
  /** How sentences call it. */
  readonly name: string
  /** The bytes, of which none is taken yet. */
  readonly bytes: ByteReader
  /** The file, where there is one that can be read at any place, and its size. */
  readonly path?: string
  readonly size?: number
}

/** An opened source. */
export type OpenedRows = {
  readonly meta: EmbeddingMeta
  /** How many rows, where the format says so in advance. */
  readonly count?: number
  /** Of CSV: whether its texts carry a quote where a spreadsheet would take them for formulas. */
  readonly csvSafe?: boolean
  readonly rows: AsyncGenerator<EmbeddingBatch>
  /** Lets go of what the format opened itself. */
  close?(): Promise<void>
}

/** Writes rows behind those that are there; `finish` writes the end. */
export type EmbeddingWriter = {write(batch: EmbeddingBatch): Promise<void>; finish(): Promise<void>}

/** What an interrupted run left: whole rows, where they end, and where the rows of each side file end. */
export type Recovered = {
  readonly rows: number
  readonly end: number
  readonly sideEnds: readonly number[]
  readonly meta: EmbeddingMeta
  readonly table?: TableColumns
  /** Of a text table with its record beside it: what its rows sum up to, and how many rows have late fields. */
  readonly check?: TableCheck
  readonly lateRows?: number
  /** The schema message of an Arrow stream, as it stands there. */
  readonly schema?: Uint8Array
}

/**
 * A file that grows beside the output: under `partial` while it grows, under `final` afterwards (or removed).
 * `optional`: it is removed where nothing was written to it.
 */
export type SideFile = {readonly partial: string; readonly final?: string; readonly optional?: boolean}

/**
 * Where a writer writes: what is appended to, and for outputs that can be continued the file itself and its side
 * files.
 */
export type Target = {readonly sink: Sink; readonly file?: FileHandle; readonly sides: readonly FileHandle[]}

/** Paths of an interrupted output. */
export type PartialFiles = {readonly partial: string; readonly sides: readonly SideFile[]}

export type Format<Name extends string = string> = {
  readonly name: Name
  /** Endings of file names, with their dots. */
  readonly endings: readonly string[]
  /** What it is, for help and documentation. */
  readonly title: string
  /** Whether it can be written from front to back, and so to a pipe. */
  readonly streams: boolean
  /** Whether bytes in it are no text, and so not for a terminal. */
  readonly binary: boolean
  /** Whether a file begins so. */
  begins(head: Buffer): boolean
  /** Opens a source. Throws `UserError` where it is damaged or holds no vectors. */
  open(source: Source): Promise<OpenedRows>
  /** Begins to write, or goes on behind what was recovered. */
  write(target: Target, meta: EmbeddingMeta, begun?: Recovered): Promise<EmbeddingWriter>
  /** Files beside the output. */
  sideFiles?(target: string): readonly SideFile[]
  /** Ids and fields of an interrupted output, where they stand in a side file. */
  listedRows?(files: PartialFiles): AsyncGenerator<NamedRow>
  /**
   * Finds what of an interrupted output is whole, in batches of `batch` rows; undefined when nothing is. Absent
   * where an output cannot be continued.
   */
  recover?(files: PartialFiles, options: {readonly meta: EmbeddingMeta; readonly batch: number}): Promise<Recovered | undefined>
}
