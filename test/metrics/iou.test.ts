/**
 * mIoU and its relatives on cases worked out by hand, with mmsegmentation's treatment of ignored pixels and absent
 * classes.
 */
import assert from 'node:assert/strict'
import {describe, it} from 'node:test'
import {addCounts, areasOf, countPixels, emptyConfusion, miouOf, scoresOf, sumAreas} from '../../src/metrics/iou.js'
import {classesOf} from '../../src/data/targets/class-map.js'
import {summarizeSegmentation} from '../../src/tasks/eval/segmentation/report.js'

const near = (found: number | null | undefined, expected: number): void =>
  assert.ok(typeof found === 'number' && Math.abs(found - expected) < 1e-12, `${found} where ${expected} was expected`)

describe('intersection over union', () => {
  // Four classes; class 3 occurs nowhere, class 2 is predicted once but labelled nowhere. 255 is ignored.
  const truth = [0, 0, 0, 1, 1, 255, 1, 0]
  const guess = [0, 0, 1, 1, 1, 1, 0, 2]
  const confusion = emptyConfusion(4)
  countPixels(confusion, truth, guess, 4, 255)

  it('counts what was taken for what, leaving ignored pixels out', () =>
    assert.deepEqual([...confusion], [2, 1, 1, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))

  it('divides over the whole set, and leaves classes out that are nowhere', () => {
    const {iou, accuracy, miou, meanAccuracy, pixelAccuracy, pixels} = scoresOf(areasOf(confusion, 4), 4)
    near(iou[0], 2 / 5) // labelled 4, predicted 3, both 2
    near(iou[1], 2 / 4) // labelled 3, predicted 3, both 2
    near(iou[2], 0) // predicted, never labelled: 0, and it counts
    assert.equal(iou[3], null)
    near(accuracy[0], 2 / 4)
    near(accuracy[1], 2 / 3)
    assert.deepEqual(accuracy.slice(2), [null, null])
    near(miou, (0.4 + 0.5 + 0) / 3)
    near(meanAccuracy, (1 / 2 + 2 / 3) / 2)
    near(pixelAccuracy, 4 / 7)
    assert.deepEqual(pixels, [4, 3, 0, 0])
    near(miouOf(areasOf(confusion, 4), 4), miou)
  })

  it('of two images is not the mean of their scores', () => {
    const second = emptyConfusion(4)
    countPixels(second, [0, 1, 1, 1], [0, 1, 1, 1], 4, 255)
    const sum = areasOf(confusion, 4)
    addCounts(sum, areasOf(second, 4))
    near(scoresOf(sum, 4).iou[0], 3 / 6)
    near(scoresOf(sum, 4).iou[1], 5 / 7)
  })

  it('refuses numbers that are no classes', () => {
    assert.throws(() => countPixels(emptyConfusion(2), [2], [0], 2, 255), /class numbers below 2 but received 2/)
    assert.throws(() => countPixels(emptyConfusion(2), [0, 0], [0], 2, 255), /expected 2 predicted pixels but received 1/)
  })
})

describe('intervals of mIoU', () => {
  const image = (right: number, wrong: number): Float64Array => {
    const counts = Float64Array.of(right, wrong, 0, right) // class 0: right and wrong ones; class 1: all right
    return areasOf(counts, 2)
  }
  const set = Array.from({length: 40}, (_, i) => image(50 + (i % 7), 10 + (i % 5)))
  const worse = Array.from({length: 40}, (_, i) => image(40 + (i % 7), 20 + (i % 5)))

  it('hold the score, are the same for the same seed, and pair images', () => {
    const sum = new Float64Array(6)
    for (const one of set) addCounts(sum, one)
    const all = Int32Array.from(set, (_, i) => i)
    assert.deepEqual(sumAreas(set, all, 2), sum)
    const classes = classesOf(
      [
        {id: 0, name: 'a'},
        {id: 1, name: 'b'}
      ],
      []
    )
    const ids = set.map((_, i) => String(i))
    const outcome = (features: 'model' | 'pixels', items: typeof set) => ({features, set: 'val', ids, items, seconds: 0})
    const {scores, differences} = summarizeSegmentation([outcome('model', set), outcome('pixels', worse)], classes, 3)
    const {miou, intervals} = scores[0]!
    const [low, high] = intervals['miou']!
    near(miou, miouOf(sum, 2))
    assert.ok(low < miou && miou < high && high - low < 0.05, `${low}, ${high} around ${miou}`)
    assert.deepEqual(summarizeSegmentation([outcome('model', set)], classes, 3).scores[0], scores[0])
    const [gain] = differences
    assert.ok(gain!.interval[0] > 0.05 && gain!.interval[0] < gain!.mean && gain!.significant)
    // The same predictions differ by nothing in every draw.
    const same = summarizeSegmentation([outcome('model', set), outcome('pixels', set)], classes, 3).differences[0]!
    assert.deepEqual([same.mean, same.interval, same.significant], [0, [0, 0], false])
  })
})
