/**
 * Kernels of libtorch that are held against the plain form on small numbers before they are trusted.
 *
 * They belong to a device, its driver and a version of libtorch, none of which were here when this was written. The
 * verdict is kept in the cache folder, so that each is asked for once; one that does not agree is left out, which is
 * said. A kernel that is not there at all is left out without a word.
 */
import {noteOnStderr} from '../../system/compile.js'
import {isObject} from '../../system/json.js'
import {keepAnswers, readKeptAnswers} from '../../system/kept-answers.js'

export type KernelVerdict = {
  /** `flash attention (bf16, heads of 64)`. */
  readonly kernel: string
  readonly serves: boolean
  /** Largest difference over the largest entry, `NaN` where one is no number; null where it does not run here. */
  readonly error: number | 'NaN' | null
}

const FILE = 'kernels.json'

/** What has been kept, by device; nothing where the file is absent or damaged. */
function readVerdicts(): Record<string, KernelVerdict[]> {
  const whole = (one: unknown): one is KernelVerdict =>
    isObject(one) && typeof one['kernel'] === 'string' && typeof one['serves'] === 'boolean' && 'error' in one
  return Object.fromEntries(
    Object.entries(readKeptAnswers(FILE)).map(([where, list]) => [where, Array.isArray(list) ? list.filter(whole) : []])
  )
}

/** A device with its driver and a libtorch, by which verdicts are kept. */
export const placeOf = (device: {readonly title: string; readonly driver?: string | undefined}, torch: string): string =>
  [device.title, device.driver && `driver ${device.driver}`, `libtorch ${torch}`].filter(Boolean).join(', ')

let place: string | undefined
const verdicts = new Map<string, KernelVerdict>()

/** To be called when the device changes: where the verdicts hold. Undefined keeps nothing beyond the process. */
export function checkKernelsOn(where: string | undefined): void {
  place = where
  verdicts.clear()
  for (const verdict of (where && readVerdicts()[where]) || []) verdicts.set(verdict.kernel, verdict)
}

/** Adds a verdict to the file; what cannot be written is asked for again by the next process. */
function keepVerdict(verdict: KernelVerdict): void {
  if (!place) return
  const all = readVerdicts()
  keepAnswers(FILE, {...all, [place]: [...(all[place] ?? []).filter(({kernel}) => kernel !== verdict.kernel), verdict]})
}

/**
 * Whether a kernel agrees with its reference here. `measure` runs both and returns the largest difference over the
 * largest entry; it may throw where there is no such kernel.
 */
export function agrees({name, of, limit}: {name: string; of: string; limit: number}, measure: () => number): boolean {
  const kernel = `${name} (${of})`
  const known = verdicts.get(kernel)
  if (known) return known.serves
  let error: number | null = null
  try {
    error = measure()
  } catch (failure) {
    if ((failure as {code?: unknown}).code === 'OUT_OF_MEMORY') throw failure
  }
  const serves = error !== null && error <= limit
  const verdict: KernelVerdict = {kernel, serves, error: Number.isNaN(error) ? 'NaN' : error}
  verdicts.set(kernel, verdict)
  keepVerdict(verdict)
  if (!serves && error !== null)
    noteOnStderr(`${kernel} of libtorch is left out: it is off by ${error} of the largest entry, at most ${limit} is allowed`)
  return serves
}

/** The verdicts on a device as sentences for `engine list`. */
export const verdictLines = (place: string): string[] =>
  readVerdicts()[place]?.map(({kernel, serves, error}) => {
    const off = typeof error === 'number' ? error.toPrecision(2) : error
    if (serves) return `${kernel} is used: it agrees to ${off} of the largest entry`
    return error === null
      ? `${kernel} is not in this libtorch for this device`
      : `${kernel} is left out: it is off by ${off} of the largest entry`
  }) ?? []
