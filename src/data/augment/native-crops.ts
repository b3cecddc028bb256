/**
 * Resizing and augmenting in native code: a small addon without libtorch (`native/pixels`). The packed package brings
 * it compiled for Linux on x86-64; elsewhere it is compiled once where there is a C++ compiler.
 *
 * It gives the same bytes as the TypeScript references (`data/image/resample.ts`, `multi-crop.ts`), which is tested,
 * and looked at once more before it is used; so whether it is there is a question of speed alone, and a run may be
 * stopped on a machine that has it and go on where it is missing.
 */
import {existsSync} from 'node:fs'
import {createRequire} from 'node:module'
import {
  compileAddon,
  compiledAddon,
  nodeFlags,
  noteOnStderr,
  prebuildAddon,
  prebuiltAddon,
  sharedFlags,
  type Note,
  type Recipe
} from '../../system/compile.js'
import {UserError} from '../../config/errors.js'
import {rng} from '../../tensor/random.js'
import {makeView} from './multi-crop.js'
import {gaussianKernel} from './color.js'
import {SOLARIZE_FROM, type ColourChange, type ViewPlan} from './crop-params.js'
import {resample, type Box, type Raster, type Size} from '../image/resample.js'

/** What the addon exports; the layouts of `plan` and `geometry` stand in native/pixels/addon.cc. */
type Addon = {
  views(image: Uint8Array, plan: Float64Array, out: Uint8Array): void
  resize(image: Uint8Array, geometry: Float64Array, out: Uint8Array): void
}

/**
 * The native functions, in one thread. Both raise RangeError where sizes, places or lengths do not fit one another.
 */
export type NativePixels = {
  /** As `makeView` for each plan, one after the other into `out`. */
  views(image: Raster, plans: readonly ViewPlan[], out: Uint8Array): void
  /** As `resample`. */
  resize(image: Raster, size: Size, options?: {readonly view?: Box; readonly window?: Box; readonly flip?: boolean}): Uint8Array
}

const FIELDS = 22
const CODES: Readonly<Record<ColourChange['kind'], number>> = {brightness: 1, contrast: 2, saturation: 3, hue: 4, grey: 5}
const TAPS = 9

/** Writes a plan down as numbers. */
function record({size, box, flip, changes, blur, solarize}: ViewPlan, to: Float64Array): void {
  to.set([size, box.x, box.y, box.width, box.height, flip ? 1 : 0])
  if (changes.length > 5) throw new RangeError(`Expected at most 5 changes of colour but received ${changes.length}.`)
  for (const [i, change] of changes.entries()) {
    const code = CODES[change.kind]
    to[6 + i] = code
    if (change.kind === 'hue') to[14] = Math.trunc(change.turn * 255) & 255
    else if (change.kind !== 'grey') to[10 + code] = change.factor
  }
  if (blur !== undefined) {
    const middle = gaussianKernel(TAPS, blur).subarray((TAPS - 1) / 2)
    to[15] = middle[1]! < 1e-7 ? 0 : 1 // so narrow that no byte moves
    to.set(middle, 16)
  }
  to[21] = solarize ? SOLARIZE_FROM : 256
}

/** Loads a compiled addon into this thread. */
export function loadNative(path: string): NativePixels {
  const addon = createRequire(import.meta.url)(path) as Addon
  return {
    views({width, height, data}, plans, out) {
      const numbers = new Float64Array(2 + plans.length * FIELDS)
      numbers.set([width, height])
      for (const [i, plan] of plans.entries()) record(plan, numbers.subarray(2 + i * FIELDS, 2 + (i + 1) * FIELDS))
      addon.views(data, numbers, out)
    },
    resize({width, height, data}, size, {view, window, flip} = {}) {
      const part = view ?? {x: 0, y: 0, width, height}
      const shown = window ?? {x: 0, y: 0, ...size}
      const out = new Uint8Array(shown.width * shown.height * 3)
      const boxes = [part.x, part.y, part.width, part.height, size.width, size.height, shown.x, shown.y, shown.width, shown.height]
      addon.resize(data, Float64Array.of(width, height, ...boxes, flip ? 1 : 0), out)
      return out
    }
  }
}

