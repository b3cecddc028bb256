/** The points of the map as the page works with them: arrays of numbers, and rows as they came. */
import {flags, floats, integers} from './base64.js'
import type {SiteData} from './site.js'

export type MapPoints = {
  readonly data: SiteData
  readonly count: number
  readonly x: Float32Array
  readonly y: Float32Array
  readonly label: Int32Array
  readonly cluster: Int32Array
  readonly outlier: Float32Array
  readonly near: Int32Array
  readonly nearness: Float32Array
  /** 1 where there is a small picture. */
  readonly shown: Uint8Array
}

/** Unpacks what data.js holds. */
export function unpack(data: SiteData): MapPoints {
  const places = floats(data.places)
  const count = data.count
  return {
    data,
    count,
    x: Float32Array.from({length: count}, (_, i) => places[2 * i]!),
    y: Float32Array.from({length: count}, (_, i) => places[2 * i + 1]!),
    label: integers(data.label),
    cluster: integers(data.cluster),
    outlier: floats(data.outlier),
    near: integers(data.near.rows),
    nearness: floats(data.near.similarity),
    shown: data.pictures ? flags(data.pictures.shown) : new Uint8Array(count)
  }
}

/** The name of a row. */
export const rowName = ({data}: MapPoints, row: number): string => String(data.rows[row]!['id'])

/** The label of a row in words; undefined where it has none. */
export const labelText = ({data, label}: MapPoints, row: number): string | undefined =>
  label[row]! < 0 ? undefined : data.labels[label[row]!]
