/**
 * The safetensors format, read and written piece by piece.
 *
 * A file is: the length of the header (8 bytes, little-endian), the header in JSON (name → type, shape, first and last
 * byte; `__metadata__` maps strings to strings), the bytes of all tensors without gaps. The reader checks all of that
 * before it hands out anything; the writer streams one tensor at a time and gives the same bytes for the same tensors,
 * in whatever order they come: larger element types first, then names by bytes, as the reference library lays them
 * out; the header padded with spaces to a multiple of 8. What it wrote carries checksums, which the reader compares
 * tensor by tensor (`safetensors-check.ts`).
 */
import {openAtomic, type AtomicOptions} from '../../system/atomic.js'
import {UserError} from '../../config/errors.js'
import {isObject, parseJsonObject, type JsonObject} from '../../system/json.js'
import {openReader, type FileReader} from '../../system/file-reader.js'
import {crc32} from '../../system/crc32.js'
import {CHECK_NAME, checksOf, emptyCheck, withChecks} from './safetensors-check.js'
import {elements, isDType, itemSize, tensorEntry, type DType, type TensorEntry} from './tensor-entry.js'

const MENDED = `Fetch or save it again. If another program changed it on purpose, remove ${CHECK_NAME} from its metadata.`

/** Headers longer than this are refused, as the reference library does. */
const MAX_HEADER = 100_000_000

export type SafetensorsFile = {
  readonly path: string
  readonly metadata: Readonly<Record<string, string>>
  /** The checksums of all tensors in one text, where this tool wrote the file. */
  readonly sums: string | undefined
  /** In the order of their bytes in the file. */
  readonly tensors: Map<string, TensorEntry>
  close(): Promise<void>
}

type Broken = (what: string, hint?: string) => UserError

/** The header of a file as text and as JSON, and where the bytes of the tensors begin. */
async function readHeader(file: FileReader, broken: Broken): Promise<{text: string; header: JsonObject; start: number}> {
  if (file.size < 8) throw broken(`it has ${file.size} bytes, less than the 8 of the header's length`)
  const head = await file.read(0, 8)
  const length = Number(new DataView(head.buffer).getBigUint64(0, true))
  const isZip = head[0] === 0x50 && head[1] === 0x4b && head[2] === 3 && head[3] === 4 // two bytes alone may be a length
  if (isZip) throw broken('it is a zip archive', 'If it was saved by torch.save, give it the ending .pth.')
  if (length > MAX_HEADER) throw broken(`its header claims ${length} bytes, more than the ${MAX_HEADER} allowed`)
  if (length < 2 || length > file.size - 8)
    throw broken(`its header claims ${length} bytes, but ${file.size - 8} follow; it is truncated or something else`)
  const raw = await file.read(8, length)
  if (raw[0] !== 0x7b) throw broken('its header does not begin with {')
  let text: string
  try {
    text = new TextDecoder('utf-8', {fatal: true}).decode(raw)
  } catch {
    throw broken('its header is not UTF-8')
  }
  let header: JsonObject
  try {
    header = parseJsonObject(text)
  } catch (error) {
    throw broken(`its header is not JSON (${error instanceof Error ? error.message : String(error)})`)
  }
  return {text, header, start: 8 + length}
}

/**
 * Opens a file and checks its header. Throws `UserError` with a sentence for every defect; no bytes of tensors are
 * read yet.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const file = await openReader(path)
  const broken: Broken = (what, hint = 'Fetch or save it again.') =>
    new UserError(`${path} is not a good safetensors file: ${what}.`, {code: 'BAD_CHECKPOINT', hint})
  try {
    const {text, header, start} = await readHeader(file, broken)
    let metadata: Record<string, string> = {}
    const found: {name: string; dtype: DType; shape: number[]; begin: number; end: number}[] = []
    for (const [name, entry] of Object.entries(header)) {
      if (!isObject(entry)) throw broken(`the entry of ${name} is not an object`)
      if (name === '__metadata__') {
        for (const [key, value] of Object.entries(entry)) if (typeof value !== 'string') throw broken(`the metadata ${key} is not a string`)
        metadata = {...(entry as Record<string, string>)}
        continue
      }
      const {dtype, shape, data_offsets: offsets} = entry
      if (!isDType(dtype))
        throw broken(
          `the type of ${name} is ${JSON.stringify(dtype)}, and this tool reads ${Object.keys(itemSize).join(', ')}`,
          'Convert it to float32 where it was made.'
        )
      if (!isLengths(shape)) throw broken(`the shape of ${name} is ${JSON.stringify(shape)}, not a list of counts`)
      if (!isLengths(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!)
        throw broken(`the offsets of ${name} are ${JSON.stringify(offsets)}, not first and last byte`)
      const [begin, end] = offsets as [number, number]
      const bytes = elements(shape) * itemSize[dtype]
      if (end - begin !== bytes)
        throw broken(`${name} is ${dtype} [${shape.join(', ')}], which takes ${bytes} bytes, but ${end - begin} are set aside`)
      found.push({name, dtype, shape, begin, end})
    }

    found.sort((a, b) => a.begin - b.begin || a.end - b.end)
    let at = 0
    for (const {name, begin, end} of found) {
      if (begin < at) throw broken(`${name} begins at byte ${begin} of the data, inside the tensor before it`)
      if (begin > at) throw broken(`${begin - at} bytes before ${name} belong to no tensor`)
      at = end
    }
    const have = file.size - start
    if (at > have) throw broken(`its tensors take ${at} bytes, but ${have} follow the header; it is truncated`)
    if (at < have) throw broken(`${have - at} bytes at its end belong to no tensor`)

    const damaged = (error: unknown, what = ''): unknown =>
      error instanceof RangeError ? broken(`${what}${error.message}`, MENDED) : error
    const checks = (() => {
      try {
        return checksOf(text, metadata, found.length)
      } catch (error) {
        throw damaged(error)
      }
    })()
    const {[CHECK_NAME]: _, ...own} = metadata
    const tensors = new Map<string, TensorEntry>()
    for (const [place, {name, dtype, shape, begin, end}] of found.entries())
      tensors.set(
        name,
        tensorEntry(name, dtype, shape, async () => {
          const bytes = await file.read(start + begin, end - begin)
          try {
            checks?.compare(place, bytes)
          } catch (error) {
            throw damaged(error, `${name} is damaged: `)
          }
          return bytes
        })
      )
    return {path, metadata: checks ? own : metadata, sums: checks && metadata[CHECK_NAME], tensors, close: () => file.close()}
  } catch (error) {
    await file.close()
    throw error
  }
}

const isLengths = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every(length => Number.isSafeInteger(length) && (length as number) >= 0)

/** What has to be known of a tensor before its bytes are there. */
export type TensorSpec = {readonly name: string; readonly dtype: DType; readonly shape: readonly number[]}

