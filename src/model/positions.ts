/**
 * Resampling of position embeddings to another token grid (docs/spec.md §1.4).
 *
 * Two resamplers exist in the released models. *Offset mode* (models without registers): bicubic with a = −0.75, four
 * taps, borders clamped, no antialiasing, at the explicit scale (grid + 0.1) / M. *Size mode* (register models):
 * antialiased cubic with a = −0.5 and a support widened when shrinking. Both are separable, so each axis is a small
 * matrix, and the gradient is its transpose.
 */
import {constant} from '../tensor/ops/constant.js'
import {concat, matMul, reshape, slice, tidy, transpose} from '../tensor/tf.js'
import type {Tensor2D, Tensor3D} from '../tensor/tf.js'
import type {VitConfig} from './config.js'

/** The cubic convolution kernel (Keys 1981) with parameter a. */
function cubic(x: number, a: number): number {
  const t = Math.abs(x)
  if (t <= 1) return (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1
  if (t < 2) return a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a
  return 0
}

/** Weights [target, from] of offset mode: scale (target + offset) / from, source coordinate (d + ½) / scale − ½. */
export function offsetWeights(from: number, target: number, offset: number): Float32Array {
  const scale = Math.fround((target + offset) / from)
  const weights = new Float32Array(target * from)
  for (let d = 0; d < target; d++) {
    const at = (d + 0.5) / scale - 0.5
    const base = Math.floor(at)
    for (let tap = -1; tap <= 2; tap++) {
      const j = Math.min(from - 1, Math.max(0, base + tap))
      weights[d * from + j]! += cubic(at - (base + tap), -0.75)
    }
  }
  return weights
}

/** Weights [target, from] of size mode: support 2·max(1, from/target), normalized to sum one. */
export function sizeWeights(from: number, target: number): Float32Array {
  const ratio = from / target
  const stretch = Math.max(1, ratio)
  const weights = new Float32Array(target * from)
  for (let d = 0; d < target; d++) {
    const centre = ratio * (d + 0.5)
    const low = Math.max(0, Math.floor(centre - 2 * stretch + 0.5))
    const high = Math.min(from, Math.floor(centre + 2 * stretch + 0.5))
    let sum = 0
    for (let j = low; j < high; j++) sum += cubic((j - centre + 0.5) / stretch, -0.5)
    for (let j = low; j < high; j++) weights[d * from + j] = cubic((j - centre + 0.5) / stretch, -0.5) / sum
  }
  return weights
}

type Axes = {rows: Float32Array; columns: Float32Array}
const cachedAxes = new Map<string, Axes>()

function axes({grid, interpolateOffset, interpolateAntialias}: VitConfig, rows: number, columns: number): Axes {
  const key = [grid, interpolateOffset, interpolateAntialias, rows, columns].join()
  let found = cachedAxes.get(key)
  if (!found) {
    const weights = (target: number): Float32Array =>
      interpolateAntialias ? sizeWeights(grid, target) : offsetWeights(grid, target, interpolateOffset)
    found = {rows: weights(rows), columns: weights(columns)}
    cachedAxes.set(key, found)
  }
  return found
}

/** Whether the stored grid serves as it is. */
const fits = ({grid}: VitConfig, rows: number, columns: number): boolean => rows === grid && columns === grid

/** Rows of the stored patch positions [M·M, C] brought to a grid of rows × columns → [rows·columns, C]. */
export function resamplePositions(pos: Tensor2D, config: VitConfig, rows: number, columns: number): Tensor2D {
  if (fits(config, rows, columns)) return pos.clone()
  const {grid: M, width: C} = config
  return tidy(() => {
    const weights = axes(config, rows, columns)
    const tall: Tensor2D = matMul(constant<Tensor2D>(weights.rows, [rows, M]), reshape(pos, [M, M * C])) //      [rows, M·C]
    const turned = reshape(transpose(reshape(tall, [rows, M, C]), [1, 0, 2]), [M, rows * C]) //        [M, rows·C]
    const wide: Tensor2D = matMul(constant<Tensor2D>(weights.columns, [columns, M]), turned) //                  [columns, rows·C]
    return reshape(transpose(reshape(wide, [columns, rows, C]), [1, 0, 2]), [rows * columns, C])
  })
}

/**
 * The reference implementation of `resamplePositions`, on plain numbers: [M·M, C] → [rows·columns, C], a copy. For
 * exports, which need no engine.
 */
export function resamplePositionsReference(pos: Float32Array, config: VitConfig, rows: number, columns: number): Float32Array {
  if (fits(config, rows, columns)) return pos.slice()
  const {grid: M, width: C} = config
  const weights = axes(config, rows, columns)
  const tall = new Float64Array(rows * M * C) //                                                     [rows, M, C]
  for (let y = 0; y < rows; y++)
    for (let i = 0; i < M; i++) {
      const weight = weights.rows[y * M + i]!
      if (weight !== 0) for (let at = 0; at < M * C; at++) tall[y * M * C + at]! += weight * pos[i * M * C + at]!
    }
  const out = new Float64Array(rows * columns * C) //                                                [rows, columns, C]
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++)
      for (let j = 0; j < M; j++) {
        const weight = weights.columns[x * M + j]!
        if (weight !== 0) for (let c = 0; c < C; c++) out[(y * columns + x) * C + c]! += weight * tall[(y * M + j) * C + c]!
      }
  return Float32Array.from(out)
}

/** The transpose of `resample`: gradient [rows·columns, C] → [M·M, C]. */
export function resamplePositionsBackward(dy: Tensor2D, config: VitConfig, rows: number, columns: number): Tensor2D {
  if (fits(config, rows, columns)) return dy.clone()
  const {grid: M, width: C} = config
  return tidy(() => {
    const weights = axes(config, rows, columns)
    const turned = reshape(transpose(reshape(dy, [rows, columns, C]), [1, 0, 2]), [columns, rows * C])
    const narrow: Tensor2D = matMul(constant<Tensor2D>(weights.columns, [columns, M]), turned as Tensor2D, true) //    [M, rows·C]
    const back = reshape(transpose(reshape(narrow, [M, rows, C]), [1, 0, 2]), [rows, M * C])
    return reshape(matMul<Tensor2D>(constant<Tensor2D>(weights.rows, [rows, M]), back as Tensor2D, true), [M * M, C])
  })
}

/** Positions for one grid: cls row first, [1 + rows·columns, C]. */
export function positionsFor(posEmbed: Tensor3D, config: VitConfig, rows: number, columns: number): Tensor2D {
  return tidy(() => {
    const all: Tensor2D = reshape(posEmbed, [1 + config.grid ** 2, config.width])
    if (fits(config, rows, columns)) return all.clone()
    const patches = resamplePositions(slice(all, [1, 0]), config, rows, columns)
    return concat([slice(all, [0, 0], [1, config.width]), patches], 0)
  })
}
