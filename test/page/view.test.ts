/** Views of the map: the whole of it stays clear of the legend, and zooming keeps the place below the pointer. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {onScreen, wholeView, zoomed} from '../../src/page/view.js'

test('the whole map lies above what covers the lower edge, at every shape of the window', () => {
  for (const size of [
    {width: 900, height: 700, below: 60},
    {width: 400, height: 480, below: 80},
    {width: 1400, height: 300, below: 100},
    {width: 400, height: 800}
  ]) {
    const view = wholeView(size)
    for (const place of [0, 1]) {
      const [x, y] = onScreen(view, size, place, place)
      assert.ok(x >= 0 && x <= size.width, `${x} of ${size.width}`)
      assert.ok(y >= 0 && y <= size.height - (size.below ?? 0), `${y} of ${size.height}, ${size.below} of it covered`)
    }
  }
})

test('zooming keeps the place below the pointer', () => {
  const size = {width: 900, height: 700, below: 60}
  const view = wholeView(size)
  const near = zoomed(view, size, 3, 200, 100)
  const place = [(200 - 450) / view.scale + view.x, (100 - 350) / view.scale + view.y] as const
  const [x, y] = onScreen(near, size, ...place)
  assert.ok(Math.abs(x - 200) < 1e-6 && Math.abs(y - 100) < 1e-6)
})
