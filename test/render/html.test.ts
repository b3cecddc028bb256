/** Pages and charts: nothing put into them becomes markup, nothing in them comes from elsewhere. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {lineChart, short, thin, ticks} from '../../src/render/chart.js'
import {dataUri, escape, html, page, table} from '../../src/render/html.js'

test('text is escaped, also in attributes and lists; markup passes', () => {
  const name = `<img src=x onerror="alert('1')">&\u0000`
  assert.equal(escape(name), '&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;\ufffd')
  const made = html`<a title="${name}">${[name, html`<b>${1}</b>`]}${undefined}${false}${0}</a>`.text
  assert.ok(!made.includes('<img'))
  assert.ok(made.endsWith('<b>1</b>0</a>'))
})

test('short words of a table stay whole, and only a cell with a very long one may break it', () => {
  const path = 'photos/2019/expedition/plot-17/IMG_000123456.jpg'
  const {text} = table([
    ['fitted', 'file', 'error'],
    ['scale and shift, disparity', html`<code title="${path}">a</code>`, path]
  ])
  assert.deepEqual(
    [...text.matchAll(/<td class="([^"]*)"/g)].map(([, style]) => style),
    ['', '', 'long']
  )
  const style = page({title: 'a', body: text})
  assert.match(style, /td\.long { overflow-wrap: anywhere/)
  assert.doesNotMatch(style, /(td|td:not\(\.number\)) { overflow-wrap: anywhere/)
  assert.match(style, /\.wide { overflow-x: auto/)
})

test('a page carries everything in itself', () => {
  const text = page({
    title: 'a </title><script>',
    body: [
      html`<p>x</p>`,
      table([
        ['a', 'b'],
        ['<i>', 2]
      ])
    ]
  })
  assert.ok(!text.includes('<script'))
  assert.ok(text.includes('&lt;i&gt;'))
  assert.match(text, /Content-Security-Policy"\s+content="default-src 'none'; img-src data:/)
  assert.doesNotMatch(text, /(src|href)="(?!data:)/)
  assert.match(text, /^<!doctype html>/)
  assert.equal(dataUri(Uint8Array.of(1, 2, 3), 'image/png'), 'data:image/png;base64,AQID')
})

test('ticks are round and lie within', () => {
  assert.deepEqual(ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1])
  assert.deepEqual(ticks(4.97, 5.84, 4), [5, 5.2, 5.4, 5.6, 5.8])
  assert.deepEqual(ticks(3, 3, 5), [3])
  for (const [low, high] of [
    [-3, 17],
    [1e-7, 3e-7],
    [990, 1010]
  ] as const) {
    const found = ticks(low, high, 5)
    assert.ok(found.length >= 3 && found.length <= 8 && found.every(x => x >= low - 1e-9 && x <= high + 1e-9), found.join())
  }
  assert.equal(short(0.000012), '1.2e-5')
  assert.equal(short(0.01), '0.01')
  assert.equal(short(12345), '12,345')
})

test('a long curve is thinned by averages, holes are left out, an empty one says so', () => {
  const points = Array.from({length: 10_000}, (_, i) => [i, i % 2] as const)
  const few = thin(points, 100)
  assert.equal(few.length, 100)
  for (const [, y] of few) assert.ok(Math.abs(y - 0.5) < 0.02)
  assert.deepEqual(
    thin(
      [
        [0, 1],
        [1, NaN],
        [2, 3]
      ],
      10
    ),
    [
      [0, 1],
      [2, 3]
    ]
  )
  assert.match(lineChart({title: 'x', series: [{name: 'a', points: [[0, NaN]]}]}).text, /Nothing was recorded/)
  const chart = lineChart({
    title: 'loss',
    series: [
      {
        name: 'a',
        points: [
          [0, 2],
          [10, 1]
        ]
      },
      {name: '<b>', points: [[5, 1.5]]}
    ]
  }).text
  assert.match(chart, /<polyline/)
  assert.match(chart, /<circle/)
  assert.ok(chart.includes('&lt;b&gt;') && !/NaN|Infinity/.test(chart))
})

test('the axes of a chart are named, and a series keeps the colour and dashes that it was given', () => {
  const points = [
    [0, 1],
    [1, 2]
  ] as const
  const series = [
    {name: 'a', points, color: 3, dash: 0},
    {name: 'b', points, color: 3, dash: 1}
  ]
  const {text} = lineChart({title: 'Loss', x: 'step', y: 'loss (nats)', series})
  assert.match(text, /<text class="x"[^>]*>step<\/text>/)
  assert.match(text, /<text class="y"[^>]*>loss \(nats\)<\/text/)
  assert.match(text, /aria-label="Loss: loss \(nats\) by step"/)
  assert.equal((text.match(/<polyline[^>]*stroke:var\(--c3\)/g) ?? []).length, 2)
  assert.equal((text.match(/<polyline[^>]*stroke-dasharray:none/g) ?? []).length, 1)
})
