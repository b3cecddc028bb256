/**
 * Whether what a head says of itself can be, part by part: a file may be damaged, or written by another program, and
 * what follows builds tensors and sizes from these values.
 */
import {isCount, isObject} from '../../system/json.js'

export type SpecParts = Readonly<Record<string, (value: unknown) => boolean>>

const isFlag = (value: unknown): boolean => typeof value === 'boolean'
const isLength = (value: unknown): boolean => isCount(value) && value > 0
const isAmount = (value: unknown): boolean => typeof value === 'number' && Number.isFinite(value) && value > 0
const isOneOf =
  (...values: readonly unknown[]) =>
  (value: unknown): boolean =>
    values.includes(value)
const orAbsent =
  (check: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    value === undefined || check(value)
const orNull =
  (check: (value: unknown) => boolean) =>
  (value: unknown): boolean =>
    value === null || check(value)
const listOf =
  (check: (value: unknown) => boolean, least = 1) =>
  (value: unknown): boolean =>
    Array.isArray(value) && value.length >= least && value.every(check)
const recordOf =
  (parts: SpecParts) =>
  (value: unknown): boolean =>
    isObject(value) && Object.entries(parts).every(([name, check]) => check(value[name]))

const blocks = listOf(isCount)

export const classifierParts: SpecParts = {
  kind: isOneOf('linear'),
  pool: isOneOf('cls', 'mean', 'cls+mean'),
  layers: value => isLength(value) || blocks(value),
  normalize: isFlag,
  transform: orAbsent(recordOf({resize: isLength, crop: orAbsent(isLength), patch: orAbsent(isLength), cropBorders: orAbsent(isFlag)})),
  start: isCount,
  length: isLength,
  classes: listOf(value => typeof value === 'string')
}

export const depthParts: SpecParts = {
  dense: recordOf({layers: blocks, cls: isFlag, norm: isFlag}),
  bins: value =>
    recordOf({min: isAmount, max: isAmount, count: isLength, spacing: isOneOf('uniform', 'log')})(value) &&
    (value as {min: number}).min < (value as {max: number}).max,
  size: orAbsent(isLength)
}

const isByte = (value: unknown): boolean => isCount(value) && value < 256

export const segmentParts: SpecParts = {
  kind: isOneOf('linear', 'ms'),
  layers: orNull(blocks),
  size: isLength,
  crop: orNull(isLength),
  stride: orNull(isLength),
  scales: listOf(isAmount),
  flip: isFlag,
  classes: listOf(
    recordOf({
      id: isCount,
      name: value => typeof value === 'string',
      colour: value => listOf(isByte)(value) && (value as readonly unknown[]).length === 3
    })
  ),
  ignored: listOf(isCount, 0)
}

/** The first part that cannot be, with what stands there; undefined where all can be. */
export function impossiblePart(spec: Readonly<Record<string, unknown>>, parts: SpecParts): string | undefined {
  const wrong = Object.entries(parts).find(([name, check]) => !check(spec[name]))
  return wrong && `it says ${(JSON.stringify(spec[wrong[0]]) ?? 'nothing').slice(0, 60)} for ${wrong[0]}, which cannot be`
}
