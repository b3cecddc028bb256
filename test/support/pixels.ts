/** Reads what `make_fixtures.py` recorded: small drawn images and what Pillow and torchvision made of them. */
import {readFileSync} from 'node:fs'
import type {Raster} from '../../src/data/image/resample.js'

type Spot = {readonly at: number; readonly width: number; readonly height: number}

export type Case = {
  readonly op: string
  readonly source: Spot
  readonly result: Spot
  readonly factor?: number
  readonly box?: readonly [number, number, number, number]
  readonly flip?: boolean
  readonly resize?: number
  readonly crop?: number
}

// Tests run from dist/test/data; what was recorded stays beside the source.
const folder = new URL('../../../test/data/', import.meta.url)
const blob = new Uint8Array(readFileSync(new URL('pixels.bin', folder)))
const reported = JSON.parse(readFileSync(new URL('pixels.json', folder), 'utf8')) as {
  cases: Case[]
  ladders: {count: number; values: number[]}[]
}

export const {cases, ladders} = reported

/** A recorded image; a fresh copy each time, since colour works in place. */
export const raster = ({at, width, height}: Spot): Raster => ({width, height, data: blob.slice(at, at + width * height * 3)})

/** Mean and largest difference of two byte arrays. */
export function difference(a: Uint8Array, b: Uint8Array): {mean: number; most: number; unequal: number} {
  if (a.length !== b.length) throw new Error(`lengths differ: ${a.length} and ${b.length}`)
  let [sum, most, unequal] = [0, 0, 0]
  for (let i = 0; i < a.length; i++) {
    const d = Math.abs(a[i]! - b[i]!)
    sum += d
    most = Math.max(most, d)
    if (d) unequal++
  }
  return {mean: sum / a.length, most, unequal}
}
