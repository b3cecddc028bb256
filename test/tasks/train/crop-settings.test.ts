/** Settings reach the augmentation: defaults are those of the published code, and every setting changes its part. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {resolveSettings, withSetting} from '../../../src/config/settings.js'
import {planViews} from '../../../src/data/augment/crop-params.js'
import {cropSettings} from '../../../src/tasks/train/pretrain-state.js'

const defaults = resolveSettings()
const changed = (path: string, value: unknown) => cropSettings(withSetting(defaults, path, value, 'test').settings)

test('by default, colours are jittered as published (docs/spec.md §4) and nothing is turned', () => {
  const {jitter, grey, solarize, flip, verticalFlip, quarterTurns} = cropSettings(defaults.settings)
  assert.deepEqual(jitter, {brightness: 0.4, contrast: 0.4, saturation: 0.2, hue: 0.1, probability: 0.8})
  assert.deepEqual(
    {grey, solarize, flip, verticalFlip, quarterTurns},
    {grey: 0.2, solarize: 0.2, flip: 0.5, verticalFlip: 0, quarterTurns: false}
  )
  // what is not said stands for the same draws
  const {
    jitter: _,
    grey: __,
    solarize: ___,
    flip: ____,
    verticalFlip: _____,
    quarterTurns: ______,
    ...bare
  } = cropSettings(defaults.settings)
  assert.deepEqual(planViews(1, 7, 300, 200, cropSettings(defaults.settings)), planViews(1, 7, 300, 200, bare))
})

test('each setting changes its own part of the plan', () => {
  const plans = (path: string, value: unknown) => planViews(1, 7, 300, 200, changed(path, value))
  for (const setting of ['jitter_brightness', 'jitter_contrast', 'jitter_saturation', 'jitter_hue'] as const) {
    const kind = setting.slice('jitter_'.length)
    const left = plans(`crops.${setting}`, 0).flatMap(({changes}) => changes.map(change => change.kind))
    assert.ok(left.length > 0 && !left.includes(kind as 'hue'), setting)
  }
  assert.ok(plans('crops.jitter_prob', 0).every(({changes}) => changes.every(({kind}) => kind === 'grey')))
  assert.ok(plans('crops.grayscale_prob', 1).every(({changes}) => changes.at(-1)!.kind === 'grey'))
  assert.deepEqual(
    plans('crops.solarize_prob', 1)
      .map(({solarize}) => solarize)
      .slice(0, 3),
    [false, true, false]
  )
  assert.ok(plans('crops.horizontal_flip_prob', 1).every(({flip}) => flip))
  assert.ok(plans('crops.vertical_flip_prob', 1).every(({orientation}) => orientation === 4))
  assert.ok(plans('crops.quarter_turns', true).some(({orientation}) => orientation !== undefined))
})
