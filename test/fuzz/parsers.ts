/**
 * What is fuzzed: for each parser a way to make whole files, and a way to read one.
 *
 * Reading a whole file gives what is in it as a text; reading a changed one gives a text too, or throws. A new parser
 * is one more entry here.
 */
import {existsSync} from 'node:fs'
import {mkdtemp, readFile, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {PassThrough} from 'node:stream'
import {
  batchOf,
  createEmbeddings,
  formatNames,
  openEmbeddings,
  type EmbeddingFormat,
  type EmbeddingMeta
} from '../../src/files/embeddings/embeddings.js'
import {parseNpyHeader} from '../../src/files/embeddings/npy-header.js'
import {buildIndex} from '../../src/tasks/search/build-index.js'
import {loadIndex} from '../../src/tasks/search/search.js'
import {crc32, crcText} from '../../src/system/crc32.js'
import {fileSink} from '../../src/files/embeddings/bytes.js'
import {open} from 'node:fs/promises'
import {json, lines, moved, npyHeader, numbers, safetensorsHeader, type Mutator} from './structured.js'

export type Parser = {
  readonly name: string
  /** Mutants tried in the test: fewer where each takes long. */
  readonly inputs: number
  /** Whole files to start from. */
  seeds(folder: string): Promise<Buffer[]>
  /** What a file at `path` says. Throws `UserError` where it is refused. */
  read(path: string): Promise<string>
  /** Whether a changed file may be taken for what it is not: texts that are made to be edited. */
  readonly editable?: boolean
  /** Whether most changed files are read all the same, what is wrong in them being counted or named by row. */
  readonly lenient?: boolean
  /** The ending of the file's name, where readers go by it. */
  readonly ending?: string
  /** Where the file lies in its folder, for readers of whole folders; by default one of no matter. */
  readonly file?: string
  /** Whether something that does not go through `node:fs` of this thread reads the file. */
  readonly onDisk?: boolean
  /** Changes that keep the form of the file, tried in turn with blind ones. */
  readonly structured?: readonly Mutator[]
  /** Makes checksums of a changed file right again, so that what lies behind them is reached. */
  seal?(bytes: Buffer): Buffer
}

const D = 4
export const meta: EmbeddingMeta = {
  fingerprint: 'f'.repeat(64),
  architecture: 'ViT 4 wide',
  preprocessing: {crop: 224, resize: 256},
  pooling: 'cls',
  layers: 1,
  normalized: false,
  dim: D,
  precision: 'fp32',
  toolVersion: '0.1.0'
}

const rows = (n: number): Parameters<typeof batchOf>[0] =>
  Array.from({length: n}, (_, i) => ({
    id: `id${i}`,
    vector: Float32Array.from({length: D}, (_x, d) => Math.sin(i * 7 + d)),
    fields: {label: `l${i % 3}`, n: i, ...(i === 5 ? {odd: ['x']} : {})}
  }))

/** The first rows of every file of embeddings here. */
export const batchOfRows = (n: number): ReturnType<typeof batchOf> => batchOf(rows(n))

async function embeddings(folder: string, format: EmbeddingFormat): Promise<Buffer> {
  const path = join(folder, `seed.${format}`)
  const output = await createEmbeddings(path, {meta, format, force: true})
  const all = rows(6)
  await output.write(batchOf(all.slice(0, 4)))
  await output.write(batchOf(all.slice(4)))
  await output.commit()
  return readFile(path)
}

/** As it goes to a pipe: with the record and checksums in the rows. */
async function streamed(format: EmbeddingFormat): Promise<Buffer> {
  const stdout = new PassThrough()
  const parts: Buffer[] = []
  stdout.on('data', (part: Buffer) => parts.push(part))
  const output = await createEmbeddings('-', {meta, format, stdout})
  await output.write(batchOfRows(4))
  await output.write(batchOf(rows(6).slice(4)))
  await output.commit()
  return Buffer.concat(parts)
}

/** Arrays [2, 3] of numbers of other widths and byte orders. */
const otherWidths = (): Buffer[] =>
  (['<f2', '<f8', '>f4', '>f8'] as const).map(descr => {
    const header = `{'descr': '${descr}', 'fortran_order': ${descr === '<f8' ? 'True' : 'False'}, 'shape': (2, 3), }`.padEnd(117) + '\n'
    return Buffer.concat([Buffer.from(`\x93NUMPY\x01\0v\0${header}`, 'latin1'), Buffer.alloc(6 * Number(descr[2]), 0x3c)])
  })

/** Vectors of another program's, without ids. */
function foreignVectors(dtype: 'F16' | 'BF16' | 'F64'): Buffer {
  const bytes = Buffer.alloc(6 * (dtype === 'F64' ? 8 : 2), 0x3c)
  const header = Buffer.from(JSON.stringify({vectors: {dtype, shape: [2, 3], data_offsets: [0, bytes.length]}}))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  return Buffer.concat([length, header, bytes])
}

/** Rows of a file as a text. */
export async function readRows(path: string): Promise<string> {
  const {rows: batches, meta: record} = await openEmbeddings(path)
  let text = `${record.fingerprint} ${record.dim}\n`
  for await (const {ids, vectors, fields} of batches) {
    if (vectors.length !== ids.length * record.dim || fields.length !== ids.length) throw new Error('rows of several lengths')
    text += ids
      .map((id, i) => `${id} ${vectors.subarray(i * record.dim, (i + 1) * record.dim).join()} ${JSON.stringify(fields[i])}`)
      .join('\n')
  }
  return text
}

async function index(folder: string, kind: 'exact' | 'hnsw'): Promise<Buffer> {
  const source = join(folder, 'rows.jsonl')
  await writeFile(
    source,
    rows(40)
      .map(({id, vector}) => JSON.stringify({id, vector: [...vector]}))
      .join('\n')
  )
  const events = buildIndex({sources: [source], kind})
  let step = await events.next()
  while (!step.done) step = await events.next()
  const path = join(folder, `${kind}.index`)
  const handle = await open(path, 'w')
  await step.value.write(fileSink(handle)).finally(() => handle.close())
  return readFile(path)
}

async function searchIndex(path: string): Promise<string> {
  const searcher = await loadIndex(path)
  const found = await searcher.search({ids: ['q'], vectors: new Float32Array(searcher.header.dim).fill(0.5), fields: [{}]}, {k: 50})
  return JSON.stringify(found)
}

const indexParser = (kind: 'exact' | 'hnsw'): Parser => ({
  name: `index-${kind}`,
  inputs: 2000,
  seeds: async folder => [await index(folder, kind)],
  read: searchIndex
})

/** Values of an index's header, behind the length that it then has. */
const indexHeader: Mutator = (bytes, random) => Buffer.concat([bytes.subarray(0, 8), safetensorsHeader(bytes.subarray(8), random)])

/** An index whose checksums are those of what it holds now, as one has that was damaged before it was summed up. */
function sealIndex(bytes: Buffer): Buffer {
  if (bytes.length < 16) return bytes
  const length = Number(bytes.readBigUInt64LE(8))
  if (16 + length > bytes.length) return bytes
  const text = bytes.toString('latin1', 16, 16 + length)
  const rows = Number(/"sections":\{"rows":(\d+)/.exec(text)?.[1] ?? 0)
  const bodyAt = 16 + length + rows + ((64 - (rows % 64)) % 64)
  if (bodyAt > bytes.length) return bytes
  const checks = [crc32(bytes.subarray(16 + length, 16 + length + rows)), crc32(bytes.subarray(bodyAt))].map(crcText)
  const open = text
    .replace(/"checks":\{"rows":"[^"]{8}","body":"[^"]{8}"\}/, `"checks":{"rows":"${checks[0]}","body":"${checks[1]}"}`)
    .replace(/"crc32":"[^"]{8}"(?=\}\s*$)/, '"crc32":"00000000"')
  const own = crcText(crc32(Buffer.from(open, 'latin1')))
  const out = Buffer.from(bytes)
  out.write(open.replace('"crc32":"00000000"', `"crc32":"${own}"`), 16, 'latin1')
  return out
}

const structuredOf: Readonly<Record<EmbeddingFormat, readonly Mutator[]>> = {
  arrow: [numbers, moved],
  parquet: [numbers],
  npy: [npyHeader],
  jsonl: [json, lines],
  csv: [lines],
  safetensors: [safetensorsHeader]
}

export const parsers: readonly Parser[] = [
  ...formatNames.map((format): Parser => ({
    name: format,
    inputs: 2000,
    seeds: async folder => [await embeddings(folder, format)],
    read: readRows,
    structured: structuredOf[format],
    onDisk: format === 'parquet',
    // Text may be cut behind a line, and ids and fields of it edited; an array alone has no checksum.
    editable: format === 'jsonl' || format === 'csv' || format === 'npy'
  })),
  {
    name: 'npy-header',
    inputs: 2000,
    seeds: async folder => [(await embeddings(folder, 'npy')).subarray(0, 128)],
    read: async path => JSON.stringify(parseNpyHeader(await readFile(path), path)),
    structured: [npyHeader],
    editable: true
  },
  {
    name: 'npy-widths',
    inputs: 1000,
    seeds: async () => otherWidths(),
    read: readRows,
    structured: [npyHeader],
    editable: true
  },
  {
    name: 'safetensors-widths',
    inputs: 1000,
    seeds: async () => (['F16', 'BF16', 'F64'] as const).map(foreignVectors),
    read: readRows,
    structured: [safetensorsHeader],
    editable: true // no checksum
  },
  {
    name: 'csv-stream',
    inputs: 1000,
    seeds: async () => [await streamed('csv')],
    read: readRows,
    structured: [lines],
    editable: true
  },
  indexParser('exact'),
  indexParser('hnsw'),
  {...indexParser('exact'), name: 'index-exact-sealed', editable: true, structured: [indexHeader, numbers], seal: sealIndex},
  {...indexParser('hnsw'), name: 'index-hnsw-sealed', editable: true, lenient: true, structured: [indexHeader, numbers], seal: sealIndex}
]

/** In memory where the system has such a folder: making and removing a file on a disk takes longer than reading it. */
const scratch = existsSync('/dev/shm') ? '/dev/shm' : tmpdir()

/** Runs `work` with a folder of its own. */
export async function inFolder<T>(work: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(scratch, 'fuzz-'))
  try {
    return await work(folder)
  } finally {
    await rm(folder, {recursive: true, force: true})
  }
}