/**
 * How the addon is compiled. Without contraction: a fused multiply-add rounds once where the reference rounds twice.
 */
function recipe(): Recipe {
  return {
    what: 'the image code',
    folder: 'native/pixels',
    tag: `pixels-${process.platform}-${process.arch}`,
    compile: [...nodeFlags(), '-fno-fast-math', '-ffp-contract=off', '-fno-trapping-math', '-Wno-psabi'],
    link: sharedFlags(),
    starting: 'compiling the code that cuts and colours images (once, a few seconds)',
    hint: 'expected g++ 11 or newer'
  }
}

/** Whether the addon does on a small picture what the references do, all changes of colour included. */
function agrees(native: NativePixels): boolean {
  const random = rng(1, 'native')
  const image: Raster = {width: 23, height: 31, data: Uint8Array.from({length: 23 * 31 * 3}, () => random.int(256))}
  const changes: ColourChange[] = [
    {kind: 'saturation', factor: 1.17},
    {kind: 'hue', turn: 0.07},
    {kind: 'contrast', factor: 0.71},
    {kind: 'brightness', factor: 1.31}
  ]
  const plan: ViewPlan = {size: 18, box: {x: 2, y: 1, width: 20, height: 27}, flip: true, changes, blur: 0.83, solarize: true}
  const [ours, theirs] = [new Uint8Array(18 * 18 * 3), new Uint8Array(18 * 18 * 3)]
  makeView(image, plan, ours)
  native.views(image, [plan], theirs)
  const size = {width: 9, height: 40}
  return Buffer.compare(ours, theirs) === 0 && Buffer.compare(resample(image, size), native.resize(image, size)) === 0
}

const SLOWER = 'images are cut and coloured in JavaScript, several times slower'

/** An addon that can be loaded and agrees, or a sentence that says why it is not used. */
function checked(path: string): {path: string} | {why: string} {
  try {
    return agrees(loadNative(path))
      ? {path}
      : {why: `the compiled image code does not give the expected bytes; ${SLOWER}. Another compiler may be named with CXX`}
  } catch (error) {
    return {why: `the compiled image code cannot be loaded (${(error as Error).message.split('\n', 1)[0]}); ${SLOWER}`}
  }
}

/** The addon that came with the package, where it loads here and is right. */
function prebuilt(): {path: string} | undefined {
  const path = prebuiltAddon(recipe())
  if (!existsSync(path)) return undefined
  const found = checked(path)
  return 'path' in found ? found : undefined
}

/** Compiles the addon for the package that is packed, or into another folder; → its path. */
export const prebuildNative = (folder?: string): Promise<string> => prebuildAddon(recipe(), folder)

let known: {path: string} | {why: string} | undefined
let underWay: Promise<string | undefined> | undefined

/** The compiled addon, if there is one already and it is right: for work that is not worth a compilation. */
export function builtNative(): string | undefined {
  known ??= prebuilt()
  if (!known) {
    const path = compiledAddon(recipe())
    if (path === null) return undefined
    known = checked(path)
  }
  return 'path' in known ? known.path : undefined
}

/**
 * The compiled addon, compiled now where it is missing; undefined, after one sentence to `note`, where it cannot be
 * had.
 */
export function readyNative(note: Note = noteOnStderr): Promise<string | undefined> {
  underWay ??= (async () => {
    try {
      known ??= prebuilt() ?? checked(await compileAddon(recipe(), note))
    } catch (error) {
      if (!(error instanceof UserError) && (error as NodeJS.ErrnoException).code === undefined) throw error
      const {message, hint} = error as UserError
      known = {why: `${message.split('\n', 1)[0]!.replace(/\.$/, '')}; ${SLOWER}.${hint ? ` To mend it: ${hint}` : ''}`}
    }
    if ('path' in known) return known.path
    note(known.why)
    return undefined
  })()
  return underWay
}
