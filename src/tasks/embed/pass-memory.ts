/**
 * What a pass without training takes in memory, asked before it begins: a process that takes more than there is is
 * killed by the system without a word. On a GPU the library refuses by itself, which ends in the same status.
 *
 * The numbers are counted from shapes; their factors were measured (peaks of the process, ViT-S, 4,000 to 22,000
 * tokens) and rounded up.
 */
import {UserError} from '../../config/errors.js'
import {MAX_OUTPUT} from '../../data/image/decode.js'
import {decodedSize} from '../../data/image/decoded-size.js'
import {fitGeometry, type Transform} from '../../data/image/geometry.js'
import type {ImageRef} from '../../data/sources/source.js'
import {runningEngine} from '../../engine/start.js'
import type {VitConfig} from '../../model/config.js'
import {bytesInWords, memoryLeft} from '../../system/free-memory.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'

/** Images of one size that pass at once; `layers`: blocks whose outputs are kept. */
export type PassSize = {readonly images: number; readonly height: number; readonly width: number; readonly layers: number}

/** Bytes that a pass holds for each token and channel: the residual stream, and what one block computes of it. */
const BYTES_PER_CHANNEL = {torch: {4: 72, 2: 48}, others: 220} as const
/** Weights of attention that libtorch's kernels hold at once on a processor, twice; the others hold all of them. */
const TORCH_ATTENTION_BYTES = 2 ** 27
/** WebAssembly has addresses of 32 bits. */
const WASM_BYTES = 2 ** 32
/** Share of what is free that a pass may take. */
const SHARE = 0.95

/** Where a pass is computed: `limit` in bytes, by default what is free; undefined where a GPU refuses by itself. */
type Place = {readonly engine: string; readonly limit: number | undefined}

const here = (): Place => {
  const {engine = 'cpu', device = 'cpu'} = runningEngine() ?? {}
  if (device !== 'cpu') return {engine, limit: undefined}
  return {engine, limit: SHARE * Math.min(memoryLeft(), engine === 'wasm' ? WASM_BYTES : Infinity)}
}

/** Bytes that a pass takes at its highest point, beside the weights. */
export function passBytes({patch, width: C, heads}: VitConfig, pass: PassSize, precision: Precision, engine: string): number {
  const {images, height, width, layers} = pass
  const N = Math.ceil(height / patch) * Math.ceil(width / patch) + 1
  const isTorch = engine === 'torch'
  const perChannel = isTorch ? BYTES_PER_CHANNEL.torch[bytesOfNumber(precision)] : BYTES_PER_CHANNEL.others
  const weights = 2 * 4 * images * heads * N * N
  const attention = isTorch ? Math.min(weights, TORCH_ATTENTION_BYTES) : weights
  const pixels = images * height * width * 3 * 9 // as bytes, as numbers, and normalized
  return images * N * C * (perChannel + 4 * (layers - 1)) + attention + pixels
}

/**
 * Throws a `UserError` of status 5 where a pass does not fit into what is free, with what would. `id` names the image
 * where its size is the reason.
 */
export function assertPassFits(
  config: VitConfig,
  pass: PassSize,
  precision: Precision,
  {id, place = here()}: {readonly id?: string; readonly place?: Place} = {}
): void {
  const {engine, limit} = place
  if (limit === undefined) return
  const needed = passBytes(config, pass, precision, engine)
  if (needed <= limit) return
  const {images, height, width} = pass
  const fits = (changed: Partial<PassSize>): boolean => passBytes(config, {...pass, ...changed}, precision, engine) <= limit
  const ways: string[] = []
  let fewer = images
  while (fewer > 1 && !fits({images: fewer})) fewer = Math.floor(fewer / 2)
  if (fewer < images && fits({images: fewer})) ways.push(fewer === 1 ? 'one image at once' : `${fewer} images at once`)
  const short = Math.min(height, width)
  const sides = Array.from({length: Math.max(0, Math.ceil(short / config.patch) - 1)}, (_, i) => short - (i + 1) * config.patch)
  const side = sides.find(own => own > 0 && fits({images: 1, height: (height * own) / short, width: (width * own) / short}))
  if (side !== undefined) ways.push(`images whose short side is ${side} pixels`)
  const square = {images: 1, height: short, width: short}
  if (height !== width && fits(square)) ways.push(`the middle ${short} × ${short} pixels, by a crop`)
  const what =
    images === 1
      ? `${id ?? 'An image'} of ${width} × ${height} pixels needs`
      : `A batch of ${images} images of ${width} × ${height} pixels needs`
  throw new UserError(`${what} about ${bytesInWords(needed)} in this model, and ${bytesInWords(limit)} of memory may be used.`, {
    exit: 5,
    code: 'OUT_OF_MEMORY',
    hint: ways.length > 0 ? `What would fit: ${ways.join('; ')}.` : 'Take a smaller model, or a machine with more memory.'
  })
}

/** Throws a `UserError` of status 5 where weights of so many parameters do not fit into what is free. */
export function assertWeightsFit(
  model: string,
  {parameters, largest}: {readonly parameters: number; readonly largest: number},
  precision: Precision,
  {limit}: Pick<Place, 'limit'> = here()
): void {
  // The largest tensor stands there as read, in float32, while it is cast.
  const needed = parameters * bytesOfNumber(precision) + 2 * 4 * largest
  if (limit === undefined || needed <= limit) return
  const smaller = bytesOfNumber(precision) === 4 && parameters * 2 + 8 * largest <= limit ? '--precision bf16 would fit; or take' : 'Take'
  throw new UserError(
    `${model} has ${(parameters / 1e6).toFixed(1)} million parameters and needs about ${bytesInWords(needed)}, and ${bytesInWords(limit)} of memory may be used.`,
    {exit: 5, code: 'OUT_OF_MEMORY', hint: `${smaller} a smaller model, or a machine with more memory.`}
  )
}

/** Images whose headers are read at most before the work begins. */
const MOST_HEADERS = 10_000

/** What images that are not cropped go through. */
export type UncroppedWork = {
  readonly config: VitConfig
  readonly transform: Transform
  readonly precision: Precision
  /** Blocks whose outputs are kept. */
  readonly layers: number
  /** Images of one size that pass at once. */
  readonly batch: number
  readonly place?: Place
}

/**
 * Reads the headers of images that are not cropped, and throws as `assertPassFits` for the first that does not fit:
 * before one is computed. Images that cannot be read are left to the decoder, which says why.
 */
export async function assertImagesFit(refs: AsyncIterable<ImageRef>, work: UncroppedWork): Promise<void> {
  const {config, transform, precision, layers, batch, place} = work
  let seen = 0
  let alike = 0
  let last = ''
  for await (const ref of refs) {
    if (seen++ >= MOST_HEADERS) return
    const size = await decodedSize(ref)
    if (size === undefined) continue
    const {height, width} = fitGeometry(size.width, size.height, transform).window
    if (height * width > MAX_OUTPUT) continue
    alike = last === `${width} ${height}` ? Math.min(batch, alike + 1) : 1
    last = `${width} ${height}`
    assertPassFits(config, {images: alike, height, width, layers}, precision, {id: ref.id, place})
  }
}