/** A file under construction. Every tensor is written once, in any order; then `commit`. */
export type SafetensorsWriter = {
  /** The little-endian, row-major bytes of one tensor; they are on their way to the disk when the promise resolves. */
  write(name: string, bytes: Uint8Array): Promise<void>
  /** Gives the file its name. Throws an `Error` when a tensor is missing, which is a defect of the caller. */
  commit(): Promise<void>
  /** Forgets all; safe after `commit`. */
  abort(): Promise<void>
}

/**
 * Begins a file whose tensors are all known by name, type and shape; `format: pt` is always in its metadata.
 *
 * Throws `UserError` when the output exists and `force` is not given (exit 2).
 */
export async function createSafetensors(
  path: string,
  specs: Iterable<TensorSpec>,
  metadata: Readonly<Record<string, string>> = {},
  options: AtomicOptions = {}
): Promise<SafetensorsWriter> {
  const sorted = [...specs].sort(
    (a, b) => itemSize[b.dtype] - itemSize[a.dtype] || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name))
  )
  const {format: _, [CHECK_NAME]: _old, ...rest} = metadata
  const strings = Object.entries({...rest, [CHECK_NAME]: emptyCheck(sorted.length)}).sort(([a], [b]) => (a < b ? -1 : 1))
  const header: [string, unknown][] = [['__metadata__', Object.fromEntries([['format', 'pt'], ...strings])]]
  const places = new Map<string, {begin: number; bytes: number}>()
  let at = 0
  for (const {name, dtype, shape} of sorted) {
    if (places.has(name)) throw new Error(`The tensor ${name} was given twice for ${path}`)
    const bytes = elements(shape) * itemSize[dtype]
    places.set(name, {begin: at, bytes})
    header.push([name, {dtype, shape, data_offsets: [at, at + bytes]}])
    at += bytes
  }
  const json = JSON.stringify(Object.fromEntries(header))
  const length = Buffer.byteLength(json)
  const start = 8 + Math.ceil(length / 8) * 8
  const sums = new Map(sorted.map(({name}) => [name, 0]))
  /** The first bytes of the file, with the checksums that are known by now. */
  const head = (): Buffer => {
    const bytes = Buffer.alloc(start)
    bytes.writeBigUInt64LE(BigInt(start - 8), 0)
    bytes.write(withChecks(json + ' '.repeat(start - 8 - length), [...sums.values()]), 8)
    return bytes
  }

  const output = await openAtomic(path, options)
  const put = async (bytes: Uint8Array, position: number): Promise<void> => {
    for (let done = 0; done < bytes.byteLength;)
      done += (await output.handle.write(bytes, done, Math.min(bytes.byteLength - done, 1 << 30), position + done)).bytesWritten
  }
  try {
    await put(head(), 0)
  } catch (error) {
    await output.abort()
    throw error
  }
  return {
    async write(name, bytes) {
      const place = places.get(name)
      if (!place) throw new Error(`The tensor ${name} was not announced for ${path}, or was written twice`)
      if (bytes.byteLength !== place.bytes) throw new Error(`Expected ${place.bytes} bytes for ${name} but received ${bytes.byteLength}`)
      sums.set(name, crc32(bytes))
      await put(bytes, start + place.begin)
      places.delete(name)
    },
    async commit() {
      if (places.size) throw new Error(`${path} still lacks ${[...places.keys()].join(', ')}`)
      try {
        await put(head(), 0)
      } catch (error) {
        await output.abort()
        throw error
      }
      await output.commit()
    },
    abort: () => output.abort()
  }
}

/** A tensor and where its bytes come from; every `TensorEntry` is one. */
export type TensorSource = TensorSpec & {read(): Uint8Array | Promise<Uint8Array>}

/**
 * Writes tensors into one file, holding one at a time; whole or not at all. Throws as `createSafetensors`, and what
 * `read` throws.
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<TensorSource>,
  metadata: Readonly<Record<string, string>> = {},
  options: AtomicOptions = {}
): Promise<void> {
  const all = [...tensors]
  const writer = await createSafetensors(path, all, metadata, options)
  try {
    for (const tensor of all) await writer.write(tensor.name, await tensor.read())
    await writer.commit()
  } catch (error) {
    await writer.abort()
    throw error
  }
}
