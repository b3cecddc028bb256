/** Principal components against what is known of them, and the colouring of patches that rests on them. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {colourPatches, foreground, type PatchGrid} from '../../src/model/foreground.js'
import {pca, project} from '../../src/model/pca.js'
import {rng} from '../../src/tensor/random.js'

/** Rows with the given deviations along random orthogonal directions, around a mean of 3. */
function cloud(n: number, width: number, deviations: readonly number[], seed: number): {rows: Float32Array; axes: Float64Array[]} {
  const draws = rng(seed, 'cloud')
  const axes: Float64Array[] = []
  for (let k = 0; k < deviations.length; k++) {
    const axis = Float64Array.from({length: width}, () => draws.normal())
    for (const other of axes) {
      const dot = axis.reduce((sum, x, i) => sum + x * other[i]!, 0)
      for (let i = 0; i < width; i++) axis[i]! -= dot * other[i]!
    }
    const size = Math.sqrt(axis.reduce((sum, x) => sum + x * x, 0))
    axes.push(axis.map(x => x / size))
  }
  const rows = new Float32Array(n * width).fill(3)
  for (let r = 0; r < n; r++)
    for (const [k, axis] of axes.entries()) {
      const along = draws.normal(0, deviations[k])
      for (let i = 0; i < width; i++) rows[r * width + i]! += along * axis[i]!
    }
  return {rows, axes}
}

for (const [n, width] of [
  [400, 24],
  [20, 60]
] as const)
  test(`directions are orthonormal, eigenvectors, and in the order of variance: ${n} rows of ${width}`, () => {
    const {rows} = cloud(n, width, [5, 3, 2, 1, 0.5], 1)
    const {mean, components, variances, total} = pca(rows, width, 4)
    const scores = project(rows, {mean, components})
    for (let k = 0; k < 4; k++) {
      const a = components.subarray(k * width, (k + 1) * width)
      for (let l = 0; l <= k; l++) {
        const dot = a.reduce((sum, x, i) => sum + x * components[l * width + i]!, 0)
        assert.ok(Math.abs(dot - (k === l ? 1 : 0)) < 1e-8, `${k}·${l} = ${dot}`)
      }
      // scores along different directions are uncorrelated, and their variance is the one reported
      for (let l = 0; l <= k; l++) {
        let sum = 0
        for (let r = 0; r < n; r++) sum += scores[r * 4 + k]! * scores[r * 4 + l]!
        const expected = k === l ? variances[k]! : 0
        assert.ok(Math.abs(sum / (n - 1) - expected) < 1e-4 * variances[0]!, `covariance ${k},${l}: ${sum / (n - 1)} for ${expected}`)
      }
      const largest = a.reduce((best, x) => (Math.abs(x) > Math.abs(best) ? x : best), 0)
      assert.ok(largest > 0, 'the entry of largest size is positive')
      if (k > 0) assert.ok(variances[k]! <= variances[k - 1]!)
    }
    assert.ok(variances.reduce((a, b) => a + b) <= total * (1 + 1e-9))
  })

test('well separated directions are found again', () => {
  const {rows, axes} = cloud(3000, 16, [8, 2, 0.3], 2)
  const {components} = pca(rows, 16, 2)
  for (let k = 0; k < 2; k++) {
    const dot = axes[k]!.reduce((sum, x, i) => sum + x * components[k * 16 + i]!, 0)
    assert.ok(Math.abs(dot) > 0.995, `direction ${k}: ${dot}`)
  }
})

test('equal variances, constant rows and fewer directions than asked for are no trouble', () => {
  const plane = Float32Array.from([1, 0, 0, -1, 0, 0, 0, 1, 0, 0, -1, 0])
  const {variances, components} = pca(plane, 3, 3)
  assert.ok(Math.abs(variances[0]! - 2 / 3) < 1e-9 && Math.abs(variances[1]! - 2 / 3) < 1e-9 && Math.abs(variances[2]!) < 1e-9)
  assert.ok(components.every(Number.isFinite))
  const still = pca(new Float32Array(12).fill(4), 3, 2)
  assert.deepEqual([...still.variances], [0, 0])
  assert.ok(still.components.every(Number.isFinite))
  assert.throws(() => pca(new Float32Array(3), 3, 1), RangeError)
  assert.throws(() => pca(new Float32Array(12), 3, 4), RangeError)
})

/**
 * Images of 8 × 8 patches with an object of two halves in the middle; the features of object and ground lie far apart.
 */
function scenes(count: number): PatchGrid[] {
  const draws = rng(3, 'scenes')
  return Array.from({length: count}, () => {
    const features = new Float32Array(64 * 6)
    for (let i = 0; i < 64; i++) {
      const [y, x] = [Math.floor(i / 8), i % 8]
      const inside = y >= 2 && y < 6 && x >= 2 && x < 6
      const base = inside ? [-4, 0, 0, x < 4 ? 1.5 : -1.5, 0, 0] : [4, 0, 0, 0, 0, 0]
      for (let c = 0; c < 6; c++) features[i * 6 + c] = base[c]! + draws.normal(0, 0.1)
    }
    return {rows: 8, columns: 8, features}
  })
}

test('what stands in the middle is the foreground, whichever sign its features have', () => {
  const grids = scenes(3)
  const turned = grids.map(grid => ({...grid, features: grid.features.map(x => -x)}))
  for (const set of [grids, turned])
    for (const mask of foreground(set, 6))
      for (let i = 0; i < 64; i++) {
        const [y, x] = [Math.floor(i / 8), i % 8]
        assert.equal(mask[i], y >= 2 && y < 6 && x >= 2 && x < 6 ? 1 : 0)
      }
})

test('like parts of different images get like colours, unlike ones do not, the ground stays black', () => {
  const {colours, front} = colourPatches(scenes(3), 6)
  const at = (g: number, y: number, x: number): number[] => [...colours[g]!.subarray((y * 8 + x) * 3, (y * 8 + x) * 3 + 3)]
  assert.deepEqual(at(0, 0, 0), [0, 0, 0])
  assert.equal(
    front[0]!.reduce((a, b) => a + b),
    16
  )
  const [left, right] = [at(0, 3, 2)[0]!, at(0, 3, 5)[0]!]
  assert.ok(Math.abs(left - right) > 150, `${left} and ${right}`)
  assert.ok(Math.abs(at(2, 4, 2)[0]! - left) < 40 && Math.abs(at(1, 4, 5)[0]! - right) < 40)
  const whole = colourPatches(scenes(2), 6, {separate: false})
  assert.ok(whole.front.every(mask => mask.every(bit => bit === 1)))
})
